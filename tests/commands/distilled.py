"""A teacher and its student, for tests of commands on distillations."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_distill.__main__ import main
from tests.cli.conftest import Project, module, project, small_config, train_once, write_project

__all__ = ["project"]

NOTES = "seen.json"


class NotesSamples(Callback):
    """Writes the sample ids of every batch into the run's folder."""

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, index: int
    ) -> None:
        path = Path(trainer.default_root_dir, NOTES)
        seen = json.loads(path.read_text()) if path.is_file() else []
        path.write_text(json.dumps([*seen, batch["sample_id"].tolist()]))


class StopsOnce(Callback):
    """Fails in the second epoch of a run without a teacher, unless there is a file `stopped`."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch == 1 and pl_module.teacher is None and Path("stop").exists():
            Path("stop").unlink()
            raise RuntimeError("the power is gone")


def distillation() -> dict[str, Any]:
    """The small student, taught by run `a`."""
    config = small_config()
    model = {"class_path": "lightning_distill.export.load_student", "init_args": {"folder": "a/student"}}
    module(config)["teacher"] = {"class_path": "FrozenTeacher", "init_args": {"model": model}}
    module(config)["losses"] = {"kd": {"class_path": "LogitKD"}}
    module(config)["weights"] = {"task": 0.1, "kd": 0.9}
    config["data"]["init_args"]["teacher_processors"] = {
        "text": {"class_path": "ByteTextProcessor", "init_args": {"max_length": 8}}
    }
    names = ("NotesSamples", "StopsOnce")
    config["trainer"]["callbacks"] = [{"class_path": f"{__name__}.{name}"} for name in names]
    return config


@pytest.fixture(scope="session")
def two_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the teacher `a` and the student `b`, for tests to copy."""
    folder = tmp_path_factory.mktemp("distilled")
    write_project(folder)
    train_once(folder, "small.yaml")
    (folder / "distil.yaml").write_text(yaml.safe_dump(distillation()))
    with contextlib.chdir(folder):
        assert main(["fit", "--config", "distil.yaml", "--run", "b"]) == 0
    return folder


@pytest.fixture
def distilled(project: Project, two_runs: Path) -> Project:
    """A project with both runs."""
    shutil.copytree(two_runs, ".", dirs_exist_ok=True)
    return project
