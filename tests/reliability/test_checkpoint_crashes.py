"""Saves that are killed, or whose disk refuses: rows of the matrix."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from lightning_distill.checkpoints import (
    PREVIOUS,
    VerifiedCheckpointIO,
    newest_good,
    read_checkpoint,
    read_header,
    sweep,
    write_checkpoint,
)
from lightning_distill.checkpoints.replacing import temporary
from lightning_distill.errors import DiskError
from tests.reliability.counts import NIGHTLY
from tests.reliability.crash_points import Point, killed_at, points_of, refused_at
from tests.reliability.saved_steps import checkpoint, same, weights_of_step


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if ".tmp-" in path.name]


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder after its first step: `last.ckpt` has replaced one, and there is a best one."""
    folder = tmp_path_factory.mktemp("before")
    io = VerifiedCheckpointIO()
    for step in (0, 1):
        io.save_checkpoint(checkpoint(step), folder / "last.ckpt")
    io.save_checkpoint(checkpoint(1), folder / "best-1.ckpt")
    return folder


def save(folder: Path) -> None:
    io = VerifiedCheckpointIO()
    io.save_checkpoint(checkpoint(2), folder / "best-2.ckpt")
    io.save_checkpoint(checkpoint(2), folder / "last.ckpt")


def save_and_remove(folder: Path) -> None:
    save(folder)
    VerifiedCheckpointIO().remove_checkpoint(folder / "best-1.ckpt")


def points(work: Any, before: Path, tmp_path: Path) -> list[Point]:
    shutil.copytree(before, tmp_path / "traced")
    return points_of(partial(work, tmp_path / "traced"), tmp_path)


def assert_whole(folder: Path) -> None:
    newest = newest_good(folder)
    assert newest.path is not None
    assert newest.damaged == ()
    found = read_checkpoint(newest.path)
    assert found["global_step"] in (1, 2)
    assert same(found["state_dict"], weights_of_step(found["global_step"]))
    best = [read_checkpoint(path)["global_step"] for path in folder.glob("best-*.ckpt")]
    assert best


@pytest.mark.row("K1", "K8")
def test_a_kill_at_any_call_of_a_save_leaves_a_whole_checkpoint(before: Path, tmp_path: Path) -> None:
    found = points(save_and_remove, before, tmp_path)
    assert len(found) >= 40
    assert {"write", "fsync"} < {point.call for point in found}
    left = 0
    for number, point in enumerate(found):
        folder = tmp_path / str(number)
        shutil.copytree(before, folder)
        killed_at(point, partial(save_and_remove, folder))
        assert_whole(folder)
        left += bool(leftovers(folder))
        sweep(folder)
        assert not leftovers(folder)
        assert_whole(folder)
        write_checkpoint(checkpoint(3), folder / "last.ckpt")
        assert newest_good(folder) == (folder / "last.ckpt", ())
    assert left > 20  # or else the kills have missed the files


@pytest.mark.row("K8")
def test_the_disk_has_the_new_one_before_the_old_one_goes(before: Path, tmp_path: Path) -> None:
    found = [point.call.removesuffix("at") for point in points(save_and_remove, before, tmp_path)]
    steps = [call for call, last in zip(found, [None, *found], strict=False) if call != last]
    beside = ["mkdir", "write", "fsync"]
    best = [*beside, "rename", "fsync", "unlink"]  # the last of the name that is no more
    last = [*beside, "link", "rename", "unlink", "rename", "fsync", "unlink"]
    assert steps == best + last  # and two more, of best-1.ckpt and what it had replaced
    assert found[-3:] == ["unlink"] * 3


@pytest.mark.row("K8")
def test_what_cannot_be_read_back_takes_no_place(tmp_path: Path) -> None:
    path, spoiled = tmp_path / "last.ckpt", list[str]()
    write_checkpoint(checkpoint(1), path)

    def spoil(event: str, arguments: tuple[Any, ...]) -> None:
        """Change a bit as soon as the new file is opened to be read."""
        name = str(arguments[0]) if event == "open" else ""
        reads = event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if reads and not spoiled and name.startswith(f"{tmp_path}/.last.ckpt.tmp-"):
            spoiled.append(name)
            place = os.open(name, os.O_RDWR)
            os.pwrite(place, bytes([os.pread(place, 1, 5_000)[0] ^ 1]), 5_000)
            os.close(place)

    sys.addaudithook(spoil)
    with pytest.raises(DiskError, match="reading back what was written gave other content"):
        write_checkpoint(checkpoint(2), path)
    assert len(spoiled) == 1
    assert os.listdir(tmp_path) == ["last.ckpt"]
    assert same(read_checkpoint(path)["state_dict"], weights_of_step(1))


@pytest.mark.row("P4")
def test_a_disk_that_refuses_any_call_of_a_save_leaves_the_old_checkpoint(
    before: Path, tmp_path: Path
) -> None:
    found = points(save, before, tmp_path)
    for number, point in enumerate(found):
        for error in ("ENOSPC", "EIO") if NIGHTLY else (("ENOSPC", "EIO")[number % 2],):
            folder = tmp_path / f"{number} {error}"
            shutil.copytree(before, folder)
            code = refused_at(point, error, partial(save, folder), ever_after=bool(number % 3))
            # A folder that is there need not be made; a name that is left over is swept at the next start.
            needless = point.call.startswith(("mkdir", "unlink"))
            assert code == (0 if needless else DiskError.exit_code), point
            assert needless or not leftovers(folder), point
            assert_whole(folder)


def test_a_disk_without_hard_links_keeps_the_previous_one_too(before: Path, tmp_path: Path) -> None:
    link = next(point for point in points(save, before, tmp_path) if point.call.startswith("link"))
    folder = tmp_path / "linkless"
    shutil.copytree(before, folder)
    assert refused_at(link, "EPERM", partial(save, folder)) == 0
    assert read_header(folder / "last.ckpt") == (2, 0)
    assert read_header(folder / f"last.ckpt{PREVIOUS}") == (1, 0)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 2 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(words, capture_output=True).returncode:
        pytest.skip("may not mount a small disk here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.row("P4")
def test_a_full_disk_is_told_with_what_it_lacks(small_disk: Path) -> None:
    path = small_disk / "last.ckpt"
    write_checkpoint(checkpoint(1), path)
    with pytest.raises(DiskError) as told:
        write_checkpoint(checkpoint(2, size=50_000), path)
    free = shutil.disk_usage(small_disk).free
    for word in (str(path), "No space left", "2,40", f"{free:,} bytes are free"):
        assert word in str(told.value)
    assert [entry.name for entry in small_disk.iterdir()] == ["last.ckpt"]
    assert same(read_checkpoint(path)["state_dict"], weights_of_step(1))


def test_the_previous_one_stays_and_goes_with_its_successor(tmp_path: Path) -> None:
    io, path = VerifiedCheckpointIO(), tmp_path / "new" / "folder" / "last.ckpt"
    for step in (1, 2, 3):
        io.save_checkpoint(checkpoint(step), path)
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["last.ckpt", "last.ckpt.previous"]
    assert [read_header(path.with_name(name)) for name in ("last.ckpt", "last.ckpt.previous")] == [
        (3, 0),
        (2, 0),
    ]
    io.remove_checkpoint(path)
    assert list(path.parent.iterdir()) == []
    io.remove_checkpoint(path)


def test_sweeping_spares_a_file_that_is_being_written(tmp_path: Path) -> None:
    sweep(tmp_path / "missing")
    with temporary(tmp_path / "last.ckpt") as (temp, _):
        sweep(tmp_path)
        assert temp.exists()
    assert list(tmp_path.iterdir()) == []
