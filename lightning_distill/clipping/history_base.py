"""What rules share that remember something of each gradient."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_distill.clipping.base import ClipRule
from lightning_distill.errors import CheckpointError
from lightning_distill.gradients import Gradients


class RuleByTensor(ClipRule):
    """A clip rule whose history has a place for each gradient, found by name.

    A place is made when a gradient is first seen, so tensors may be unfrozen late; one without a gradient
    keeps what it has. Names go into checkpoints with the history. Give `named_parameters()`: with plain
    `parameters()` the names are numbers, and those of another model fit.
    """

    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        self._names: tuple[str, ...] = ()
        self._places: dict[str, int] = {}
        self._restored = False
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    @abstractmethod
    def buffers_of(self, count: int) -> Sequence[str]:
        """Names of the buffers that hold the history of `count` gradients, beside `seen`."""

    def places(self, gradients: Gradients) -> tuple[int, ...]:
        """Where the history of each gradient is or will be; places are given in turn.

        Raises:
            CheckpointError: If the history comes from a checkpoint and none of the names are in it.
        """
        if self.seen.device != gradients.device:
            self.to(gradients.device)
        if self._restored:
            self._refuse_foreign(self._names, gradients.names)
            self._restored = False
        new = tuple(name for name in gradients.names if name not in self._places)
        if new:
            self._adopt(self._names + new)
        return tuple(self._places[name] for name in gradients.names)

    def _adopt(self, names: tuple[str, ...]) -> None:
        self._names, self._places = names, {name: i for i, name in enumerate(names)}

    def _refuse_foreign(self, saved: Sequence[str], own: Sequence[str]) -> None:
        if saved and own and not set(saved) & set(own):
            raise CheckpointError(
                where=f"history of {type(self).__name__}",
                found=f"a checkpoint about {_some(saved)}",
                expected=f"the gradients of this model: {_some(own)}",
                fix="load the checkpoint of the same model and the same clipper, or start without history",
            )

    def get_extra_state(self) -> dict[str, list[str]]:
        """The names, in the order of their places."""
        return {"names": list(self._names)}

    def set_extra_state(self, state: Mapping[str, Sequence[str]]) -> None:
        """Take over the names."""
        self._adopt(tuple(state["names"]))
        self._restored = True

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
        """Make room for what the checkpoint holds: it knows the sizes, a new rule does not."""
        state = state_dict.get(f"{prefix}_extra_state")
        if state is not None:
            self._refuse_foreign(state["names"], self._names)
            for name in set(self._buffers) - {"seen"}:
                delattr(self, name)
            for name in self.buffers_of(len(state["names"])):
                saved = state_dict.get(f"{prefix}{name}", torch.zeros(0))
                self.register_buffer(name, torch.zeros_like(saved, dtype=torch.float32).to(self.seen.device))
        super()._load_from_state_dict(state_dict, prefix, *args)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
