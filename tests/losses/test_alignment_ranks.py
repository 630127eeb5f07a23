"""Two processes that hold other shares of the two domains make the gradient of one with all rows."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from lightning_distill.losses import (
    CORAL,
    EntropyMinimisation,
    InformationMaximisation,
    MaximumMeanDiscrepancy,
    MinimumClassConfusion,
)
from tests.builders import make_batch
from tests.losses.two_ranks import Student
from tests.processes import needs_fork, run_apart

TERMS: dict[str, Any] = {
    "mmd": lambda: MaximumMeanDiscrepancy(gather=True),
    "unbiased mmd": lambda: MaximumMeanDiscrepancy(unbiased=True, gather=True),
    "mmd of an absent modality": lambda: MaximumMeanDiscrepancy("features.image", gather=True),
    "coral": lambda: CORAL(gather=True),
    "confusion": lambda: MinimumClassConfusion(gather=True),
    "entropy": lambda: EntropyMinimisation(gather=True),
    "information": lambda: InformationMaximisation(gather=True),
}
TARGET = torch.tensor([False, False, False, False, True, True, False, True])
"""The first process has no row of the target, and fewer rows."""
STARTS = {1: (0, 8), 2: (0, 3, 8)}
"""Processes -> where the rows of each begin, and where the last end."""


def gradients(name: str, rank: int = 0, world: int = 1) -> list[float]:
    """Of the student, averaged over processes as DDP does."""
    torch.manual_seed(4)
    student, rows = Student().double(), len(TARGET)
    x = torch.randn(rows, 5).double()
    mine = slice(*STARTS[world][rank : rank + 2])
    present = make_batch(("image", "text"), rows, {"image": (1, 5)})["present"]
    batch: Any = {"in_target_domain": TARGET[mine], "present": {m: p[mine] for m, p in present.items()}}
    TERMS[name]()(student(x[mine]), None, batch).backward()
    flat = torch.cat([p.grad.flatten() for p in student.parameters() if p.grad is not None])
    if world > 1:
        dist.all_reduce(flat)
    return (flat / world).tolist()


def work(rank: int, folder: Path) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "RANK": str(rank), "WORLD_SIZE": "2"}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=2)
    found = {name: gradients(name, rank, 2) for name in TERMS}
    (folder / f"rank{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


def main(folder: Path) -> None:
    torch.multiprocessing.start_processes(work, (folder,), nprocs=2, start_method="fork")


@needs_fork
def test_gathered_rows_are_one_batch(tmp_path: Path) -> None:
    run_apart(main, tmp_path)
    ranks = [json.loads((tmp_path / f"rank{r}.json").read_text()) for r in (0, 1)]
    for name in TERMS:
        expected = gradients(name)
        assert max(map(abs, expected)) > 1e-4, name
        for rank in ranks:
            assert rank[name] == pytest.approx(expected, rel=1e-9, abs=1e-12), name
