"""Everything a config is made of, once the data have been looked at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lightning_distill.commands.init.parts import Part, Spec
from lightning_distill.data.targets import MultiLabel, RegressionTarget, Target
from lightning_distill.tasks import Classification, Multilabel, Regression, Task


@dataclass(frozen=True)
class Plan:
    """What `init` found and chose.

    Attributes:
        data: What was looked at.
        source: The data source.
        parts: modality -> encoder and processor.
        target: How labels are read.
        names: Of the classes, or of the columns of numbers.
        rows: Samples in all.
        told: What was taken for what.
        split: How rows are split, one line.
    """

    data: str
    source: Spec
    parts: Mapping[str, Part]
    target: Target
    names: tuple[str, ...]
    rows: int
    told: str
    split: str

    @property
    def task(self) -> type[Task]:
        """What reads such labels."""
        if isinstance(self.target, MultiLabel):
            return Multilabel
        return Regression if isinstance(self.target, RegressionTarget) else Classification

    @property
    def monitor(self) -> dict[str, str]:
        """The metric that chooses the best epoch."""
        name, mode = self.task.monitor
        return {"monitor": f"val/{name}", "mode": mode}

    @property
    def bytes(self) -> int:
        """Of all prepared samples."""
        return self.rows * sum(part.bytes for part in self.parts.values())

    @property
    def datamodule(self) -> str:
        """Class of the DataModule of these modalities."""
        return "".join(m.capitalize() for m in ("image", "text", "audio") if m in self.parts) + "DataModule"


def named(kind: type, **init_args: Any) -> Spec:
    """A class of the package as a config names it.

    >>> named(Plan, rows=3)
    {'class_path': 'Plan', 'init_args': {'rows': 3}}
    """
    return {"class_path": kind.__name__, "init_args": init_args}
