"""What is read from a cache is what was written, or is not there, or is refused by name."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from lightning_distill.caching import AnswerCache, AnswerFormat
from lightning_distill.errors import CacheError, DiskError
from lightning_distill.storage import SegmentWriter, mend
from lightning_distill.structures import ModelOutput
from lightning_distill.teachers import CachedTeacher
from tests.reliability.corruptions import KINDS, corrupt
from tests.reliability.counts import times
from tests.reliability.small_disk import small_disk
from tests.storage.parts import RECORD, SPACE, keys_of, opened, rows_of
from tests.teachers.test_cached import ASKED, batches, filled, make_teacher, plain_data, train

CLASSES, COUNT = 12, 400
FORMAT = AnswerFormat(("logits", "embedding"), "float32", CLASSES)


def answers_of(keys: NDArray[np.uint64]) -> ModelOutput:
    """What a key was answered follows from it."""
    number = torch.from_numpy((keys % np.uint64(10007)).astype(np.float32))[:, None]
    return ModelOutput(number + torch.arange(CLASSES), number * torch.arange(1, 9))


def opened_cache(root: Path) -> AnswerCache:
    return AnswerCache(root, {"teacher": "t"}, FORMAT)


def add(root: Path, keys: NDArray[np.uint64]) -> None:
    cache = opened_cache(root)
    cache.add(keys, cache.encode(answers_of(keys)))
    cache.close()


def found_in(root: Path) -> NDArray[np.bool_]:
    """Which of the keys are there; each that is must have its own answer."""
    cache, keys = opened_cache(root), keys_of(*range(COUNT))
    places = cache.locate(keys)
    there = places >= 0
    if there.any():
        output, wanted = cache.output(cache.records(places[there])), answers_of(keys[there])
        assert torch.equal(output.logits, wanted.logits), "a wrong answer was given out"
        assert output.embedding is not None
        assert torch.equal(output.embedding, wanted.embedding)  # type: ignore[arg-type]
    return there


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two segments of several blocks."""
    root = tmp_path_factory.mktemp("sound") / "cache"
    for first in (0, COUNT // 2):
        add(root, keys_of(*range(first, first + COUNT // 2)))
    return root


def swapped_files(files: list[Path], rng: np.random.Generator) -> None:
    """Two files of one kind change places."""
    ending = rng.choice([".data", ".index"])
    one, two = (path for path in files if path.suffix == ending)
    other = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(other)


def doubled_file(files: list[Path], rng: np.random.Generator) -> None:
    """One file stands in the place of the other."""
    ending = rng.choice([".data", ".index"])
    one, two = rng.permutation(np.array([path for path in files if path.suffix == ending], dtype=object))
    shutil.copy(one, two)


def swapped_records(files: list[Path], rng: np.random.Generator) -> None:
    """Two records change places, in one segment or between two."""
    data = [path for path in files if path.suffix == ".data"]
    size = data[0].stat().st_size // (COUNT // 2)
    assert size == 80
    (a, i), (b, j) = ((data[rng.integers(2)], int(rng.integers(COUNT // 2))) for _ in range(2))
    if (a, i) == (b, j):
        j = (i + 1) % (COUNT // 2)
    first, second = ((p.read_bytes()[n * size : (n + 1) * size]) for p, n in ((a, i), (b, j)))
    for path, at, record in ((a, i, second), (b, j, first)):
        with path.open("r+b") as file:
            file.seek(at * size)
            file.write(record)


MOVES = (swapped_files, doubled_file, swapped_records)


@pytest.mark.row("C1", "C2")
def test_every_damage_is_found_and_named_or_changes_nothing(sound: Path, tmp_path: Path) -> None:
    """Z3. What is found is right; what is lost is computed again, and only that."""
    root = Path(shutil.copytree(sound, tmp_path / "cache"))
    files = sorted(path for path in root.rglob("*") if path.is_file())
    assert [path.suffix for path in files if path.name != "space.json"] == [".data", ".index"] * 2
    whole = {path: path.read_bytes() for path in files}
    rng, odd, kinds = np.random.default_rng(3), list[str](), len(KINDS) + len(MOVES)
    found = 0
    for trial in range(times(800, 3000)):
        kind = trial % kinds
        if kind < len(KINDS):
            hit = [files[trial // kinds % len(files)]]
            hit[0].write_bytes(corrupt(whole[hit[0]], KINDS[kind], rng))
        else:
            MOVES[kind - len(KINDS)](files, rng)
            hit = [path for path in files if path.read_bytes() != whole[path]]
        try:
            found_in(root)
        except CacheError as error:
            found += 1
            named = any(path.stem in error.where for path in hit)
            keyed = error.where.endswith(".json") or ".index" in error.where or "the records" in error.found
            odd += [] if named and keyed and error.exit_code == 4 else [str(error)]
            if trial % 16 == 0 and not error.where.endswith(".json"):
                _repaired(root)
        for path in root.rglob("*.*"):
            path.unlink()
        for path, raw in whole.items():
            path.write_bytes(raw)
    assert not odd
    assert found > 0.9 * times(800, 3000), (
        "few are cut at the end of an index, or in the white space of a JSON file"
    )
    assert found_in(root).all()


def _repaired(root: Path) -> None:
    """Take the damage out, and compute again what is missing."""
    folder = next(path for path in root.iterdir() if path.is_dir())
    space, record = int(folder.name[:16], 16), 80
    assert mend(folder, space, record).damage
    there = found_in(root)
    add(root, keys_of(*np.flatnonzero(~there).tolist()))
    assert found_in(root).all()
    assert not mend(folder, space, record).damage


# -- writers ------------------------------------------------------------------------------------------


def _write_and_tell(folder: Path, told: Path, first: int) -> None:
    writer, number = SegmentWriter(folder, SPACE, RECORD), first
    with told.open("a", buffering=1) as file:
        while True:
            keys = keys_of(*range(number, number + 20))
            writer.add(keys, rows_of(keys))
            number += 20
            if number % 60 == 0:
                writer.commit()
                file.write(f"{number}\n")


@pytest.mark.row("C7")
def test_eight_writers_that_are_killed_lose_nothing_they_had_committed(tmp_path: Path) -> None:
    """Z11: after each kill everything that can be read is right."""
    rng, kills = np.random.default_rng(1), 0
    for round_ in range(times(2, 13)):
        folder, workers = tmp_path / str(round_), dict[int, int]()
        folder.mkdir()
        for number in range(8):
            process = os.fork()
            if process == 0:
                try:
                    _write_and_tell(folder, folder / f"told{number}", 1_000_000 * number)
                finally:
                    os._exit(1)
            workers[process] = number
        for process in rng.permutation(list(workers)).tolist():
            time.sleep(float(rng.uniform(0, 0.06)))
            os.kill(process, signal.SIGKILL)
            assert os.WIFSIGNALED(os.waitpid(process, 0)[1])
            kills += 1
        store = opened(folder)
        for number in range(8):
            told = folder / f"told{number}"
            lines = told.read_text().splitlines() if told.exists() else []
            keys = keys_of(*range(1_000_000 * number, int(lines[-1]) if lines else 1_000_000 * number))
            places = store.locate(keys)
            assert (places >= 0).all(), "a commit was lost"
            assert (store.take(places).numpy() == rows_of(keys)).all()
        mended = mend(folder, SPACE, RECORD)
        assert (mended.damage, mended.skipped) == ((), 0)
    assert kills == 8 * times(2, 13)


# -- disks --------------------------------------------------------------------------------------------


@pytest.mark.row("C8", "P4")
def test_a_disk_that_fills_up_ends_the_keeping_and_not_the_training(tmp_path: Path) -> None:
    alone = train(tmp_path, CachedTeacher(make_teacher, tmp_path / "c", "float32"), plain_data())
    with small_disk(tmp_path / "disk", "16k") as disk:
        with pytest.warns(UserWarning, match="no longer kept.*No space left") as caught:
            full = train(tmp_path, CachedTeacher(make_teacher, disk / "c", "float32"), plain_data())
        assert len([w for w in caught if "no longer kept" in str(w.message)]) == 1
        again = CachedTeacher(make_teacher, disk / "c", "float32")
        again.open(plain_data(), ["train", "val"])
        live = make_teacher()
        for batch in batches(plain_data()):
            assert torch.equal(again(batch).logits, live(batch).logits)
    for mine, its in zip(full.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(mine, its, atol=1e-6, rtol=1e-5)


@pytest.mark.row("C8", "P4")
def test_filling_a_disk_that_fills_up_says_so(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "16k") as disk:
        teacher = CachedTeacher(make_teacher, disk / "c", "float32")
        teacher.open(plain_data(), ["train"])
        with pytest.raises(DiskError, match=r"disk/c/.*No space left.*bytes are free") as caught:
            list(teacher.fill(batches(plain_data())))
        assert caught.value.exit_code == 28


@pytest.mark.row("C8")
def test_a_disk_that_can_only_be_read(tmp_path: Path) -> None:
    """What is there is used, what is not is asked and not kept."""
    with small_disk(tmp_path / "disk", "8m") as disk:
        filled(disk / "c", plain_data())
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        train(tmp_path, CachedTeacher(make_teacher, disk / "c"), plain_data())
        assert sum(ASKED) == 0
        with pytest.warns(UserWarning, match="no longer kept.*Read-only file system"):
            train(tmp_path, CachedTeacher(make_teacher, disk / "c", "float32"), plain_data())
        assert sum(ASKED) > 41


def _traced(options: list[str], work: Callable[[], None]) -> int:
    """Exit code of `work` in a copy of this process, some of whose calls to the system fail."""
    if shutil.which("strace") is None:
        pytest.skip("needs strace, which makes calls to the system fail")
    ready, go = os.pipe()
    process = os.fork()
    if process == 0:
        code = 1
        try:
            os.read(ready, 1)
            work()
            code = 0
        except OSError as error:
            code = error.errno or 1
        finally:
            os._exit(code)
    command = ["strace", "-f", "-qq", "-o", "/dev/null", "-p", str(process), *options]
    tracer = subprocess.Popen(command, stderr=subprocess.PIPE)
    until = time.monotonic() + 20
    while "TracerPid:\t0" in Path(f"/proc/{process}/status").read_text():
        if tracer.poll() is not None or time.monotonic() > until:
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
            pytest.skip("may not trace processes here: needs CAP_SYS_PTRACE")
        time.sleep(0.01)
    os.write(go, b"!")
    status = os.waitpid(process, 0)[1]
    tracer.wait(20)
    os.close(ready)
    os.close(go)
    return os.waitstatus_to_exitcode(status)


@pytest.mark.row("C8")
@pytest.mark.parametrize("call", ["write", "fdatasync"])
@pytest.mark.parametrize("error", ["EIO", "ENOSPC", "EDQUOT"])
def test_a_disk_that_fails_at_any_call_leaves_no_bad_record(tmp_path: Path, call: str, error: str) -> None:
    """The call fails the n-th time, for each n until none is left to fail."""
    import errno

    def work(folder: Path) -> Callable[[], None]:
        def write() -> None:
            writer = SegmentWriter(folder, SPACE, RECORD)
            for first in range(0, 300, 100):
                keys = keys_of(*range(first, first + 100))
                writer.add(keys, rows_of(keys))
                writer.commit()
            writer.close()

        return write

    failed = list[int]()
    for n in range(1, 12):
        folder = tmp_path / str(n)
        folder.mkdir()
        code = _traced(["-e", f"trace={call}", "-e", f"inject={call}:error={error}:when={n}"], work(folder))
        store = opened(folder)
        keys = keys_of(*range(300))
        places = store.locate(keys)
        there = places >= 0
        assert (store.take(places[there]).numpy() == rows_of(keys[there])).all()
        assert len(store) == there.sum()
        assert not mend(folder, SPACE, RECORD).damage
        if code == 0:
            assert there.all()
            break
        assert code == getattr(errno, error)
        failed.append(int(there.sum()))
    assert len(failed) == (7 if call == "write" else 6)
    assert failed == sorted(failed), "what was committed before stays"


# -- workers ------------------------------------------------------------------------------------------


@pytest.mark.row("C11")
@pytest.mark.parametrize("segments", [1, 3])
def test_any_number_of_workers_reads_the_same(tmp_path: Path, segments: int) -> None:
    """All answers come from the cache, whichever process loads the samples."""
    data = plain_data()
    for part in range(segments):
        teacher = CachedTeacher(make_teacher, tmp_path / "c")
        teacher.open(data, ["train", "val"])
        list(teacher.fill(batches(data)[part::segments]))
    filled(tmp_path / "c", data)
    weights: list[Any] = []
    for workers in (0, 1, 2):
        data = plain_data(num_workers=workers)
        module = train(tmp_path, CachedTeacher(make_teacher, tmp_path / "c"), data, epochs=2)
        weights.append(torch.cat([p.detach().flatten() for p in module.parameters()]))
    assert sum(ASKED) == 0
    assert torch.equal(weights[0], weights[1])
    assert torch.equal(weights[0], weights[2])
