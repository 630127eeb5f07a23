"""`lightning-distill born-again` through the real command line, on a few digits."""

from __future__ import annotations

import copy
import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_distill import load_student
from lightning_distill.cli.born_again import best_value, round_config
from tests.cli.conftest import Project, module, project, small_config

__all__ = ["project"]

CONFIG = Path(__file__).parents[2] / "configs" / "experiment" / "digits_distill_image.yaml"
ROUNDS = ("born-again", "--config", "images.yaml", "--out", "born")


def images() -> dict[str, Any]:
    """The image student of the digits, as a config without a teacher that is there."""
    config: dict[str, Any] = yaml.safe_load(CONFIG.read_text())
    config["trainer"] |= {"max_epochs": 1, "accelerator": "cpu", "log_every_n_steps": 1}
    config["trainer"] |= {"enable_progress_bar": False, "enable_model_summary": False}
    config["data"]["init_args"]["source"]["init_args"] |= {"train": 64, "val": 40, "test": 20}
    config["data"]["init_args"]["teacher_processors"] = {"text": {"class_path": "ByteTextProcessor"}}
    return config


@pytest.fixture
def digits(project: Project) -> Project:
    Path("images.yaml").write_text(yaml.safe_dump(images()))
    return project


def saved(number: int) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(Path(f"born/round{number}/config.yaml").read_text())
    return found


def weights(number: int) -> torch.Tensor:
    return torch.nn.utils.parameters_to_vector(load_student(Path(f"born/round{number}/student")).parameters())


def test_each_round_is_taught_by_the_one_before(digits: Project) -> None:
    assert digits.run(*ROUNDS, "--rounds", "2", "--trainer.max_epochs", "2") == 0, digits.err
    first, second = saved(0), saved(1)
    assert [module(first)[key] for key in ("teacher", "losses", "weights")] == [None] * 3
    assert module(second)["losses"]["kd"]["init_args"] == {"temperature": 2.0}
    assert module(second)["weights"] == {"task": 0.1, "kd": 0.9}
    model = module(second)["teacher"]["init_args"]["model"]
    assert model["init_args"]["folder"] == "born/round0/student"
    assert (first["seed_everything"], second["seed_everything"]) == (0, 1)
    assert first["trainer"]["max_epochs"] == second["trainer"]["max_epochs"] == 2
    assert not torch.equal(weights(0), weights(1))
    columns = Path("born/round1/metrics.csv").read_text().splitlines()[0].split(",")
    assert {"train/kd", "val/agreement"} <= set(columns)
    with Path("born/round1/metrics.csv").open() as lines:
        values = [float(row["val/accuracy"]) for row in csv.DictReader(lines) if row["val/accuracy"]]
    assert len(values) == 2
    assert f"{max(values):.4f}" in next(line for line in digits.out.splitlines() if "│ round 0" in line)

    # Another round later: what is finished stays as it is, also where only its student is left.
    before = weights(0), weights(1)
    shutil.rmtree("born/round0/checkpoints")
    assert digits.run(*ROUNDS, "--rounds", "3", "--trainer.max_epochs", "2") == 0, digits.err
    assert torch.equal(weights(0), before[0])
    assert torch.equal(weights(1), before[1])
    assert module(saved(2))["teacher"]["init_args"]["model"]["init_args"]["folder"] == "born/round1/student"
    assert digits.out.count("run: ") == 1
    assert "another config: trainer.max_epochs: 2 -> 1" in digits.fails(*ROUNDS)
    assert "another config: seed_everything: 0 -> 5" in digits.fails(
        *ROUNDS, "--trainer.max_epochs=2", "--seed_everything=5"
    )


class StopsOnce(Callback):
    """Fails in the second epoch of a round with a teacher, unless there is a file `stopped`."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch == 1 and pl_module.teacher is not None and not Path("stopped").exists():
            Path("stopped").touch()
            raise RuntimeError("the power is gone")


def test_an_interrupted_round_goes_on(digits: Project) -> None:
    config = images()
    config["trainer"] |= {"max_epochs": 2, "callbacks": [{"class_path": f"{__name__}.StopsOnce"}]}
    Path("images.yaml").write_text(yaml.safe_dump(config))
    assert "the power is gone" in digits.fails(*ROUNDS, "--rounds", "2", code=1)
    assert Path("born/round1/checkpoints/last.ckpt").is_file()
    assert not Path("born/round1/student").exists()
    assert digits.run(*ROUNDS, "--rounds", "2") == 0, digits.err
    assert "before" in json.loads(Path("born/round1/env.json").read_text())
    resumed = weights(1)

    # As if it had stopped before the first checkpoint: the round starts again, and ends the same.
    shutil.rmtree("born/round1/student")
    shutil.rmtree("born/round1/checkpoints")
    assert digits.run(*ROUNDS, "--rounds", "2") == 0, digits.err
    assert "before" not in json.loads(Path("born/round1/env.json").read_text())
    assert torch.equal(weights(1), resumed)


def test_without_terms_it_is_plain_distillation(project: Project) -> None:
    words = ("born-again", "-c", "small.yaml", "--out", "born", "--rounds", "2")
    assert project.run(*words, "--trainer.max_epochs=1") == 0, project.err
    kd = module(saved(1))["losses"]["kd"]
    assert kd["class_path"] == "lightning_distill.losses.LogitKD"
    assert module(saved(1))["weights"] == {"task": 0.1, "kd": 0.9}


def test_the_config_of_a_round() -> None:
    config = small_config() | {"seed_everything": True}
    config["data"]["init_args"]["teacher_processors"] = {"text": {}}
    module(config)["balancer"] = {"class_path": "GradNormBalancer"}
    module(config)["losses"] = {"cka": {"class_path": "CKA"}}
    module(config)["student"]["init_args"]["encoders"]["text"]["class_path"] = "mine.Encoder"
    given = copy.deepcopy(config)
    first, third = round_config(config, 0, None), round_config(config, 2, "x/student")
    assert config == given
    assert module(first)["balancer"] is None
    assert module(third)["balancer"] == module(given)["balancer"]
    assert module(third)["losses"] == module(given)["losses"]
    assert "weights" not in module(third)
    assert third["seed_everything"] is True
    assert third["data"]["init_args"]["teacher_processors"] is None
    assert module(third)["teacher"]["init_args"]["model"]["init_args"]["packages"] == [
        "MultimodalModel",
        "mine",
    ]


def test_best_value(tmp_path: Path) -> None:
    history = tmp_path / "metrics.csv"
    history.write_text("step,val/a\n0,\n1,0.5\n2,nan\n3,0.25\n")
    assert best_value(history, "val/a", "max") == 0.5
    assert best_value(history, "val/a", "min") == 0.25
    assert best_value(history, "val/b", "min") is None
    assert best_value(history, None, "min") is None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--rounds", "1"], "found 1"),
        (["--run", "x"], "found --run"),
        (["--resume=auto"], "found --resume=auto"),
        (["--trainer.max_epoch", "1"], "did you mean"),
        (["--trainer.fast_dev_run", "true"], "left no student"),
    ],
)
def test_mistakes(project: Project, words: list[str], said: str) -> None:
    assert said in project.fails("born-again", "--config", "small.yaml", "--out", "born", *words)
    assert not Path("born/round0").exists()


def test_out_must_be_a_folder(project: Project) -> None:
    said = project.fails("born-again", "--config", "small.yaml", "--out", "table.csv")
    assert "table.csv is a file" in said
