"""A manifest of a million rows: how long it takes to open, and what each worker process adds.

A CSV of about 110 MB with four text columns is written to a temporary folder and read once. Then opening it
again takes turns with reading the same file by pyarrow (median of the rounds, with the least and the
largest). Workers are forked, as a DataLoader forks them, and read every 10th row of the training split
through the data set, with processors that keep nothing; what a worker adds is the growth of its private
memory (`Private_Dirty` in /proc/self/smaps_rollup) over one that reads a batch.

    python benchmarks/manifest.py --out benchmarks/results/manifest.json
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"

import argparse
import json
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.csv
import torch

sys.path.insert(0, str(Path(__file__).parent))
import turns

from lightning_distill.data import BatchKey, ManifestSource, MultimodalDataModule, Processor
from lightning_distill.randomness import View

SPLIT = ("train", "train", "train", "val", "test")
BATCH = 256


class TwoTexts(ManifestSource):
    """Reads two columns of text."""

    def load(self, modality: str, row: int) -> Any:
        """The cell itself."""
        return self.cell(modality, row)


class Lengths(Processor):
    """Keeps nothing of a text but its length, so that what grows is the manifest's."""

    def prepare(self, raw: Any, view: View | None = None) -> Any:
        """Characters."""
        return len(raw)

    def blank(self) -> Any:
        """Of no text."""
        return 0

    def collate(self, prepared: Sequence[Any]) -> torch.Tensor:
        """int64 "batch"."""
        return torch.tensor(prepared)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/manifest.json"))
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["LIGHTNING_DISTILL_CACHE"] = str(Path(folder, "cache"))
        report = measure(Path(folder, "table.csv"), options.rows, options.rounds)
    turns.write(options.out, report)
    print(json.dumps(report, indent=2))
    return 0


def measure(path: Path, rows: int, rounds: int) -> dict[str, Any]:
    with path.open("w") as file:
        file.write("text,caption,label,split\n")
        file.writelines(
            f"some text with number {i} and a few more words,caption {i * 7919 % 1000003} of what is seen,"
            f"class {i % 100},{SPLIT[i % 5]}\n"
            for i in range(rows)
        )
    first = seconds(lambda: source(path))
    opened, parsed = [], []
    for _ in range(rounds):
        opened.append(seconds(lambda: source(path)))
        parsed.append(seconds(lambda: pyarrow.csv.read_csv(path)))
    return {
        "rows": rows,
        "csv_megabytes": round(path.stat().st_size / 1e6, 1),
        "first_reading_cpu_seconds": round(first[1], 2),
        "pyarrow_reading_cpu_milliseconds": turns.spread([1000 * cpu for _, cpu in parsed]),
        "opening_wall_milliseconds": turns.spread([1000 * wall for wall, _ in opened]),
        "opening_cpu_milliseconds": turns.spread([1000 * cpu for _, cpu in opened]),
        "worker_bytes_a_row": turns.spread([growth(path, rows) for _ in range(3)]),
        "rounds": rounds,
        "about": turns.about(("lightning_distill", "pyarrow", "numpy")),
    }


def source(path: Path) -> ManifestSource:
    return TwoTexts(path, {"text": "text", "caption": "caption"})


def seconds(work: Callable[[], object]) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def growth(path: Path, rows: int) -> float:
    """Private bytes a row that a worker adds which has seen the whole table."""
    data = MultimodalDataModule(source(path), {"text": Lengths(), "caption": Lengths()})
    dataset = data.dataset("train")
    context = multiprocessing.get_context("fork")
    dirty = []
    for step in (len(dataset), 10):
        receiver, sender = context.Pipe(duplex=False)
        worker = context.Process(target=_scan, args=(dataset, step, sender))
        worker.start()
        sender.close()  # so that a worker that fails ends the wait
        dirty.append(receiver.recv())
        worker.join()
    return max(0.0, (dirty[1] - dirty[0]) / rows)


def _scan(dataset: Any, step: int, sender: Any) -> None:
    positions = np.arange(0, len(dataset), step)
    for start in range(0, len(positions), BATCH):
        dataset[BatchKey(0, positions[start : start + BATCH])]
    sender.send(private_dirty())


def private_dirty() -> int:
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_Dirty"))


if __name__ == "__main__":
    sys.exit(main())
