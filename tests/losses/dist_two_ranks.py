"""DIST on two processes that hold half of a batch each; run by `test_dist.py`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed
from torch import multiprocessing

from lightning_distill.losses import DIST
from lightning_distill.structures import ModelOutput


def work(rank: int, folder: str) -> None:
    torch.distributed.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=2)
    half = slice(3 * rank, 3 * rank + 3)
    # As `logit_checks.draw`, which would import more than is needed here.
    s, t = (torch.from_numpy(2 * np.random.default_rng(i).normal(size=(6, 5)))[half] for i in (0, 1))
    s.requires_grad_()
    batch: Any = {}
    gathered, alone = (loss(ModelOutput(s), ModelOutput(t), batch) for loss in (DIST(gather=True), DIST()))
    (gradient,) = torch.autograd.grad(gathered, s)
    report = {"gathered": gathered.item(), "alone": alone.item(), "gradient": gradient.tolist()}
    (Path(folder) / f"rank{rank}.json").write_text(json.dumps(report))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    multiprocessing.start_processes(work, args=(sys.argv[1],), nprocs=2, start_method="fork")
