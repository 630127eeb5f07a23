"""Configs and command lines that are wrong, contradict themselves, or come from elsewhere."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lightning_distill.cli.allowed import VARIABLE, take_allowed
from lightning_distill.cli.early import check_names
from lightning_distill.cli.parsing import parsed
from lightning_distill.errors import ConfigError
from lightning_distill.security.allowed import ALLOWED, is_allowed, kept, narrowed, restrict_imports
from lightning_distill.security.safe_yaml import MAX_DEPTH, check_yaml, load_yaml
from tests.cli.conftest import Config, Project, module, project, small_config  # noqa: F401
from tests.reliability.counts import times

KD = {"class_path": "LogitKD"}
TEACHER = {
    "class_path": "FrozenTeacher",
    "init_args": {
        "model": {
            "class_path": "MultimodalModel",
            "init_args": {"num_classes": 2, "encoders": {"text": {"class_path": "ByteTextCNN"}}},
        }
    },
}
NORM = {"class_path": "NormClip", "init_args": {"max_norm": 1.0}}
GOLDEN = Path(__file__).with_name("golden_config.yaml")


# -- F1: names -------------------------------------------------------------------------------------


def paths(config: Any, at: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Every key of a config that is one of ours; names that the user chooses are not."""
    found = []
    for key, value in config.items() if isinstance(config, dict) else ():
        chosen = at[-1:] in (("encoders",), ("processors",), ("modalities",))
        found += [] if chosen else [(*at, key)]
        found += paths(value, (*at, key))
    return found


PATHS = paths(small_config())


@st.composite
def typos(draw: st.DrawFn) -> tuple[tuple[str, ...], str]:
    """A key of the small config, and the same with one letter too many, too few, or other."""
    path = draw(st.sampled_from(PATHS))
    key = path[-1]
    at = draw(st.integers(1, len(key) - 1))
    letter = draw(st.sampled_from("qxz"))
    wrong = draw(st.sampled_from([key[:at] + letter + key[at:], key[:at] + letter + key[at + 1 :]]))
    return path, wrong


@pytest.mark.row("F1")
@settings(max_examples=times(8, 300), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(typo=typos())
def test_a_mistyped_key_is_named_before_the_data_are_read(
    project: Project,  # noqa: F811
    typo: tuple[tuple[str, ...], str],
) -> None:
    (*path, key), wrong = typo

    def edit(config: Config) -> None:
        for name in path:
            config = config[name]
        config[wrong] = config.pop(key)

    Path("table.csv").unlink(missing_ok=True)  # else the exit code were 3
    file = project.change("mistyped.yaml", edit)
    paragraph = project.fails("fit", "--config", file)
    assert wrong in paragraph or key in paragraph, paragraph


# -- F2: YAML --------------------------------------------------------------------------------------


@pytest.mark.row("F2")
@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (
            "lr: 0.01",
            "lr: 0.01\n        lr: 0.1",
            "small.yaml: found YAML that cannot be read: the key 'lr' ",
        ),
        ("lr: 0.01", "lr: 0.01\n\tweight_decay: 0", "a tab"),
        ("width: 8", "width: !!python/object:os.system 8", "the tag '!!python/object:os.system'"),
        ("width: 8", "width: &a [*a]", "the alias 'a' inside of itself"),
        (
            "path: table.csv",
            "path: table.csv\n        target: {class_path: SingleLabel, init_args: {classes: [no, yes]}}",
            "put it in quotes: YAML takes no, yes, on and off",
        ),
    ],
)
def test_yaml_that_is_more_or_less_than_it_seems(
    project: Project,  # noqa: F811
    old: str,
    new: str,
    told: str,
) -> None:
    text = Path("small.yaml").read_text()
    assert old in text
    Path("small.yaml").write_text(text.replace(old, new))
    late = project.fails("fit", "--config", "small.yaml")
    assert told in late, late
    if "quotes" not in told:
        assert "look at line" in late
        with pytest.raises(ConfigError) as early:
            check_names(["fit", "--config", "small.yaml"])
        assert told in str(early.value)


@pytest.mark.row("F2")
def test_numbers_and_words_are_read_as_documented(project: Project) -> None:  # noqa: F811
    text = Path("small.yaml").read_text().replace("lr: 0.01", "lr: 1e-3").replace("table.csv", "'no'")
    Path("small.yaml").write_text(text)
    config = parsed(["fit", "--config", "small.yaml"])
    assert module(config)["optimizer"]["init_args"]["lr"] == 0.001
    assert config["data"]["init_args"]["source"]["init_args"]["path"] == "no"


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
        max_leaves=20,
    )
)
def test_all_that_is_dumped_is_read_again(value: Any) -> None:
    assert load_yaml(yaml.safe_dump(value, allow_unicode=True)) == value


def test_aliases_are_read_while_they_stay_small() -> None:
    assert load_yaml("a: &x [1, 2]\nb: *x\nc: {<<: {d: 1}, e: *x}")["c"] == {"d": 1, "e": [1, 2]}
    check_yaml("[" * MAX_DEPTH + "]" * MAX_DEPTH)
    with pytest.raises(yaml.YAMLError, match="values in values"):
        check_yaml("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1))


# -- F3: what may be imported ----------------------------------------------------------------------


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Nothing more is allowed than always."""
    monkeypatch.setenv(VARIABLE, "")
    return monkeypatch


@pytest.mark.row("F3")
@pytest.mark.usefixtures("free")
def test_the_option_may_stand_anywhere_and_processes_inherit_it() -> None:
    words = ["--allow", "mine", "fit", "--allow=other.part,third", "-c", "x.yaml", "--allow", "mine"]
    assert take_allowed(words) == ["fit", "-c", "x.yaml"]
    assert os.environ[VARIABLE] == "mine,other.part,third"
    assert is_allowed("other.part.Class")
    assert not is_allowed("other.Class")
    assert not is_allowed("mines.Class")


@pytest.mark.row("F3")
@pytest.mark.usefixtures("free")
@pytest.mark.parametrize(
    "words",
    [
        ["--allow"],
        ["--allow="],
        ["fit", "--allow", ","],
        ["--allow", "*"],
        ["--allow", "a b"],
        ["--allow", "jsonargparse"],
        ["--allow=jsonargparse.x"],
        ["--allow", "../x"],
    ],
)
def test_what_is_no_package_is_refused(words: list[str]) -> None:
    with pytest.raises(ConfigError, match="--allow"):
        take_allowed(words)
    assert os.environ[VARIABLE] == ""


@pytest.mark.row("F3")
def test_the_environment_too_names_packages_only(
    project: Project,  # noqa: F811
    free: pytest.MonkeyPatch,
) -> None:
    free.setenv(VARIABLE, "*")
    assert VARIABLE in project.fails("fit", "--config", "small.yaml")


@pytest.mark.row("F3")
@pytest.mark.usefixtures("free")
def test_a_class_of_ones_own_is_made_once_it_is_allowed(project: Project) -> None:  # noqa: F811
    name = f"{__name__.rpartition('.')[0]}.own_head.Own"
    spec = {"class_path": name}
    file = project.change("own.yaml", lambda c: module(c)["student"]["init_args"].update(fusion=spec))
    refused = project.fails("fit", "--config", file)
    assert f"own.yaml, line 22, model.student.fusion: found {name!r}" in refused
    assert "packages that a config may name: lightning_distill, torch.nn" in refused
    assert "--allow tests" in refused
    fine = ("--allow", "tests", "--trainer.fast_dev_run", "true")
    assert project.run("fit", "--config", file, *fine) == 0, project.err
    # A config cannot allow itself.
    os.environ[VARIABLE] = ""
    file = project.change("own.yaml", lambda c: c.update(allow="tests"))
    assert "'allow'" in project.fails("fit", "--config", file)


@pytest.mark.usefixtures("free")
def test_the_parser_is_given_back(project: Project) -> None:  # noqa: F811
    from jsonargparse import ArgumentParser

    project.fails("fit", "--config", "small.yaml", "--model.student.fusion", "tests.x.Y")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--a", type=Callable)
    assert parser.parse_object({"a": "tests.reliability.counts.times"}).a is times


@pytest.mark.usefixtures("free")
def test_what_is_refused_is_refused_to_a_saved_student_too() -> None:
    assert narrowed(["torch", "mine"]) == ("torch", "mine")
    with kept():
        restrict_imports()
        names = narrowed(["torch", "mine", "lightning_distill", "lightning_distill.cli", "os"])
        assert set(names) == {"torch.nn", "torch.optim", "lightning_distill"}
        assert set(narrowed(ALLOWED)) == set(ALLOWED)


@pytest.mark.row("F3")
def test_a_refusal_takes_no_time_and_runs_nothing(tmp_path: Path) -> None:
    """In a process of its own, which loads neither torch nor what the config names."""
    config = small_config()
    config["trainer"]["callbacks"] = [{"class_path": "side_effects.Own"}]
    (tmp_path / "hostile.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "side_effects.py").write_text("open('ran', 'w')\nclass Own: pass\n")
    code = (
        "import sys; from lightning_distill.__main__ import main\n"
        "code = main(['fit', '-c', 'hostile.yaml'])\n"
        "sys.exit(100 * ('torch' in sys.modules or 'side_effects' in sys.modules) + code)"
    )
    environment = {**os.environ, VARIABLE: "", "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done
    assert "--allow side_effects" in done.stderr
    assert not (tmp_path / "ran").exists()


# -- F4: contradictions ----------------------------------------------------------------------------


def clip_twice(c: Config) -> None:
    module(c)["clip_rule"] = NORM
    c["trainer"]["gradient_clip_val"] = 1.0


def clip_in_two_places(c: Config) -> None:
    module(c)["clip_rule"] = NORM
    c["trainer"]["callbacks"] = [{"class_path": "ClipGradients", "init_args": {"rule": NORM}}]


def norm_by_value_of_pieces(c: Config) -> None:
    module(c)["clip_rule"] = NORM
    c["trainer"]["gradient_clip_algorithm"] = "value"
    c["trainer"]["gradient_clip_val"] = 0.5


def changing_teacher(c: Config) -> None:
    module(c)["losses"] = {"kd": KD}
    module(c)["teacher"] = {"class_path": "MeanTeacher"}


CONTRADICTIONS: dict[str, tuple[Callable[[Config], object], tuple[str, ...], tuple[str, ...]]] = {
    "a clip rule, and the Trainer's": (clip_twice, (), ("gradient_clip_val", "clip rule")),
    "a clip rule, and the callback": (clip_in_two_places, (), ("ClipGradients", "clip_rule")),
    "a clip by norm, and one by value": (norm_by_value_of_pieces, (), ("gradient_clip_val", "clip rule")),
    "a cache, and no teacher": (lambda c: None, ("--cache", "auto"), ("cache", "teacher")),
    "terms, and no teacher": (lambda c: module(c).update(losses={"kd": KD}), (), ("losses", "no teacher")),
    "a weight, and no term": (lambda c: module(c).update(weights={"kd": 1.0}), (), ("weight", "term")),
    "going on, and starting over": (
        lambda c: None,
        ("--run", "r", "--resume", "auto", "--overwrite"),
        ("--resume", "--overwrite"),
    ),
    "all weights 0": (lambda c: module(c).update(weights={"task": 0.0}), (), ("weights", "0")),
}


@pytest.mark.row("F4")
@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_both_of_two_that_contradict_are_named(project: Project, name: str) -> None:  # noqa: F811
    edit, words, named = CONTRADICTIONS[name]
    more = () if "--run" in words else ("--trainer.fast_dev_run", "true")
    paragraph = project.fails("fit", "--config", project.change("two.yaml", edit), *words, *more)
    assert all(part in paragraph for part in named), paragraph


# -- F5: ranges ------------------------------------------------------------------------------------


def kd(**given: float) -> Callable[[Config], object]:
    return lambda c: module(c).update(teacher=TEACHER, losses={"kd": KD | {"init_args": given}})


def weight(value: float) -> Callable[[Config], object]:
    return lambda c: module(c).update(teacher=TEACHER, losses={"kd": KD}, weights={"kd": value})


def clip(name: str, **given: float) -> Callable[[Config], object]:
    return lambda c: module(c).update(clip_rule={"class_path": name, "init_args": given})


def optimizer(**given: Any) -> Callable[[Config], object]:
    return lambda c: module(c)["optimizer"]["init_args"].update(given)


def trainer(**given: Any) -> Callable[[Config], object]:
    return lambda c: c["trainer"].update(given)


def data(**given: Any) -> Callable[[Config], object]:
    return lambda c: c["data"]["init_args"].update(given)


def student(**given: Any) -> Callable[[Config], object]:
    return lambda c: module(c)["student"]["init_args"].update(given)


def encoder(**given: Any) -> Callable[[Config], object]:
    return lambda c: module(c)["student"]["init_args"]["encoders"]["text"]["init_args"].update(given)


def top(**given: Any) -> Callable[[Config], object]:
    return lambda c: c.update(given)


NAN, INF = float("nan"), float("inf")
RANGES: dict[str, tuple[Callable[[Config], object], str]] = {
    "lr -1": (optimizer(lr=-1.0), "DistillationModule.optimizer: found Invalid learning rate: -1.0"),
    "lr 0": (optimizer(lr=0.0), "DistillationModule.optimizer.lr: found 0.0; expected a positive number"),
    "lr nan": (optimizer(lr=NAN), "optimizer: found Invalid learning rate: nan"),
    "lr inf": (optimizer(lr=INF), "optimizer.lr: found inf"),
    "decay": (optimizer(weight_decay=-0.1), "optimizer: found Invalid weight_decay value: -0.1"),
    "betas": (optimizer(betas=[0.9, 1.5]), "optimizer: found Invalid beta"),
    "T 0": (kd(temperature=0.0), "LogitKD.temperature: found 0.0"),
    "T -1": (kd(temperature=-1.0), "LogitKD.temperature: found -1.0"),
    "T nan": (kd(temperature=NAN), "LogitKD.temperature: found nan"),
    "T inf": (kd(temperature=INF), "LogitKD.temperature: found inf"),
    "alpha -0.1": (weight(-0.1), "weights['kd']: found -0.1"),
    "alpha nan": (weight(NAN), "weights['kd']: found nan"),
    "norm -1": (clip("NormClip", max_norm=-1.0), "NormClip.max_norm: found -1.0"),
    "norm 0": (clip("NormClip", max_norm=0.0), "NormClip.max_norm: found 0.0"),
    "norm nan": (clip("NormClip", max_norm=NAN), "NormClip.max_norm: found nan"),
    "value -1": (clip("ValueClip", epsilon=-1.0), "ValueClip.epsilon: found -1.0"),
    "Trainer's clip": (trainer(gradient_clip_val=-1.0), "trainer.gradient_clip_val: found -1.0"),
    "batch 0": (data(batch_size=0), "batch_size: found 0; expected 1 or more"),
    "batch -1": (data(batch_size=-1), "batch_size: found -1"),
    "workers -1": (data(num_workers=-1), "num_workers: found -1"),
    "epochs -2": (trainer(max_epochs=-2), "line 4, trainer.max_epochs: found -2; expected -1 or more"),
    "accumulate 0": (trainer(accumulate_grad_batches=0), "trainer.accumulate_grad_batches: found 0"),
    "limit -1": (trainer(limit_val_batches=-1.0), "trainer.limit_val_batches: found -1.0"),
    "devices 0": (trainer(devices=0), "trainer: found `Trainer(devices=0)`"),
    "patience -1": (top(early_stopping={"patience": -1}), "early_stopping.patience: found -1"),
    "top -5": (top(checkpoint={"save_top_k": -5}), "checkpoint.save_top_k: found -5"),
    "seed -3": (top(seed_everything=-3), "seed_everything: found -3"),
    "classes 0": (student(num_classes=0), "MultimodalModel.num_classes: found 0"),
    "dropout 1.5": (student(modality_dropout=1.5), "MultimodalModel.modality_dropout: found 1.5"),
    "width 0": (encoder(width=0), "ByteTextCNN.width: found 0; expected 1 or more"),
    "kernel -1": (encoder(kernel_size=-1), "ByteTextCNN.kernel_size: found -1"),
}


@pytest.mark.row("F5")
@pytest.mark.parametrize("name", RANGES)
def test_a_number_out_of_range_is_named_with_its_key(project: Project, name: str) -> None:  # noqa: F811
    edit, told = RANGES[name]
    words = ("--config", project.change("range.yaml", edit), "--trainer.fast_dev_run", "true")
    assert told in project.fails("fit", *words)


@pytest.mark.row("F5")
def test_every_number_of_every_part_has_a_range() -> None:
    """A part that takes -1, or NaN, for a number must say so here."""
    from tests.reliability.ranges import FREE, accepted

    assert sorted(set(accepted()) - set(FREE)) == []


# -- F6: the environment ---------------------------------------------------------------------------


@pytest.mark.row("F6")
def test_what_the_environment_sets_is_in_the_config_that_is_kept(
    project: Project,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    secret = "hf_" + "aBcdEfgHijKlmNopQrsTuvWxyZabCdefGh"
    monkeypatch.setenv("JSONARGPARSE_DEFAULT_ENV", "true")
    monkeypatch.setenv("PL_FIT__TRAINER__LOG_EVERY_N_STEPS", "3")
    monkeypatch.setenv("PL_FIT__EARLY_STOPPING__MONITOR", secret)
    config = copy.deepcopy(small_config())
    del config["trainer"]["log_every_n_steps"]
    Path("small.yaml").write_text(yaml.safe_dump(config))
    assert project.fit("--run", "a", "--trainer.max_epochs", "1") == 0, project.err
    text = Path("a/config.yaml").read_text()
    kept_config = yaml.safe_load(text)
    assert kept_config["trainer"]["log_every_n_steps"] == 3
    assert secret not in text


@pytest.mark.row("F6")
def test_lightnings_own_variables_do_nothing_behind_the_config(
    project: Project,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PL_TRAINER_MAX_EPOCHS", "7")
    config = copy.deepcopy(small_config())
    del config["trainer"]["max_epochs"]
    Path("small.yaml").write_text(yaml.safe_dump(config))
    assert project.fit("--run", "a", "--trainer.max_steps", "2") == 0, project.err
    kept_config = yaml.safe_load(Path("a/config.yaml").read_text())
    assert kept_config["trainer"]["max_epochs"] is None
    lines = Path("a/metrics.csv").read_text().splitlines()
    assert {line.split(",")[lines[0].split(",").index("epoch")] for line in lines[1:]} == {"0"}


# -- F7: versions ----------------------------------------------------------------------------------


def _missing(old: Any, new: Any, at: str = "") -> list[str]:
    """Where a config lacks what another one says."""
    if isinstance(old, dict):
        lost = [f"{at}.{k}" for k in old if not isinstance(new, dict) or k not in new]
        return lost + [
            m for k in old if f"{at}.{k}" not in lost for m in _missing(old[k], new[k], f"{at}.{k}")
        ]
    return [] if old == new else [f"{at}: {old!r}, now {new!r}"]


@pytest.mark.row("F7")
def test_a_config_of_version_0_1_means_the_same(project: Project) -> None:  # noqa: F811
    """Where this fails, a key was renamed or a default changed: migrate it, and tell it in CHANGELOG.md."""
    old = yaml.safe_load(GOLDEN.read_text())
    assert _missing(old, parsed(["fit", "--config", str(GOLDEN)])) == []
    assert project.run("fit", "--config", str(GOLDEN), "--trainer.fast_dev_run", "true") == 0, project.err


@pytest.mark.row("F7")
@pytest.mark.parametrize("place", [(), ("trainer",), ("model", "init_args"), ("data", "init_args")])
def test_keys_of_another_version_are_refused_with_a_list(
    project: Project,  # noqa: F811
    place: tuple[str, ...],
) -> None:
    config = yaml.safe_load(GOLDEN.read_text())
    part = config
    for key in place:
        part = part[key]
    part["key_of_a_later_version"] = 1
    Path("later.yaml").write_text(yaml.safe_dump(config))
    paragraph = project.fails("fit", "--config", "later.yaml")
    assert "key_of_a_later_version" in paragraph
    assert "expected one of" in paragraph or "a key of" in paragraph
