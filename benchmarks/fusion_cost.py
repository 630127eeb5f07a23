"""What a fusion head costs beside the plainest code that does the same, and what absent modalities cost.

    python benchmarks/fusion_cost.py --out benchmarks/results/fusion_cost.json

A training step of each head with a linear task head behind it: forward, backward to the features and all
parameters, AdamW (foreach). Features are 512 (image), 384 (text) and 256 (audio) wide, in sequences of 49, 24
and 12 for the heads that read tokens. The other is the same head in `fusion_minimal.py`, with the same
weights, without masks and checks. One thread, process CPU time; ours, the other, and ours with 30 % of the
modalities absent take turns of some steps in rotated order, and a ratio is the median of the rounds' ratios
with the least and the largest. `ratios` and `absent` are for batches of 64; larger ones have their own.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"

import argparse
import gc
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parent))
import turns
from fusion_pairs import PAIRS, Pair
from fusion_synthetic import HEADS

from lightning_distill.absence import drop_modalities
from lightning_distill.fusion import FusionHead
from lightning_distill.heads import LinearHead
from lightning_distill.structures import Feature, Tokens

WIDTHS = {"audio": 256, "image": 512, "text": 384}
LENGTHS = {"audio": 12, "image": 49, "text": 24}
BATCHES = (64, 256)
CLASSES, ABSENT = 10, 0.3
TURN = 0.04
"""Seconds of a turn, about; a turn has at least two steps."""


def features(head: FusionHead, batch: int) -> list[Tensor]:
    """What encoders would give, with a gradient to send back."""
    draw = torch.Generator().manual_seed(0)
    between = (lambda m: (LENGTHS[m],)) if head.reads_tokens else lambda m: ()
    shapes = [(batch, *between(m), width) for m, width in WIDTHS.items()]
    return [torch.randn(shape, generator=draw, requires_grad=True) for shape in shapes]


def presence(batch: int, absent: float) -> dict[str, Tensor]:
    """Which modalities are there; every sample has at least one."""
    torch.manual_seed(1)
    everyone = {m: torch.ones(batch, dtype=torch.bool) for m in WIDTHS}
    return drop_modalities(everyone, absent) if absent else everyone


def stepping(
    fuse: Callable[[], Tensor], parts: Sequence[nn.Module], x: list[Tensor], target: Tensor
) -> Callable[[], None]:
    """A training step of a fusion head and a task head, [head, task head]."""
    task = parts[1]
    optimizer = torch.optim.AdamW([p for part in parts for p in part.parameters()], lr=1e-4, foreach=True)

    def step() -> None:
        optimizer.zero_grad()
        for leaf in x:
            leaf.grad = None
        F.cross_entropy(task(fuse()), target).backward()
        optimizer.step()

    return step


def ours(pair: Pair, x: list[Tensor], target: Tensor, absent: float) -> Callable[[], None]:
    """A step of the package's head."""
    torch.manual_seed(0)
    head = HEADS[pair.name](WIDTHS)
    there = presence(len(target), absent)
    masks = {m: torch.ones(v.shape[:2], dtype=torch.bool) for m, v in zip(WIDTHS, x, strict=True)}
    given: dict[str, Feature] = {}
    for m, v in zip(WIDTHS, x, strict=True):
        given[m] = Tokens(v, masks[m]) if head.reads_tokens else v
    task = LinearHead(head.output_dim, CLASSES)
    return stepping(lambda: head(given, there), [head, task], x, target)


def other(pair: Pair, x: list[Tensor], target: Tensor) -> Callable[[], None]:
    """A step of the plain one."""
    torch.manual_seed(0)
    head = HEADS[pair.name](WIDTHS)
    plain = pair.plain(head)
    task = nn.Linear(head.output_dim, CLASSES)
    return stepping(lambda: plain(x), [plain, task], x, target)


def measure(pair: Pair, batch: int, rounds: int) -> dict[str, Any]:
    """Ratios of a head, complete and with absences, and milliseconds."""
    head = HEADS[pair.name](WIDTHS)
    x, target = features(head, batch), torch.arange(batch) % CLASSES
    steps = {
        "ours": ours(pair, x, target, 0.0),
        "absent": ours(pair, x, target, ABSENT),
        "other": other(pair, x, target),
    }
    for step in steps.values():
        step()
    start = time.process_time()
    steps["other"]()
    count = max(2, round(TURN / (time.process_time() - start)))

    def several(step: Callable[[], None]) -> Callable[[], None]:
        return lambda: [step() for _ in range(count)] and None

    gc.collect()
    gc.disable()
    seconds = turns.cpu_seconds({name: several(step) for name, step in steps.items()}, rounds)
    gc.enable()
    return {
        "ratio": turns.ratio(seconds["ours"], seconds["other"]),
        "absent": turns.ratio(seconds["absent"], seconds["other"]),
        "milliseconds": {name: round(1000 * median(s) / count, 4) for name, s in seconds.items()},
    }


def report(names: Sequence[str], rounds: int) -> dict[str, Any]:
    """What is written to the file."""
    found: dict[int, dict[str, Any]] = {batch: {} for batch in BATCHES}
    for pair in PAIRS:
        for batch in BATCHES if pair.name in names else ():
            found[batch][pair.name] = row = measure(pair, batch, rounds)
            print(pair.name, batch, row, flush=True)
    parts = {
        batch: {
            "ratios": {name: row["ratio"] for name, row in rows.items()},
            "absent": {name: row["absent"] for name, row in rows.items()},
            "milliseconds": {name: row["milliseconds"] for name, row in rows.items()},
        }
        for batch, rows in found.items()
    }
    smallest, *larger = BATCHES
    return parts[smallest] | {f"{batch} rows": parts[batch] for batch in larger}


def show(result: dict[str, Any]) -> None:
    """Ratios, a line a head."""
    names = [name for name in result if name.endswith(" rows")]
    table = Table("head", "64 rows", "30 % absent", *(c for n in names for c in (n, "30 % absent")))
    for head in result["ratios"]:
        cells = [p[key][head] for p in (result, *(result[n] for n in names)) for key in ("ratios", "absent")]
        table.add_row(head, *(f"{c['median']:.2f} [{c['min']:.2f}..{c['max']:.2f}]" for c in cells))
    Console().print(table)


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--heads", nargs="+", default=[p.name for p in PAIRS], help="names; all of them")
    options = parser.parse_args(words)
    torch.set_num_threads(1)
    result = report(options.heads, options.rounds)
    about = {"widths": WIDTHS, "lengths": LENGTHS, "batches": BATCHES, "rounds": options.rounds}
    turns.write(options.out, result | about | {"about": turns.about(("lightning_distill", "torch"))})
    show(result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
