"""Curves from the file of a real run, and from files that were broken off or damaged."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from lightning_distill.errors import CheckpointError
from lightning_distill.explanation.curves import Curve, read_curves
from tests.cli.conftest import Project, project, trained_run

__all__ = ["project", "trained_run"]


def history(folder: Path, text: str) -> Path:
    path = folder / "metrics.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_of_a_real_run(trained_run: Path) -> None:
    found = read_curves(trained_run / "metrics.csv")
    with (trained_run / "metrics.csv").open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert {"train/loss", "val/loss", "val/accuracy", "epoch"} <= set(found)
    assert set(found) <= set(rows[0]) - {"step"}
    for name in ("train/loss", "val/loss"):
        said = [(int(row["step"]), float(row[name])) for row in rows if row[name]]
        assert list(zip(found[name].steps, found[name].values, strict=True)) == said
        assert found[name].name == name
    assert len(found["val/loss"].steps) == 2
    assert len(found["train/loss"].steps) == 8
    assert set(found["epoch"].values) == {0.0, 1.0}


def test_a_resumed_run_goes_on_in_its_curves(project: Project, trained_run: Path) -> None:
    assert project.fit("--run", "a", "--trainer.max_epochs", "1") == 0, project.err
    assert project.run("fit", "--run", "a", "--resume", "auto", "--trainer.max_epochs", "2") == 0, project.err
    whole, resumed = read_curves(trained_run / "metrics.csv"), read_curves(Path("a/metrics.csv"))
    assert {"train/loss", "val/loss", "epoch"} <= set(whole)
    assert resumed == whole


def test_blanks_several_rows_a_step_and_steps_again(tmp_path: Path) -> None:
    text = (
        "step,epoch,train/loss,val/loss,lr\n"
        "0,0,3.0,,\n"
        "0,0,,,0.1\n"
        "1,0,2.0,,\n"
        "1,0,,9.0,\n"
        ",0,,8.0,\n"  # no step: of the one before; a second value for a step
        "2,1,nan,,\n"
        "3,1,inf,,\n"
        "5,1,1.0,,\n"
        "2,1,1.5,,\n"  # resumed: 2 and later are said again
        '4,1,1.25,,"0.05"\n'
        "6,1,0.5"  # no line break at the end, and fewer cells
    )
    found = read_curves(history(tmp_path, text))
    assert found["train/loss"] == Curve("train/loss", (0, 1, 2, 4, 6), (3.0, 2.0, 1.5, 1.25, 0.5))
    assert found["val/loss"] == Curve("val/loss", (1,), (8.0,))
    assert found["lr"] == Curve("lr", (0, 4), (0.1, 0.05))
    assert found["epoch"].steps == (0, 1, 2, 4, 6)


def test_nothing_logged_yet(tmp_path: Path) -> None:
    assert read_curves(history(tmp_path, "step,epoch,train/loss\n")) == {}
    assert read_curves(history(tmp_path, "step,a\n1,nan\n")) == {}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "the columns none"),
        ("a,b\n1,2\n", "the columns a, b"),
        ("step,a\n1,2\n2,x\n", r"line 3, a: found 'x'"),
        ("step,a\ninf,2\n", r"line 2, step: found 'inf'"),
        ("step,a\nnan,2\n", r"line 2, step: found 'nan'"),
        ("step,a\n1,2,3\n", "line 2: found more cells"),
    ],
)
def test_no_such_file(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(CheckpointError, match=told):
        read_curves(history(tmp_path, text))


def test_missing_and_binary(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="No such file"):
        read_curves(tmp_path / "metrics.csv")
    (tmp_path / "metrics.csv").write_bytes(b"step,a\n\xff,1\n")
    with pytest.raises(CheckpointError, match="utf-8"):
        read_curves(tmp_path / "metrics.csv")
