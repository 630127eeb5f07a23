"""`lightning-distill baseline` through the real command line, on runs of a second."""

from __future__ import annotations

import copy
import json
import re
import shutil
from pathlib import Path
from typing import Any

import torch
import yaml

from lightning_distill.cli.baseline import baseline_config, seeded
from lightning_distill.commands.pairs import finished_pairs
from lightning_distill.export import load_student
from tests.cli.conftest import Project, module, project
from tests.commands.distilled import NOTES, distillation, distilled, two_runs

__all__ = ["distilled", "project", "two_runs"]


def saved(folder: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(Path(folder, "config.yaml").read_text())
    return found


def weights(folder: str) -> torch.Tensor:
    return torch.nn.utils.parameters_to_vector(load_student(Path(folder, "student")).parameters())


def seen(folder: str) -> list[list[int]]:
    found: list[list[int]] = json.loads(Path(folder, NOTES).read_text())
    return found


def test_a_baseline_differs_in_the_teacher_only(distilled: Project) -> None:
    assert distilled.run("baseline", "b") == 0, distilled.err
    run, baseline = saved("b"), saved("b/baseline")
    assert module(baseline)["teacher"] is None
    assert module(baseline)["losses"] is None
    assert module(baseline)["weights"] is None
    for key in ("student", "optimizer", "clip_rule", "task"):
        assert module(baseline)[key] == module(run)[key]
    assert baseline["data"]["init_args"].pop("teacher_processors") is None
    run["data"]["init_args"].pop("teacher_processors")
    for key in ("data", "trainer", "seed_everything"):
        assert baseline[key] == run[key]
    assert len(seen("b")) == 8  # two epochs of four batches
    assert seen("b/baseline") == seen("b")
    assert not torch.equal(weights("b"), weights("b/baseline"))
    assert "pair" in distilled.out
    assert "next: lightning-distill report b" in distilled.out
    assert "not equally long" not in distilled.out
    assert [pair.baseline.as_posix() for pair in finished_pairs(Path("b"))] == ["b/baseline"]

    # It is an ordinary run, and is not trained again.
    assert distilled.run("evaluate", "b/baseline") == 0, distilled.err
    before = weights("b/baseline")
    assert distilled.run("baseline", "b") == 0, distilled.err
    assert len(seen("b/baseline")) == 8
    assert torch.equal(weights("b/baseline"), before)


def test_more_pairs_have_other_seeds(distilled: Project) -> None:
    assert distilled.run("baseline", "b", "--pairs", "2") == 0, distilled.err
    student, baseline = saved("b/pairs/2/student"), saved("b/pairs/2/baseline")
    assert student["seed_everything"] == baseline["seed_everything"] == saved("b")["seed_everything"] + 1
    assert module(student)["teacher"] == module(saved("b"))["teacher"]
    assert module(baseline)["teacher"] is None
    assert seen("b/pairs/2/student") == seen("b/pairs/2/baseline") != seen("b")
    assert [pair.student.as_posix() for pair in finished_pairs(Path("b"))] == ["b", "b/pairs/2/student"]
    shutil.rmtree("b/baseline/student")
    assert finished_pairs(Path("b")) == []


def test_an_interrupted_baseline_goes_on(distilled: Project) -> None:
    Path("stop").touch()
    assert "the power is gone" in distilled.fails("baseline", "b", code=1)
    assert not Path("b/baseline/student").exists()
    assert distilled.run("baseline", "b") == 0, distilled.err
    assert "before" in json.loads(Path("b/baseline/env.json").read_text())
    assert seen("b/baseline") == seen("b")


def test_mistakes(distilled: Project) -> None:
    assert "its own baseline" in distilled.fails("baseline", "a")
    assert "--pairs" in distilled.fails("baseline", "b", "--pairs", "0")
    assert "the settings of the run" in distilled.fails("baseline", "b", "--trainer.max_epochs=3")
    assert "no such file" in distilled.fails("baseline", "c", code=4)
    Path("table.csv").write_text(re.sub("[xy],train", ",train", Path("table.csv").read_text()))
    assert "there are no labels to learn from" in distilled.fails("baseline", "b")
    shutil.rmtree("b/student")
    assert "has not ended" in distilled.fails("baseline", "b", code=4)
    assert not Path("b/baseline").exists()


def test_another_run_in_its_place_is_told(distilled: Project) -> None:
    assert distilled.run("baseline", "b") == 0, distilled.err
    path = Path("b/config.yaml")
    path.write_text(path.read_text().replace("lr: 0.01", "lr: 0.02"))
    paragraph = distilled.fails("baseline", "b")
    assert "a run of another config: model.init_args.optimizer.init_args.lr: 0.01 -> 0.02" in paragraph


def test_early_stopping_is_told(distilled: Project) -> None:
    config = yaml.safe_load(Path("b/config.yaml").read_text())
    config["early_stopping"] |= {"patience": 2, "min_delta": 2.0}
    config["trainer"]["max_epochs"] = 4
    Path("b/config.yaml").write_text(yaml.safe_dump(config))
    assert distilled.run("baseline", "b") == 0, distilled.err
    assert len(seen("b/baseline")) == 12
    assert "not equally long: b has 8 steps, b/baseline 12, since training stops early" in distilled.out


def test_the_config_of_a_baseline() -> None:
    config = distillation()
    teacher_only = {"class_path": "lightning_distill.losses.LogitKD"}
    free = {"class_path": "lightning_distill.losses.EntropyMinimisation"}
    wrapper = "lightning_distill.losses.OnTarget"
    module(config)["losses"] = {
        "kd": teacher_only,
        "there": {"class_path": wrapper, "init_args": {"loss": teacher_only}},
        "calm": {"class_path": wrapper, "init_args": {"loss": free}},
    }
    module(config)["weights"] = {"task": 0.1, "kd": 1.0, "calm": 0.5, "unimodal": 0.2}
    module(config)["balancer"] = {"class_path": "GradNormBalancer"}
    config |= {"seed_everything": 4, "checkpoint": {"monitor": "val/kd", "mode": "min", "dirpath": "x"}}
    config["early_stopping"] = {"monitor": "val/accuracy", "mode": "max"}
    given = copy.deepcopy(config)
    made = baseline_config(seeded(config, 2))
    assert config == given
    assert list(module(made)["losses"]) == ["calm"]
    assert module(made)["weights"] == {"calm": 0.5, "unimodal": 0.2}
    assert (module(made)["balancer"], module(made)["teacher"]) == (None, None)
    assert made["seed_everything"] == 6
    assert made["checkpoint"] == {"monitor": "val/task", "mode": "min", "dirpath": None}
    assert made["early_stopping"] == config["early_stopping"]
    config["cache"] = "auto"
    assert baseline_config(config)["cache"] is None
    assert seeded(config, 0)["seed_everything"] == 4
