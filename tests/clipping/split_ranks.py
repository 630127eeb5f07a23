"""Every clip rule on gradients of which two processes hold parts; run by `test_split.py`."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, ShardingStrategy, fully_shard
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate, Shard
from torch.distributed.tensor.placement_types import _StridedShard

from lightning_distill.clipper import split_group
from lightning_distill.clipping import AdaptiveClip, ClipRule, NormClip, ValueClip
from lightning_distill.errors import DistillError
from lightning_distill.gradients import gradients_of
from tests.shelves import build, concrete

SHAPES = {
    "encoders.a.uneven": (5, 3),
    "encoders.a.filters": (4, 2, 3),
    "encoders.a.of_one_process": (1, 3),
    "encoders.b.vector": (3,),
    "encoders.b.even": (6, 4),
    "head.scalar": (),
    "a": (4,),
}
STEPS = 4
BAD_STEP = 2
"""With one infinite entry, which only one process holds."""

Layout = Callable[[str, Tensor], Tensor]
Found = dict[str, Any]


class Model(nn.Module):
    """An encoder to shard beside a head that stays plain."""

    def __init__(self) -> None:
        super().__init__()
        encoder = nn.Sequential(
            nn.Conv2d(2, 5, 3), nn.Flatten(), nn.Linear(45, 7), nn.Tanh(), nn.Linear(7, 1)
        )
        self.encoders = nn.ModuleDict({"a": encoder, "b": nn.Linear(2, 2)})
        self.head, self.a = nn.Linear(3, 3), nn.Parameter(torch.ones(2))

    def forward(self, image: Tensor, vector: Tensor) -> Tensor:
        features = [self.encoders["a"](image), self.a * self.encoders["b"](vector)]
        return self.head(torch.cat(features, dim=1))


def tensors(step: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Weights and gradients."""
    generator = torch.Generator().manual_seed(step)
    draw = partial(torch.randn, generator=generator)
    found = {name: (draw(shape), 10**step * draw(shape)) for name, shape in SHAPES.items()}
    if step == BAD_STEP:
        found["encoders.a.uneven"][1][0, 1] = torch.inf
    return found


def clipped(cls: Any, layout: Layout | None = None, split_over: Any = None) -> Found:
    """Gradients, reports and errors after each step."""
    rule, steps = build(cls), []
    for step in range(STEPS):
        named = {}
        for name, (weight, grad) in tensors(step).items():
            named[name] = nn.Parameter(layout(name, weight) if layout else weight)
            named[name].grad = layout(name, grad) if layout else grad
        steps.append(one_step(rule, named, step, split_over))
    return {"steps": steps}


def trained(cls: Any, mesh: DeviceMesh | None = None) -> Found:
    """The same with gradients of a real backward pass, the encoders under `fully_shard`."""
    torch.manual_seed(0)
    rule, model, steps = build(cls), Model(), []
    data = torch.randn(4, 2, 5, 5), torch.randn(4, 2)
    if mesh is not None:
        for encoder in model.encoders.values():
            fully_shard(encoder, mesh=mesh)
    for step in range(STEPS):
        model.zero_grad()
        model(*data).square().mean().mul(10**step).backward()
        steps.append(one_step(rule, dict(model.named_parameters()), step, None))
    return {"steps": steps}


def trained_by_fsdp1(cls: Any) -> Found:
    """The same under FSDP1: of some parameters a process has no entry, and so no gradient."""
    torch.manual_seed(0)
    rule, plain, steps = build(cls), Model(), []
    data = torch.randn(4, 2, 5, 5), torch.randn(4, 2)
    options = {"use_orig_params": True, "device_id": torch.device("cpu")}
    for name, encoder in plain.encoders.items():
        plain.encoders[name] = FullyShardedDataParallel(encoder, **options)  # type: ignore[arg-type]
    model = FullyShardedDataParallel(plain, **options)  # type: ignore[arg-type]
    for step in range(STEPS):
        model.zero_grad()
        model(*data).square().mean().mul(10**step).backward()
        named = {n.replace("_fsdp_wrapped_module.", ""): p for n, p in model.named_parameters()}
        missing = [n for n, p in named.items() if p.grad is None]
        found = one_step(rule, named, step, dist.group.WORLD)
        if not found["error"]:
            found["grads"] |= {n: (torch.zeros(0), 0) for n in missing}
        steps.append(found | {"missing": missing})
    return {"steps": steps}


def one_step(rule: ClipRule, named: dict[str, nn.Parameter], step: int, split_over: Any) -> Found:
    try:
        report = rule.clip(named, step=step, split_over=split_over)
    except DistillError as error:
        return {"error": str(error), "grads": {}, "values": {}, "skip": None}
    flat = split_over is not None
    grads = {name: part_of(p.grad, flat) for name, p in named.items() if p.grad is not None}
    skip = None if report.skip is None else bool(report.skip)
    values = {name: float(value) for name, value in report.values.items()}
    return {"error": "", "grads": grads, "values": values, "skip": skip}


def part_of(grad: Tensor, flat: bool) -> tuple[Tensor, int | None]:
    """This process's part, and along which dimension the other has more; None where this is all."""
    if not isinstance(grad, DTensor):
        return grad, 0 if flat else None
    dims = [placement.dim for placement in grad.placements if not placement.is_replicate()]
    return grad.to_local(), dims[0] if dims else None


def spread(mesh: DeviceMesh, x: Tensor, placements: Sequence[Placement]) -> Tensor:
    """A DTensor, without asking the other process; the one mesh dimension of size 2 may cut it."""
    for size, placement in zip(mesh.shape, placements, strict=True):
        if size == 2 and not placement.is_replicate():
            chunks = x.chunk(2, placement.dim)
            local = (
                chunks[dist.get_rank()] if dist.get_rank() < len(chunks) else x.narrow(placement.dim, 0, 0)
            )
            return _dtensor(mesh, local, placements, x)
    return _dtensor(mesh, x, placements, x)


def _dtensor(mesh: DeviceMesh, local: Tensor, placements: Sequence[Placement], x: Tensor) -> Tensor:
    local = local.contiguous().clone()
    return DTensor.from_local(local, mesh, placements, run_check=False, shape=x.shape, stride=x.stride())


def make_layouts() -> Mapping[str, Layout]:
    line = init_device_mesh("cpu", (2,))
    wide = init_device_mesh("cpu", (1, 2), mesh_dim_names=("replicate", "shard"))
    tall = init_device_mesh("cpu", (2, 1), mesh_dim_names=("data", "tensor"))

    def rows(name: str, x: Tensor) -> Tensor:
        return spread(line, x, [Shard(0) if x.ndim else Replicate()])

    def columns(name: str, x: Tensor) -> Tensor:
        return spread(line, x, [Shard(x.ndim - 1) if x.ndim else Replicate()])

    def hybrid(name: str, x: Tensor) -> Tensor:
        return spread(wide, x, [Replicate(), Shard(0) if x.ndim else Replicate()])

    def strided(name: str, x: Tensor) -> Tensor:
        """As FSDP2 over tensor parallelism leaves it."""
        return spread(tall, x, [_StridedShard(0, split_factor=1) if x.ndim else Replicate(), Replicate()])

    def mixed(name: str, x: Tensor) -> Tensor:
        """Beside plain tensors, which torch's own functions refuse."""
        return rows(name, x) if list(SHAPES).index(name) % 2 else x.clone()

    def meshes(name: str, x: Tensor) -> Tensor:
        """Some tensors on one mesh and some on another, which torch's own functions refuse too."""
        return (rows, hybrid)[list(SHAPES).index(name) % 2](name, x)

    def flat(name: str, x: Tensor) -> Tensor:
        """As FSDP1 with `use_orig_params`: cut anywhere."""
        cut = x.numel() // 3
        return x.flatten()[:cut] if dist.get_rank() == 0 else x.flatten()[cut:]

    return {f.__name__: f for f in (rows, columns, hybrid, strided, mixed, meshes, flat)}


def groups_under_fsdp1() -> dict[str, int | None]:
    """How many processes have parts of one tensor, and how many the rule is told of."""
    found: dict[str, int | None] = {}
    for name, shape in {"FULL_SHARD": None, "NO_SHARD": None, "HYBRID_SHARD": (2, 1)}.items():
        mesh = None if shape is None else init_device_mesh("cpu", shape, mesh_dim_names=("copies", "parts"))
        options: dict[str, Any] = {"device_id": torch.device("cpu"), "device_mesh": mesh}
        sharding = ShardingStrategy[name]
        model = FullyShardedDataParallel(nn.Linear(3, 3), None, sharding, use_orig_params=True, **options)
        group = split_group(nn.Sequential(model))
        found[name] = None if group is None else group.size()
    return found | {"plain": split_group(nn.Linear(3, 3))}


def collectives(cls: Any, layout: Layout) -> int:
    """How often a rule asks the other process in one step."""
    rule, count, real = build(cls), [0], dist.all_reduce

    def counted(*args: Any, **options: Any) -> Any:
        count[0] += 1
        return real(*args, **options)

    named = {name: nn.Parameter(layout(name, weight)) for name, (weight, _) in tensors(0).items()}
    for name, (_, grad) in tensors(0).items():
        named[name].grad = layout(name, grad)
    dist.all_reduce = counted
    rule.clip(named, step=0)
    dist.all_reduce = real
    return count[0]


def partial_gradient() -> str:
    mesh = init_device_mesh("cpu", (2,))
    weight = nn.Parameter(spread(mesh, torch.ones(2), [Replicate()]))
    weight.grad = DTensor.from_local(torch.ones(2), mesh, [Partial()])
    try:
        gradients_of({"w": weight})
    except DistillError as error:
        return str(error)
    return ""


def work(rank: int, folder: Path) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "RANK": str(rank), "WORLD_SIZE": "2"}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=2)
    found: Found = {"partial": partial_gradient(), "groups": groups_under_fsdp1()}
    mesh, layouts = init_device_mesh("cpu", (2,)), make_layouts()
    for cls in (ValueClip, NormClip, AdaptiveClip):
        found[f"asked by {cls.__name__}"] = collectives(cls, layouts["rows"])
    for cls in concrete("clipping"):
        found[f"trained {cls.__name__}"] = trained(cls, mesh)
        found[f"fsdp1 {cls.__name__}"] = trained_by_fsdp1(cls)
        for name, layout in layouts.items():
            group = dist.group.WORLD if name == "flat" else None
            found[f"{name} {cls.__name__}"] = clipped(cls, layout, group)
    torch.save(found, folder / f"rank{rank}.pt")
    dist.destroy_process_group()


def main(folder: Path) -> None:
    import torch._dynamo  # by DTensors anyway: once, before there are two

    torch.multiprocessing.start_processes(work, (folder,), nprocs=2, start_method="fork")
