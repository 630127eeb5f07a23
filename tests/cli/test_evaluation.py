"""validate, test and predict on a run."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.cli.conftest import Project


def test_a_run_is_all_that_test_and_validate_need(trained: Project, caplog: pytest.LogCaptureFixture) -> None:
    before = set(Path().rglob("*"))
    assert trained.run("test", "--run", "a") == 0, trained.err
    assert "test/accuracy" in trained.out
    assert "best.ckpt" in caplog.text
    assert trained.run("validate", "--run", "a") == 0, trained.err
    assert "val/accuracy" in trained.out
    assert set(Path().rglob("*")) == before


def test_a_checkpoint_of_a_run_brings_its_config(trained: Project, caplog: pytest.LogCaptureFixture) -> None:
    assert trained.run("test", "--ckpt_path", "a/checkpoints/last.ckpt") == 0, trained.err
    assert "last.ckpt" in caplog.text


def test_settings_of_a_run_can_be_changed(trained: Project) -> None:
    allowed = ("--data.source.allow_absent", "true")
    assert trained.run("test", "--run", "a", *allowed, "--data.batch_size", "3") == 0, trained.err
    assert "did you mean 'batch_size'" in trained.fails("test", "--run", "a", "--data.batchsize", "3")


def test_predict_writes_into_the_run_or_where_it_is_told(trained: Project) -> None:
    assert trained.run("predict", "--run", "a") == 0, trained.err
    assert "a/predictions.parquet" in trained.out
    table = pq.read_table("a/predictions.parquet")
    assert table.column_names == ["sample_id", "prediction", "probabilities", "embedding"]
    assert len(table) == 16
    assert json.loads(table.schema.metadata[b"classes"]) == ["x", "y"]
    assert trained.run("predict", "--run", "a", "--output", "deep/p.parquet") == 0, trained.err
    assert pq.read_table("deep/p.parquet").equals(table)
    with_config = ("--config", "small.yaml", "--ckpt_path", "a/checkpoints/best.ckpt")
    assert trained.run("predict", *with_config, "--output", "p.parquet") == 0, trained.err
    assert pq.read_table("p.parquet").equals(table)


def test_a_model_that_nobody_trained_is_not_passed_off_as_one(project: Project) -> None:
    with pytest.warns(UserWarning, match="untrained"):
        assert project.run("test", "--config", "small.yaml") == 0


def test_predict_refuses_another_kind_of_file_before_it_reads_any_data(trained: Project) -> None:
    paragraph = trained.fails("predict", "--run", "a", "--output", "p.csv")
    assert "--output p.parquet" in paragraph
    assert not Path("p.csv").exists()


def test_what_is_missing_is_named(trained: Project) -> None:
    assert "no config.yaml" in trained.fails("test", "--run", "b")
    Path("a/checkpoints/best.ckpt").unlink()
    assert "only last.ckpt" in trained.fails("test", "--run", "a", code=4)
    assert "did you mean 'last.ckpt'?" in trained.fails(
        "test", "--run", "a", "--ckpt_path", "a/checkpoints/lost.ckpt", code=4
    )
