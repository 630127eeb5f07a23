"""What the value clip costs: its one pass beside torch's `clip_grad_value_` and a plain copy.

One thread, process CPU time, variants interleaved with rotating order, median of the per-round ratios.

    python benchmarks/value_clip.py --out benchmarks/results/value_clip.json
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))
import turns

from lightning_distill.clipping import ValueClip

SHAPES = [(512, 2048)] * 16 + [(2048, 512)] * 16 + [(512,)] * 64


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/value_clip.json"))
    parser.add_argument("--rounds", type=int, default=25)
    options = parser.parse_args()
    torch.set_num_threads(1)
    parameters = [nn.Parameter(torch.zeros(shape)) for shape in SHAPES]
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter)
    flat = torch.randn(sum(p.numel() for p in parameters))
    copy = torch.empty_like(flat)
    rule = ValueClip(3.0)
    variants: dict[str, Callable[[], object]] = {
        "ours": lambda: rule.clip(parameters),
        "torch": lambda: nn.utils.clip_grad_value_(parameters, 3.0),
        "memcpy": lambda: copy.copy_(flat),
    }
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    names = list(variants)
    for round_ in range(options.rounds + 2):
        for name in names[round_ % 3 :] + names[: round_ % 3]:
            begin = time.process_time()
            for _ in range(3):
                variants[name]()
            if round_ >= 2:
                seconds[name].append((time.process_time() - begin) / 3)
    ratios = {
        f"{a}/{b}": turns.ratio(seconds[a], seconds[b])
        for a, b in (("ours", "torch"), ("ours", "memcpy"), ("torch", "memcpy"))
    }
    report = {
        "megabytes": round(flat.numel() * 4 / 1e6, 1),
        "tensors": len(parameters),
        "rounds": options.rounds,
        "milliseconds": {name: round(1000 * statistics.median(s), 3) for name, s in seconds.items()},
        "ratios": ratios,
        "about": turns.about(("lightning_distill", "torch")),
    }
    turns.write(options.out, report)
    print(json.dumps(report, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
