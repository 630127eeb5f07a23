"""What is not as it was written is found, named, and can be taken out."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lightning_distill.errors import CheckpointError
from lightning_distill.storage import RecordStore, mend
from lightning_distill.storage.segment import HEADER, entry_dtype
from tests.storage.parts import RECORD, SPACE, all_right, keys_of, opened, rows_of, write

COUNT = 200


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sound")
    write(folder, 0, COUNT)
    return folder


@pytest.fixture
def folder(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "records"))


def read_all(folder: Path) -> RecordStore:
    store = opened(folder)
    keys = keys_of(*range(COUNT))
    places = store.locate(keys)
    there = places >= 0
    assert (store.take(places[there]).numpy() == rows_of(keys[there])).all(), "a wrong record was given out"
    return store


@pytest.mark.row("C1")
def test_C1_ten_thousand_flipped_bits_are_all_found(folder: Path) -> None:
    """Each at another place of either file, put back after."""
    rng = np.random.default_rng(5)
    files = [path.open("r+b") for path in sorted(folder.iterdir())]
    sizes = [path.stat().st_size for path in sorted(folder.iterdir())]
    assert len(files) == 2
    missed = []
    small = _Watched(folder)
    for trial in range(10_000):
        file, size = files[trial % 2], sizes[trial % 2]
        at, bit = int(rng.integers(size)), 1 << int(rng.integers(8))
        file.seek(at)
        (old,) = file.read(1)
        _put(file, at, old ^ bit)
        if not small.finds(at, is_index=files[trial % 2].name.endswith(".index")):
            missed.append((file.name, at, bit))
        _put(file, at, old)
    assert not missed
    read_all(folder)


class _Watched:
    """Opens the folder and reads the record that was hit; to read all, 10,000 times, would take minutes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def finds(self, at: int, is_index: bool) -> bool:
        error = self._read(None if is_index else at // RECORD)
        if error is None:
            return False
        named = next(self.folder.glob("*.index")).stem in error.where
        return named and (is_index or "holds the records" in error.found)

    def _read(self, row: int | None) -> CheckpointError | None:
        try:
            store = opened(self.folder)
            if row is not None:
                store.take(np.array([row], np.int64))
        except CheckpointError as error:
            return error
        return None


def _put(file: object, at: int, byte: int) -> None:
    file.seek(at)  # type: ignore[attr-defined]
    file.write(bytes([byte]))  # type: ignore[attr-defined]
    file.flush()  # type: ignore[attr-defined]


def _zeros(folder: Path) -> None:
    with next(folder.glob("*.data")).open("r+b") as file:
        file.seek(RECORD * 3)
        file.write(bytes(4096))


def _swapped_records(folder: Path) -> None:
    path = next(folder.glob("*.data"))
    data = np.fromfile(path, np.uint8).reshape(-1, RECORD)
    data[[3, 4]] = data[[4, 3]]
    data.tofile(path)


def _swapped_blocks(folder: Path) -> None:
    path = next(folder.glob("*.data"))
    data = np.fromfile(path, np.uint8).reshape(-1, RECORD)
    data[:128] = np.concatenate([data[64:128], data[:64]])
    data.tofile(path)


def _swapped_entries(folder: Path) -> None:
    path = next(folder.glob("*.index"))
    raw = np.fromfile(path, np.uint8)
    entries = raw[HEADER.itemsize :].view(entry_dtype(64))
    entries[[0, 1]] = entries[[1, 0]]
    raw.tofile(path)


def _copied_segment(folder: Path) -> None:
    for path in list(folder.iterdir()):
        shutil.copy(path, folder / f"{'0' * 16}{path.suffix}")


def _records_of_another(folder: Path) -> None:
    other = folder.parent / "other"
    write(other, COUNT, 2 * COUNT)
    shutil.copy(next(other.glob("*.data")), next(folder.glob("*.data")))


def _records_cut(folder: Path) -> None:
    path = next(folder.glob("*.data"))
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 1)


def _records_gone(folder: Path) -> None:
    next(folder.glob("*.data")).write_bytes(b"")


def _header_cut(folder: Path) -> None:
    path = next(folder.glob("*.index"))
    path.write_bytes(path.read_bytes()[:40])


@pytest.mark.row("C1")
@pytest.mark.parametrize(
    ("damage", "lost"),
    [
        (_zeros, 64),
        (_swapped_records, 64),
        (_swapped_blocks, 128),
        (_swapped_entries, 128),
        (_copied_segment, 0),
        (_records_of_another, COUNT),
        (_records_cut, 8),
        (_records_gone, COUNT),
        (_header_cut, COUNT),
    ],
)
def test_C1_damage_is_named_and_mended(folder: Path, damage: Callable[[Path], None], lost: int) -> None:
    damage(folder)
    with pytest.raises(CheckpointError, match="cache: repair") as caught:
        read_all(folder)
    assert str(folder) in caught.value.where
    mended = mend(folder, SPACE, RECORD, remove=False)
    assert mended.damage
    with pytest.raises(CheckpointError):
        read_all(folder)  # looking changes nothing
    assert len(mend(folder, SPACE, RECORD).damage) == len(mended.damage)
    assert len(read_all(folder)) == COUNT - lost
    write(folder, 0, COUNT)  # what is computed again
    assert all_right(opened(folder), 0, COUNT)
    assert not mend(folder, SPACE, RECORD).damage


@pytest.mark.row("C2")
def test_C2_an_index_cut_anywhere_is_never_half_a_hit(folder: Path) -> None:
    """Its last entry was being written when the machine stopped: those records are not there."""
    path = next(folder.glob("*.index"))
    whole, entry = path.read_bytes(), entry_dtype(64).itemsize
    for end in [*range(HEADER.itemsize, len(whole), 7), len(whole) - 1]:
        path.write_bytes(whole[:end])
        blocks = (end - HEADER.itemsize) // entry
        assert len(read_all(folder)) == min(64 * blocks, COUNT)
    for end in range(1, HEADER.itemsize):
        path.write_bytes(whole[:end])
        with pytest.raises(CheckpointError, match="cut short"):
            opened(folder)


@pytest.mark.row("C2")
def test_C2_records_cut_anywhere_are_refused(folder: Path) -> None:
    path = next(folder.glob("*.data"))
    whole = path.read_bytes()
    for end in range(0, len(whole), 4099):
        path.write_bytes(whole[:end])
        with pytest.raises(CheckpointError, match=f"ends after {end:,} bytes"):
            opened(folder)


@pytest.mark.row("C2")
def test_C2_strays_are_no_records(folder: Path) -> None:
    (folder / ".space.json.99.partial").write_bytes(b"half")
    (folder / "0123456789abcdef.data").write_bytes(bytes(5000))  # its writer stopped before the first commit
    assert len(read_all(folder)) == COUNT
    next(folder.glob("*.index")).unlink()
    assert len(read_all(folder)) == 0


@pytest.mark.row("C9")
def test_C9_a_newer_format_and_another_byte_order_are_refused(folder: Path) -> None:
    path = next(folder.glob("*.index"))
    raw = np.fromfile(path, np.uint8)
    header = raw[: HEADER.itemsize].view(HEADER)
    header["format"] = 2
    raw.tofile(path)
    for look in (lambda: opened(folder), lambda: mend(folder, SPACE, RECORD)):
        with pytest.raises(CheckpointError, match="found format 2; expected format 1"):
            look()
    header["format"] = 1
    raw[: HEADER.itemsize] = raw[: HEADER.itemsize].view(HEADER).byteswap().view(np.uint8)
    raw.tofile(path)
    with pytest.raises(CheckpointError, match="byte order of another machine"):
        opened(folder)
    assert path.exists(), "nothing is removed"


def test_C3_another_space_or_size_is_refused(folder: Path) -> None:
    for space, record in ((SPACE + 1, RECORD), (SPACE, 2 * RECORD)):
        with pytest.raises(CheckpointError, match="header of another file"):
            RecordStore(folder, space, record)


@pytest.mark.row("C10")
def test_C10_nothing_is_unpickled(folder: Path, tmp_path: Path) -> None:
    """A pickle that would leave a trace, in the place of each file."""
    trace = tmp_path / "trace"
    canary = b"cposix\nsystem\n(S'touch " + str(trace).encode() + b"'\ntR."
    for path in sorted(folder.iterdir()):
        before = path.read_bytes()
        path.write_bytes(canary + before)
        with pytest.raises(CheckpointError):
            read_all(folder)
        path.write_bytes(before)
    assert not trace.exists()


def test_one_process_mends_at_a_time(folder: Path) -> None:
    import fcntl

    with (folder / "mending.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write("process 4711")
        file.flush()
        with pytest.raises(CheckpointError, match="another process that mends it: process 4711"):
            mend(folder, SPACE, RECORD)
    assert mend(folder, SPACE, RECORD).checked == 4
