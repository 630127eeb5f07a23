"""The store under the cache of a teacher's answers: gathering, writing, opening.

Gathering 256 of 200,000 records of 1,044 bytes (522 float16) at random places is compared with
`index_select` on the same array in memory, with `index_select` on a plain memory map, and with tensordict's memory map
where it is installed. Writing is compared with writing the same bytes to a plain file, both until the disk has
them.Opening a million records is timed as it is, checks of every entry of the index among it; the first look-up
sorts the keys and stands apart.

    python benchmarks/cache.py --out FILE
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import argparse
import json
import platform
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from lightning_distill.storage import RecordStore, SegmentWriter

SPACE, RECORDS, WIDTH, BATCH = 1, 200_000, 522, 256
RECORD = 2 * WIDTH
ROUNDS, CALLS = 15, 300


def spread(values: list[float]) -> dict[str, float]:
    return {"median": round(median(values), 4), "min": round(min(values), 4), "max": round(max(values), 4)}


def interleaved(
    variants: dict[str, Callable[[int], object]], calls: int, rounds: int
) -> dict[str, list[float]]:
    """Microseconds of CPU a call, every variant in every round, the order rotated."""
    names, found = list(variants), {name: list[float]() for name in variants}
    for turn in range(rounds):
        at = turn % len(names)
        for name in names[at:] + names[:at]:
            start = time.process_time()
            for call in range(calls):
                variants[name](call)
            found[name].append((time.process_time() - start) / calls * 1e6)
    return found


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
        "ours": lambda n: torch.from_numpy(store.take(asked[n])).view(torch.float16),
        "ours, by key": lambda n: torch.from_numpy(store.take(store.locate(keys[picks[n]]))),
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
    found = interleaved(variants, CALLS, ROUNDS)
    over = {name: [a / b for a, b in zip(t, found["memory"], strict=True)] for name, t in found.items()}
    assert (store.take(asked[0]) == rows[picks[0]]).all()
    return {
        "microseconds": {name: spread(values) for name, values in found.items()},
        "over_memory": {name: spread(values) for name, values in over.items() if name != "memory"},
    }


def writing(folder: Path) -> dict[str, Any]:
    rows = np.random.default_rng(2).integers(0, 255, (RECORDS, RECORD), dtype=np.uint8)
    keys = keys_of(RECORDS)
    seconds: dict[str, list[float]] = {"plain": [], "ours": []}
    for turn in range(9):
        for name in ("plain", "ours") if turn % 2 else ("ours", "plain"):
            target = folder / f"written {name}"
            start = time.perf_counter()
            if name == "ours":
                write(target, keys, rows)
            else:
                target.mkdir()
                with (target / "file").open("wb", buffering=0) as file:
                    for at in range(0, RECORDS, BATCH):
                        file.write(rows[at : at + BATCH].data)
                    os.fsync(file.fileno())
            seconds[name].append(time.perf_counter() - start)
            shutil.rmtree(target)
    speed = [a / b for a, b in zip(seconds["plain"], seconds["ours"], strict=True)]
    megabytes = RECORDS * RECORD / 1e6
    told = {name: spread([megabytes / s for s in values]) for name, values in seconds.items()}
    return {"megabytes_per_second": told, "speed_over_plain": spread(speed)}


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
            "open_ms": spread(opened),
            "first_look_up_ms": spread(sorted_),
            "sum_ms": spread([a + b for a, b in zip(opened, sorted_, strict=True)]),
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
            "setting": {
                "records": RECORDS,
                "bytes_a_record": RECORD,
                "batch": BATCH,
                "rounds": ROUNDS,
                "calls_a_round": CALLS,
                "torch": version("torch"),
                "numpy": version("numpy"),
                "machine": platform.machine(),
            },
        }
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
