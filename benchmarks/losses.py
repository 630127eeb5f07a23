"""Forward and backward of every term, against the way one writes it first: same run, one thread, CPU time.

    python benchmarks/losses.py --out benchmarks/results/losses.json

prints the table too. Logits are "B 1000", vectors "B 512", maps "B 64 16 16" (a middle
layer of a ResNet on small images). Ours and the other take turns in rotated order; a ratio below 1 says that
ours is faster; it is the median of the rounds' ratios, with the least and the largest. DKD is also set
against plain distillation with softmax targets, and RKD's angles have their peak memory measured in processes
of their own, as the rise of the peak of resident memory (Linux).
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import argparse
import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))
import naive_losses as naive

from lightning_distill import losses

CLASSES, WIDTH, CHANNELS, SIDE = 1000, 512, 64, 16
NEGATIVES = 4096


@dataclass(frozen=True)
class Case:
    """Two functions of a student's tensor, which must agree."""

    name: str
    shape: tuple[int, ...]
    ours: Callable[[Tensor], Tensor]
    other: Callable[[Tensor], Tensor]
    same: bool = True


def cases(rows: int) -> list[Case]:
    torch.manual_seed(0)
    t, v, m = torch.randn(rows, CLASSES), torch.randn(rows, WIDTH), torch.randn(rows, CHANNELS, SIDE, SIDE)
    y, ids = torch.randint(CLASSES, (rows,)), torch.arange(rows)
    var, margin = torch.rand(CHANNELS) + 0.5, -torch.rand(CHANNELS)
    weight, p = torch.rand(WIDTH), torch.randn(rows)
    allowed = torch.ones(rows, NEGATIVES, dtype=torch.bool)
    standard = losses.StandardizedLogits(losses.LogitKD(2.0))

    def standardized(s: Tensor) -> Tensor:
        from lightning_distill.structures import ModelOutput

        return standard(ModelOutput(s), ModelOutput(t), {})  # type: ignore[typeddict-item]

    logits, vector, maps = (CLASSES,), (WIDTH,), (CHANNELS, SIDE, SIDE)
    f: Any = losses
    return [
        Case("LogitKD", logits, lambda s: f.logit_kd(s, t), lambda s: naive.logit_kd(s, t)),
        Case("DecoupledKD", logits, lambda s: f.decoupled_kd(s, t, y), lambda s: naive.decoupled_kd(s, t, y)),
        Case(
            "DecoupledKD against plain KD",
            logits,
            lambda s: f.decoupled_kd(s, t, y),
            lambda s: naive.logit_kd(s, t),
            same=False,
        ),
        Case("DIST", logits, lambda s: f.dist(s, t), lambda s: naive.dist(s, t)),
        Case("StandardizedLogits", logits, standardized, lambda s: naive.standardized_kd(s, t)),
        Case("JensenShannon", logits, lambda s: f.jensen_shannon(s, t), lambda s: naive.jensen_shannon(s, t)),
        Case("OneForAll", logits, lambda s: f.one_for_all(s, t, y), lambda s: naive.one_for_all(s, t, y)),
        Case(
            "MultilabelKD", logits, lambda s: f.multilabel_kd(s, t, 1.0), lambda s: naive.multilabel_kd(s, t)
        ),
        Case("RegressionKD", vector, lambda s: f.regression_kd(s, v), lambda s: naive.hint(s, v)),
        Case("Hint", vector, lambda s: f.hint(s, v), lambda s: naive.hint(s, v)),
        Case(
            "AttentionTransfer",
            maps,
            lambda s: f.attention_transfer(s, m),
            lambda s: naive.attention_transfer(s, m),
        ),
        Case(
            "NeuronSelectivity",
            maps,
            lambda s: f.neuron_selectivity(s, m),
            lambda s: naive.neuron_selectivity(s, m),
        ),
        Case(
            "VariationalInformation",
            maps,
            lambda s: f.variational_information(s, var, m),
            lambda s: naive.variational_information(s, var, m),
        ),
        Case("Overhaul", maps, lambda s: f.overhaul(s, m, margin), lambda s: naive.overhaul(s, m, margin)),
        Case(
            "Review (context)",
            maps,
            lambda s: f.hierarchical_context(s, m),
            lambda s: naive.hierarchical_context(s, m),
        ),
        Case("RKD distance", vector, lambda s: f.rkd_distance(s, v), lambda s: naive.rkd_distance(s, v)),
        Case("RKD angle", vector, lambda s: f.rkd_angle(s, v), lambda s: naive.rkd_angle(s, v)),
        Case(
            "SimilarityPreserving",
            vector,
            lambda s: f.similarity_preserving(s, v),
            lambda s: naive.similarity_preserving(s, v),
        ),
        Case(
            "ProbabilisticTransfer",
            vector,
            lambda s: f.probabilistic_transfer(s, v),
            lambda s: naive.probabilistic_transfer(s, v),
        ),
        Case("CKA", vector, lambda s: f.linear_cka(s, v), lambda s: naive.linear_cka(s, v)),
        Case(
            "CrossModalContrastive",
            vector,
            lambda s: f.contrastive_alignment(s, v, ids),
            lambda s: naive.contrastive_alignment(s, v, ids),
        ),
        Case(
            "ContrastiveRepresentation",
            (NEGATIVES,),
            lambda s: f.contrastive_representation(p, s, allowed, 0.3),
            lambda s: naive.contrastive_representation(p, s, allowed, 0.3),
        ),
        Case(
            "ModalityGeneralHint",
            vector,
            lambda s: f.masked_hint(s, v, weight),
            lambda s: naive.masked_hint(s, v, weight),
        ),
    ]


def once(f: Callable[[Tensor], Tensor], s: Tensor) -> float:
    """CPU seconds of forward and backward."""
    s.grad = None
    start = time.process_time()
    f(s).backward()
    return time.process_time() - start


def compare(case: Case, rows: int, rounds: int) -> dict[str, Any]:
    torch.manual_seed(1)
    s = torch.randn(rows, *case.shape, requires_grad=True)
    if case.same:
        torch.testing.assert_close(case.ours(s), case.other(s), rtol=2e-3, atol=1e-4)
    once(case.ours, s)
    slow = once(case.other, s)
    repeats = max(1, min(50, int(0.05 / max(slow, 1e-5))))
    if slow > 3:
        rounds = 1
    ratios, ours, other = [], [], []
    for number in range(rounds):
        spent = [0.0, 0.0]
        for _ in range(repeats):
            for which in (0, 1) if number % 2 else (1, 0):
                spent[which] += once((case.ours, case.other)[which], s)
        ratios.append(spent[0] / spent[1])
        ours.append(spent[0] / repeats * 1e3)
        other.append(spent[1] / repeats * 1e3)
    return {
        "term": case.name,
        "batch": rows,
        "ratio": median(ratios),
        "ratio_range": [min(ratios), max(ratios)],
        "ours_ms": median(ours),
        "other_ms": median(other),
        "rounds": rounds,
    }


def told(row: dict[str, Any]) -> dict[str, float]:
    """A row's ratio as every benchmark writes it."""
    return {"median": row["ratio"], "min": row["ratio_range"][0], "max": row["ratio_range"][1]}


def peak_of_angle(ours: bool, rows: int) -> None:
    """Print by how many MB the peak memory of this process grows."""
    f: Any = losses.rkd_angle if ours else naive.rkd_angle
    torch.manual_seed(0)
    small = torch.randn(8, WIDTH, requires_grad=True)
    f(small, torch.randn(8, WIDTH)).backward()  # what is loaded at the first call
    s, t = torch.randn(rows, WIDTH, requires_grad=True), torch.randn(rows, WIDTH)
    before = peak()
    f(s, t).backward()
    print(peak() - before)


def peak() -> float:
    """Peak resident memory of this process, MB. `getrusage` would count what it had before it was ours."""
    (line,) = (x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def memory(rows: int) -> dict[str, float]:
    def measured(which: str) -> float:
        command = [sys.executable, __file__, "--peak", which, str(rows)]
        return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    return {"batch": rows, "ours_mb": measured("ours"), "other_mb": measured("other")}


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/losses.json"))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--peak", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args(words)
    torch.set_num_threads(1)
    if options.peak:
        peak_of_angle(options.peak[0] == "ours", int(options.peak[1]))
        return 0
    rows = [compare(case, batch, options.rounds) for batch in (64, 512) for case in cases(batch)]
    report = {
        "machine": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "classes": CLASSES,
        "width": WIDTH,
        "map": [CHANNELS, SIDE, SIDE],
        "ratios": {f"{row['term']}, {row['batch']} rows": told(row) for row in rows},
        "rows": rows,
        "rkd_angle_memory": [memory(64), memory(512)],
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=1) + "\n")
    table = Table("term", "B", "ours, ms", "other, ms", "ratio", "least .. most", title="Forward + backward")
    for row in rows:
        low, high = row["ratio_range"]
        numbers = [f"{row['ours_ms']:.2f}", f"{row['other_ms']:.2f}", f"{row['ratio']:.2f}"]
        table.add_row(row["term"], str(row["batch"]), *numbers, f"{low:.2f} .. {high:.2f}")
    console = Console()
    console.print(table)
    console.print("peak memory of RKD's angles:", report["rkd_angle_memory"], highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
