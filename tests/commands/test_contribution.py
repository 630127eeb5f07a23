"""`lightning-distill contribution` through the real command line, on a run of a second."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.cli.conftest import Project, project
from tests.commands.test_evaluate import ROWS, cells, trained, two_modalities

__all__ = ["project", "trained", "two_modalities"]


def labelled(split: str) -> int:
    """Every row has a text."""
    return sum(bool(row[2]) for row in map(cells, range(ROWS)) if row[3] == split)


def test_table_sentence_and_files(trained: Project) -> None:
    assert trained.run("contribution", "a") == 0, trained.err
    content = json.loads(Path("a/contribution.json").read_text())
    assert (content["split"], content["samples"]) == ("test", labelled("test"))
    assert list(content["scores"]) == ["log_likelihood", "accuracy"]
    table = pq.read_table("a/contribution.parquet").to_pydict()
    assert len(set(table["sample_id"])) == labelled("test")
    for name, score in content["scores"].items():
        means = {m: found["mean"] for m, found in score["modalities"].items()}
        assert set(means) == {"text", "image"}
        assert sum(means.values()) == pytest.approx(score["everything"] - score["without_looking"])
        for m, mean in means.items():
            assert sum(table[f"{name}_{m}"]) / labelled("test") == pytest.approx(mean)
    accuracy = content["scores"]["accuracy"]
    for m, found in accuracy["modalities"].items():
        assert f"{100 * found['mean']:+.1f} ± {100 * found['standard_error']:.1f}" in trained.out, m
    for row, value in (
        ("without looking", accuracy["without_looking"]),
        ("everything", accuracy["everything"]),
    ):
        (line,) = [line for line in trained.out.splitlines() if line.startswith(row)]
        assert line.removeprefix(row).split()[0] == f"{100 * value:.1f}"
    assert f"{labelled('test')} samples" in trained.out
    assert "all orders in which modalities could arrive" in " ".join(trained.out.split())
    assert "Wrote a/contribution.json and a/contribution.parquet" in trained.out


def test_everything_is_what_test_measures(trained: Project) -> None:
    assert trained.run("test", "--run", "a") == 0, trained.err
    (line,) = [line for line in trained.out.splitlines() if "test/accuracy" in line]
    assert trained.run("contribution", "a") == 0, trained.err
    score = json.loads(Path("a/contribution.json").read_text())["scores"]["accuracy"]
    assert score["everything"] == pytest.approx(float(line.split("│")[2]), rel=1e-4)


def test_another_split_and_other_files(trained: Project) -> None:
    words = ("--split", "val", "--out", "deep/v.json", "--samples", "deep/v.parquet")
    assert trained.run("contribution", "a", *words) == 0, trained.err
    content = json.loads(Path("deep/v.json").read_text())
    assert (content["split"], content["samples"]) == ("val", labelled("val"))
    assert pq.read_table("deep/v.parquet").num_rows == labelled("val")
    assert not list(Path("a").glob("contribution.*"))


def test_what_is_wrong_is_named(trained: Project) -> None:
    assert "no such file" in trained.fails("contribution", "b", code=4)
    assert "ends in .json" in trained.fails("contribution", "a", "--out", "c.txt")
    assert "ends in .parquet" in trained.fails("contribution", "a", "--samples", "c.json")
    Path("c.json").mkdir()
    assert "c.json is a folder" in trained.fails("contribution", "a", "--out", "c.json")


def test_help(project: Project) -> None:
    assert project.run("contribution", "--help") == 0
    assert all(option in project.out for option in ("RUN", "--split", "--out", "--samples"))
    assert project.run("contribution") == 2
    assert "required: RUN" in project.err
    assert project.run("--help") == 0
    assert "contribution  what each modality adds" in project.out
