"""The gradients one optimizer is about to step with, as rules, balancers and telemetry see them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lightning_distill.errors import ConfigError

Parameters = Iterable[nn.Parameter] | Iterable[tuple[str, nn.Parameter]]
"""As torch's optimizers take them: `parameters()` or `named_parameters()`."""


@dataclass(frozen=True)
class Gradients:
    """Gradients by name, in the order of the parameters; a parameter without one is not among them.

    Where parameters are split over processes, `local` holds this process's part, which is edited in place,
    and `total` puts together what was found on the parts.

    Attributes:
        names: Such as "encoders.image.conv.weight".
        parameters: Beside the names.
        local: Beside the names: each gradient, or this process's part of it. Editing it edits `.grad`.
        step: Optimizer steps taken.
        epoch: Epochs completed.
        fresh: Whether this step is seen for the first time, so that history may move. LBFGS asks several
            times in one step.
        splits: (Process group, which of the tensors are split over it).
    """

    names: tuple[str, ...]
    parameters: tuple[nn.Parameter, ...]
    local: tuple[Tensor, ...]
    step: int = 0
    epoch: int = 0
    fresh: bool = True
    splits: tuple[tuple[Any, tuple[int, ...]], ...] = field(default=(), repr=False)

    def __len__(self) -> int:
        return len(self.local)

    @property
    def device(self) -> torch.device:
        """Where the first gradient is."""
        return self.local[0].device

    def select(self, keep: Callable[[str], bool]) -> Gradients:
        """Those whose names are kept."""
        kept = [i for i, name in enumerate(self.names) if keep(name)]
        if len(kept) == len(self):
            return self
        place = {old: new for new, old in enumerate(kept)}
        splits = [(group, tuple(place[i] for i in at if i in place)) for group, at in self.splits]
        return Gradients(
            tuple(self.names[i] for i in kept),
            tuple(self.parameters[i] for i in kept),
            tuple(self.local[i] for i in kept),
            self.step,
            self.epoch,
            self.fresh,
            tuple((group, at) for group, at in splits if at),
        )

    def under(self, prefix: str) -> Gradients:
        """Those of one part of the model.

        Args:
            prefix: Such as "encoders.image".
        """
        return self.select(lambda name: name.startswith(f"{prefix}."))

    def total(self, values: Tensor, largest: bool = False) -> Tensor:
        """What was found on this process's parts, put together for whole tensors.

        Args:
            values: "tensors" or "tensors k", a row for each gradient; it is not changed.
            largest: Take the largest instead of the sum.

        Returns:
            The same shape. The values themselves where nothing is split.
        """
        if not self.splits:
            return values
        values = values.clone()
        for group, at in self.splits:
            part = values[list(at)]
            dist.all_reduce(part, dist.ReduceOp.MAX if largest else dist.ReduceOp.SUM, group)
            values[list(at)] = part
        return values

    def norms(self, p: float = 2.0) -> Tensor:
        """The p-norm of each whole gradient: float32 (or float64) "tensors", on one device."""
        dtype = torch.promote_types(torch.float32, max((g.dtype for g in self.local), key=_bits))
        found = torch.stack([_norm(g, p, dtype).to(self.device) for g in self.local])
        if not self.splits or p == float("inf"):
            return self.total(found, largest=True)
        return self.total(found**p) ** (1 / p)

    def norm(self, p: float = 2.0) -> Tensor:
        """The p-norm of all gradients together, 0-d."""
        return torch.linalg.vector_norm(self.norms(p), p)

    def scale(self, factor: Tensor) -> None:
        """Multiply all gradients in place.

        Args:
            factor: 0-d.
        """
        for grad in self.local:
            grad.mul_(factor.to(grad.device))


def gradients_of(
    parameters: Parameters | Mapping[str, nn.Parameter],
    step: int = 0,
    epoch: int = 0,
    fresh: bool = True,
    split_over: Any = None,
) -> Gradients:
    """Look at the gradients there are; a parameter given twice counts once.

    Args:
        parameters: What one optimizer steps.
        step: Optimizer steps taken.
        epoch: Epochs completed.
        fresh: Whether this step is seen for the first time.
        split_over: Process group over which plain tensors are split, as under FSDP1; FSDP2's tell themselves.

    Raises:
        ConfigError: If a gradient is sparse or complex.
    """
    found = {id(p): (n, p) for n, p in reversed(list(_named(parameters))) if p.grad is not None}
    pairs = list(reversed(found.values()))
    whole = [p.grad for _, p in pairs]
    for (name, _), grad in zip(pairs, whole, strict=True):
        _refuse_unusual(name, grad)
    split: dict[Any, list[int]] = {}
    for i, grad in enumerate(whole):
        for group in _groups(grad) or ([] if split_over is None else [split_over]):
            split.setdefault(group, []).append(i)
    return Gradients(
        tuple(name for name, _ in pairs),
        tuple(parameter for _, parameter in pairs),
        tuple(g.to_local() if hasattr(g, "to_local") else g for g in whole),  # type: ignore[union-attr, misc]
        step,
        epoch,
        fresh,
        tuple((group, tuple(at)) for group, at in split.items()),
    )


def _named(parameters: Any) -> Iterator[tuple[str, nn.Parameter]]:
    if isinstance(parameters, Mapping):
        yield from parameters.items()
        return
    for i, given in enumerate(parameters):
        yield given if isinstance(given, tuple) else (str(i), given)


def _refuse_unusual(name: str, grad: Any) -> None:
    kind = "sparse" if grad.layout != torch.strided else "complex" if grad.is_complex() else ""
    if kind:
        raise ConfigError(
            where=f"gradient of {name!r}",
            found=f"a {kind} gradient",
            expected="dense gradients of real numbers",
            fix="set sparse=False on the embedding" if kind == "sparse" else "leave it out of the optimizer",
        )


def _groups(grad: Any) -> Sequence[Any]:
    """The process groups a DTensor is split over; none for a plain or a replicated tensor."""
    if not hasattr(grad, "device_mesh"):
        return ()
    mesh = grad.device_mesh
    return [mesh.get_group(i) for i, placement in enumerate(grad.placements) if placement.is_shard()]


def _bits(dtype: torch.dtype) -> int:
    return torch.finfo(dtype).bits


def _norm(grad: Tensor, p: float, dtype: torch.dtype) -> Tensor:
    if not grad.numel():
        return grad.new_zeros((), dtype=dtype)
    return torch.linalg.vector_norm(grad, p, dtype=dtype)
