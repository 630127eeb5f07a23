"""Writing records and finding them again."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_distill.errors import ConfigError
from lightning_distill.storage import MISSING, Field, RecordLayout, SegmentWriter, mend
from tests.storage.parts import RECORD, SPACE, all_right, keys_of, opened, rows_of, write


@pytest.mark.parametrize("batch", [1, 7, 64, 200])
def test_what_was_written_is_found(tmp_path: Path, batch: int) -> None:
    write(tmp_path, 0, 500, batch)
    store = opened(tmp_path)
    assert len(store) == 500
    assert all_right(store, 0, 500)
    assert (store.locate(keys_of(500, 501)) == MISSING).all()


def test_any_order_and_repeats(tmp_path: Path) -> None:
    write(tmp_path, 0, 300)
    store, wanted = opened(tmp_path), keys_of(5, 299, 5, 0, 100)
    assert (store.take(store.locate(wanted)).numpy() == rows_of(wanted)).all()


def test_keys_that_begin_alike(tmp_path: Path) -> None:
    """More than the sorted bits can tell apart."""
    keys = np.concatenate(
        [np.arange(300, dtype=np.uint64), np.arange(300, dtype=np.uint64) << np.uint64(56)]
    )[1:]
    writer = SegmentWriter(tmp_path, SPACE, RECORD)
    writer.add(keys, rows_of(keys))
    writer.close()
    store = opened(tmp_path)
    first = np.unique(keys, return_index=True)[1]
    places = store.locate(keys)
    assert (store.take(places).numpy() == rows_of(keys)).all()
    assert len(np.unique(places)) == len(first)
    assert (store.locate(keys + np.uint64(2**40)) == MISSING).all()


def test_an_empty_folder_holds_nothing(tmp_path: Path) -> None:
    store = opened(tmp_path / "none")
    assert len(store) == 0
    assert store.locate(keys_of(1)).tolist() == [MISSING]
    SegmentWriter(tmp_path, SPACE, RECORD).close()
    assert not list(tmp_path.iterdir())


def test_several_writers_and_what_comes_later(tmp_path: Path) -> None:
    write(tmp_path, 0, 100)
    store = opened(tmp_path)
    assert all_right(store, 0, 100)
    writer = SegmentWriter(tmp_path, SPACE, RECORD)
    for start in (100, 130, 190):
        keys = keys_of(*range(start, start + 10))
        writer.add(keys, rows_of(keys))
        store.refresh()
        assert store.locate(keys).tolist() == [MISSING] * 10, "not committed"
        writer.commit()
        store.refresh()
        assert all_right(store, start, start + 10)
    writer.close()
    write(tmp_path, 95, 200)  # some once more
    store.refresh()
    assert all_right(store, 0, 200)
    assert all_right(opened(tmp_path), 0, 200)


def _write_here(folder: Path, first: int, last: int) -> None:
    write(folder, first, last)


@pytest.mark.row("C7")
def test_C7_eight_writers_one_killed(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    parts = [fork.Process(target=_write_here, args=(tmp_path, 300 * n, 300 * n + 300)) for n in range(7)]
    killed = fork.Process(target=_write_until_killed, args=(tmp_path,))
    for process in (*parts, killed):
        process.start()
    _wait_for(tmp_path / "committed")
    os.kill(killed.pid or 0, signal.SIGKILL)
    for process in (*parts, killed):
        process.join(60)
    store = opened(tmp_path)
    assert all_right(store, 0, 2100)
    assert all_right(store, 5000, 5100), "what the killed one had committed stays"
    assert len(store) == 2200
    assert mend(tmp_path, SPACE, RECORD).skipped == 0, "the lock of a killed writer is gone"


def _write_until_killed(folder: Path) -> None:
    writer = SegmentWriter(folder, SPACE, RECORD)
    keys = keys_of(*range(5000, 5100))
    writer.add(keys, rows_of(keys))
    writer.commit()
    keys = keys_of(*range(6000, 6064))
    writer.add(keys, rows_of(keys))  # on disk, but not committed
    (folder / "committed").touch()
    time.sleep(60)


def _wait_for(path: Path) -> None:
    until = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < until
        time.sleep(0.01)


@pytest.mark.row("C7")
def test_C7_a_segment_that_grows_is_left_alone(tmp_path: Path) -> None:
    writer = SegmentWriter(tmp_path, SPACE, RECORD)
    keys = keys_of(*range(100))
    writer.add(keys, rows_of(keys))
    writer.commit()
    assert mend(tmp_path, SPACE, RECORD).skipped == 1
    writer.close()
    assert mend(tmp_path, SPACE, RECORD).skipped == 0


@pytest.mark.row("C11")
def test_C11_forked_workers_read_the_same_bytes(tmp_path: Path) -> None:
    for part in range(3):
        write(tmp_path, 100 * part, 100 * part + 100)
    store = opened(tmp_path)
    assert all_right(store, 0, 150)  # half of it touched before the fork
    fork = multiprocessing.get_context("fork")
    with fork.Pool(2) as pool:
        found = pool.starmap(all_right, [(store, 0, 300), (store, 100, 300), (store, 0, 10)])
    assert found == [True, True, True]


@pytest.mark.row("C8")
@pytest.mark.parametrize("after", [0, 1, 3])
def test_C8_a_full_disk_leaves_no_bad_record(tmp_path: Path, after: int) -> None:
    """The real limit of a process on the size of its files: a write beyond it fails half way."""
    fork = multiprocessing.get_context("fork")
    process = fork.Process(target=_write_within_a_limit, args=(tmp_path, after))
    process.start()
    process.join(60)
    assert process.exitcode == 0
    store = opened(tmp_path)
    assert len(store) == 64 * after
    assert all_right(store, 0, 64 * after)
    assert not mend(tmp_path, SPACE, RECORD).damage


def _write_within_a_limit(folder: Path, blocks: int) -> None:
    import resource

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64 * RECORD * blocks + 1000, -1))
    writer = SegmentWriter(folder, SPACE, RECORD)
    for block in range(blocks):
        keys = keys_of(*range(64 * block, 64 * block + 64))
        writer.add(keys, rows_of(keys))
        writer.commit()
    keys = keys_of(*range(1000, 1064))
    try:
        writer.add(keys, rows_of(keys))
        writer.commit()
    except OSError:
        os._exit(0)
    os._exit(1)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.lists(st.integers(1, 5), max_size=3).map(tuple),
            st.sampled_from(["float32", "float16", "bfloat16"]),
        ),
        min_size=1,
        max_size=4,
    ),
    st.integers(1, 5),
)
def test_a_record_gives_back_its_tensors(fields: list[tuple[tuple[int, ...], str]], size: int) -> None:
    layout = RecordLayout(tuple(Field(str(at), *field) for at, field in enumerate(fields)))
    values = {field.name: torch.randn(size, *field.shape) for field in layout.fields}
    rows = layout.encode(values)
    assert rows.shape == (size, layout.size)
    assert layout.size % 16 == 0
    for field in layout.fields:
        kept = getattr(torch, field.dtype)
        assert torch.equal(layout.decode(rows)[field.name], values[field.name].to(kept))
    assert RecordLayout.of_plain(layout.plain()) == layout


def test_a_number_too_large_for_its_dtype_is_named() -> None:
    layout = RecordLayout((Field("logits", (2,), "float16"),))
    with pytest.raises(ConfigError, match=r"'logits'.*7e\+04, too large for float16.*bfloat16"):
        layout.encode({"logits": torch.tensor([[1.0, 7e4]])})
    kept = layout.decode(layout.encode({"logits": torch.tensor([[1.0, float("inf")]])}))
    assert kept["logits"][0, 1].isinf(), "what is infinite stays so"


def test_another_shape_is_named() -> None:
    layout = RecordLayout((Field("embedding", (2,), "float32"),))
    with pytest.raises(ConfigError, match=r"'embedding'.*shape \(3,\), and \(2,\) before"):
        layout.encode({"embedding": torch.zeros(4, 3)})


def test_open_needs_no_reading_of_the_records(tmp_path: Path) -> None:
    write(tmp_path, 0, 300)
    data = next(tmp_path.glob("*.data"))
    before = np.fromfile(data, np.uint8)
    assert len(opened(tmp_path)) == 300
    assert before.nbytes == (4 * 64 + 44) * RECORD
