"""Where values first were not finite: found by running a batch once more, with somebody at every layer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import fields, is_dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from lightning_distill.ranks import alone
from lightning_distill.structures import Batch
from lightning_distill.teachers import Teacher

if TYPE_CHECKING:
    from lightning.pytorch import Trainer


class Origin(NamedTuple):
    """Where it began.

    Attributes:
        places: In words, such as "layer 'encoders.image.conv1' of the teacher"; none where nobody can tell.
        rows: bool "batch", the samples concerned; None where that cannot be told.
    """

    places: tuple[str, ...]
    rows: Tensor | None


NOWHERE = Origin((), None)


def origin_of(
    batch: Batch, models: Mapping[str, nn.Module], answers: Callable[[], Mapping[str, Any]]
) -> Origin:
    """Run a batch again and see which layer was the first whose output is not finite, of finite inputs.

    Buffers and the CPU's random numbers are as before afterwards.

    Args:
        batch: What was answered.
        models: Name -> model, such as "student".
        answers: Has them answer again, as in training; name -> answer.
    """
    found = _in_batch(batch)
    if found.places:
        return found
    size = len(batch["sample_id"])
    with _undisturbed(models.values()), _Watch(models, size) as watch:
        told = answers()
    firsts = [watch.firsts[name] for name in models if name in watch.firsts]
    for name, answer in told.items():
        known = any(first == name or first.startswith(f"{name} ") for first in watch.firsts)
        if not known and (bad := [x for x in _tensors(answer) if not _finite(x)]):
            firsts.append(Origin((f"the answer of the {name}",), _rows(bad, size)))
    rows = [first.rows for first in firsts if first.rows is not None]
    return Origin(
        tuple(chain.from_iterable(first.places for first in firsts)) or ("a term; all answers are finite",),
        torch.stack(rows).any(dim=0) if rows and len(rows) == len(firsts) else None,
    )


def searched(
    batch: Batch,
    models: Mapping[str, nn.Module],
    answers: Callable[[], Mapping[str, Any]],
    trainer: Trainer,
    late: bool,
) -> Origin:
    """`origin_of` in the middle of a training, where that is possible.

    Args:
        batch: What was answered.
        models: Name -> model.
        answers: Has them answer again, as in training.
        trainer: Knows the precision.
        late: Whether weights may have been updated since.
    """
    if late and any(not _finite(p) for model in models.values() for p in model.parameters()):
        return NOWHERE
    if not can_run_alone(models):
        return NOWHERE
    try:
        with trainer.precision_plugin.train_step_context():
            return origin_of(batch, models, answers)
    except Exception:  # what is looked into is to be told, whatever happens to who looks
        return NOWHERE


def models_of(teacher: Teacher | None) -> dict[str, nn.Module]:
    """The torch models a teacher has at the moment, by names to call them in errors; none of one on disk."""
    found: dict[str, nn.Module] = {}
    _collect(teacher, "teacher", found)
    return found


def _collect(value: Any, name: str, found: dict[str, nn.Module]) -> None:
    if isinstance(value, nn.Module):
        if not any(value is part for model in found.values() for part in model.modules()):
            found[name if name not in found else f"{name} {len(found)}"] = value
    elif isinstance(value, Teacher):
        for inner in vars(value).values():
            _collect(inner, name, found)
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            _collect(inner, f"{name} {key}", found)
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            _collect(inner, f"{name} {number}", found)


def can_run_alone(models: Mapping[str, nn.Module]) -> bool:
    """Whether no layer would wait for other processes, which do not run the batch again.

    Args:
        models: Name -> model.
    """
    if alone():
        return True
    from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel

    waiting = (nn.SyncBatchNorm, FSDPModule, FullyShardedDataParallel)
    return not any(isinstance(part, waiting) for model in models.values() for part in model.modules())


def _in_batch(batch: Batch) -> Origin:
    """What is not finite in the batch itself; what stands in the place of an absent modality may be."""
    size = len(batch["sample_id"])
    places, rows = [], torch.zeros(size, dtype=torch.bool)
    sides = {"input": batch["inputs"], "the teacher's input": batch.get("teacher_inputs", {})}
    for word, inputs in sides.items():
        for modality, value in inputs.items():
            there = batch["present"].get(modality)
            bad = torch.zeros(size, dtype=torch.bool)
            for x in _tensors(value):
                bad |= ~x.isfinite().flatten(1).all(dim=1).cpu()
            bad &= torch.ones(size, dtype=torch.bool) if there is None else there.cpu()
            if bad.any():
                places.append(f"{word} {modality!r}")
                rows |= bad
    if (weight := batch.get("weight")) is not None and not weight.isfinite().all():
        places.append("weight")
        rows |= ~weight.isfinite().cpu()
    return Origin(tuple(places), rows)


class _Watch(ExitStack):
    """Looks at what goes into and comes out of every module but the outermost."""

    def __init__(self, models: Mapping[str, nn.Module], size: int) -> None:
        super().__init__()
        self.firsts: dict[str, Origin] = {}
        self._size = size
        for name, model in models.items():
            for path, part in model.named_modules():
                if path:
                    hook = self._hook(name, path)
                    self.callback(part.register_forward_hook(hook, with_kwargs=True).remove)

    def _hook(self, name: str, path: str) -> Callable[..., None]:
        def look(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            if name in self.firsts:
                return
            bad = [x for x in _tensors(output) if not _finite(x)]
            if bad and all(_finite(x) for x in _tensors((args, kwargs))):
                spoilt = any(not _finite(p) for p in module.parameters(recurse=False))
                own = ", whose own weights are not finite" if spoilt else ""
                place = f"layer {path!r} of the {name}{own}"
                self.firsts[name] = Origin((place,), None if spoilt else _rows(bad, self._size))

        return look


def _rows(tensors: Sequence[Tensor], size: int) -> Tensor | None:
    """Which samples are not finite, if the first dimension tells."""
    if any(x.ndim == 0 or len(x) != size for x in tensors):
        return None
    return torch.stack([~x.isfinite().reshape(size, -1).all(dim=1).cpu() for x in tensors]).any(dim=0)


def _finite(x: Tensor) -> bool:
    return bool(x.isfinite().all())


def _tensors(value: Any) -> Iterator[Tensor]:
    """Those with floating-point numbers in anything modules hand to each other."""
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, Mapping):
        yield from chain.from_iterable(map(_tensors, value.values()))
    elif isinstance(value, list | tuple):
        yield from chain.from_iterable(map(_tensors, value))
    elif is_dataclass(value) and not isinstance(value, type):
        yield from chain.from_iterable(_tensors(getattr(value, field.name)) for field in fields(value))


@contextmanager
def _undisturbed(models: Iterable[nn.Module]) -> Iterator[None]:
    """Let models run on copies of their buffers: a backward pass that is still to come needs the old ones."""
    buffers = [
        (part, name, buffer)
        for model in models
        for part in model.modules()
        for name, buffer in part._buffers.items()
        if buffer is not None
    ]
    try:
        for part, name, buffer in buffers:
            part._buffers[name] = buffer.detach().clone()
        with torch.no_grad(), torch.random.fork_rng(devices=[]), torch.compiler.set_stance("force_eager"):
            yield
    finally:
        for part, name, buffer in buffers:
            part._buffers[name] = buffer
