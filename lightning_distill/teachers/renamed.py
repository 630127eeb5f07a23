"""A teacher whose classes stand in another order, or are more than the student's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from lightning_distill.errors import TeacherError, nearest
from lightning_distill.structures import Batch, ModelOutput
from lightning_distill.teachers.base import Teacher, TeacherWrapper


class ClassesByName(TeacherWrapper):
    """Puts a teacher's logits into the student's order, by the names of the classes.

    Logits of classes the student does not have are dropped: a softmax is then over the student's classes.
    Everything else of the answer stays as it is. `DistillationModule` does this by itself where both name
    their classes; it is needed in a config only for `names`.

    Args:
        teacher: Must name its classes.
        classes: The student's, in its order.
        names: Student's name -> teacher's name, where they differ.

    Raises:
        TeacherError: If the teacher lacks a class, or names none.
    """

    def __init__(
        self, teacher: Teacher, classes: Sequence[str], names: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(teacher)
        wanted = [(names or {}).get(name, name) for name in classes]
        known = teacher.classes
        odd = [name for name in names or {} if name not in classes]
        lacking = [name for name in wanted if name not in (known or ())]
        if odd or lacking or known is None:
            word = (odd or lacking or [""])[0]
            raise TeacherError(
                where=f"ClassesByName of {type(teacher).__name__}",
                found="a teacher that does not name its classes"
                if known is None
                else f"`names` for {word!r}, which is no class of the student{nearest(word, classes)}"
                if odd
                else f"a teacher without the class {word!r}{nearest(word, known)}; it has "
                + ", ".join(known[:20]),
                expected="a class of the teacher for each of the student's",
                fix="give `names`: student's name -> teacher's name; or give the teacher its `classes`",
            )
        self.num_classes, self.classes = len(wanted), tuple(classes)
        self._order = torch.tensor([known.index(name) for name in wanted])

    def __call__(self, batch: Batch) -> ModelOutput:
        """The teacher's answer with other logits."""
        output = self.teacher(batch)
        logits = output.logits
        return replace(output, logits=logits.index_select(1, self._order.to(logits.device)))
