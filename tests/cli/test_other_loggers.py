"""TensorBoard and MLflow by `class_path`: real runs, read back by their own tools."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Project

SECRET = "hunter2secret"


def values() -> dict[str, list[float]]:
    """Metric -> all that metrics.csv has of it."""
    with Path("a/metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = ("train/loss", "val/accuracy", "val/loss")
    return {name: [float(row[name]) for row in rows if row[name]] for name in names}


def train(project: Project, monkeypatch: pytest.MonkeyPatch, logger: dict[str, Any]) -> None:
    """A run whose config names a secret of the environment."""
    monkeypatch.setenv("MY_API_KEY", SECRET)
    Path("table.csv").rename(f"{SECRET}.csv")
    name = project.change("own.yaml", lambda c: c["trainer"].update(logger=[logger]))
    words = ("--run", "a", f"--data.source.path={SECRET}.csv")
    assert project.fit(*words, config=name) == 0, project.err


def no_secret_in(folder: Path) -> None:
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    assert not [path for path in files if SECRET.encode() in path.read_bytes()]


def test_tensorboard(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    logger = {"class_path": "TensorBoardLogger", "init_args": {"save_dir": "tb", "name": "small"}}
    train(project, monkeypatch, logger)
    read = accumulators.EventAccumulator("tb/small/version_0")
    read.Reload()
    for name, expected in values().items():
        assert [event.value for event in read.Scalars(name)] == pytest.approx(expected, rel=1e-6), name
    no_secret_in(Path("tb"))
    plugins = pytest.importorskip("tensorboard.plugins.hparams.plugin_data_pb2")
    content = read.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    told = plugins.HParamsPluginData.FromString(content).session_start_info.hparams
    assert told["data/init_args/source/init_args/path"].string_value == "***.csv"
    assert told["model/init_args/optimizer/init_args/lr"].number_value == 0.01


def test_mlflow(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    store = f"sqlite:///{Path.cwd()}/mlflow.db"
    logger = {
        "class_path": "MLFlowLogger",
        "init_args": {"experiment_name": "small", "tracking_uri": store, "run_name": "a"},
    }
    train(project, monkeypatch, logger)
    client = mlflow.tracking.MlflowClient(store)
    experiment = client.get_experiment_by_name("small")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    for name, expected in values().items():
        told = sorted(client.get_metric_history(run.info.run_id, name), key=lambda m: (m.step, m.timestamp))
        assert [metric.value for metric in told] == pytest.approx(expected, rel=1e-6), name
    assert run.data.params["data/init_args/source/init_args/path"] == "***.csv"
    assert run.data.params["model/init_args/optimizer/init_args/lr"] == "0.01"
    assert SECRET.encode() not in Path("mlflow.db").read_bytes()
