"""What DDP does for the parameters it wraps, for those it does not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor, nn

if TYPE_CHECKING:
    from lightning.pytorch import Trainer


def alone() -> bool:
    """Whether there is one process only."""
    return not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1)


@contextmanager
def first_process_first(trainer: Trainer) -> Iterator[None]:
    """Let the first process do something before all others do it too, such as what leaves a file behind."""
    if not trainer.is_global_zero:
        trainer.strategy.barrier()
    try:
        yield
    finally:  # also at an error, which the others then meet themselves instead of waiting
        if trainer.is_global_zero:
            trainer.strategy.barrier()


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace each gradient by its mean over all processes.

    Doing it once more changes nothing, so it may follow each backward pass of an accumulation. A parameter
    without a gradient on some process counts as 0 there; one without any stays without.

    Args:
        parameters: The same on every process, in the same order.
    """
    trained = list(parameters)
    if alone() or not trained:
        return
    pieces = [torch.zeros_like(p) if p.grad is None else p.grad for p in trained]
    there = pieces[0].new_tensor([p.grad is not None for p in trained], dtype=torch.float32)
    flat = torch.cat([piece.float().flatten() for piece in pieces] + [there])
    dist.all_reduce(flat)
    sums, counts = flat[: -len(trained)] / dist.get_world_size(), flat[-len(trained) :].tolist()
    split = sums.split([p.numel() for p in trained])
    for parameter, mean, count in zip(trained, split, counts, strict=True):
        if count:
            parameter.grad = mean.view_as(parameter).to(parameter.dtype)


def average(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The mean of each tensor over all processes, in one exchange.

    Args:
        tensors: Of the same shapes on every process.
    """
    if alone() or not tensors:
        return list(tensors)
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    dist.all_reduce(flat)
    means = (flat / dist.get_world_size()).split([tensor.numel() for tensor in tensors])
    return [mean.view_as(tensor) for mean, tensor in zip(means, tensors, strict=True)]


def same_everywhere(tensors: Iterable[Tensor]) -> None:
    """Give every process what the first has, in place."""
    if not alone():
        for tensor in tensors:
            dist.broadcast(tensor.data, src=0)


def gathered(text: str, device: torch.device) -> list[str]:
    """What every process says, by rank.

    Args:
        text: Of this process.
        device: That collectives run on.
    """
    if alone():
        return [text]
    said = torch.tensor(list(text.encode()), dtype=torch.uint8, device=device)
    sizes = [torch.zeros(1, dtype=torch.int64, device=device) for _ in range(dist.get_world_size())]
    dist.all_gather(sizes, torch.tensor([said.numel()], device=device))
    counts = [int(size) for size in sizes]
    parts = [said.new_zeros(max(counts)) for _ in counts]
    dist.all_gather(parts, torch.nn.functional.pad(said, (0, max(counts) - said.numel())))
    return [bytes(part[:n].tolist()).decode() for part, n in zip(parts, counts, strict=True)]
