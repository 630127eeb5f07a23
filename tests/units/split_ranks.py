"""Two processes that each have a half of the gradients, as under FSDP."""

from __future__ import annotations

import math
import os
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lightning_distill.clipping import TargetFractionClip, ValueClip
from lightning_distill.units import Quantile, StandardDeviation

STEPS = 4
POISONED = 2
RULES = {
    "standard deviation": lambda: ValueClip(1.0, StandardDeviation(0.5)),
    "quantile": lambda: ValueClip(1.0, Quantile(0.9, 0.5)),
    "target": lambda: TargetFractionClip(0.2),
}


def halves(step: int) -> list[Tensor]:
    """Of a gradient, the second three times as large; in one step one entry of it is NaN."""
    drawn = torch.randn(2, 400, generator=torch.Generator().manual_seed(step))
    first, second = drawn * torch.tensor([[1.0], [3.0]])
    if step == POISONED:
        second[5] = math.nan
    return [first, second]


def work(rank: int, folder: Path) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "RANK": str(rank), "WORLD_SIZE": "2"}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=2)
    found = {}
    for name, made in RULES.items():
        rule, weight = made(), nn.Parameter(torch.zeros(400))
        for step in range(STEPS):
            weight.grad = halves(step)[rank].clone()
            report = rule.clip({"w": weight}, step=step, split_over=dist.group.WORLD)
            found[name, step] = report.values["epsilon"].item(), weight.grad
        found[name, "history"] = {key: value.clone() for key, value in rule.state_dict().items()}
    torch.save(found, folder / f"rank{rank}.pt")
    dist.destroy_process_group()


def main(folder: Path) -> None:
    torch.multiprocessing.start_processes(work, (folder,), nprocs=2, start_method="fork")
