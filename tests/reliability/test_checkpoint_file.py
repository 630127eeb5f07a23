"""A file that is damaged, or something else: rows of the matrix."""

from __future__ import annotations

import os
import pickle
import secrets
import stat
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lightning_distill.checkpoints import (
    VerifiedCheckpointIO,
    newest_good,
    read_checkpoint,
    read_header,
    write_checkpoint,
)
from lightning_distill.checkpoints.trailer import SIZE
from lightning_distill.errors import CheckpointError, DiskError
from tests.reliability.corruptions import KINDS, corrupt
from tests.reliability.counts import times
from tests.reliability.saved_steps import checkpoint, same, weights_of_step


def test_torch_reads_the_file_by_itself(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    write_checkpoint(checkpoint(1), path)
    for mapped in (False, True):
        assert same(torch.load(path, weights_only=True, mmap=mapped)["state_dict"], weights_of_step(1))
    assert same(VerifiedCheckpointIO().load_checkpoint(path)["state_dict"], weights_of_step(1))


def test_what_is_read_outlives_the_file_and_can_be_changed(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    write_checkpoint(checkpoint(1), path)
    found = read_checkpoint(path)["state_dict"]
    write_checkpoint(checkpoint(2), path)
    write_checkpoint(checkpoint(3), path)
    assert same(found, weights_of_step(1))
    found["layer0.weight"].zero_()
    assert same(read_checkpoint(path)["state_dict"], weights_of_step(3))


@pytest.mark.row("K3")
@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_found_or_does_no_harm(kind: str, tmp_path: Path) -> None:
    good, path = checkpoint(1), tmp_path / "bad.ckpt"
    write_checkpoint(good, path)
    raw, rng = path.read_bytes(), np.random.default_rng(KINDS.index(kind))
    whole = read_checkpoint(path)
    refused, named = 0, set[str]()
    count = times(600, 3000) // len(KINDS)
    for _ in range(count):
        path.write_bytes(corrupt(raw, kind, rng))
        try:
            found = read_checkpoint(path)
        except CheckpointError as error:
            refused += 1
            named.add(error.where)
        else:
            assert same(found, whole)
    assert refused == count  # each byte is under one of the two hashes
    assert named == {str(path)}


@pytest.mark.row("K3")
def test_every_bit_of_the_trailer_counts(tmp_path: Path) -> None:
    path = tmp_path / "bad.ckpt"
    write_checkpoint(checkpoint(1, tensors=1, size=10), path)
    raw = path.read_bytes()
    for place in range(len(raw) - SIZE - 22, len(raw)):
        for bit in range(8):
            path.write_bytes(raw[:place] + bytes([raw[place] ^ 1 << bit]) + raw[place + 1 :])
            with pytest.raises(CheckpointError, match=r"bad\.ckpt"):
                read_checkpoint(path)
        path.write_bytes(raw[:place])
        for look in (read_checkpoint, read_header):
            with pytest.raises(CheckpointError, match=r"bad\.ckpt"):
                look(path)


@pytest.mark.row("K3")
def test_what_is_added_to_a_file_is_found(tmp_path: Path) -> None:
    path = tmp_path / "bad.ckpt"
    write_checkpoint(checkpoint(1), path)
    raw = path.read_bytes()
    for longer in (raw + raw[-SIZE:], raw + b"0", raw[:-SIZE] + b"0" + raw[-SIZE:], raw + raw):
        path.write_bytes(longer)
        with pytest.raises(CheckpointError, match=r"bad\.ckpt"):
            read_checkpoint(path)


class Payload:
    """Would make a file, once unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return Path.touch, (self.canary,)


def wrong_files(folder: Path) -> list[tuple[str, bytes]]:
    """What is said about it, and what stands where a checkpoint should be."""
    torch.save({"a": torch.ones(3)}, folder / "zip")
    torch.save({"a": torch.ones(3)}, folder / "legacy", _use_new_zipfile_serialization=False)
    torch.save([1, 2], folder / "list")
    torch.save({"a": Payload(folder / "canary")}, folder / "payload")
    with zipfile.ZipFile(folder / "other", "w") as archive:
        archive.writestr("a.txt", "text")
    made = {name: (folder / name).read_bytes() for name in ("zip", "legacy", "list", "payload", "other")}
    return [
        ("empty", b""),
        ("another kind", b"step,loss\n1,0.5\n" * 10),
        ("another kind", pickle.dumps({"a": Payload(folder / "canary")})),
        ("another kind", made["legacy"]),
        ("cut short", made["zip"][:-30]),
        ("a list", made["list"]),
        ("refused", made["payload"]),
        ("cannot be read", made["other"]),
    ]


@pytest.mark.row("K3")
def test_something_else_than_a_checkpoint_is_named(tmp_path: Path) -> None:
    path = tmp_path / "wrong.ckpt"
    for word, raw in wrong_files(tmp_path):
        path.write_bytes(raw)
        with pytest.raises(CheckpointError) as told:
            read_checkpoint(path)
        assert word in str(told.value)
        assert str(path) in told.value.where
        assert newest_good(tmp_path).path is None
        assert "weights_only=False" not in str(told.value)
    assert not (tmp_path / "canary").exists()
    path.unlink()
    for found in ("a folder", "No such file"):
        with pytest.raises(CheckpointError, match=found):
            read_checkpoint(tmp_path if found == "a folder" else path)


def test_a_checkpoint_of_another_program_is_read(tmp_path: Path) -> None:
    path = tmp_path / "theirs.ckpt"
    torch.save(checkpoint(4), path)
    assert read_header(path) is None
    assert same(read_checkpoint(path)["state_dict"], weights_of_step(4))
    assert newest_good(tmp_path).path == path
    write_checkpoint(checkpoint(2), tmp_path / "ours.ckpt")
    assert newest_good(tmp_path).path == tmp_path / "ours.ckpt"


@pytest.mark.row("K3")
def test_an_older_good_one_stands_in_for_a_damaged_one(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    for step in (1, 2, 3):
        write_checkpoint(checkpoint(step), path)
    raw = path.read_bytes()
    for kind in KINDS:
        path.write_bytes(corrupt(raw, kind, np.random.default_rng(5)))
        newest = newest_good(tmp_path)
        assert newest.path == tmp_path / "last.ckpt.previous"
        assert [error.where for error in newest.damaged] == [str(path)]
    newest.path.write_bytes(b"")
    newest = newest_good(tmp_path)
    assert newest.path is None
    assert len(newest.damaged) == 2
    assert newest_good(tmp_path / "missing") == (None, ())


@pytest.mark.row("K12")
def test_steps_order_checkpoints_not_clocks(tmp_path: Path) -> None:
    times_of_files = {5: 1_000.0, 30: 500.0, 20: 500.0, 9: 2_000.0}
    for step, when in times_of_files.items():
        path = tmp_path / f"step={step}.ckpt"
        write_checkpoint(checkpoint(step), path)
        os.utime(path, (when, when))
    for step in sorted(times_of_files, reverse=True):
        newest = newest_good(tmp_path)
        assert newest.path == tmp_path / f"step={step}.ckpt"
        newest.path.unlink()


def test_of_equal_steps_the_later_epoch_then_last_ckpt_comes_first(tmp_path: Path) -> None:
    for name, epoch in (("best", 1), ("last", 1), ("zebra", 1), ("older", 0)):
        write_checkpoint(checkpoint(7) | {"epoch": epoch}, tmp_path / f"{name}.ckpt")
    for name in ("last", "best", "zebra", "older"):
        newest = newest_good(tmp_path)
        assert newest.path == tmp_path / f"{name}.ckpt"
        newest.path.unlink()


@pytest.mark.row("Q9")
@pytest.mark.parametrize(("umask", "mode"), [(0o077, 0o600), (0o022, 0o644), (0o027, 0o640)])
def test_files_have_the_rights_the_user_gives_new_files(umask: int, mode: int, tmp_path: Path) -> None:
    old = os.umask(umask)
    try:
        for step in (1, 2):
            write_checkpoint(checkpoint(step), tmp_path / "last.ckpt")
    finally:
        os.umask(old)
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {mode}


@pytest.mark.row("Q9")
def test_nothing_is_written_through_a_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    victim, path = tmp_path / "victim", tmp_path / "last.ckpt"
    victim.write_text("precious")
    path.symlink_to(victim)
    write_checkpoint(checkpoint(1), path)
    assert not path.is_symlink()
    monkeypatch.setattr(secrets, "token_hex", lambda _: "guessed")
    planted = tmp_path / f".last.ckpt.tmp-{os.getpid()}-guessed"
    planted.symlink_to(victim)
    with pytest.raises(DiskError, match="File exists"):
        write_checkpoint(checkpoint(2), path)
    assert victim.read_text() == "precious"
    assert read_header(path) == (1, 0)


@pytest.mark.row("Q9")
def test_nothing_is_written_to_the_shared_folder_of_temporary_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    monkeypatch.setenv("TMPDIR", str(shared))
    monkeypatch.setattr("tempfile.tempdir", None)
    seen = set[str]()

    def note(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and ".tmp-" in str(arguments[0]):
            seen.add(str(arguments[0]))

    before = shared.stat().st_mtime_ns
    sys.addaudithook(note)
    for step in range(5):
        write_checkpoint(checkpoint(step), tmp_path / "last.ckpt")
    assert len(seen) == 5  # another name each time
    assert {Path(name).parent for name in seen} == {tmp_path}
    assert shared.stat().st_mtime_ns == before
