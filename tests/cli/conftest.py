"""A folder with a table of texts, and configs that train on it in a second."""

from __future__ import annotations

import contextlib
import copy
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import lightning_distill.cli.command  # noqa: F401 - Lightning's log handler keeps its stream
from lightning_distill.__main__ import main

Config = dict[str, Any]

SPLITS = ("train", "train", "val", "test")


class Project:
    """Runs the real command line inside one folder.

    Args:
        folder: The current folder.
        capfd: pytest's.
    """

    def __init__(self, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
        self.folder, self._capfd = folder, capfd
        self.out, self.err = "", ""

    def run(self, *words: str) -> int:
        """The exit code; `out` and `err` hold what was printed."""
        self._capfd.readouterr()
        code = main(list(words))
        self.out, self.err = self._capfd.readouterr()
        return code

    def fit(self, *words: str, config: str = "small.yaml") -> int:
        """Train on the small config."""
        return self.run("fit", "--config", config, *words)

    def fails(self, *words: str, code: int = 2) -> str:
        """The one paragraph of a command that must fail."""
        assert self.run(*words) == code, self.out + self.err
        lines = [line for line in self.err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1
        assert "Traceback" not in self.err
        return lines[0]

    def change(self, name: str, edit: Callable[[dict[str, Any]], None]) -> str:
        """Write a changed copy of the small config."""
        config = copy.deepcopy(yaml.safe_load(Path("small.yaml").read_text()))
        edit(config)
        Path(name).write_text(yaml.safe_dump(config, sort_keys=False))
        return name


def module(config: Config) -> Config:
    """Init args of the module."""
    found: Config = config["model"]["init_args"]
    return found


def small_config() -> Config:
    """Supervised training of a text model."""
    trainer = {
        "accelerator": "cpu",
        "devices": 1,
        "max_epochs": 2,
        "log_every_n_steps": 1,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    encoder = {"class_path": "ByteTextCNN", "init_args": {"width": 8, "embedding_dim": 8}}
    student = {
        "class_path": "MultimodalModel",
        "init_args": {"encoders": {"text": encoder}, "num_classes": 2},
    }
    optimizer = {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.01}}
    source = {
        "class_path": "ManifestSource",
        "init_args": {"path": "table.csv", "modalities": {"text": "text"}},
    }
    processor = {"class_path": "ByteTextProcessor", "init_args": {"max_length": 8}}
    return {
        "trainer": trainer,
        "model": {
            "class_path": "DistillationModule",
            "init_args": {"student": student, "optimizer": optimizer},
        },
        "data": {
            "class_path": "TextDataModule",
            "init_args": {"source": source, "processors": {"text": processor}, "batch_size": 8},
        },
    }


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Project:
    """The folder, entered."""
    monkeypatch.chdir(tmp_path)
    write_project(tmp_path)
    return Project(tmp_path, capfd)


def write_project(folder: Path) -> None:
    """The table and the config."""
    rows = [f"{'ab'[i % 2] * 3}{i},{'xy'[i % 2]},{SPLITS[i // 2 % 4]}" for i in range(64)]
    (folder / "table.csv").write_text("\n".join(["text,label,split", *rows]) + "\n")
    (folder / "small.yaml").write_text(yaml.safe_dump(small_config(), sort_keys=False))


def train_once(folder: Path, config: str) -> Path:
    """The run `a` of a config in that folder, by the real command line."""
    with contextlib.chdir(folder):
        assert main(["fit", "--config", config, "--run", "a"]) == 0
    for name in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS"):
        os.environ.pop(name, None)
    return folder / "a"


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the small config, for tests to copy."""
    folder = tmp_path_factory.mktemp("trained")
    write_project(folder)
    return train_once(folder, "small.yaml")


@pytest.fixture
def trained(project: Project, trained_run: Path) -> Project:
    """A project with the run `a`."""
    shutil.copytree(trained_run, "a")
    return project
