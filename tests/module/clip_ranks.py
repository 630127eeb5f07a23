"""Every cell of the matrix on two processes; run by `test_clip_matrix.py`."""

from __future__ import annotations

import os
from pathlib import Path

import torch
import torch.multiprocessing as mp

from tests.module.clip_cases import cases, in_lightning


def main(folder: Path) -> None:
    """Write the weights of every case, a file a rank; the folder holds a free port."""
    torch.set_num_threads(1)
    mp.start_processes(_rank, args=(folder,), nprocs=2, start_method="fork")  # type: ignore[no-untyped-call]


def _rank(rank: int, folder: Path) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "WORLD_SIZE": "2", "NODE_RANK": "0"}
    os.environ |= {"MASTER_PORT": (folder / "port").read_text(), "LOCAL_RANK": str(rank), "RANK": str(rank)}
    found = {
        str(case): in_lightning(case, folder / "runs", rank, devices=2, strategy="ddp") for case in cases(2)
    }
    torch.save(found, folder / f"rank{rank}.pt")
