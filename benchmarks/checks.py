"""What it costs to see that a saved student and a teacher's cache are as they were written.

    python benchmarks/checks.py --out FILE

A student of about 50 MB and a small one are loaded with and without checksums in their folder, in turn, and
the check is timed by itself. All records of a cache are read in random batches and made into answers, in a
first epoch, which checks each block once, and in a later one. One thread, files in memory, CPU time.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))
import turns

from lightning_distill import MultimodalModel, load_student, save_student
from lightning_distill.caching import AnswerFormat
from lightning_distill.encoders import ByteTextCNN, ImageCNN
from lightning_distill.export import read_config
from lightning_distill.storage import Field, RecordLayout, RecordStore, SegmentWriter, mend
from lightning_distill.writing.seal import CHECK, FILES, differing

ROUNDS, RECORDS, RECORD, BATCH = 11, 100_000, 1040, 256


def timed(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def student(folder: Path, width: int) -> dict[str, Any]:
    encoder = {"class_path": "lightning_distill.encoders.ImageCNN", "init_args": {"width": width}}
    text = {"class_path": "lightning_distill.encoders.ByteTextCNN"}
    init_args = {"num_classes": 10, "encoders": {"image": encoder, "text": text}}
    model = MultimodalModel({"image": ImageCNN(width=width), "text": ByteTextCNN()}, 10)
    save_student(
        model, folder / "checked", {"class_path": "lightning_distill.MultimodalModel", "init_args": init_args}
    )
    shutil.copytree(folder / "checked", folder / "plain")
    told = json.loads((folder / "plain" / "config.json").read_text())
    bare = {name: value for name, value in told.items() if name not in (CHECK, FILES)}
    (folder / "plain" / "config.json").write_text(json.dumps(bare))
    content = read_config(folder / "checked")
    ways: dict[str, Callable[[], object]] = {
        "with": lambda: load_student(folder / "checked"),
        "without": lambda: load_student(folder / "plain"),
        "check alone": lambda: differing(content, folder / "checked"),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(ROUNDS + 2):
        for name in list(ways)[:: 1 if turn % 2 else -1]:
            found = timed(ways[name])
            if turn > 1:
                seconds[name].append(found)
    size = (folder / "checked" / "model.safetensors").stat().st_size
    shutil.rmtree(folder / "checked")
    shutil.rmtree(folder / "plain")
    return {
        "megabytes": size / 1e6,
        "milliseconds": {name: turns.spread([1e3 * s for s in found]) for name, found in seconds.items()},
        "check_over_load": turns.ratio(seconds["check alone"], seconds["without"]),
        "check_gigabytes_per_second": turns.spread([size / 1e9 / s for s in seconds["check alone"]]),
    }


def cache(folder: Path) -> dict[str, Any]:
    """Each record once, at random places: the first epoch of a training."""
    rng = np.random.default_rng(0)
    keys = rng.permutation(RECORDS).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    rows = rng.integers(0, 255, (RECORDS, RECORD), dtype=np.uint8)
    writer = SegmentWriter(folder / "cache", 1, RECORD)
    for at in range(0, RECORDS, BATCH):
        writer.add(keys[at : at + BATCH], rows[at : at + BATCH])
    writer.close()
    order = rng.permutation(RECORDS)

    answers = AnswerFormat(("logits", "embedding"), "float16", 8)
    layout = RecordLayout((Field("logits", (8,), "float16"), Field("embedding", (512,), "float16")))
    assert layout.size == RECORD

    def epoch(store: RecordStore) -> None:
        places = store.locate(keys)[order]
        for at in range(0, RECORDS, BATCH):
            answers.output(layout.decode(store.take(places[at : at + BATCH])))

    first, later = [], []
    for _ in range(ROUNDS):
        store = RecordStore(folder / "cache", 1, RECORD)
        first.append(timed(lambda store=store: epoch(store)))
        later.append(timed(lambda store=store: epoch(store)))
    recovery = timed(lambda: mend(folder / "cache", 1, RECORD))
    return {
        "records": RECORDS,
        "bytes_a_record": RECORD,
        "first_epoch_ms": turns.spread([1e3 * s for s in first]),
        "later_epoch_ms": turns.spread([1e3 * s for s in later]),
        "check_us_a_record": turns.spread(
            [1e6 * (a - b) / RECORDS for a, b in zip(first, later, strict=True)]
        ),
        "check_over_ten_epochs": turns.spread(
            [(a - b) / (a + 9 * b) for a, b in zip(first, later, strict=True)]
        ),
        "mend_seconds": recovery,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=options.out.parent) as folder:
        result = {
            "student_50_mb": student(Path(folder), 472),
            "student_small": student(Path(folder), 32),
            "cache": cache(Path(folder)),
            "about": turns.about(["numpy", "torch", "safetensors", "xxhash"]),
        }
    turns.write(options.out, result)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
