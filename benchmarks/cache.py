"""The store under the cache of a teacher's answers: gathering, writing, opening.

    python benchmarks/cache.py --out FILE

256 of 200,000 records of 1,044 bytes (522 float16) are gathered at random places: by the store, by
`index_select` on the same array in memory and on a plain memory map, and by tensordict's memory map
where that is installed (one thread, CPU time). Writing is compared with writing the same bytes to a
plain file, both until the disk has them, by the clock on the wall and by CPU time. Opening a million
records checks every entry of the index; the first look-up sorts the keys.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import argparse
import json
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))
import turns

from lightning_distill.storage import RecordStore, SegmentWriter

SPACE, RECORDS, WIDTH, BATCH = 1, 200_000, 522, 256
RECORD = 2 * WIDTH
ROUNDS, CALLS = 15, 300


def keys_of(count: int, seed: int = 0) -> Any:
    return np.unique(np.random.default_rng(seed).integers(0, 2**63, count + 100).astype(np.uint64))[:count]


def write(folder: Path, keys: Any, rows: Any) -> None:
    writer = SegmentWriter(folder, SPACE, rows.shape[1])
    for start in range(0, len(keys), BATCH):
        writer.add(keys[start : start + BATCH], rows[start : start + BATCH])
    writer.close()


def gather(folder: Path) -> dict[str, Any]:
    rng = np.random.default_rng(1)
    rows = rng.integers(0, 255, (RECORDS, RECORD), dtype=np.uint8)
    keys = rng.permutation(keys_of(RECORDS))
    write(folder / "store", keys, rows)
    rows.tofile(folder / "plain")
    store = RecordStore(folder / "store", SPACE, RECORD)
    places = store.locate(keys)
    for start in range(0, RECORDS, 4096):
        store.take(places[start : start + 4096])  # every block is checked, every page is in memory
    memory = torch.from_numpy(rows.view(np.float16))
    mapped = torch.from_numpy(np.memmap(folder / "plain", np.float16, "r", shape=(RECORDS, WIDTH)))
    mapped.sum()
    picks = [rng.integers(0, RECORDS, BATCH) for _ in range(CALLS)]
    wanted = [torch.from_numpy(pick) for pick in picks]
    asked = [places[pick] for pick in picks]
    variants: dict[str, Callable[[int], object]] = {
        "memory": lambda n: memory.index_select(0, wanted[n]),
        "memory map": lambda n: mapped.index_select(0, wanted[n]),
        "ours": lambda n: store.take(asked[n]).view(torch.float16),
        "ours, by key": lambda n: store.take(store.locate(keys[picks[n]])),
    }
    try:
        from tensordict import MemoryMappedTensor
    except ImportError:
        pass
    else:
        theirs = MemoryMappedTensor.from_filename(
            folder / "plain", torch.float16, torch.Size([RECORDS, WIDTH])
        )
        variants["tensordict"] = lambda n: theirs[wanted[n]]
    assert (store.take(asked[0]).numpy() == rows[picks[0]]).all()
    found = turns.cpu_seconds({name: _calls(variant) for name, variant in variants.items()}, ROUNDS)
    each = {name: [1e6 * t / CALLS for t in seconds] for name, seconds in found.items()}
    return {
        "microseconds": {name: turns.spread(values) for name, values in each.items()},
        "over_memory": {name: turns.ratio(values, each["memory"]) for name, values in each.items()},
    }


def _calls(variant: Callable[[int], object]) -> Callable[[], object]:
    return lambda: [variant(call) for call in range(CALLS)]


def writing(folder: Path) -> dict[str, Any]:
    rows = np.random.default_rng(2).integers(0, 255, (RECORDS, RECORD), dtype=np.uint8)
    keys = keys_of(RECORDS)

    def plain(target: Path) -> None:
        target.mkdir()
        with (target / "file").open("wb", buffering=0) as file:
            for at in range(0, RECORDS, BATCH):
                file.write(rows[at : at + BATCH].data)
            os.fsync(file.fileno())

    ways = {"plain": plain, "ours": lambda target: write(target, keys, rows)}
    wall: dict[str, list[float]] = {name: [] for name in ways}
    cpu: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(11):
        for name in list(ways)[:: 1 if turn % 2 else -1]:
            target = folder / f"written {name}"
            start, worked = time.perf_counter(), time.process_time()
            ways[name](target)
            wall[name].append(time.perf_counter() - start)
            cpu[name].append(time.process_time() - worked)
            shutil.rmtree(target)
    speed = {name: turns.spread([RECORDS * RECORD / 1e6 / s for s in found]) for name, found in wall.items()}
    return {
        "megabytes_per_second": speed,
        "speed_over_plain": turns.ratio(wall["plain"], wall["ours"]),
        "cpu_seconds": {name: turns.spread(found) for name, found in cpu.items()},
    }


def opening(folder: Path) -> dict[str, Any]:
    found = {}
    for record in (32, 2048):
        count = 1_000_000
        path = folder / f"million {record}"
        keys = np.random.default_rng(3).permutation(keys_of(count))
        row = np.zeros((BATCH, record), np.uint8)
        writer = SegmentWriter(path, SPACE, record)
        for start in range(0, count, BATCH):
            few = keys[start : start + BATCH]
            writer.add(few, row[: len(few)])
        writer.close()
        opened, sorted_ = [], []
        for _ in range(7):
            start = time.perf_counter()
            store = RecordStore(path, SPACE, record)
            opened.append((time.perf_counter() - start) * 1e3)
            start = time.perf_counter()
            store.locate(keys[:BATCH])
            sorted_.append((time.perf_counter() - start) * 1e3)
        found[f"{record} bytes a record"] = {
            "open_ms": turns.spread(opened),
            "first_look_up_ms": turns.spread(sorted_),
            "sum_ms": turns.spread([a + b for a, b in zip(opened, sorted_, strict=True)]),
        }
        shutil.rmtree(path)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message=".*non-writable.*")
    with tempfile.TemporaryDirectory(dir=options.out.parent) as folder:
        result = {
            "gather": gather(Path(folder)),
            "write": writing(Path(folder)),
            "open": opening(Path(folder)),
            "setting": {"records": RECORDS, "bytes_a_record": RECORD, "batch": BATCH, "rounds": ROUNDS},
            "about": turns.about(["numpy", "torch", "tensordict", "xxhash"]),
        }
    turns.write(options.out, result)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
