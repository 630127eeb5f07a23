"""What a training keeps in memory, epoch by epoch: alone, with a teacher, and with its answers on disk.

    LIGHTNING_DISTILL_DATA=... python benchmarks/memory.py --out FILE

Three convolutions on MNIST as 3 x 32 x 32, ten epochs, taught by a ResNet-18 (45 MB of weights) or by nobody,
each training in a process of its own. Resident memory is read at the end of each epoch, after the garbage
collector and after unused memory was given back; a cached training starts with all answers on disk.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import argparse
import ctypes
import gc
import json
import logging
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import torch
from lightning.pytorch import Callback, Trainer

sys.path.insert(0, str(Path(__file__).parent))
import step_parts as parts
import turns

from lightning_distill import DistillationModule
from lightning_distill.losses import LogitKD
from lightning_distill.teachers import CachedTeacher, FrozenTeacher, Teacher

EPOCHS = 10
WAYS = ("student alone", "cached", "online")


def teacher() -> FrozenTeacher:
    torch.manual_seed(0)
    return FrozenTeacher(parts.teacher_model())


class Resident(Callback):
    """Megabytes after each epoch, and how many teachers are in memory."""

    def __init__(self) -> None:
        self.megabytes: list[float] = []
        self.teachers: list[int] = []

    def on_train_epoch_end(self, *args: Any) -> None:
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        self.megabytes.append(round(psutil.Process().memory_info().rss / 1e6, 1))
        self.teachers.append(sum(isinstance(thing, FrozenTeacher) for thing in gc.get_objects()))


def train(way: str, folder: Path, epochs: int) -> Resident:
    """One training; what is printed is read by `main`."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    makers: dict[str, Any] = {
        "student alone": lambda: None,
        "online": teacher,
        "cached": lambda: CachedTeacher(teacher, folder / "answers"),
    }
    made: Teacher | None = makers[way]()
    module = DistillationModule(
        parts.student_model(),
        made,
        {"kd": LogitKD(parts.TEMPERATURE)} if made else None,
        optimizer=partial(torch.optim.SGD, lr=parts.RATE),
    )
    resident = Resident()
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=epochs,
        logger=parts.Memory(),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=[resident],
    )
    trainer.fit(module, parts.our_data(*parts.digits()))
    return resident


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        resident = train(options.way, options.folder, EPOCHS)
        options.out.write_text(json.dumps({"mb": resident.megabytes, "teachers": resident.teachers}))
        return
    with tempfile.TemporaryDirectory() as folder:
        train("cached", Path(folder), 1)  # fills the cache
        found = {way: _in_a_process(way, Path(folder)) for way in WAYS}
    last = {way: told["mb"][-1] for way, told in found.items()}
    result = {
        "megabytes_by_epoch": {way: told["mb"] for way, told in found.items()},
        "teachers_in_memory": {way: max(told["teachers"]) for way, told in found.items()},
        "growth_from_epoch_2_to_10_mb": {
            way: round(told["mb"][-1] - told["mb"][1], 1) for way, told in found.items()
        },
        "cached_minus_student_alone_mb": round(last["cached"] - last["student alone"], 1),
        "online_minus_student_alone_mb": round(last["online"] - last["student alone"], 1),
        "about": turns.about(["torch", "lightning"]),
    }
    turns.write(options.out, result)
    print(json.dumps(result, indent=1))


def _in_a_process(way: str, folder: Path) -> dict[str, Any]:
    out = folder / "told.json"
    words = [sys.executable, __file__, "--out", str(out), "--way", way, "--folder", str(folder)]
    subprocess.run(words, check=True)
    told: dict[str, Any] = json.loads(out.read_text())
    return told


if __name__ == "__main__":
    main()
