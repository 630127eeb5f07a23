"""One history file, and W&B as far as there is a way."""

from __future__ import annotations

import csv
import json
import os
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from lightning_distill.cli import loggers
from lightning_distill.cli.loggers import HistoryLogger, wandb_mode
from tests.cli.conftest import Project


def read(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_history_keeps_rows_when_columns_are_added(tmp_path: Path) -> None:
    history = HistoryLogger(tmp_path)
    history.log_metrics({"epoch": 0, "train/loss": 2.0}, step=0)
    history.save()
    history.log_metrics({"epoch": 0, "train/loss": 1.0}, step=1)
    history.save()
    history.log_metrics({"epoch": 0, 'a,"b"': 0.5}, step=1)
    history.finalize("success")
    assert (tmp_path / "metrics.csv").read_text().splitlines()[0].startswith("step,epoch,")
    assert [row["train/loss"] for row in read(tmp_path)] == ["2.0", "1.0", ""]
    assert [row['a,"b"'] for row in read(tmp_path)] == ["", "", "0.5"]


def test_history_goes_on_and_rewinds(tmp_path: Path) -> None:
    first = HistoryLogger(tmp_path)
    for step in range(4):
        first.log_metrics({"loss": float(step)}, step=step)
    first.save()
    second = HistoryLogger(tmp_path)
    second.rewind(2)
    second.log_metrics({"loss": 9.0}, step=2)
    second.log_metrics({"other": 1.0}, step=3)
    second.save()
    assert [(r["step"], r["loss"]) for r in read(tmp_path)] == [
        ("0", "0.0"),
        ("1", "1.0"),
        ("2", "9.0"),
        ("3", ""),
    ]


def test_history_that_was_given_nothing_writes_nothing(tmp_path: Path) -> None:
    history = HistoryLogger(tmp_path)
    history.rewind(3)
    history.save()
    history.finalize("success")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> types.SimpleNamespace:
    """W&B's settings as they are on a machine without any."""
    settings = types.SimpleNamespace(mode="online", api_key=None, base_url="https://api.example.org")
    module = types.ModuleType("wandb")
    module.setup = lambda: types.SimpleNamespace(settings=settings)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.delenv("NETRC", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return settings


@pytest.mark.parametrize(
    ("asked", "mode"),
    [
        ("disabled", "disabled"),
        ("offline", "offline"),
        ("dryrun", "offline"),
        ("online", "online"),
        ("Offline", "offline"),
    ],
)
def test_wandb_mode_is_honoured(
    wandb: types.SimpleNamespace, monkeypatch: pytest.MonkeyPatch, asked: str, mode: str
) -> None:
    monkeypatch.setenv("WANDB_MODE", asked)
    wandb.api_key = "key"
    assert wandb_mode() == mode


def test_wandb_is_online_only_where_there_is_a_key(wandb: types.SimpleNamespace, tmp_path: Path) -> None:
    assert wandb_mode() == "offline"
    (tmp_path / ".netrc").write_text("machine api.other.org login user password secret\n")
    assert wandb_mode() == "offline"
    (tmp_path / ".netrc").write_text("machine api.example.org login user password secret\n")
    assert wandb_mode() == "online"
    (tmp_path / ".netrc").write_text("nonsense {{{\n")
    assert wandb_mode() == "offline"
    wandb.api_key = "key"
    assert wandb_mode() == "online"
    wandb.mode = "offline"  # after `wandb offline`
    assert wandb_mode() == "offline"
    wandb.mode = "disabled"
    assert wandb_mode() == "disabled"


def test_a_logger_of_ones_own_is_kept_and_the_history_added(project: Project) -> None:
    own = [{"class_path": "CSVLogger", "init_args": {"save_dir": "own"}}]
    name = project.change("own.yaml", lambda c: c["trainer"].update(logger=own))
    assert project.fit("--run", "a", config=name) == 0, project.err
    assert list(Path("own").rglob("metrics.csv"))
    assert read(Path("a"))


@pytest.mark.parametrize("value", ["false", "true"])
def test_the_history_is_always_there(project: Project, value: str) -> None:
    assert project.fit("--run", "a", "--trainer.logger", value, "--trainer.max_epochs", "1") == 0, project.err
    assert read(Path("a"))
    assert {p.name for p in Path().iterdir()} == {"a", "small.yaml", "table.csv"}


def test_no_advertisements(project: Project) -> None:
    assert project.fit("--run", "a", "--trainer.max_epochs", "1") == 0
    assert "Tip" not in project.out + project.err
    assert "litlogger" not in project.out + project.err


@pytest.mark.row("P7")
def test_wandb_offline_prints_the_line_that_uploads(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real offline run, and its resumption under the same id."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    sent: list[dict[str, Any]] = []
    log = loggers.WandbLogger.log_hyperparams
    monkeypatch.setattr(
        loggers.WandbLogger, "log_hyperparams", lambda self, params: (sent.append(params), log(self, params))
    )
    assert project.fit("--run", "a", "--trainer.max_epochs", "1") == 0, project.err
    line = next(line for line in project.out.splitlines() if "wandb sync" in line)
    folder = Path(line.partition("wandb sync ")[2])
    assert list(folder.glob("run-*.wandb"))
    assert folder.is_relative_to(Path("a/wandb").absolute())
    assert sent[0]["model"]["init_args"]["optimizer"]["init_args"]["lr"] == 0.01
    assert read(Path("a"))
    assert "anonymous" not in project.err
    resume = ("fit", "--run", "a", "--resume", "auto", "--trainer.max_epochs", "2")
    assert project.run(*resume) == 0, project.err
    env = json.loads(Path("a/env.json").read_text())
    assert env["wandb_id"] == env["before"][0]["wandb_id"]
    assert len(list(Path("a/wandb").glob(f"offline-run-*-{env['wandb_id']}"))) == 2
    assert os.environ["WANDB_MODE"] == "offline"
    steps = [int(row["step"]) for row in read(Path("a")) if row["train/loss"]]
    assert steps == list(range(len(steps)))
    assert len(steps) == 8


def test_a_run_that_cannot_start_leaves_no_wandb_folder(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    project.fails("fit", "--config", "small.yaml", "--run", "a", "--model.student.num_classes", "3")
    assert not Path("a").exists()
