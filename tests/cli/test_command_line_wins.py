"""What is asked for counts, not what a checkpoint remembers; defaults of the standing callbacks."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.cli.conftest import Project, module

STEP_LR = {"class_path": "torch.optim.lr_scheduler.StepLR", "init_args": {"step_size": 1, "gamma": 0.5}}


def last(run: str) -> dict[str, Any]:
    """The last checkpoint of a run."""
    checkpoint: dict[str, Any] = torch.load(f"{run}/checkpoints/last.ckpt", weights_only=True)
    return checkpoint


def group(run: str) -> dict[str, Any]:
    """The hyperparameters the optimizer ended with."""
    found: dict[str, Any] = last(run)["optimizer_states"][0]["param_groups"][0]
    return found


def epochs(run: str) -> int:
    """How often a run was validated."""
    with Path(run, "metrics.csv").open(newline="") as file:
        return sum(bool(row["val/loss"]) for row in csv.DictReader(file))


def test_a_new_learning_rate_beats_the_checkpoints(trained: Project) -> None:
    project = trained
    words = ("--ckpt_path", "a/checkpoints/last.ckpt", "--trainer.max_epochs", "3")
    changes = ("--model.optimizer.lr", "0.5", "--model.optimizer.betas", "[0.5,0.9]")
    assert project.fit("--run", "b", *words, *changes) == 0, project.err
    assert group("b")["lr"] == 0.5
    assert tuple(group("b")["betas"]) == (0.5, 0.9)
    assert group("b")["weight_decay"] == group("a")["weight_decay"]
    assert last("b")["global_step"] == 12
    assert "model.init_args.optimizer.init_args.lr: 0.01 -> 0.5" in project.out
    assert "lr: 0.5" in Path("b/config.yaml").read_text()


def test_an_unchanged_learning_rate_is_left_where_the_schedule_has_it(project: Project) -> None:
    name = project.change("scheduled.yaml", lambda c: module(c).update(lr_scheduler=STEP_LR))
    assert project.fit("--run", "a", config=name) == 0, project.err
    assert group("a")["lr"] == pytest.approx(0.01 / 4)
    resume = ("fit", "--run", "a", "--resume", "auto", "--trainer.max_epochs", "3")
    assert project.run(*resume) == 0, project.err
    assert group("a")["lr"] == pytest.approx(0.01 / 8)


def test_a_new_learning_rate_moves_with_the_schedule(project: Project) -> None:
    name = project.change("scheduled.yaml", lambda c: module(c).update(lr_scheduler=STEP_LR))
    assert project.fit("--run", "a", config=name) == 0, project.err
    resume = ("fit", "--run", "a", "--resume", "auto", "--trainer.max_epochs", "3")
    changes = ("--model.optimizer.lr", "0.08", "--model.lr_scheduler.gamma", "0.1")
    assert project.run(*resume, *changes) == 0, project.err
    assert group("a")["lr"] == pytest.approx(0.08 / 4 * 0.1)
    assert group("a")["initial_lr"] == 0.08
    scheduler = last("a")["lr_schedulers"][0]
    assert scheduler["gamma"] == 0.1
    assert scheduler["base_lrs"] == [0.08]


def test_a_changed_setting_stays_changed_after_the_next_resume(project: Project) -> None:
    assert project.fit("--run", "a", "--trainer.max_epochs", "1") == 0
    resume = ("fit", "--run", "a", "--resume", "auto")
    assert project.run(*resume, "--trainer.max_epochs", "2", "--model.optimizer.lr", "0.3") == 0
    assert project.run(*resume, "--trainer.max_epochs", "3") == 0, project.err
    assert group("a")["lr"] == 0.3


def test_patience_can_be_set_and_changed_on_resume(project: Project) -> None:
    # Every accuracy is that of a model that does not learn, so patience runs out after 1 + patience.
    frozen = ("--model.optimizer.lr", "1e-9", "--trainer.max_epochs", "20")
    assert project.fit("--run", "a", "--early_stopping.patience", "2", *frozen) == 0, project.err
    assert epochs("a") == 3
    resume = ("fit", "--run", "a", "--resume", "auto", "--early_stopping.patience", "5")
    assert project.run(*resume) == 0, project.err
    assert epochs("a") == 6


def test_early_stopping_of_ones_own_replaces_the_default(project: Project) -> None:
    own = {
        "class_path": "EarlyStopping",
        "init_args": {"monitor": "val/loss", "patience": 1, "min_delta": 9.0},
    }
    name = project.change("own.yaml", lambda c: c["trainer"].update(callbacks=[own], max_epochs=9))
    assert project.fit("--run", "a", config=name) == 0, project.err
    assert epochs("a") == 2


@pytest.mark.parametrize(
    "words", [["--checkpoint.monitor", "val/acuracy"], ["--trainer.limit_val_batches", "0"]]
)
@pytest.mark.filterwarnings("ignore:nothing logs")
def test_a_metric_that_nobody_logs_costs_no_run(project: Project, words: list[str]) -> None:
    with pytest.warns(UserWarning, match="will be that of the last epoch"):
        assert project.fit("--run", "a", "--early_stopping.monitor", "val/acuracy", *words) == 0, project.err
    best = torch.load("a/checkpoints/best.ckpt", weights_only=True)
    assert best["global_step"] == last("a")["global_step"] == 8
    assert Path("a/student/model.safetensors").is_file()


def test_early_stopping_that_waits_for_what_nobody_logs_is_told(project: Project) -> None:
    with pytest.warns(UserWarning, match=r"nothing stops training early; .*did you mean 'val/accuracy'"):
        assert project.fit("--run", "a", "--early_stopping.monitor", "val/acuracy") == 0, project.err


def test_checkpointing_can_be_switched_off(project: Project) -> None:
    assert project.fit("--run", "a", "--trainer.enable_checkpointing", "false") == 0, project.err
    assert not Path("a/checkpoints").exists()
    assert Path("a/student/config.json").is_file()


def test_the_seed_is_set_before_anything_is_made(project: Project) -> None:
    for run, seed in (("a", "0"), ("b", "0"), ("c", "7")):
        assert project.fit("--run", run, "--seed_everything", seed, "--trainer.max_epochs", "1") == 0
    a, b, c = (last(run)["state_dict"]["student.head.weight"] for run in "abc")
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    first = [Path(run, "metrics.csv").read_text().splitlines()[1] for run in "abc"]
    assert first[0] == first[1] != first[2]


def test_a_run_goes_on_from_any_checkpoint_in_a_new_folder(project: Project) -> None:
    assert project.fit("--run", "a", "--trainer.max_epochs", "1") == 0
    before = {p: p.read_bytes() for p in Path("a").rglob("*") if p.is_file()}
    assert project.fit("--run", "b", "--ckpt_path", "a/checkpoints/best.ckpt") == 0, project.err
    assert {p: p.read_bytes() for p in Path("a").rglob("*") if p.is_file()} == before
    assert last("b")["global_step"] == 8
    assert "found no file b/none.ckpt" in project.fails(
        "fit", "--config", "small.yaml", "--ckpt_path", "b/none.ckpt", code=4
    )
