"""Three epochs of every balancer with half of each batch in each of two processes; run by `test_contract.py`.

Also imported by it, to do the same in one process with whole batches.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from lightning_distill.gradient_balancing.base import inner_products
from lightning_distill.gradient_balancing.ogm_ge import _add_noise, _deviations
from lightning_distill.gradients import Gradients, gradients_of
from tests.gradient_balancing.parts import CLASSES, ROWS, Student, inputs_of, view_of, weighted_of
from tests.shelves import build, concrete


def average(values: Tensor) -> Tensor:
    if dist.is_initialized():
        values = values.clone()
        dist.all_reduce(values)
        return values / dist.get_world_size()
    return values


def steps(cls: Any, rank: int = 0, world: int = 1) -> list[Tensor]:
    """Gradients of every step, in one piece, then what the balancer remembers."""
    balancer = build(cls)
    torch.manual_seed(5)
    student, made = Student().double(), []
    mine = slice(rank * ROWS // world, (rank + 1) * ROWS // world)
    target = torch.arange(ROWS) % CLASSES
    for epoch in range(3):
        for i in range(2):
            inputs = {m: x.double()[mine] for m, x in inputs_of(("a", "b")).items()}
            balancer.train()
            view = view_of(student, inputs, target[mine], step=2 * epoch + i, epoch=epoch)
            made.append(_balanced(balancer, student, view))
        validation = {m: x.double() for m, x in inputs_of(("a", "b")).items()}
        if balancer.reads_validation:
            balancer.eval()
            # Processes need not have the same number of batches here.
            for part in [mine] if rank or world == 1 else [slice(0, 2), slice(2, ROWS // 2)]:
                with torch.no_grad():
                    seen = view_of(student, {m: x[part] for m, x in validation.items()}, target[part])
                    balancer.terms({"task": seen.logits.sum()}, seen)
        balancer.end_epoch(average)
    return [*made, *(value.double() for value in balancer.state_dict().values())]


def _balanced(balancer: Any, student: Any, view: Any) -> Tensor:
    """One step; gradients, of the sum and of each term, averaged as DDP does."""
    terms = balancer.terms(weighted_of(view), view)
    named = dict(student.named_parameters())

    def of(term: Tensor) -> list[Tensor | None]:
        found = torch.autograd.grad(term, list(named.values()), retain_graph=True, allow_unused=True)
        return [None if g is None else average(g) for g in found]

    for parameter, grad in zip(named.values(), of(torch.stack(list(terms.values())).sum()), strict=True):
        parameter.grad = grad
    with torch.no_grad():
        by_term = {name: of(term) for name, term in terms.items()} if balancer.per_term_gradients else {}
        balancer.balance(gradients_of(named, view.step, view.epoch), by_term)
    return torch.cat([p.grad.flatten() for p in named.values() if p.grad is not None])


def of_parts(rank: int = 0, world: int = 1) -> list[Tensor]:
    """Deviations and inner products of gradients that are split by rows, then the noise on them."""
    torch.manual_seed(9)
    whole = [torch.randn(4, 3) + 2, torch.randn(6), torch.randn(2, 5)]
    other = [torch.randn_like(g) for g in whole]
    split = (0, 1)
    parts = [g.chunk(world)[rank].clone() if i in split else g.clone() for i, g in enumerate(whole)]
    beside = [g.chunk(world)[rank] if i in split else g for i, g in enumerate(other)]
    splits = ((dist.group.WORLD, split),) if world > 1 else ()
    weights = tuple(torch.nn.Parameter(g.clone()) for g in parts)
    gradients = Gradients(("x", "y", "z"), weights, tuple(parts), splits=splits)
    deviations = _deviations(gradients)
    found = [deviations, inner_products(gradients, [parts, beside, [None, *beside[1:]]])]
    _add_noise(gradients, deviations, seed=3)
    return [*found, *(new - old.chunk(world)[rank] for new, old in zip(parts[:2], whole, strict=False))]


def work(rank: int, folder: Path) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "RANK": str(rank), "WORLD_SIZE": "2"}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=2)
    found = {cls.__name__: steps(cls, rank, 2) for cls in concrete("gradient_balancing")}
    torch.save(found | {"parts": of_parts(rank, 2)}, folder / f"rank{rank}.pt")
    dist.destroy_process_group()


def main(folder: Path) -> None:
    torch.multiprocessing.start_processes(work, (folder,), nprocs=2, start_method="fork")
