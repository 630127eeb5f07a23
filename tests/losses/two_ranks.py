"""Gradients of every term from two processes with half the batch each; run by `test_ranks.py`.

Also imported by it, to find the same gradients in one process with the whole batch.
"""

from __future__ import annotations

import inspect
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lightning_distill.losses import DistillationLoss
from lightning_distill.structures import UNLABELLED, ModelOutput
from tests.builders import make_batch
from tests.shelves import build, concrete

ROWS = 8


class Student(nn.Module):
    """Everything a term may read, from one input."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(5, 12)

    def forward(self, x: Tensor) -> ModelOutput:
        h = torch.tanh(self.body(x))
        layers = {"map": h[:, :, None].repeat(1, 1, 16).view(-1, 6, 8, 4), "small_map": h.view(-1, 3, 2, 2)}
        features = {"image": h[:, :8], "text": h[:, 4:]}
        return ModelOutput(h[:, :4], h[:, 2:10], features, layers=layers)


def gradients(cls: Any, rank: int = 0, world: int = 1) -> list[float]:
    """Of the student and of the term's adaptors, averaged over processes as DDP does."""
    torch.manual_seed(4)
    student, teacher = Student().double(), Student().double()
    x, y = torch.randn(ROWS, 5).double(), torch.randn(ROWS, 5).double()
    loss = make(cls, teacher(y)).double()
    if any(isinstance(part, nn.BatchNorm2d) for part in loss.modules()):
        loss.eval()  # in training, Trainer(sync_batchnorm=True) does it, on GPUs only
    mine = slice(rank * ROWS // world, (rank + 1) * ROWS // world)
    batch: Any = make_batch(("image", "text"), ROWS)
    batch["in_target_domain"] = torch.arange(ROWS) % 4 == 1  # three of the source to one of the target
    batch["target"][batch["in_target_domain"]] = UNLABELLED
    batch = {k: batch[k][mine] for k in ("target", "sample_id", "in_target_domain")} | {
        "present": {m: p[mine] for m, p in batch["present"].items()}
    }
    with torch.no_grad():
        answer = teacher(y[mine])
    loss(student(x[mine]), replace(answer), batch).backward()
    found = [p.grad for p in (*student.parameters(), *loss.parameters()) if p.grad is not None]
    flat = torch.cat([g.flatten() for g in found])
    if world > 1:
        dist.all_reduce(flat)
    return (flat / world).tolist()


def make(cls: Any, output: ModelOutput) -> DistillationLoss:
    wanted = {"gather": True, "hidden": (9,)}.items()
    loss = build(cls, **{k: v for k, v in wanted if k in inspect.signature(cls).parameters})
    names = (loss.student_layers, loss.teacher_layers)
    loss.adapt(*(tuple(tuple(output.at(n).shape[1:]) for n in side) for side in names))  # type: ignore[arg-type]
    loss.begin_step(step=500, epoch=1)
    return loss


def work(rank: int, folder: Path) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "RANK": str(rank), "WORLD_SIZE": "2"}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=2)
    found = {cls.__name__: gradients(cls, rank, 2) for cls in concrete("losses")}
    (folder / f"rank{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


def main(folder: Path) -> None:
    torch.multiprocessing.start_processes(work, (folder,), nprocs=2, start_method="fork")
