"""Which layers of a model are worth a look, and what each says of a sample."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lightning_distill.structures import Batch, ModelOutput, Tokens

_CHANNELS_FIRST = (nn.modules.conv._ConvNd, nn.modules.batchnorm._BatchNorm, nn.GroupNorm)


def chosen_layers(
    model: nn.Module, run: Callable[[], ModelOutput], starts: Sequence[str], most: int = 8
) -> tuple[str, ...]:
    """Paths of layers from input to output, about `most` in all, spread evenly over each start.

    Containers are opened until there are enough parts. A part counts if it has weights, runs once and gives
    one tensor with a row a sample, or several of which the first is one. One whose output is an encoder's
    feature is left out, since that has a name of its own.

    Args:
        model: Any module; it is as before afterwards.
        run: Runs it on a few samples.
        starts: Paths of modules to look into, such as `encoders.image`; "" is the whole model.
        most: Layers in all; of each start two or more.
    """
    with _watched(model) as seen:
        output = run()
    rows = len(output.logits)
    named = [output.logits, *output.features.values()] + [x for x in (output.embedding,) if x is not None]
    readable = {
        path: entry
        for path, entry in ((path, _entry(path, given, rows)) for path, given in seen.items())
        if entry and next(model.get_submodule(path).parameters(), None) is not None
    }
    found: list[str] = []
    share = max(2, most // len(starts))
    for start in starts:
        parts = _opened(model, start, readable, share // 2)
        new = [p for p in parts if not any(_same(readable[p][1], x) for x in named)]
        found += evenly(new, share)
    return tuple(readable[path][0] for path in found)


def evenly(words: Sequence[str], most: int) -> list[str]:
    """At most so many, the first and the last among them.

    >>> evenly("abcdefg", 3)
    ['a', 'd', 'g']
    """
    if len(words) <= most:
        return list(words)
    step = (len(words) - 1) / max(1, most - 1)
    return [words[round(i * step)] for i in range(most)]


def per_sample(x: Tensor, layer: nn.Module, batch: Batch) -> Tensor:
    """One vector a sample: the mean over the places of a map, or over the tokens that are there.

    Which dimension holds the channels is told by the width of the layer's last weights.

    Args:
        x: "batch ...".
        layer: What gave it.
        batch: With the masks of texts, so that padding does not count.

    Returns:
        "batch channels".
    """
    if x.ndim < 3:
        return x.reshape(len(x), -1)
    leaves = [m for m in layer.modules() if getattr(m, "weight", None) is not None]
    last = leaves[-1] if leaves else layer
    first = isinstance(last, _CHANNELS_FIRST) or (not leaves and x.ndim > 3)
    axes = (1, -1) if first else (-1, 1)
    width = _width(last)
    axis = next((a for a in axes if x.shape[a] == width), 1 if x.ndim > 3 else -1)
    places = x.movedim(axis, -1).flatten(1, -2)
    for mask in _masks(batch):
        if mask.shape == places.shape[:2]:
            return Tokens(places, mask.to(places.device, torch.bool)).mean()
    return places.mean(dim=1)


def _width(module: nn.Module) -> int:
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor) or not weight.ndim:
        return -1
    return weight.shape[1 if isinstance(module, nn.Embedding) else 0]


def _masks(batch: Batch) -> Iterator[Tensor]:
    for inputs in (batch["inputs"], batch.get("teacher_inputs", {})):
        for x in inputs.values():
            if isinstance(x, Mapping) and isinstance(x.get("attention_mask"), Tensor):
                yield x["attention_mask"]


@contextmanager
def _watched(model: nn.Module) -> Iterator[dict[str, list[Any]]]:
    """Path -> outputs of every module that runs during the block, in the order in which they are done."""
    seen: dict[str, list[Any]] = {}

    def note(path: str) -> Callable[[nn.Module, Any, Any], None]:
        return lambda module, inputs, output: seen.setdefault(path, []).append(output)

    handles = [m.register_forward_hook(note(path)) for path, m in model.named_modules()]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _entry(path: str, outputs: Sequence[Any], rows: int) -> tuple[str, Tensor] | None:
    """How `LayerExtractor` is asked for the output, and the output; None where it cannot be read."""
    if not path or len(outputs) != 1:
        return None
    given, name = outputs[0], path
    if isinstance(given, tuple | list) and given:
        name = f"{path}[0]" if sum(isinstance(x, Tensor) for x in given) > 1 else path
        given = given[0]
    elif isinstance(given, Mapping) and "last_hidden_state" in given:
        name, given = f"{path}[last_hidden_state]", given["last_hidden_state"]
    fits = isinstance(given, Tensor) and given.ndim > 1 and len(given) == rows and given.is_floating_point()
    return (name, given) if fits else None


def _opened(model: nn.Module, start: str, readable: Mapping[str, Any], enough: int) -> list[str]:
    """Readable parts of a module, the larger ones opened until there are enough; in the order they ran."""
    order = list(readable)

    def inside(path: str) -> list[str]:
        found: list[str] = []
        for name, _ in model.get_submodule(path).named_children():
            child = f"{path}.{name}".lstrip(".")
            found += [child] if child in readable else inside(child)
        return found

    parts = inside(start)
    while len(parts) < enough:
        largest = max((p for p in parts if len(inside(p)) > 1), key=lambda p: _size(model, p), default=None)
        if largest is None:
            break
        parts = [p for p in parts if p != largest] + inside(largest)
    return sorted(dict.fromkeys(parts), key=order.index)


def _size(model: nn.Module, path: str) -> int:
    return sum(p.numel() for p in model.get_submodule(path).parameters())


def _same(x: Tensor, y: Tensor) -> bool:
    return x.shape == y.shape and torch.equal(x, y)
