"""Reading what is inside a model: the outputs of named modules, without touching the model's code."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import Tensor, nn

from lightning_distill.errors import ConfigError, nearest

_WRAPPERS: Final = ("module", "_fsdp_wrapped_module", "_orig_mod", "_checkpoint_wrapped_module")
"""What DDP, FSDP, torch.compile and activation checkpointing call the module they wrap."""
_ENTRY: Final = re.compile(r"^(?P<path>[^\[\]]+)\[(?P<key>[^\[\]]+)\]$")


class LayerExtractor:
    """Captures the outputs of modules of a model, named by path.

    Paths go through the wrappers of DDP, FSDP, `torch.compile` and activation checkpointing as if they were
    not there. An output that holds several tensors needs an entry: `encoder.layer.3[0]` of a tuple,
    `encoder[last_hidden_state]` of a dict or a transformers output; one that holds a single tensor does not.

    What is captured is a copy, so that a `ReLU(inplace=True)` behind the module does not change it. Under
    activation checkpointing with `use_reentrant=True` it has no gradient; use False. What `torch.compile` has
    compiled before the hooks were there does not call them, so a compiled model is compiled again.

    Args:
        model: Any module; it gets forward hooks and is otherwise left alone.
        paths: Paths as in `model.named_modules()`.
        whose: Word for the model in errors, such as "teacher".
        others: Names that need no path, such as "embedding", for errors.

    Raises:
        ConfigError: If a path names no module.

    >>> import torch
    >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> with LayerExtractor(model, ["0"]).capturing() as layers:
    ...     _ = model(torch.zeros(5, 4))
    >>> layers["0"].shape
    torch.Size([5, 3])
    """

    def __init__(
        self, model: nn.Module, paths: Sequence[str], whose: str = "model", others: Sequence[str] = ()
    ) -> None:
        self.paths = tuple(dict.fromkeys(paths))
        self._whose, self._active = whose, False
        self._seen: dict[str, list[Any]] = {path: [] for path in self.paths}
        self._names = {path: _split(path) for path in self.paths}
        modules = {path: find_module(model, name, whose, others) for path, (name, _) in self._names.items()}
        self._handles = [m.register_forward_hook(_Keep(self, path)) for path, m in modules.items()]
        self._known = [_plain(name) for name, _ in model.named_modules() if name]
        if any("_orig_mod" in m._modules or m._compiled_call_impl is not None for m in model.modules()):
            torch.compiler.reset()

    @contextmanager
    def capturing(self) -> Iterator[dict[str, Tensor]]:
        """Capture during the block; the yielded dict, path -> output, is filled at its end.

        Raises:
            ConfigError: If a module ran not at all or more than once, or its output is not one tensor.
        """
        layers: dict[str, Tensor] = {}
        self._active = True
        try:
            yield layers
        except BaseException:
            self._take()
            raise
        layers.update({path: self._one(path, outputs) for path, outputs in self._take().items()})

    def close(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()

    def keep(self, path: str, output: Any) -> None:
        """Called by the hooks. Outside `capturing`, as when activations are recomputed, nothing is kept."""
        if self._active:
            chosen = _chosen(output, self._names[path][1])
            self._seen[path].append(output if chosen is None else chosen.clone())

    def _take(self) -> dict[str, list[Any]]:
        self._active = False
        taken, self._seen = self._seen, {path: [] for path in self.paths}
        return taken

    def _one(self, path: str, outputs: list[Any]) -> Tensor:
        (name, key), where = self._names[path], f"layer {path!r} of the {self._whose}"
        if not outputs:
            inside = [other for other in self._known if other.startswith(f"{name}.")]
            raise ConfigError(
                where=where,
                found="a module that did not run" + nearest(name, inside or set(self._known) - {name}),
                expected="one that runs once each time the model does",
                fix="name a module whose own forward is called, not one that only holds others",
            )
        if len(outputs) > 1:
            raise ConfigError(
                where=where,
                found=f"a module that ran {len(outputs)} times",
                expected="one that runs once each time the model does",
                fix="name another module; one that is used in several places has no single output",
            )
        if isinstance(outputs[0], Tensor):
            return outputs[0]
        raise _no_tensor(outputs[0], key, where)


class _Keep:
    """A forward hook that can be copied and pickled with its module."""

    def __init__(self, extractor: LayerExtractor, path: str) -> None:
        self._extractor, self._path = extractor, path

    def __call__(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self._extractor.keep(self._path, output)


def _split(path: str) -> tuple[str, str | None]:
    found = _ENTRY.match(path)
    return (path, None) if found is None else (found["path"], found["key"])


def find_module(model: nn.Module, path: str, whose: str = "model", others: Sequence[str] = ()) -> nn.Module:
    """The sub-module of that path, whatever wrappers stand on the way.

    Args:
        model: Where to look.
        path: As in `named_modules()` of the unwrapped model.
        whose: Word for the model in errors.
        others: Names that could have been meant instead of a path.

    Raises:
        ConfigError: If there is none.
    """
    here = _unwrapped(model)
    for name in path.split("."):
        child = getattr(here, name, None)
        if not isinstance(child, nn.Module):
            known = [_plain(n) for n, _ in model.named_modules() if n]
            either = f"{', '.join(others)}, or " if others else ""
            raise ConfigError(
                where=f"layer {path!r} of the {whose}",
                found=f"no module of that path in {type(_unwrapped(model)).__name__}"
                + nearest(path, [*others, *known]),
                expected=f"{either}a path of named_modules(), such as "
                + ", ".join(sorted(known, key=len)[:8]),
                fix="print all with [name for name, _ in model.named_modules()]",
            )
        here = _unwrapped(child)
    return here


def _unwrapped(module: nn.Module) -> nn.Module:
    for name in _WRAPPERS:
        inner = module._modules.get(name)
        # A user's own module may have a child called "module"; a wrapper has no other.
        if inner is not None and len(module._modules) == 1:
            return _unwrapped(inner)
    return module


def _plain(path: str) -> str:
    return ".".join(name for name in path.split(".") if name not in _WRAPPERS)


def _chosen(output: Any, key: str | None) -> Tensor | None:
    """The one tensor of an output, or the one under `key`; None where there is no such one."""
    held = _entries(output)
    if key is None:
        tensors = [x for x in held.values() if isinstance(x, Tensor)]
        return tensors[0] if len(tensors) == 1 else None
    found = held.get(key)
    return found if isinstance(found, Tensor) else None


def _no_tensor(output: Any, key: str | None, where: str) -> ConfigError:
    entries = [name for name, x in _entries(output).items() if isinstance(x, Tensor)]
    near = "" if key is None else nearest(key, entries)
    return ConfigError(
        where=where,
        found=f"an output of type {type(output).__name__} with the tensors {entries}{near}",
        expected="one tensor" if key is None else f"a tensor under {key!r}",
        fix=f"name the entry: PATH[{entries[0]}]" if entries else "name another module",
    )


def _entries(output: Any) -> dict[str, Any]:
    if isinstance(output, Tensor):
        return {"0": output}
    if isinstance(output, Mapping):  # also the outputs of transformers
        return {str(name): x for name, x in output.items()}
    if isinstance(output, Sequence) and not isinstance(output, str):
        return {str(i): x for i, x in enumerate(output)}
    return {}
