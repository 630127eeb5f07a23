"""Every head under DDP, where each process lacks another modality in all its samples; run by `test_ranks.py`.

Also imported by it, to find the same gradients in one process with the whole batch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from lightning_distill.structures import Batch
from tests.builders import make_batch, make_model
from tests.shelves import concrete

ROWS = 6
LACKING = {"a": range(ROWS // 2), "b": range(ROWS // 2, ROWS)}
"""The first process has no sample with "a", the second none with "b"."""


def whole_batch() -> Batch:
    """In float64."""
    batch = make_batch(("a", "b"), ROWS, LACKING)
    vectors: dict[str, Any] = {m: x.double() for m, x in batch["inputs"].items() if isinstance(x, Tensor)}
    return {**batch, "inputs": vectors}


def part_of(batch: Batch, rows: slice) -> Any:
    """Some rows."""
    found: dict[str, Any] = {k: {m: x[rows] for m, x in batch[k].items()} for k in ("inputs", "present")}  # type: ignore[literal-required]
    return found


def gradients(cls: Any, rank: int = 0, world: int = 1) -> dict[str, Tensor | None]:
    """Of every parameter, by name; in two processes as DDP averages them."""
    torch.manual_seed(4)
    model = make_model(fusion=cls).double().eval()
    batch = part_of(whole_batch(), slice(rank * ROWS // world, (rank + 1) * ROWS // world))
    wrapped: Any = DistributedDataParallel(model) if world > 1 else model
    for _ in range(2):  # DDP finds out in the second step that the first has left something open
        model.zero_grad()
        wrapped(batch).logits.square().sum(dim=1).mean().backward()
    return {n: p.grad for n, p in model.named_parameters()}


def work(rank: int, folder: Path) -> None:
    """One of two processes."""
    torch.set_num_threads(1)
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    found = {cls.__name__: gradients(cls, rank, 2) for cls in concrete("fusion")}
    torch.save(found, folder / f"rank{rank}.pt")
    dist.destroy_process_group()


def main(folder: Path) -> None:
    """Both."""
    mp.start_processes(work, (folder,), nprocs=2, start_method="fork")
