"""`lightning-distill find-clip` through the real command line, on a folder of texts."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from lightning_distill.cli.parsing import parsed
from lightning_distill.commands import studies
from lightning_distill.commands.find_clip import Options, finder_of, left_out
from lightning_distill.commands.find_clip.lines import chosen_lines, put, rate_keys, with_choice
from lightning_distill.commands.find_clip.onward import next_line
from lightning_distill.commands.find_clip.own import clip_keys, in_guards
from lightning_distill.commands.find_clip.picture import draw_picture
from lightning_distill.commands.find_clip.sweep import sweep_file
from lightning_distill.commands.find_clip.table import remarks
from lightning_distill.range_finding.finder import ClipRangeFinder, ClipRangeResult
from lightning_distill.range_finding.places import ALL, NEVER, FeatureRange, GradientRange, Place
from lightning_distill.range_finding.quantiles import Quantiles
from lightning_distill.range_finding.search import Ladder
from lightning_distill.range_finding.trials import Choice, Goal, Trial, plateaus
from tests.cli.conftest import Project, module, project, small_config

__all__ = ["project"]

GIVEN = ("--config", "small.yaml")
FIND = ("find-clip", *GIVEN)


def made_result(chosen: int = 1, apart: float = 1.0) -> ClipRangeResult:
    """A result as a search would give it."""
    quantiles = Quantiles(tuple(10.0 ** (i - 8) for i in range(11)), 0.25, 4)
    other = Quantiles(tuple(apart * x for x in quantiles.values), 0.0, 4)
    goal = Goal("val/accuracy", "max")
    trials = (
        Trial(Choice(), 0.01, 0.5, 1.0),
        Trial(Choice(1e-3, 4.0, "50% quantile"), 0.04, 0.9, 0.3),
        Trial(Choice(1e-4, 4.0, "signs only"), 0.04, 0.9, 0.3),
        Trial(Choice(1e-2, 4.0, "90% quantile"), 0.04, None, None, "step 3: nan"),
    )
    ladder = Ladder.of_gradients(quantiles, {"eps": 1e-8})
    groups = {ALL: quantiles, "text": quantiles, "image": other, "rest": quantiles}
    return ClipRangeResult(groups, ladder, trials, trials[chosen], goal, tuple(plateaus(trials, goal)))


def test_a_search_prints_and_writes_what_it_found(project: Project) -> None:
    words = (*FIND, "--trials", "3", "--out", "found", "--sweep", "found/sweep.yaml", "--learning-rates")
    assert project.run(*words) == 0, project.err
    assert len(re.findall(r", lr [\d.e-]+: .* s$", project.out, re.MULTILINE)) == 4
    assert "Quantiles of |g|" in project.out
    found = json.loads(Path("found/find_clip.json").read_text())
    assert len(found["trials"]) == 4
    assert found["trials"][0]["choice"] == {"epsilon": None, "rate": 1.0, "why": "off"}
    assert {"all", "text", "rest"} == set(found["quantiles"])
    assert Path("found/find_clip.png").read_bytes().startswith(b"\x89PNG")
    assert not list(Path("found").glob(".*"))
    assert not Path("runs").exists()

    # What was chosen is a config that `fit` takes, and it is what was chosen.
    chosen = found["chosen"]
    config = parsed(["fit", "--config", "found/config.yaml"])
    rule = module(config)["clip_rule"]
    epsilon = chosen["choice"]["epsilon"]
    assert (rule is None) == (epsilon is None)
    if rule is not None:
        assert rule["init_args"]["epsilon"] == pytest.approx(epsilon, rel=1e-3)
    assert module(config)["optimizer"]["init_args"]["lr"] == pytest.approx(chosen["learning_rate"], rel=1e-3)
    assert project.run("fit", "--config", "found/config.yaml", "--trainer.max_epochs", "1") == 0, project.err


def test_the_same_search_gives_the_same_numbers(project: Project) -> None:
    for out in ("one", "two"):
        assert project.run(*FIND, "--trials", "1", "--steps", "3", "--out", out) == 0, project.err
    one, two = (json.loads(Path(f"{out}/find_clip.json").read_text()) for out in ("one", "two"))
    for found in (one, two):
        for trial in (*found["trials"], found["chosen"]):
            trial.pop("seconds")
    assert one == two


def test_the_range_of_features(project: Project) -> None:
    assert project.run(*FIND, "--feature", "--trials", "1", "--steps", "3", "--out", "out") == 0, project.err
    assert "Quantiles of |x|" in project.out
    assert "feature_clip" in project.out.partition("To use it:")[2]
    assert json.loads(Path("out/find_clip.json").read_text())["what"] == "|x|"


def full_config(project: Project) -> dict[str, Any]:
    return parsed(["fit", "--config", "small.yaml"])


@pytest.mark.parametrize("place", [GradientRange(), FeatureRange()])
def test_chosen_lines_change_just_that(project: Project, place: Place) -> None:
    before = full_config(project)
    Path("lines.yaml").write_text(chosen_lines(before, made_result(), place))
    after = parsed(["fit", "--config", "small.yaml", "--config", "lines.yaml"])
    spec = place.spec(1e-3)
    assert spec is not None
    found: Any = after
    for key in place.keys:
        found = found[key]
    assert found["class_path"] == spec["class_path"]
    assert found["init_args"]["epsilon"] == 1e-3
    assert module(after)["optimizer"]["init_args"]["lr"] == 0.04
    put(after, place.keys, None)
    put(after, rate_keys(after), 0.01)
    assert after == before
    Path("whole.yaml").write_text(with_choice(before, made_result(), place))
    whole = parsed(["fit", "--config", "whole.yaml"])
    put(whole, place.keys, None)
    put(whole, rate_keys(whole), 0.01)
    assert whole == before


def test_ranges_of_modalities_are_suggested_as_lines_that_are_not_used() -> None:
    alike = chosen_lines(small_config(), made_result(apart=2.0), GradientRange())
    assert "PerModality" not in alike
    text = chosen_lines(small_config(), made_result(apart=100.0), GradientRange())
    assert yaml.safe_load(text) == yaml.safe_load(alike)
    told = yaml.safe_load("".join(line[2:] + "\n" for line in text.splitlines() if line.startswith("# ")
                                  and "Modalities differ" not in line))  # fmt: skip
    rules = told["model"]["init_args"]["clip_rule"]["init_args"]["rules"]
    assert rules["image"]["init_args"]["epsilon"] == pytest.approx(
        100 * rules["text"]["init_args"]["epsilon"], rel=1e-3
    )


def test_a_grouped_optimizer_keeps_its_rate_inside() -> None:
    config = small_config()
    inner = module(config)["optimizer"]
    module(config)["optimizer"] = {
        "class_path": "lightning_distill.optimization.GroupedOptimizer",
        "init_args": {"optimizer": inner},
    }
    whole = yaml.safe_load(with_choice(config, made_result(), GradientRange()))
    assert module(whole)["optimizer"]["init_args"]["optimizer"]["init_args"]["lr"] == 0.04
    assert inner["init_args"]["lr"] == 0.01


def test_an_optimizer_that_is_not_written_out_gets_its_rate() -> None:
    config = small_config()
    del module(config)["optimizer"]
    whole = yaml.safe_load(with_choice(config, made_result(), GradientRange()))
    assert module(whole)["optimizer"] == {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.04}}


# -- the config's own clip ----------------------------------------------------------------------------------


def value_clip(epsilon: Any = 0.0123, **others: Any) -> dict[str, Any]:
    return {"class_path": "ValueClip", "init_args": {"epsilon": epsilon, **others}}


def skipping(rule: dict[str, Any]) -> dict[str, Any]:
    return {"class_path": "SkipNonFinite", "init_args": {"rule": rule}}


def with_rule(project: Project, rule: dict[str, Any] | None, name: str = "own.yaml") -> str:
    return project.change(name, lambda config: put(config, GradientRange.keys, rule))


def in_config(config: Any, keys: tuple[str, ...]) -> Any:
    for key in keys:
        config = config[key]
    return config


def test_the_configs_own_range_is_tried_within_its_guard(project: Project) -> None:
    own = with_rule(project, skipping(value_clip()))
    words = ("find-clip", "--config", own, "--trials", "2", "--out", "out")
    assert project.run(*words) == 0, project.err
    assert "note: the guard of the config, SkipNonFinite, stays in all trainings" in project.out
    assert "takes no part" not in project.out
    assert re.search(r"0\.0123 *│ yours ", project.out)
    trials = json.loads(Path("out/find_clip.json").read_text())["trials"]
    assert [t["choice"]["why"] for t in trials] == ["off", "yours", "90% quantile"]
    rule = module(parsed(["fit", "--config", "out/config.yaml"]))["clip_rule"]
    assert rule["class_path"].endswith(".SkipNonFinite")
    assert rule["init_args"]["rule"]["class_path"].endswith(".ValueClip")


def test_the_configs_own_range_of_features_is_tried(project: Project) -> None:
    spec = {"class_path": "HardClip", "init_args": {"epsilon": 0.75}}
    own = project.change("own.yaml", lambda config: put(config, FeatureRange.keys, spec))
    words = ("find-clip", "--config", own, "--feature", "--trials", "1", "--out", "out")
    assert project.run(*words) == 0, project.err
    trials = json.loads(Path("out/find_clip.json").read_text())["trials"]
    assert [(t["choice"]["epsilon"], t["choice"]["why"]) for t in trials] == [(None, "off"), (0.75, "yours")]
    assert "takes no part" not in project.out


DEVIATIONS = {"class_path": "StandardDeviation"}


@pytest.mark.parametrize(
    ("rule", "told"),
    [
        (None, []),
        (value_clip(), []),
        (value_clip(unit=DEVIATIONS), ["clip_rule, ValueClip, takes no part"]),
        ({"class_path": "NormClip"}, ["clip_rule, NormClip, takes no part"]),
        (skipping(value_clip()), ["guard of the config, SkipNonFinite, stays"]),
        (
            skipping({"class_path": "NormClip"}),
            ["SkipNonFinite, stays", "clip_rule, NormClip, takes no part"],
        ),
    ],
)
def test_what_becomes_of_the_configs_own_rule_is_told(project: Project, rule: Any, told: list[str]) -> None:
    notes = left_out(parsed(["fit", "--config", with_rule(project, rule)]), GradientRange())
    assert len(notes) == len(told)
    assert all(part in note for part, note in zip(told, notes, strict=True))


@pytest.mark.parametrize("depth", [1, 2])
def test_guards_stay_around_what_was_chosen(project: Project, depth: int) -> None:
    rule = value_clip()
    for kind in ("SkipNonFinite", "PropagateNonFinite")[:depth]:
        rule = {"class_path": kind, "init_args": {"rule": rule}}
    before = parsed(["fit", "--config", with_rule(project, rule)])
    place = GradientRange()
    keys = clip_keys(before, place)
    assert keys == (*place.keys, *("init_args", "rule") * depth)
    for chosen, epsilon in ((1, 1e-3), (0, NEVER)):
        result = made_result(chosen, apart=100.0)
        Path("lines.yaml").write_text(chosen_lines(before, result, place))
        Path("whole.yaml").write_text(with_choice(before, result, place))
        for words in (["--config", "own.yaml", "--config", "lines.yaml"], ["--config", "whole.yaml"]):
            after = parsed(["fit", *words])
            assert in_config(after, keys)["init_args"]["epsilon"] == epsilon
            in_config(after, keys)["init_args"]["epsilon"] = 0.0123
            assert after["model"]["init_args"]["clip_rule"] == before["model"]["init_args"]["clip_rule"]
    assert in_config(before, keys)["init_args"]["epsilon"] == 0.0123, "the config stays as it was"


def test_ranges_of_modalities_are_suggested_within_the_guard(project: Project) -> None:
    config = parsed(["fit", "--config", with_rule(project, skipping(value_clip()))])
    text = chosen_lines(config, made_result(apart=100.0), GradientRange())
    comment = [line[2:] for line in text.splitlines() if line.startswith("# ") and "Modalities" not in line]
    rule = module(yaml.safe_load("\n".join(comment)))["clip_rule"]
    assert rule["class_path"].endswith(".SkipNonFinite")
    assert rule["init_args"]["rule"]["class_path"].endswith(".PerModality")


@pytest.mark.parametrize("place", [GradientRange(), FeatureRange()])
def test_no_clip_is_written_as_null(project: Project, place: Place) -> None:
    own = project.change("own.yaml", lambda config: put(config, place.keys, place.spec(0.5)))
    before, result = parsed(["fit", "--config", own]), made_result(chosen=0)
    assert in_config(before, place.keys) is not None
    lines = chosen_lines(before, result, place)
    assert f"{place.keys[-1]}: null" in lines
    assert in_config(yaml.safe_load(lines), place.keys) is None
    Path("lines.yaml").write_text(lines)
    Path("whole.yaml").write_text(with_choice(before, result, place))
    for words in (["--config", own, "--config", "lines.yaml"], ["--config", "whole.yaml"]):
        after = parsed(["fit", *words])
        assert in_config(after, place.keys) is None
        put(after, place.keys, in_config(before, place.keys))
        assert after == before


def test_a_search_that_picks_no_clip_writes_a_config_to_train_with(project: Project) -> None:
    own = with_rule(project, value_clip(1e-9))  # so far below AdamW's own eps that nothing is learnt
    assert project.run("find-clip", "--config", own, "--trials", "1", "--out", "out") == 0, project.err
    assert "clip_rule: null" in project.out.partition("To use it:")[2]
    assert json.loads(Path("out/find_clip.json").read_text())["chosen"]["choice"]["epsilon"] is None
    assert module(parsed(["fit", "--config", "out/config.yaml"]))["clip_rule"] is None
    assert project.run("fit", "--config", "out/config.yaml", "--trainer.max_epochs", "1") == 0, project.err


# -- what to run next ---------------------------------------------------------------------------------------


def printed_next(out: str) -> list[str]:
    told = out.partition("For the range of the fused feature, with this choice, next:")[2]
    return shlex.split(told.strip().splitlines()[0]) if told else []


@pytest.mark.parametrize("out", [[], ["--out", "my out"]])
def test_the_line_to_run_next_looks_for_the_other_range(project: Project, out: list[str]) -> None:
    assert project.run(*FIND, "--trials", "1", *out, "--data.batch_size", "5") == 0, project.err
    words = printed_next(project.out)
    assert words[:2] == ["lightning-distill", "find-clip"]
    assert "--feature" in words
    assert project.run(*words[1:]) == 0, project.err
    assert "Quantiles of |x|" in project.out
    assert printed_next(project.out) == []
    if out:
        assert Path("my out/feature/config.yaml").is_file()


@pytest.mark.parametrize("rule", [None, value_clip(), skipping(value_clip())])
@pytest.mark.parametrize("chosen", [0, 1])
@pytest.mark.parametrize("optimizer", [True, False])
def test_the_line_to_run_next_has_what_was_chosen(
    project: Project, rule: Any, chosen: int, optimizer: bool
) -> None:
    name, place, result = with_rule(project, rule), GradientRange(), made_result(chosen)
    if not optimizer:
        config = yaml.safe_load(Path(name).read_text())
        del module(config)["optimizer"]
        Path(name).write_text(yaml.safe_dump(config))
    before = parsed(["fit", "--config", name])
    words = shlex.split(next_line(before, ["--config", name], result, place, Options(steps=7, trials=3)))
    at = words.index("--feature")
    assert words[at:] == ["--feature", "--trials", "3", "--steps", "7"]
    after = parsed(["fit", *words[2:at]])
    Path("lines.yaml").write_text(chosen_lines(before, result, place))
    assert after == parsed(["fit", "--config", name, "--config", "lines.yaml"])
    wanted = in_guards(before, place, place.spec(result.chosen.choice.epsilon))
    assert (module(after)["clip_rule"] is None) == (wanted is None)


# -- what is told -------------------------------------------------------------------------------------------


def test_ties_edges_and_stops_are_told() -> None:
    told = list(remarks(made_result()))
    assert any(line.startswith("any range from 0.0001 to 0.001 gives the same") for line in told)
    assert any("the highest that trained" in line for line in told)
    assert any("step 3: nan" in line for line in told)
    assert "no range did clearly better than no clip at all" in list(remarks(made_result(chosen=0)))
    assert any("no training ended well" in line for line in remarks(made_result(chosen=3)))


@pytest.mark.parametrize(("untrained", "told"), [(0.1, False), (0.9, True), (0.95, True), (None, False)])
def test_trainings_that_taught_nothing_are_told(untrained: float | None, told: bool) -> None:
    found = list(remarks(dataclasses.replace(made_result(), untrained=untrained)))
    assert any("no training got better than the untrained model" in line for line in found) == told


def test_where_nothing_was_learnt_the_exit_code_says_so(project: Project) -> None:
    words = (*FIND, "--trials", "1", "--model.optimizer.lr", "1e-12", "--out", "out")
    assert project.run(*words) == 5, project.err
    assert "no training got better than the untrained model" in project.out
    assert "To use it all the same:" in project.out
    assert printed_next(project.out) == []
    assert json.loads(Path("out/find_clip.json").read_text())["untrained"] is not None


def test_where_no_training_ends_well_the_exit_code_says_so(project: Project) -> None:
    sgd = {"class_path": "torch.optim.SGD", "init_args": {"lr": 1e38}}
    name = project.change("sgd.yaml", lambda config: put(config, ("model", "init_args", "optimizer"), sgd))
    assert project.run("find-clip", "--config", name, "--trials", "1") == 5, project.err
    assert "no training ended well" in project.out


@pytest.mark.parametrize(
    ("mode", "value", "untrained", "learnt"),
    [
        ("max", 0.9, 0.5, True),
        ("max", 0.5, 0.5, False),
        ("max", 0.4, 0.5, False),
        ("min", 0.4, 0.5, True),
        ("min", 0.6, 0.5, False),
        ("max", 0.1, None, True),
        ("max", None, None, False),
        ("max", None, 0.1, False),
    ],
)
def test_learnt_is_better_than_untrained(
    mode: str, value: float | None, untrained: float | None, learnt: bool
) -> None:
    trial = Trial(Choice(), 0.1, value)
    result = dataclasses.replace(made_result(), chosen=trial, goal=Goal("val/x", mode), untrained=untrained)
    assert result.learnt is learnt


def test_the_picture_has_a_line_a_rate_and_a_band_a_plateau() -> None:
    figure = draw_picture(made_result(), GradientRange())
    axes = figure.axes[0]
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["lr 0.01", "lr 0.04", "lr 0.04, stopped", "chosen"]
    (band,) = (line for line in axes.get_lines() if line.get_alpha() is not None)
    assert list(band.get_xdata()) == [1e-4, 1e-3]
    assert band.get_color() == axes.get_lines()[1].get_color()
    assert axes.get_xscale() == "log"


# -- W&B and Optuna -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", [GradientRange(), FeatureRange()])
def test_a_sweep_calls_fit_with_words_that_it_takes(project: Project, place: Place) -> None:
    agent = pytest.importorskip("wandb.sdk.launch.sweeps.utils")
    config = full_config(project)
    sweep = yaml.safe_load(sweep_file(config, [*GIVEN, "--data.batch_size=5"], made_result(), place, 7))
    assert sweep["method"] == "grid"
    assert sweep["metric"] == {"name": "val/accuracy", "goal": "maximize"}
    assert all(set(parameter) == {"values"} for parameter in sweep["parameters"].values())
    for at in (0, -1):
        wanted = {name: parameter["values"][at] for name, parameter in sweep["parameters"].items()}
        flags = agent.create_sweep_command_args({"args": {name: {"value": v} for name, v in wanted.items()}})
        flags["program"] = [sweep["program"]]
        words: list[str] = []
        for word in agent.create_sweep_command(sweep["command"]):
            words += flags[word[2:-1]] if word.startswith("${") else [word]
        assert words[:2] == ["lightning-distill", "fit"]
        made = parsed(words[1:])
        clip: Any = made
        for key in place.keys:
            clip = clip[key]
        found = [clip["init_args"]["epsilon"], module(made)["optimizer"]["init_args"]["lr"]]
        assert found == list(wanted.values())
        assert made["trainer"]["max_steps"] == 7
        assert made["data"]["init_args"]["batch_size"] == 5, "settings of the line take part"


@pytest.mark.parametrize("optimizer", [True, False])
def test_a_sweep_keeps_the_guard_and_the_optimizer(project: Project, optimizer: bool) -> None:
    name = with_rule(project, skipping(value_clip()))
    if not optimizer:
        text = yaml.safe_load(Path(name).read_text())
        del module(text)["optimizer"]
        Path(name).write_text(yaml.safe_dump(text))
    config, result = parsed(["fit", "--config", name]), made_result()
    result = dataclasses.replace(result, ladder=result.ladder.including(0.0123))
    sweep = yaml.safe_load(sweep_file(config, ["--config", name], result, GradientRange(), None))
    (clip, ranges), (rate, rates) = sweep["parameters"].items()
    assert 0.0123 in ranges["values"]
    for epsilon in (ranges["values"][0], NEVER):
        words = [f"--{clip}={epsilon}", f"--{rate}={rates['values'][0]}"]
        made = parsed(["fit", *sweep["command"][2:-1], *words])
        rule = module(made)["clip_rule"]
        assert rule["class_path"].endswith(".SkipNonFinite")
        assert rule["init_args"]["rule"]["init_args"]["epsilon"] == epsilon
        assert module(made)["optimizer"]["init_args"]["lr"] == rates["values"][0]


def test_a_study_says_where_its_ranges_come_from(project: Project) -> None:
    optuna = pytest.importorskip("optuna")
    pytest.importorskip("sqlalchemy")
    own = with_rule(project, value_clip())
    words = ("find-clip", "--config", own, "--steps", "3", "--optuna", "study.db")
    assert project.run(*words, "--trials", "8", "--out", "out") in (0, 5), project.err
    study = optuna.load_study(study_name="find-clip", storage="sqlite:///study.db")
    queued = [t.user_attrs.get("why") for t in study.trials]
    assert queued[:2] == ["yours", "50% quantile"]
    assert set(queued[2:6]) == {"99.9% quantile", "99% quantile", "90% quantile", "signs only"}
    assert queued[6:] == [None, None], "what the sampler thinks of"
    trials = json.loads(Path("out/find_clip.json").read_text())["trials"]
    thought = ["Optuna" if t.params["clip"] else "off" for t in study.trials[6:]]
    assert [t["choice"]["why"] for t in trials] == ["off", *queued[:6], *thought]
    assert trials[1]["choice"]["epsilon"] == pytest.approx(0.0123)
    assert re.search(r"│ yours ", project.out)
    assert re.search(r"│ signs only ", project.out)
    assert "(yours), lr" in project.out


def test_an_optuna_study_goes_on_where_it_stopped(project: Project) -> None:
    optuna = pytest.importorskip("optuna")
    pytest.importorskip("sqlalchemy")
    words = (*FIND, "--steps", "3", "--learning-rates", "--optuna", "kept/study.db")
    assert project.run(*words, "--trials", "2") == 0, project.err
    first = optuna.load_study(study_name="find-clip", storage="sqlite:///kept/study.db").trials
    finished = [t for t in first if t.state.is_finished()]
    assert len(finished) == 2
    assert all(t.params["clip"] and t.params["rate"] == 1.0 for t in finished)
    assert project.run(*words, "--trials", "7", "--out", "out") == 0, project.err
    later = optuna.load_study(study_name="find-clip", storage="sqlite:///kept/study.db").trials
    finished_later = [t for t in later if t.state.is_finished()]
    assert len(finished_later) == 7
    assert [t.params for t in finished_later[:2]] == [t.params for t in finished]
    assert project.out.count(", lr ") == 6
    assert len(json.loads(Path("out/find_clip.json").read_text())["trials"]) == 8

    assert "a study of" in project.fails(*words, "--feature")


def test_a_training_that_was_cut_off_is_made_again(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    optuna = pytest.importorskip("optuna")
    pytest.importorskip("sqlalchemy")
    words = (*FIND, "--steps", "3", "--optuna", "study.db", "--trials", "3")
    made, train = [], ClipRangeFinder.trial

    def cut_off(self: ClipRangeFinder, choice: Choice, *others: Any) -> Trial:
        made.append(choice.epsilon)
        if len(made) == 3:
            raise KeyboardInterrupt
        return train(self, choice, *others)

    monkeypatch.setattr(ClipRangeFinder, "trial", cut_off)
    assert project.run(*words) == 130
    assert "study.db keeps what is done" in project.out
    assert project.run(*words) == 0, project.err
    study = optuna.load_study(study_name="find-clip", storage="sqlite:///study.db")
    done = [t for t in study.trials if t.state == optuna.trial.TrialState.COMPLETE]
    assert len(done) == 3
    assert all(t.user_attrs["why"] not in ("", "Optuna") for t in done), "the one made again too"
    assert project.run(*words[:-1], "9") == 0, project.err
    assert made.count(made[2]) == 2, "cut off, and then once more"


def test_without_optuna_it_says_how_to_get_it(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(studies, "find_spec", lambda name: None)
    assert "lightning-distill[optuna]" in project.fails(*FIND, "--optuna", "study.db")


# -- what is refused or left out ----------------------------------------------------------------------------


def test_wrong_words_are_refused(project: Project) -> None:
    assert "--trials 0" in project.fails(*FIND, "--trials", "0")
    assert "--steps -1" in project.fails(*FIND, "--steps", "-1")
    assert "trialz" in project.fails(*FIND, "--trialz", "1")
    assert "val/recal" in project.fails(*FIND, "--steps", "2", "--checkpoint.monitor", "val/recal")


def test_what_takes_no_part_is_told(project: Project) -> None:
    config = full_config(project)
    assert left_out(config, GradientRange()) == left_out(config, FeatureRange()) == []
    put(config, FeatureRange.keys, {"class_path": "lightning_distill.feature_clipping.TanhClip"})
    assert left_out(config, GradientRange()) == []
    (note,) = left_out(config, FeatureRange())
    assert note.startswith("the config's own feature_clip, TanhClip, takes no part")
    config["trainer"] |= {"callbacks": [{}], "devices": 4, "gradient_clip_val": 1.0}
    assert len(left_out(config, FeatureRange())) == 4


def test_the_finder_does_what_the_config_says(project: Project) -> None:
    config = full_config(project)
    config["trainer"] |= {"accumulate_grad_batches": 2, "devices": 4}
    config["seed_everything"] = 17
    finder = finder_of(config, Options(steps=5))
    assert finder.trainer["accumulate_grad_batches"] == 2
    assert (finder.trainer["max_steps"], finder.trainer["max_epochs"]) == (5, -1)
    assert (finder.trainer["devices"], finder.seed, finder.trainer["logger"]) == (1, 17, False)
    assert finder.goal == Goal("val/accuracy", "max")
    assert finder_of(config, Options()).trainer["max_epochs"] == 2
