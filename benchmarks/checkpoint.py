"""What it costs to check a checkpoint when it is read and when it is written.

    python benchmarks/checkpoint.py --out FILE

A checkpoint of 100 MB (weights and AdamW's states of 60 layers) is read by plain `torch.load`, by
`torch.load` that maps the file, and by `read_checkpoint`, which hashes all of it and then maps it; the hash
alone (`verify`) is a variant too. A map leaves the copying to whoever uses the tensors, so the same is
measured with use: weights copied into a model, states written to (one thread, CPU time, file in the system's
memory). Writing is compared with `torch.save` and a sync, and with Lightning's own way, by the clock on the
wall and CPU time.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
import turns
import xxhash
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from lightning_distill.checkpoints import VerifiedCheckpointIO, read_checkpoint, write_checkpoint
from lightning_distill.checkpoints.file import verify
from lightning_distill.checkpoints.not_a_number import refuse_nan

SIZE, LAYERS, ROUNDS = 100_000_000, 60, 21


def made() -> dict[str, Any]:
    torch.manual_seed(0)
    width = SIZE // 4 // 3 // LAYERS
    weights = {f"student.layer{i}.weight": torch.randn(width) for i in range(LAYERS)}
    states = {
        i: {"step": torch.tensor(1.0), "exp_avg": torch.randn(width), "exp_avg_sq": torch.rand(width)}
        for i in range(LAYERS)
    }
    return {
        "global_step": 1,
        "epoch": 0,
        "state_dict": weights,
        "optimizer_states": [{"state": states, "param_groups": [{"params": list(states)}]}],
    }


def used(read: Callable[[], dict[str, Any]]) -> Callable[[], object]:
    """Read, and do what a resumed run does first."""

    def work() -> object:
        found = read()
        model = [torch.zeros_like(x).copy_(x) for x in found["state_dict"].values()]
        for state in found["optimizer_states"][0]["state"].values():
            for moment in (state["exp_avg"], state["exp_avg_sq"]):
                moment.mul_(0.9)
        return model

    return work


def reading(folder: Path) -> dict[str, Any]:
    path = folder / "read.ckpt"
    write_checkpoint(made(), path)
    ways: dict[str, Callable[[], dict[str, Any]]] = {
        "torch.load": lambda: torch.load(path, map_location="cpu", weights_only=True),
        "torch.load, mapped": lambda: torch.load(path, map_location="cpu", weights_only=True, mmap=True),
        "ours": lambda: read_checkpoint(path),
    }
    variants: dict[str, Callable[[], object]] = {**ways, "ours, the check alone": lambda: verify(path)}
    variants |= {f"{name}, and use": used(read) for name, read in ways.items()}
    seconds = turns.cpu_seconds(variants, ROUNDS)
    plain, plain_used = seconds["torch.load"], seconds["torch.load, and use"]
    check = seconds["ours, the check alone"]
    return {
        "milliseconds": {name: turns.spread([1e3 * s for s in found]) for name, found in seconds.items()},
        "over_torch_load": {name: turns.ratio(found, plain) for name, found in seconds.items()},
        "over_torch_load_and_use": {
            name: turns.ratio(found, plain_used) for name, found in seconds.items() if name.endswith("use")
        },
        "check_gigabytes_per_second": round(path.stat().st_size / 1e9 / median(check), 2),
        "megabytes": round(path.stat().st_size / 1e6, 1),
    }


def writing(folder: Path) -> dict[str, Any]:
    content = made()
    tensors = [x.numpy() for x in content["state_dict"].values()] * 3

    def plain(path: Path) -> None:
        with path.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())

    ways: dict[str, Callable[[Path], object]] = {
        "torch.save and sync": plain,
        "Lightning": lambda path: TorchCheckpointIO().save_checkpoint(content, path),
        "ours": lambda path: VerifiedCheckpointIO().save_checkpoint(content, path),
    }
    wall: dict[str, list[float]] = {name: [] for name in ways}
    cpu: dict[str, list[float]] = {name: [] for name in ways}
    parts: dict[str, list[float]] = {"hash": [], "look for NaN": [], "read back": []}
    for turn in range(ROUNDS):
        for name in list(ways)[:: 1 if turn % 2 else -1]:
            path = folder / f"written {name}.ckpt"
            start, worked = time.perf_counter(), time.process_time()
            ways[name](path)
            wall[name].append(time.perf_counter() - start)
            cpu[name].append(time.process_time() - worked)
        works: dict[str, Callable[[], object]] = {
            "hash": lambda: [xxhash.xxh3_128(x) for x in tensors],
            "look for NaN": lambda: refuse_nan(content, ""),
            "read back": lambda: read_checkpoint(folder / "written ours.ckpt"),
        }
        for name, work in works.items():
            worked = time.process_time()
            work()
            parts[name].append(time.process_time() - worked)
    return {
        "wall_milliseconds": {name: turns.spread([1e3 * s for s in found]) for name, found in wall.items()},
        "cpu_milliseconds": {name: turns.spread([1e3 * s for s in found]) for name, found in cpu.items()},
        "wall_over_torch_save": {
            n: turns.ratio(found, wall["torch.save and sync"]) for n, found in wall.items()
        },
        "cpu_over_torch_save": {
            n: turns.ratio(found, cpu["torch.save and sync"]) for n, found in cpu.items()
        },
        "share_of_our_cpu": {name: turns.ratio(found, cpu["ours"]) for name, found in parts.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.out.parent) as folder:
        result = {
            "read": reading(Path(folder)),
            "write": writing(Path(folder)),
            "setting": {"bytes": SIZE, "layers": LAYERS, "rounds": ROUNDS},
            "about": turns.about(["torch", "lightning", "xxhash"]),
        }
    turns.write(options.out, result)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
