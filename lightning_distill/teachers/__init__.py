"""Teachers: where the student's targets come from."""

from lightning_distill.teachers.base import ModelTeacher, Teacher
from lightning_distill.teachers.frozen import FrozenTeacher

__all__ = ["FrozenTeacher", "ModelTeacher", "Teacher"]
