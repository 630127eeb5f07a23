"""Each rule finds what it is for, and finds nothing where chance alone could have made it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from scipy import stats

from lightning_distill.cli.parsing import parsed
from lightning_distill.explanation.answers import Answers
from lightning_distill.explanation.facts import RunFacts
from lightning_distill.explanation.findings import Finding, findings, placed
from lightning_distill.explanation.findings.chance import mean_of, mean_over_time, sign_test, trend
from lightning_distill.explanation.misleading import misleading_samples
from tests.explanation.found import (
    answers,
    contributions_of,
    curve,
    facts,
    with_calibration,
    worth_of,
)

EXPERIMENT = Path(__file__).parents[2] / "configs" / "experiment" / "digits_distill_image.yaml"
SEVERAL = {
    "kd": {"class_path": "LogitKD", "init_args": {"temperature": 2.0}},
    "old": {"class_path": "Excluding", "init_args": {"loss": {"class_path": "LogitKD"}, "classes": [0]}},
    "far": {
        "class_path": "OnTarget",
        "init_args": {"loss": {"class_path": "LogitKD", "init_args": {"temperature": 3.0}}},
    },
    "sure": {"class_path": "EntropyMinimisation"},
    "cka": {"class_path": "lightning_distill.losses.CKA"},
}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A full config.yaml, as `fit` writes it, with several terms and ranges."""
    folder = tmp_path_factory.mktemp("config")
    extra = {
        "model": {
            "init_args": {
                "losses": SEVERAL,
                "weights": {"task": 0.1, "kd": 0.9, "far": 0.5, "sure": 0.25},
                "clip_rule": {
                    "class_path": "PerModality",
                    "init_args": {
                        "rules": {"image": {"class_path": "NormClip", "init_args": {"max_norm": 0.5}}},
                        "rest": {
                            "class_path": "ClipChain",
                            "init_args": {
                                "rules": [{"class_path": "ValueClip", "init_args": {"epsilon": 0.25}}]
                            },
                        },
                    },
                },
            }
        }
    }
    (folder / "extra.yaml").write_text(yaml.safe_dump(extra))
    whole = parsed(["fit", "--config", str(EXPERIMENT), "--config", str(folder / "extra.yaml")])
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(whole, sort_keys=False))
    return path


def only(found: RunFacts, name: str) -> Finding:
    """The one finding there is."""
    (one,) = findings(found)
    assert one.name == name
    return one


def module_of(config: Path, finding: Finding, folder: Path) -> dict:  # type: ignore[type-arg]
    """The module's init args with the change, by the real parser."""
    (folder / "change.yaml").write_text(finding.change)
    whole = parsed(["fit", "--config", str(config), "--config", str(folder / "change.yaml")])
    init_args: dict = whole["model"]["init_args"]  # type: ignore[type-arg]
    return init_args


def plain(value: object) -> object:
    """Class names without their packages, and without defaults that the parser has filled in."""
    if isinstance(value, dict):
        found = {k: plain(v) for k, v in value.items()}
        if "class_path" in found:
            found["class_path"] = str(found["class_path"]).rpartition(".")[2]
        return {k: v for k, v in found.items() if v is not None}
    return [plain(x) for x in value] if isinstance(value, list) else value


# -- the tests of chance --------------------------------------------------------------------------------


def test_sign_test_is_binomial() -> None:
    assert sign_test(2, 9) == pytest.approx(2 * sum(stats.binom.pmf(k, 11, 0.5) for k in range(3)))
    assert sign_test(4, 4) == 1


def test_interval_covers_as_often_as_it_says() -> None:
    """Also of a mean over time whose neighbours are alike, where the plain interval is much too short."""
    rng, inside, plainly = np.random.default_rng(0), 0, 0
    for _ in range(400):
        x = np.zeros(400)
        for t in range(1, 400):
            x[t] = 0.7 * x[t - 1] + rng.normal()
        found, short = mean_over_time(curve("a", x)["a"]), mean_of(x)
        assert found is not None
        inside += found.low <= 0 <= found.high
        plainly += short.low <= 0 <= short.high
    assert 0.90 <= inside / 400 <= 0.99
    assert plainly / 400 < 0.8
    assert mean_over_time(curve("a", range(19))["a"]) is None
    wide, narrow = (mean_of([1.0, 2.0, 4.0], among) for among in (10, 1))
    assert wide.low < narrow.low
    assert narrow.high == pytest.approx(7 / 3 + stats.t.ppf(0.975, 2) * np.std([1, 2, 4], ddof=1) / 3**0.5)


def alike(rng: np.random.Generator, size: int) -> np.ndarray:  # type: ignore[type-arg]
    """An autoregression around 0 in which neighbours have a correlation of 0.8."""
    x = np.empty(size)
    x[0] = rng.normal() / 0.6
    for t in range(1, size):
        x[t] = 0.8 * x[t - 1] + rng.normal()
    return x


@pytest.mark.parametrize("size", [20, 40, 100, 199])
def test_neighbours_that_are_alike_are_no_finding(size: int) -> None:
    """At 5 %, and three standard errors of 500 draws."""
    rng, away, trends = np.random.default_rng(size), 0, 0
    for _ in range(500):
        x = alike(rng, size)
        mean = mean_over_time(curve("a", x)["a"])
        assert mean is not None
        away += mean.low > 0 or mean.high < 0
        trends += trend(list(x))[1] <= 0.05
    most = 0.05 + 3 * (0.05 * 0.95 / 500) ** 0.5
    assert away / 500 <= most
    assert trends / 500 <= most


def test_trend_needs_ten_values() -> None:
    assert trend(range(9)) == (0.0, 1.0)
    assert trend([1] * 12) == (0.0, 1.0)
    assert trend([1, 2] * 10) == (0.0, 1.0)  # all blocks are alike
    assert trend(range(10)) == (pytest.approx(1), pytest.approx(1 / 60))
    assert trend([0, 1, 2, 3, 9, 8, 4, 5, 6, 7])[1] > 0.05


# -- nothing stands out -----------------------------------------------------------------------------------


def test_nothing_known_nothing_found(config: Path) -> None:
    assert findings(facts()) == ()
    assert findings(facts(config.read_text())) == ()
    assert findings(facts("a: [", worth=worth_of(-0.2, -0.1)))[0].change == ""


def noise(seed: int) -> RunFacts:
    """Everything there can be, of a run in which nothing differs but by chance."""
    rng = np.random.default_rng(seed)
    target = [i % 3 for i in range(120)]
    named = {
        who: [t if rng.random() < 0.8 else (t + int(rng.integers(1, 3))) % 3 for t in target]
        for who in ("student", "teacher", "baseline")
    }
    curves = {
        **curve("gradient_cosine/kd", rng.normal(0, 0.3, 60)),
        **curve("gradient_share/kd", rng.uniform(0.3, 0.7, 60)),
        **curve("val/loss", rng.normal(1, 0.1, 30)),
        **curve("train/loss", rng.normal(1, 0.1, 300)),
        **curve("clip/clipped_share/image", rng.uniform(0, 1, 60)),
        **curve("clip/norm_before/image", rng.uniform(1, 2, 60)),
        **curve("clip/norm_before/text", rng.uniform(1, 2, 60)),
    }
    shapley = {
        who: contributions_of(image=rng.normal(0.3, 0.3, 60), text=rng.normal(0.3, 0.3, 60))
        for who in ("student", "teacher")
    }
    found = with_calibration(answers(target, 0.8, **named), EXPERIMENT.read_text())
    return replace(found, curves=curves, contributions=shapley)


def test_chance_is_found_about_as_seldom_as_it_says() -> None:
    """Seven rules at 5 % a rule, most of them far below that: over 40 runs of nothing."""
    found = [one.name for seed in range(40) for one in findings(noise(seed))]
    assert len(found) <= 40 * 7 * 0.05
    assert max(map(found.count, found), default=0) <= 7  # 5 % of 40 is 2; P(8 or more) < 0.001


# -- each rule ----------------------------------------------------------------------------------------------


def test_a_teacher_that_harms(config: Path, tmp_path: Path) -> None:
    found = only(facts(config.read_text(), worth=worth_of(-0.10, -0.02)), "teacher-no-help")
    assert "-6.0 points (95 % interval -10.0 to -2.0) on 200 samples" in found.evidence
    new = module_of(config, found, tmp_path)
    assert new["teacher"] is None
    assert list(new["losses"]) == ["sure"]
    assert new["weights"] == {"task": 1.0, "sure": 0.25}
    assert findings(facts(config.read_text(), worth=worth_of(0.02, 0.10))) == ()


def test_help_that_cannot_be_told(config: Path, tmp_path: Path) -> None:
    found = only(facts(config.read_text(), worth=worth_of(-0.01, 0.05, pairs=3)), "teacher-no-help")
    assert found.title.startswith("It cannot be told")
    new = module_of(config, found, tmp_path)
    assert new["weights"] == {"task": 0.1, "kd": 0.45, "old": 0.5, "far": 0.25, "sure": 0.25, "cka": 0.5}
    assert len(new["losses"]) == 5


def three(ant: Sequence[int], bee: Sequence[int], cat: Sequence[int]) -> list[int]:
    return [*ant, *bee, *cat]


TARGET = three([0] * 12, [1] * 12, [2] * 12)
SWAPPED = three([0] * 12, [2] * 12, [1] * 2 + [2] * 10)


@pytest.mark.parametrize(
    ("said", "classes"),
    [
        ({"student": TARGET, "teacher": SWAPPED, "baseline": TARGET}, [1]),
        ({"student": TARGET, "teacher": SWAPPED}, [1]),
        ({"student": SWAPPED, "teacher": SWAPPED}, [1]),  # they agree: by what it names instead
        ({"student": SWAPPED, "teacher": TARGET, "baseline": TARGET}, [1]),
        ({"student": TARGET, "teacher": TARGET, "baseline": TARGET}, []),
        ({"student": TARGET, "teacher": three([0] * 12, [1] * 5 + [2] * 7, [2] * 12)}, []),  # p = 0.016
        ({"student": TARGET, "baseline": TARGET}, []),
    ],
)
def test_misleading_class(config: Path, said: dict[str, list[int]], classes: list[int]) -> None:
    found = facts(config.read_text(), answers=answers(TARGET, **said))
    if not classes:
        assert findings(found) == ()
        return
    one = {one.name: one for one in findings(found)}["misleading-class"]
    assert one.title == "The teacher misleads on the class 'bee'."
    assert "Of the 12 samples of 'bee'" in one.evidence
    assert "# Classes: 1 is bee\n" in one.change


def test_only_terms_with_a_teacher_leave_classes_out(config: Path, tmp_path: Path) -> None:
    said = answers(TARGET, student=TARGET, teacher=SWAPPED)
    one = only(facts(config.read_text(), answers=said), "misleading-class")
    terms = plain(module_of(config, one, tmp_path)["losses"])
    kd = {"class_path": "LogitKD", "init_args": {"temperature": 2.0}}
    assert isinstance(terms, dict)
    assert terms["kd"] == {"class_path": "Excluding", "init_args": {"loss": kd, "classes": [1]}}
    assert terms["old"]["init_args"]["classes"] == [0, 1], "what was left out stays out"
    assert terms["old"]["init_args"]["loss"]["class_path"] == "LogitKD"
    assert terms["far"]["init_args"]["loss"]["class_path"] == "OnTarget"
    assert terms["sure"]["class_path"] == "EntropyMinimisation", "it has no teacher"
    assert terms["cka"]["class_path"] == "Excluding"


def test_a_class_name_cannot_leave_its_comment(config: Path, tmp_path: Path) -> None:
    said = three([0] * 12, [1] * 12, [0] * 12)
    one = only(
        facts(config.read_text(), answers=answers(TARGET, student=TARGET, teacher=said)), "misleading-class"
    )
    assert r"2 is cat\n# x: {" in one.change
    assert module_of(config, one, tmp_path)["losses"]["kd"]["init_args"]["classes"] == [2]


def test_misled_everywhere(config: Path, tmp_path: Path) -> None:
    wrong = [(t + 1) % 3 for t in TARGET]
    one = only(
        facts(config.read_text(), answers=answers(TARGET, student=TARGET, teacher=wrong)), "misleading-class"
    )
    assert module_of(config, one, tmp_path)["teacher"] is None


def test_misleading_samples(config: Path, tmp_path: Path) -> None:
    ids = (2**62, 7, -5)
    one = only(facts(config.read_text(), misleading=ids), "misleading-samples")
    assert one.sample_ids == ids
    assert "{changes}/misleading-samples.txt" in one.change
    folder = tmp_path / "it's: # odd"
    folder.mkdir()
    one = placed(one, folder)
    (folder / "misleading-samples.txt").write_text("".join(f"{i}\n" for i in ids))
    terms = plain(module_of(config, one, tmp_path)["losses"])
    assert isinstance(terms, dict)
    assert terms["kd"]["init_args"]["samples"] == str(folder / "misleading-samples.txt")
    assert terms["old"]["init_args"]["loss"]["init_args"]["classes"] == [0]
    assert one.change.startswith("# Samples on which")
    assert one.change.count("# ") == 1 + one.change.count("# odd")


def test_more_misleading_samples_than_are_named(config: Path) -> None:
    one = only(facts(config.read_text(), misleading=(1, 2), misleading_count=1234), "misleading-samples")
    assert one.title == "The teacher contradicts 1,234 training samples."
    assert "names the 2 clearest of 1,234" in one.evidence
    few = only(facts(config.read_text(), misleading=(1, 2), misleading_count=2), "misleading-samples")
    assert "clearest" not in few.evidence


def test_terms_that_see_the_target_domain_alone() -> None:
    """What is left out there must be of the target domain."""
    nested = {"class_path": "Excluding", "init_args": {"loss": SEVERAL["far"], "classes": [0]}}
    text = yaml.safe_dump({"model": {"init_args": {"losses": {"far": SEVERAL["far"], "too": nested}}}})
    said = answers(TARGET, student=TARGET, teacher=SWAPPED)
    assert only(facts(text, answers=said), "misleading-class").change == ""
    one = only(facts(text, answers=said, domains=("target",)), "misleading-class")
    assert "classes:" in one.change
    one = only(facts(text, misleading=(1,), misleading_count=1), "misleading-samples")
    assert one.title == "The teacher contradicts 1 training sample of the target domain."
    both = yaml.safe_dump({"model": {"init_args": {"losses": SEVERAL}}})
    assert "classes:" in only(facts(both, answers=said), "misleading-class").change


def reference_misleading(p: np.ndarray, target: np.ndarray) -> set[int]:  # type: ignore[type-arg]
    """1911.00068, equations 1 and 2: rows off the diagonal of the confident joint."""
    k = p.shape[1]
    t = [np.mean([p[i, j] for i in range(len(p)) if target[i] == j]) for j in range(k)]
    found = set()
    for i in range(len(p)):
        over = [j for j in range(k) if p[i, j] >= t[j]]
        if over and max(over, key=lambda j: p[i, j]) != target[i]:
            found.add(i)
    return found


def test_confident_learning_is_the_papers() -> None:
    rng = np.random.default_rng(3)
    target = rng.integers(0, 3, 200)
    p = rng.dirichlet([1, 1, 1], 200)
    p[np.arange(200), target] += 0.6
    p /= p.sum(1, keepdims=True)
    target[::9] = (target[::9] + 1) % 3  # labels that are wrong
    asked = Answers(
        "train",
        torch.arange(200),
        torch.arange(200) + 2**40,
        torch.tensor(target),
        {"student": torch.tensor(p), "teacher": torch.tensor(p)},
        ("a", "b", "c"),
    )
    found, count = misleading_samples(asked)
    assert count == len(found)
    expected = reference_misleading(p, target)
    assert 5 < len(expected) < 100
    assert {i - 2**40 for i in found} == expected
    margins = [p[i - 2**40].max() - p[i - 2**40, target[i - 2**40]] for i in found]
    assert margins == sorted(margins, reverse=True)
    assert misleading_samples(asked, most=3) == (found[:3], count)
    assert misleading_samples(replace(asked, probabilities={"student": torch.tensor(p)})) == ((), 0)


def test_a_class_without_samples_is_never_meant() -> None:
    asked = answers([0, 0, 1, 1], student=[0, 0, 1, 1], teacher=[0, 2, 1, 1])
    assert misleading_samples(asked) == ((), 0)


def test_a_term_against_the_task(config: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    against = {
        **curve("gradient_cosine/far", rng.normal(-0.2, 0.3, 80)),
        **curve("gradient_share/far", rng.normal(0.4, 0.05, 80)),
        **curve("gradient_cosine/cka", rng.normal(-0.5, 0.1, 80)),
        **curve("gradient_share/cka", [0.001] * 80),  # it does nothing at all
    }
    one = only(facts(config.read_text(), curves=against), "harmful-term")
    assert "The gradient of 'far' points away from the task's" in one.evidence
    assert "cka" not in one.evidence
    assert module_of(config, one, tmp_path)["weights"] == {"task": 0.1, "kd": 0.9, "far": 0.25, "sure": 0.25}
    single = EXPERIMENT.read_text()
    alone = {n.replace("far", "kd"): c for n, c in against.items() if "far" in n}
    assert only(facts(single, curves=alone), "harmful-term")
    assert findings(facts(single, curves=alone, worth=worth_of(0.01, 0.05))) == (), "it helps all the same"


def test_a_term_that_dwarfs_the_task(config: Path, tmp_path: Path) -> None:
    curves = {
        **curve("gradient_share/kd", [0.97, 0.99] * 20),
        **curve("gradient_share/task", [0.03, 0.01] * 20),
        **curve("gradient_cosine/kd", [0.5, 0.4] * 20),
    }
    one = only(facts(config.read_text(), curves=curves), "harmful-term")
    weights = module_of(config, one, tmp_path)["weights"]
    assert weights["kd"] == pytest.approx(0.9 * 0.02 / 0.98, rel=0.05)
    scheduled = config.read_text().replace("kd: 0.9", "kd: {class_path: LinearWarmup}")
    curves |= {**curve("train/kd", [2.0, 4.0]), **curve("train/kd_weighted", [0.2, 1.0])}
    one = only(facts(scheduled, curves=curves), "harmful-term")
    assert yaml.safe_load(one.change)["model"]["init_args"]["weights"]["kd"] == pytest.approx(0.0051)


def test_a_modality_that_adds_less_than_the_teachers(config: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    theirs = rng.normal(0.4, 0.1, 50)
    shapley = {
        "student": contributions_of(image=rng.normal(0.4, 0.1, 50), text=rng.normal(0.05, 0.1, 50)),
        "teacher": contributions_of(image=rng.normal(0.4, 0.1, 50), text=theirs),
    }
    one = only(facts(config.read_text(), contributions=shapley), "starving-modality")
    assert one.title == "The modality 'text' of the student starves."
    assert "over 50 samples" in one.evidence
    new = module_of(config, one, tmp_path)["student"]["init_args"]
    assert new["modality_dropout"] == 0.3
    assert list(new["encoders"]) == ["image"]
    few = {
        "student": contributions_of(image=[0.4] * 4, text=[0.9, -0.9, 0.5, -0.4]),
        "teacher": contributions_of(image=[0.4] * 4, text=[-0.5, 0.9, 0.1, 0.9]),
    }
    assert findings(facts(config.read_text(), contributions=few)) == (), "four samples cannot tell"
    text = config.read_text().replace("modality_dropout: 0.0", "modality_dropout: 0.5")
    one = only(facts(text, contributions=shapley), "starving-modality")
    assert module_of(config, one, tmp_path)["gradient_balancer"]["init_args"]["alpha"] == 0.5


def test_a_modality_that_no_gradient_reaches(config: Path) -> None:
    rng = np.random.default_rng(4)
    norms = {
        **curve("clip/norm_before/image", rng.uniform(5, 10, 60)),
        **curve("clip/norm_before/text", rng.uniform(0.0, 0.05, 60)),
    }
    one = only(facts(config.read_text(), curves=norms), "starving-modality")
    assert "that of 'text' has a share of" in one.evidence
    alone = {"student": ("text",)}
    assert findings(facts(config.read_text(), curves=norms, modalities=alone)) == ()


def test_a_clip_that_is_too_tight(config: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    dead = rng.uniform(0.4, 0.5, 60)
    shares = {
        **curve("clip/clipped_share/image", rng.uniform(0.97, 1, 60) * (1 - dead)),
        **curve("clip/zero_share/image", dead),  # of what can be clipped, nearly all is
        **curve("clip/clipped_share/head", rng.uniform(0.2, 0.4, 60)),
    }
    one = only(facts(config.read_text(), curves=shares), "clip-too-tight")
    assert "image: 98" in one.evidence
    assert "find-clip" in one.change
    rule = plain(module_of(config, one, tmp_path)["clip_rule"])
    assert isinstance(rule, dict)
    assert rule["init_args"]["rules"]["image"]["init_args"]["max_norm"] == 5.0
    assert rule["init_args"]["rest"]["init_args"]["rules"][0]["init_args"]["epsilon"] == 0.25, "left alone"


def test_a_clip_that_never_binds(config: Path, tmp_path: Path) -> None:
    shares = {**curve("clip/clipped_share/image", [0.0] * 40), **curve("clip/clipped_share/head", [0.0] * 40)}
    one = only(facts(config.read_text(), curves=shares), "clip-idle")
    assert "at most 7.2 % of all steps" in one.evidence
    rule = plain(module_of(config, one, tmp_path)["clip_rule"])
    assert isinstance(rule, dict)
    assert rule["init_args"]["rules"]["image"]["init_args"]["max_norm"] == 0.05
    assert rule["init_args"]["rest"]["init_args"]["rules"][0]["init_args"]["epsilon"] == 0.025
    few = {**curve("clip/clipped_share/image", [0.0] * 20)}
    assert findings(facts(config.read_text(), curves=few)) == (), "20 looks cannot tell"
    once = {**curve("clip/clipped_share/image", [0.0] * 40 + [0.001])}
    assert findings(facts(config.read_text(), curves=once)) == ()
    own = yaml.safe_load(config.read_text())
    own["model"]["init_args"]["clip_rule"] = {"class_path": "AutoClip", "init_args": {"percentile": 10.0}}
    assert findings(facts(yaml.safe_dump(own), curves=shares)) == (), "it follows what it has seen"


def test_a_student_surer_than_it_should_be(config: Path, tmp_path: Path) -> None:
    target = [i % 3 for i in range(90)]
    named = [t if i % 2 else (t + 1 + i % 4 // 2) % 3 for i, t in enumerate(target)]
    sure, humble = answers(target, 0.95, student=named), answers(target, 0.5, teacher=named)
    both = replace(sure, probabilities={**sure.probabilities, **humble.probabilities})
    one = only(with_calibration(both, config.read_text()), "over-confident")
    assert "Calibration errors: 0.450 and 0.000" in one.evidence
    terms = plain(module_of(config, one, tmp_path)["losses"])
    assert isinstance(terms, dict)
    assert terms["kd"]["init_args"]["temperature"] == 4.0
    assert terms["far"]["init_args"]["loss"]["init_args"]["temperature"] == 6.0
    assert terms["cka"] == {"class_path": "CKA", "init_args": terms["cka"]["init_args"]}
    twins = answers(target, 0.95, student=named, teacher=named)
    assert findings(with_calibration(twins, config.read_text())) == (), "the teacher is as sure"


def test_a_student_that_overfits(config: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    val = [*np.linspace(2, 1, 10), *(np.linspace(1.05, 2, 15) + rng.normal(0, 0.05, 15))]
    train = np.linspace(2, 0.1, 250) + rng.normal(0, 0.1, 250)
    curves = {**curve("val/loss", val, every=100), **curve("train/loss", train)}
    one = only(facts(config.read_text(), curves=curves), "overfit")
    assert "val/loss was lowest at step 900" in one.evidence
    assert (
        "Nothing has logged val/accuracy, so the student that was kept is the last epoch's." in one.evidence
    )
    measured = curves | curve("val/accuracy", val[::-1], every=100)
    one = only(facts(config.read_text(), curves=measured), "overfit")
    assert "that of the best val/accuracy." in one.evidence
    optimizer = module_of(config, one, tmp_path)["optimizer"]["init_args"]
    assert (optimizer["lr"], optimizer["weight_decay"]) == (0.002, 0.1)
    both = {**curve("val/loss", val, every=100), **curve("train/loss", train[::-1])}
    assert findings(facts(config.read_text(), curves=both)) == (), "train/loss rises too"
    text = config.read_text().replace("weight_decay", "momentum")
    one = only(facts(text, curves=curves), "overfit")
    assert yaml.safe_load(one.change) == {"early_stopping": {"patience": 5}}


def test_the_worst_comes_first(config: Path) -> None:
    found = facts(
        config.read_text(),
        worth=worth_of(-0.1, -0.05),
        misleading=(1,),
        curves=curve("clip/clipped_share/image", [0.0] * 40),
        answers=answers(TARGET, student=TARGET, teacher=SWAPPED),
    )
    names = ["teacher-no-help", "misleading-class", "misleading-samples", "clip-idle"]
    assert [one.name for one in findings(found)] == names
