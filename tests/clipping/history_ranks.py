"""Rules with history on gradients that two processes hold parts of; run by `test_history.py`."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

from lightning_distill.clipping import AdaGC, AutoClip, ClipRule, SpikeClip, ZClip

SHAPES = {"even": (4, 3), "uneven": (3,), "on_one_process": (1, 2), "scalar": ()}


RULES: Mapping[str, Callable[[], ClipRule]] = {
    "auto_clip": lambda: AutoClip(percentile=50, window=7),
    "z_clip": lambda: ZClip(alpha=0.9, threshold=1.0, warmup=3),
    "ada_gc": lambda: AdaGC(max_norm=0.9, decay=0.9, warmup=3),
    "spike": lambda: SpikeClip(theta=4.0, decay=0.8, warmup=3),
}


def steps() -> list[dict[str, Tensor]]:
    """One of them with a NaN that only one process holds."""
    generator = torch.Generator().manual_seed(0)
    found = [
        {n: torch.randn(s, generator=generator) * math.exp(4 * (i % 3)) for n, s in SHAPES.items()}
        for i in range(12)
    ]
    found[5]["on_one_process"][0, 0] = math.nan
    return found


def clipped(name: str, mesh: DeviceMesh | None = None) -> list[list[float]]:
    """Whole gradients after each step; half-way the rule is made anew from its own state."""
    rule, found = RULES[name](), []
    for i, step in enumerate(steps()):
        if i == 7:
            state, rule = rule.state_dict(), RULES[name]()
            rule.load_state_dict(state)
        weights = {n: nn.Parameter(torch.zeros_like(split(g, mesh))) for n, g in step.items()}
        for n, weight in weights.items():
            weight.grad = split(step[n], mesh)
        rule.clip(weights, step=i)
        found.append([x for w in weights.values() for x in whole(w.grad).flatten().tolist()])
    return found


def split(tensor: Tensor, mesh: DeviceMesh | None) -> Tensor:
    if mesh is None:
        return tensor.clone()
    return distribute_tensor(tensor, mesh, [Shard(0) if tensor.ndim else Replicate()])


def whole(tensor: Tensor | None) -> Tensor:
    assert tensor is not None
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def work(rank: int, folder: Path) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "RANK": str(rank), "WORLD_SIZE": "2"}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    (folder / f"rank{rank}.json").write_text(json.dumps({name: clipped(name, mesh) for name in RULES}))
    dist.destroy_process_group()


def main(folder: Path) -> None:
    torch.multiprocessing.start_processes(work, (folder,), nprocs=2, start_method="fork")
