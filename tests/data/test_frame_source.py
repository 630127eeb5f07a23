"""Samples of tables in memory are those of the same table in a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas
import polars
import pyarrow
import pytest

from lightning_distill.data import FrameSource, ManifestSource, RegressionTarget
from lightning_distill.errors import ConfigError, ManifestError, SampleError
from tests.data.media import assert_same, batches, make_module, png, wav

ROWS = 12
COLUMNS = {"image": "image", "text": "text", "audio": "audio"}


def rows(folder: Path) -> dict[str, list[Any]]:
    """Row 1 has no image, row 2 no text, row 3 no sound and no label."""
    for row in range(ROWS):
        (folder / f"{row}.png").write_bytes(png(row))
        (folder / f"{row}.wav").write_bytes(wav(row))
    found: dict[str, list[Any]] = {
        "image": [f"{row}.png" for row in range(ROWS)],
        "text": [f"text {row}" for row in range(ROWS)],
        "audio": [f"{row}.wav" for row in range(ROWS)],
        "label": ["ab"[row % 2] for row in range(ROWS)],
        "split": ["train"] * 8 + ["val"] * 4,
        "weight": [0.1 * row for row in range(ROWS)],
    }
    found["image"][1] = found["text"][2] = found["audio"][3] = found["label"][3] = None
    return found


@pytest.mark.parametrize("kind", [pandas.DataFrame, polars.DataFrame, pyarrow.table])
def test_the_same_as_from_a_file(tmp_path: Path, kind: Any) -> None:
    frame = kind(rows(tmp_path))
    pandas.DataFrame(rows(tmp_path)).to_csv(tmp_path / "m.csv", index=False)
    ours, theirs = FrameSource(frame, COLUMNS, root=tmp_path), ManifestSource(tmp_path / "m.csv", COLUMNS)
    assert ours.classes == theirs.classes == ("a", "b")
    for name in ("sample_id", "target", "split", "weight"):
        assert np.array_equal(getattr(ours.samples, name), getattr(theirs.samples, name)), name
    assert [bool(ours.samples.present[m][row]) for row, m in enumerate(COLUMNS, start=1)] == [False] * 3
    assert_same(batches(make_module(ours)), batches(make_module(theirs)))
    assert_same(batches(make_module(ours)), batches(make_module(ours, num_workers=2)))


def test_numbers_as_targets(tmp_path: Path) -> None:
    frame = pandas.DataFrame({"text": ["a", "b"], "x": [0.1, None], "y": [3, 4]})
    source = FrameSource(frame, {"text": "text"}, RegressionTarget(["x", "y"]))
    np.testing.assert_array_equal(source.samples.target, np.array([[0.1, 3], [np.nan, 4]], np.float32))


def test_faults_name_the_row(tmp_path: Path) -> None:
    frame = pandas.DataFrame(rows(tmp_path))
    (tmp_path / "5.png").unlink()
    with pytest.raises(SampleError, match=r"table, row 6, column 'image': .*'5.png' \(row 6\) is missing"):
        FrameSource(frame, COLUMNS, root=tmp_path)
    (tmp_path / "5.png").write_bytes(png(5))
    source = FrameSource(frame, COLUMNS, root=tmp_path)
    (tmp_path / "5.png").write_bytes(b"GIF89a")
    with pytest.raises(SampleError, match=r"^table, row 6, column 'image': found 5\.png: "):
        source.load("image", 5)
    with pytest.raises(ManifestError, match=r"no column 'txet'.*did you mean 'text'"):
        FrameSource(frame, {"text": "txet"})
    with pytest.raises(ManifestError, match="a path that leaves"):
        FrameSource(frame.assign(image=["/etc/passwd"] * ROWS), COLUMNS, root=tmp_path)
    with pytest.raises(ConfigError, match="root"):
        FrameSource(frame, COLUMNS, root=tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="subclass FrameSource"):
        FrameSource(frame, {"points": "text"})
