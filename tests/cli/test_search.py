"""`lightning-distill search`: a study of ordinary runs over the space of a W&B sweep."""

from __future__ import annotations

import copy
import csv
import json
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml

from lightning_distill.cli.parsing import parsed
from lightning_distill.commands import studies
from lightning_distill.commands.search.distributions import distribution
from lightning_distill.commands.search.space import read_space
from lightning_distill.commands.search.study import FOLDER, open_study, suggested
from lightning_distill.commands.search.table import as_words
from lightning_distill.commands.search.trial_watch import TrialWatch
from tests.cli import wandb_file
from tests.cli.conftest import Project

SPACE: dict[str, Any] = {
    "method": "bayes",
    "metric": {"name": "val/loss", "goal": "minimize"},
    "parameters": {
        "model.optimizer.lr": {"distribution": "log_uniform_values", "min": 0.001, "max": 0.1},
        "model.clip_rule": {"value": {"class_path": "ValueClip", "init_args": {"epsilon": 0.5}}},
        "trainer.max_epochs": {"value": 1},
    },
}
SEARCH = ("search", "--config", "small.yaml", "--space", "space.yaml", "--out", "s")


def write(edit: Callable[[dict[str, Any]], Any] = lambda space: None) -> Path:
    """The space, changed."""
    space = copy.deepcopy(SPACE)
    edit(space)
    Path("space.yaml").write_text(yaml.safe_dump(space))
    return Path("space.yaml")


def trials() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(Path("s/trials.json").read_text())["trials"]
    return found


def test_a_study_of_ordinary_runs_that_goes_on(project: Project) -> None:
    write()
    assert project.run(*SEARCH, "--trials", "2", "--data.batch_size=16") == 0, project.err
    made = trials()
    assert [trial["folder"] for trial in made] == ["trial-0", "trial-1"]
    assert len({trial["values"]["model.optimizer.lr"] for trial in made}) == 2
    for trial in made:
        config = yaml.safe_load((Path("s") / trial["folder"] / "config.yaml").read_text())
        init_args = config["model"]["init_args"]
        assert init_args["optimizer"]["init_args"]["lr"] == trial["values"]["model.optimizer.lr"]
        assert init_args["clip_rule"]["init_args"]["epsilon"] == 0.5
        assert config["data"]["init_args"]["batch_size"] == 16
        assert (Path("s") / trial["folder"] / "student" / "model.safetensors").is_file()
    best = min(made, key=lambda trial: trial["value"])
    assert f"best: s/{best['folder']}, val/loss {best['value']:.4f}" in project.out
    assert Path("s/best.yaml").read_text() == Path("s", best["folder"], "config.yaml").read_text()
    line = next(line for line in project.out.splitlines() if line.startswith("next: lightning-distill fit"))
    program, *words = shlex.split(line.removeprefix("next: "))
    assert program == "lightning-distill"
    saved = yaml.safe_load(Path("s/best.yaml").read_text())
    assert {key: value for key, value in parsed(words).items() if key in saved} == saved
    assert project.run(*SEARCH, "--trials", "2", "--data.batch_size=16") == 0
    assert trials() == made, "nothing is left to be made"
    assert project.run(*SEARCH, "--trials", "3", "--data.batch_size=16") == 0
    assert trials()[:2] == made
    assert trials()[2]["values"] not in [trial["values"] for trial in made]
    paragraph = project.fails(*SEARCH, "--trials", "3", "--data.batch_size=8")
    assert "a study of another config: data.init_args.batch_size: 16 -> 8" in paragraph
    write(lambda s: s["parameters"]["model.optimizer.lr"].update(max=0.2))
    assert "a study of another space" in project.fails(*SEARCH, "--data.batch_size=16")


def test_bad_trainings_are_stopped_and_broken_ones_passed_over(project: Project) -> None:
    """The rates are queued with Optuna itself, so that their order is known."""
    good, bad, broken = rates = (0.05, 1.0e-9, 1.0e30)

    def wide(space: dict[str, Any]) -> None:
        space["parameters"]["model.optimizer.lr"] |= {"min": bad, "max": broken}
        space["parameters"]["trainer.max_epochs"]["value"] = 3
        space["early_terminate"] = {"type": "hyperband", "max_iter": 3, "s": 1, "eta": 4}
        space["command"] = ["${program}", "fit", "--config", "small.yaml", "--data.batch_size=16", "${args}"]
        space["run_cap"] = len(rates)

    study = open_study(read_space(write(wide)), Path("s/study.db"), 0)
    for rate in rates:
        study.enqueue_trial({"model.optimizer.lr": rate})
    assert project.run("search", "--space", "space.yaml", "--out", "s") == 0, project.err
    made = {trial["values"]["model.optimizer.lr"]: trial for trial in trials()}
    assert {rate: made[rate]["state"] for rate in rates} == {
        good: "complete",
        bad: "pruned",
        broken: "pruned",
    }
    assert "best: s/trial-0" in project.out
    assert made[bad]["stopped"] == "pruned"
    with (Path("s") / made[bad]["folder"] / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["epoch"] for row in rows} == {"0"}, "stopped after its first validation"
    assert [float(row["val/loss"]) for row in rows if row["val/loss"]] == [pytest.approx(made[bad]["value"])]
    assert "finite" in made[broken]["stopped"] or "nan" in made[broken]["stopped"].lower()


def test_a_search_that_was_interrupted_goes_on(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    write(lambda s: s["parameters"]["trainer.max_epochs"].update(value=2))
    report = TrialWatch.on_validation_end

    def interrupt(self: TrialWatch, trainer: Any, module: Any) -> None:
        report(self, trainer, module)
        if self.trial.number == 1 and not trainer.sanity_checking:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(TrialWatch, "on_validation_end", interrupt)
        assert project.run(*SEARCH, "--trials", "2") == 130
    assert "the same line goes on" in project.out
    assert project.run(*SEARCH, "--trials", "2") == 0, project.err
    first, second = trials()
    assert [first["folder"], second["folder"]] == ["trial-0", "trial-1"]
    assert {path.name for path in Path("s").glob("trial-*")} == {"trial-0", "trial-1"}
    env = json.loads(Path("s/trial-1/env.json").read_text())
    assert len(env["before"]) == 1, "gone on with, not begun again"
    study = optuna.load_study(study_name="search", storage="sqlite:///s/study.db")
    values = [t.user_attrs["values"] for t in study.trials if t.user_attrs["folder"] == "trial-1"]
    assert len(values) == 2
    assert values[0] == values[1]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--run", "a"), "no folder but --out"),
        (("--trials", "0"), "1 or more"),
        (("--trainer.devices=2",), "each process would choose settings of its own"),
        (("--trainer.fast_dev_run=1",), "trainer.fast_dev_run: found 1"),
        (("--trainer.limit_val_batches=0",), "trainer.limit_val_batches: found 0"),
        (("--data.batch_sise=3",), "did you mean 'batch_size'"),
    ],
)
def test_what_is_refused(project: Project, words: tuple[str, ...], told: str) -> None:
    write()
    assert told in project.fails(*SEARCH, *words)
    assert not Path("s").exists()


def test_a_trial_that_was_cut_off_before_its_first_step(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a killed process leaves it, with only the lock in its folder; and W&B gets no weights of it."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("WANDB_DATA_DIR", raising=False)
    space = read_space(write())
    trial = open_study(space, Path("s/study.db"), 0).ask()
    values = suggested(space, trial)
    trial.set_user_attr(FOLDER, "trial-0")
    Path("s/trial-0").mkdir()
    Path("s/trial-0/.lock").touch()
    assert project.run(*SEARCH, "--trials", "1") == 0, project.err
    (made,) = trials()
    assert (made["folder"], made["values"]) == ("trial-0", values)
    assert Path("s/trial-0/student/model.safetensors").is_file()
    (session,) = Path("s/trial-0/wandb").glob("offline-run-*")
    assert {a.type for a in wandb_file.records(session, "artifact")} == {"run_table"}


@pytest.mark.parametrize("begun", [False, True])
def test_runs_that_the_study_has_not_made_are_left_alone(project: Project, begun: bool) -> None:
    """As after `study.db` was removed: their metrics are of other settings."""
    space = read_space(write())
    if begun:
        open_study(space, Path("s/study.db"), 0)
    assert project.fit("--run", "s/trial-0", "--trainer.max_epochs=1") == 0, project.err
    before = {path: path.read_bytes() for path in Path("s").rglob("*") if path.is_file()}
    paragraph = project.fails(*SEARCH, "--trials", "1", "--trainer.max_epochs=2")
    assert "trial-0, which s/study.db knows nothing of" in paragraph
    for path, content in before.items():
        assert path.read_bytes() == content, path
    assert Path("s/study.db").exists() == begun


def test_one_process_at_a_time(project: Project) -> None:
    """A lock of POSIX keeps out other processes only, so another one holds it."""
    space = read_space(write())
    study = open_study(space, Path("s/study.db"), 0)
    running = study.ask()
    suggested(space, running)
    code = (
        "import sys, pathlib; from lightning_distill.cli.run_lock import RunLock; "
        "lock = RunLock(pathlib.Path('s')); lock.take(); print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        paragraph = project.fails(*SEARCH, "--trials", "1")
        other.communicate()
    assert f"search --out, s: found a study that process {other.pid}" in paragraph
    running.report(1.0, 1)
    assert [trial.state.name for trial in study.trials] == ["RUNNING"]


def test_whole_numbers_that_are_rounded_are_taken_by_fit(project: Project) -> None:
    values = distribution("p", {"distribution": "q_uniform", "min": 8, "max": 32, "q": 8}, "f")
    trial = optuna.create_study().ask()
    words = as_words({"data.batch_size": values.suggested(trial, "p")})
    assert parsed(["fit", "--config", "small.yaml", *words])["data"]["init_args"]["batch_size"] % 8 == 0


def test_a_metric_that_nobody_logs(project: Project) -> None:
    write(lambda s: s["metric"].update(name="val/los"))
    assert "did you mean 'val/loss'" in project.fails(*SEARCH, "--trials", "1")


def test_a_value_that_the_config_does_not_take(project: Project) -> None:
    write(lambda s: s["parameters"].update({"data.batch_size": {"values": [8, "many"]}}))
    assert "many" in project.fails(*SEARCH)
    assert not Path("s").exists()


def test_without_optuna_it_says_how_to_get_it(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    write()
    monkeypatch.setattr(studies, "find_spec", lambda name: None)
    assert "lightning-distill[optuna]" in project.fails(*SEARCH)
