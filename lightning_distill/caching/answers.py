"""Which part of a teacher's answer is kept, and how precisely."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from lightning_distill.errors import ConfigError
from lightning_distill.storage import Field, RecordLayout
from lightning_distill.structures import ModelOutput

_VALUES, _CLASSES, _REST = "logits.values", "logits.classes", "logits.rest"
_FEATURES: Final = "features."


@dataclass(frozen=True)
class AnswerFormat:
    """What is kept of a `ModelOutput`.

    Of the logits either all are kept, or the k largest, with r = log(sum of exp of the others / their number)
    in the place of each other: a softmax then gives the k classes their exact share, and divides what is left
    evenly. At a temperature above 1 the others get a little too much.

    Attributes:
        names: As `ModelOutput.at` takes them, "logits" among them.
        dtype: What they are stored as.
        num_classes: Width of the logits.
        top_k: Number of logits kept; None keeps all.
    """

    names: tuple[str, ...]
    dtype: str
    num_classes: int
    top_k: int | None = None

    def __post_init__(self) -> None:
        if self.top_k is not None and not 1 <= self.top_k < self.num_classes:
            raise ConfigError(
                where="CachedTeacher.top_k",
                found=self.top_k,
                expected=f"between 1 and {self.num_classes - 1}, for {self.num_classes} classes",
                fix="leave it out to keep all logits",
            )

    def tensors(self, output: ModelOutput) -> dict[str, Tensor]:
        """What is kept of an answer, by name, "batch ..." each.

        Raises:
            ConfigError: If the teacher does not give one of the names.
        """
        found = {name: output.at(name) for name in self.names if name != "logits"}
        if self.top_k is None:
            return {"logits": output.logits, **found}
        logits = output.logits.float()
        values, classes = logits.topk(self.top_k)
        others = logits.scatter(1, classes, -torch.inf).logsumexp(dim=1, keepdim=True)
        rest = others - torch.tensor(float(self.num_classes - self.top_k)).log()
        rest = rest.clamp(min=values[:, -1:] - 80)  # of others that have no share at all
        return {_VALUES: values, _CLASSES: classes.int(), _REST: rest, **found}

    def layout(self, tensors: Mapping[str, Tensor]) -> RecordLayout:
        """Records for tensors of these shapes."""
        return RecordLayout(
            tuple(
                Field(name, tuple(x.shape[1:]), "int32" if name == _CLASSES else self.dtype)
                for name, x in tensors.items()
            )
        )

    def output(self, tensors: Mapping[str, Tensor]) -> ModelOutput:
        """The answer, in float32."""
        found = {name: x.float() for name, x in tensors.items() if name != _CLASSES}
        if self.top_k is not None:
            classes = tensors[_CLASSES].long()
            rest = found.pop(_REST).expand(-1, self.num_classes)
            found["logits"] = rest.scatter(1, classes, found.pop(_VALUES))
        logits, embedding = found.pop("logits"), found.pop("embedding", None)
        features = {n.removeprefix(_FEATURES): x for n, x in found.items() if n.startswith(_FEATURES)}
        return ModelOutput(
            logits,
            embedding,
            features,
            layers={name: x for name, x in found.items() if not name.startswith(_FEATURES)},
        )
