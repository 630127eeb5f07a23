"""Several teachers that answer as one: what their kinds share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from lightning_distill.errors import ConfigError, TeacherError
from lightning_distill.structures import OUTPUT_NAMES, Batch, ModelOutput
from lightning_distill.teachers.base import Teacher

if TYPE_CHECKING:
    from lightning_distill.data import MultimodalDataModule


class TeacherGroup(Teacher):
    """Several teachers that answer as one: a mean of their probabilities, weighted sample by sample.

    p_i = sum_k w_ik softmax(t_ik), and the logits are log p_i, so that softmax(logits) is the mean. A
    temperature above 1 then softens the mean, which is not the mean of the softened answers. The classes must
    exclude each other.

    The embedding is the teachers' embeddings side by side, or None where one has none. Features and layers
    carry the name of their teacher: `features.0.image` is the image feature of teacher 0, and
    `0.encoders.image` one of its layers.

    Args:
        teachers: Name -> teacher. Where they name their classes, these are the same in any order; the first
            teacher's order counts.

    Raises:
        TeacherError: If there is none, or they differ in their classes or in what they want to read.
    """

    def __init__(self, teachers: Mapping[str, Teacher]) -> None:
        if not teachers:
            raise TeacherError(
                where=type(self).__name__, found="no teacher", expected="at least one", fix="name some"
            )
        self.teachers = dict(teachers)
        first = next(iter(self.teachers.values()))
        self.num_classes, self.classes = first.num_classes, first.classes
        self.changes = any(teacher.changes for teacher in teachers.values())
        self._orders = {name: self._order(name, teacher) for name, teacher in self.teachers.items()}
        self.requirements = self._merged({n: t.requirements for n, t in self.teachers.items()})
        told = {n: t.preprocessing for n, t in self.teachers.items() if t.preprocessing is not None}
        self.preprocessing = self._merged(told) if told else None

    def _order(self, name: str, teacher: Teacher) -> list[int] | None:
        """Where the first teacher's classes stand in this one's logits; None where the order is the same."""
        ours, theirs = self.classes, teacher.classes
        named = ours is not None and theirs is not None
        if teacher.num_classes != self.num_classes or (named and set(ours or ()) != set(theirs or ())):
            odd = sorted(set(theirs or ()) ^ set(ours or ())) if named else []
            raise TeacherError(
                where=f"{type(self).__name__}, teacher {name!r}",
                found=f"{teacher.num_classes} classes" + (f", not all shared: {odd[:8]}" if odd else ""),
                expected=f"the {self.num_classes} classes of the first teacher",
                fix="wrap it in ClassesByName with the classes of the student",
            )
        if ours is None or theirs is None or ours == theirs:
            return None
        return [theirs.index(name) for name in ours]

    def _merged(self, told: Mapping[str, Mapping[str, Mapping[str, object]]]) -> dict[str, dict[str, object]]:
        """What all teachers want of each modality."""
        merged: dict[str, dict[str, object]] = {}
        for name, wanted in told.items():
            for modality, settings in wanted.items():
                have = merged.setdefault(modality, {})
                for key, value in settings.items():
                    if have.setdefault(key, value) != value:
                        raise TeacherError(
                            where=f"{type(self).__name__}, teacher {name!r}, {modality}.{key}",
                            found=value,
                            expected=f"{have[key]}, as another teacher reads the same input",
                            fix="use teachers with the same preprocessing",
                        )
        return merged

    @abstractmethod
    def log_weights(self, log_probabilities: Tensor, batch: Batch) -> Tensor:
        """Logarithm of each teacher's weight.

        Args:
            log_probabilities: "teachers batch classes".
            batch: What they answered.

        Returns:
            "teachers batch" (or "teachers 1"), -inf for an answer that does not count; the weights of a
            sample add up to 1.
        """

    def mixed(self, log_probabilities: Tensor, log_weights: Tensor) -> Tensor:
        """Logarithm of the mean, "batch classes".

        Args:
            log_probabilities: "teachers batch classes".
            log_weights: "teachers batch 1", see `log_weights`.
        """
        # Not by the sum alone: NaN of a teacher that does not count would stay NaN.
        gone = log_weights.isneginf()
        return torch.where(gone, log_weights, log_probabilities + log_weights).logsumexp(dim=0)

    def answers(self, batch: Batch) -> dict[str, ModelOutput]:
        """Each teacher's answer."""
        return {name: teacher(batch) for name, teacher in self.teachers.items()}

    def __call__(self, batch: Batch) -> ModelOutput:
        """The weighted mean."""
        with torch.no_grad():
            answers = self.answers(batch)
            logits = [
                a.logits if (o := self._orders[n]) is None else a.logits[:, o] for n, a in answers.items()
            ]
            found = torch.stack(logits).log_softmax(dim=-1)
            weights = self.log_weights(found, batch)[:, :, None].to(found.dtype)
            embeddings = [a.embedding for a in answers.values() if a.embedding is not None]
            return ModelOutput(
                self.mixed(found, weights),
                torch.cat(embeddings, dim=1) if len(embeddings) == len(answers) else None,
                {f"{n}.{m}": x for n, a in answers.items() for m, x in a.features.items()},
                layers={f"{n}.{path}": x for n, a in answers.items() for path, x in a.layers.items()},
            )

    def read_layers(self, names: Sequence[str]) -> None:
        """Ask each teacher for its layers; a name starts with that of its teacher and a dot."""
        asked: dict[str, list[str]] = {name: [] for name in self.teachers}
        for name in names:
            if name in OUTPUT_NAMES or name.startswith("features."):
                continue
            whose, _, path = name.partition(".")
            if whose not in asked or not path:
                raise ConfigError(
                    where=f"layer {name!r} of the teacher",
                    found=f"a {type(self).__name__} of {', '.join(asked)}",
                    expected="the name of one of these before the path",
                    fix=f"write {next(iter(asked))}.{name}",
                )
            asked[whose].append(path)
        for whose, paths in asked.items():
            self.teachers[whose].read_layers(paths)

    def to(self, device: torch.device) -> None:
        """Move all."""
        for teacher in self.teachers.values():
            teacher.to(device)

    def tensors(self) -> Iterator[Tensor]:
        """Of all."""
        return chain.from_iterable(teacher.tensors() for teacher in self.teachers.values())

    def named_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Of all, each under its name."""
        return ((f"{n}.{key}", x) for n, t in self.teachers.items() for key, x in t.named_tensors())

    def fingerprints(self) -> Mapping[str, str]:
        """Of all, each under its name."""
        return {f"{n}.{key}": x for n, t in self.teachers.items() for key, x in t.fingerprints().items()}

    def open(self, data: MultimodalDataModule, splits: Sequence[str]) -> None:
        """Tell all."""
        for teacher in self.teachers.values():
            teacher.open(data, splits)

    def end_epoch(self, barrier: Callable[[], None]) -> None:
        """Tell all."""
        for teacher in self.teachers.values():
            teacher.end_epoch(barrier)

    def close(self) -> None:
        """Tell all."""
        for teacher in self.teachers.values():
            teacher.close()

    def begin(self, student: nn.Module) -> None:
        """Tell all."""
        for teacher in self.teachers.values():
            teacher.begin(student)

    def after_step(self, student: nn.Module, step: int) -> None:
        """Tell all."""
        for teacher in self.teachers.values():
            teacher.after_step(student, step)

    def state_dict(self) -> dict[str, Tensor]:
        """Of all, each under its name."""
        return {f"{n}.{key}": x for n, t in self.teachers.items() for key, x in t.state_dict().items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Give each its own."""
        for name, teacher in self.teachers.items():
            own = {k.removeprefix(f"{name}."): x for k, x in state.items() if k.startswith(f"{name}.")}
            if own:
                teacher.load_state_dict(own)
