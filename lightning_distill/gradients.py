"""The gradients one optimizer is about to step with, as rules, balancers and telemetry see them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lightning_distill.errors import ConfigError
from lightning_distill.norms import scaled_norm, tensor_norms, unit_of, widest

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
        without: Names of the parameters that have no gradient now.
    """

    names: tuple[str, ...]
    parameters: tuple[nn.Parameter, ...]
    local: tuple[Tensor, ...]
    step: int = 0
    epoch: int = 0
    fresh: bool = True
    splits: tuple[tuple[Any, tuple[int, ...]], ...] = field(default=(), repr=False)
    without: tuple[str, ...] = field(default=(), repr=False)

    def __len__(self) -> int:
        return len(self.local)

    @property
    def device(self) -> torch.device:
        """Where the first gradient is."""
        return self.local[0].device

    def select(self, keep: Callable[[str], bool]) -> Gradients:
        """Those whose names are kept."""
        kept = [i for i, name in enumerate(self.names) if keep(name)]
        if len(kept) == len(self) and all(keep(name) for name in self.without):
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
            tuple(name for name in self.without if keep(name)),
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
            largest: Take the largest instead of the sum; NaN counts as infinite, since a maximum over
                processes may lose it.

        Returns:
            The same shape. The values themselves where nothing is split.
        """
        if not self.splits:
            return values
        lossy = largest and values.is_floating_point()
        values = values.masked_fill(values.isnan(), math.inf) if lossy else values.clone()
        for group, at in self.splits:
            # A list as index would be copied to the device, and waited for.
            rows = torch.tensor(at).to(values.device, non_blocking=True)
            part = values.index_select(0, rows)
            dist.all_reduce(part, dist.ReduceOp.MAX if largest else dist.ReduceOp.SUM, group)
            values.index_copy_(0, rows, part)
        return values

    def norms(self, p: float = 2.0) -> Tensor:
        """The p-norm of each whole gradient, on one device.

        Powers that leave the range of float32 are followed: the norm of finite gradients is finite.

        Args:
            p: 1 or more; infinity is the largest absolute value.

        Returns:
            "tensors", float64 (float32 on devices that have no other).
        """
        device = self.device
        found = torch.stack([norm.to(device) for norm in tensor_norms(self.local, p)])
        if not self.splits:
            return found
        if p == math.inf:
            return self.total(found, largest=True)
        unit = unit_of(self.total(found, largest=True)) if p > 2 else torch.ones_like(found)
        return unit * self.total((found / unit) ** p) ** (1 / p)

    def norm(self, p: float = 2.0) -> Tensor:
        """The p-norm of all gradients together, 0-d; as precise as `norms`.

        Args:
            p: 1 or more, or infinity.
        """
        norms = self.norms(p)
        if p == math.inf or (p <= 2 and norms.dtype == torch.float64):
            return torch.linalg.vector_norm(norms, p)
        return scaled_norm(norms, p)

    def sizes(self) -> Tensor:
        """How many entries each whole gradient has: "tensors", of the type of `norms`, on one device."""
        found = torch.tensor([g.numel() for g in self.local], dtype=widest(self.device))
        return self.total(found.to(self.device, non_blocking=True))

    def scale(self, factor: Tensor) -> None:
        """Multiply gradients in place; a factor of 1 leaves every bit as it is.

        Args:
            factor: 0-d, for all gradients; or "tensors", one for each.
        """
        if not factor.ndim:
            self._scale_alike(factor)
        elif factor.device.type == "cpu":
            # Numbers cost no wait here, and save the pass over what stays as it is.
            pairs = zip(self.local, factor.tolist(), strict=True)
            changed = [(grad, number) for grad, number in pairs if number != 1.0]
            if changed:
                torch._foreach_mul_([grad for grad, _ in changed], [number for _, number in changed])
        else:
            for grad, one in zip(self.local, factor.unbind(), strict=True):
                grad.mul_(one.to(grad.device))

    def _scale_alike(self, factor: Tensor) -> None:
        if factor.device.type == "cpu" and factor.item() == 1.0:
            return
        alike: dict[Any, list[Tensor]] = {}
        for grad in self.local:
            wide = torch.promote_types(grad.dtype, torch.float32)
            alike.setdefault((grad.device, wide), []).append(grad)
        for (device, dtype), grads in alike.items():
            torch._foreach_mul_(grads, factor.to(device, dtype))


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
            FSDP1 gives no gradient to a parameter of which this process has no entry: it counts as one of
            zeros, so that all processes speak of the same gradients in the same order.

    Raises:
        ConfigError: If a gradient is sparse or complex.
    """
    seen: set[int] = set()
    names: list[str] = []
    without: list[str] = []
    owners, local = list[nn.Parameter](), list[Any]()
    split: dict[Any, list[int]] = {}
    for name, parameter in _named(parameters):
        if id(parameter) in seen:
            continue
        seen.add(id(parameter))
        grad = parameter.grad
        if grad is None and split_over is not None and parameter.requires_grad:
            grad = torch.zeros_like(parameter.detach())
        if grad is None:
            without.append(name)
            continue
        # Most are plain tensors, and asking one for what it has not costs as much as clipping a small one.
        plain = type(grad) is Tensor
        _refuse_unusual(name, grad, () if plain else getattr(grad, "placements", ()))
        for group in (() if plain else _groups(grad)) or (() if split_over is None else (split_over,)):
            split.setdefault(group, []).append(len(names))
        names.append(name)
        owners.append(parameter)
        local.append(grad.to_local() if not plain and hasattr(grad, "to_local") else grad)
    splits = tuple((group, tuple(at)) for group, at in split.items())
    where = (step, epoch, fresh, splits, tuple(without))
    return Gradients(tuple(names), tuple(owners), tuple(local), *where)


def _named(parameters: Any) -> Iterator[tuple[str, nn.Parameter]]:
    if isinstance(parameters, Mapping):
        yield from parameters.items()
        return
    for i, given in enumerate(parameters):
        yield given if isinstance(given, tuple) else (str(i), given)


def _refuse_unusual(name: str, grad: Any, placements: Sequence[Any]) -> None:
    kind = "complex" if grad.is_complex() else "sparse" if grad.layout is not torch.strided else ""
    if kind or placements:
        fix = "set sparse=False on the embedding" if kind == "sparse" else "leave it out of the optimizer"
        if any(placement.is_partial() for placement in placements):
            kind, fix = "partial", "add it up over the processes first: grad.redistribute(placements=...)"
    if kind:
        raise ConfigError(
            where=f"gradient of {name!r}",
            found=f"a {kind} gradient",
            expected="dense gradients of real numbers, added up over the processes",
            fix=fix,
        )


def _groups(grad: Any) -> Sequence[Any]:
    """The process groups a DTensor is split over; none for a plain or a replicated tensor."""
    if not hasattr(grad, "device_mesh"):
        return ()
    mesh = grad.device_mesh
    return [mesh.get_group(i) for i, placement in enumerate(grad.placements) if not placement.is_replicate()]
