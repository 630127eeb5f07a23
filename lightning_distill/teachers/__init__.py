"""Teachers: where the student's targets come from."""

from lightning_distill.teachers.averaged import AveragedTeacher
from lightning_distill.teachers.base import ModelTeacher, Teacher, TeacherGroup
from lightning_distill.teachers.by_modality import ModalityTeachers
from lightning_distill.teachers.confident import ConfidentTeacher
from lightning_distill.teachers.ema import EmaTeacher
from lightning_distill.teachers.foreign import ForeignTeacher
from lightning_distill.teachers.frozen import FrozenTeacher
from lightning_distill.teachers.renamed import ClassesByName
from lightning_distill.teachers.stored import StoredTeacher
from lightning_distill.teachers.timm import TimmTeacher
from lightning_distill.teachers.transformers import TransformersTeacher

__all__ = [
    "AveragedTeacher",
    "ClassesByName",
    "ConfidentTeacher",
    "EmaTeacher",
    "ForeignTeacher",
    "FrozenTeacher",
    "ModalityTeachers",
    "ModelTeacher",
    "StoredTeacher",
    "Teacher",
    "TeacherGroup",
    "TimmTeacher",
    "TransformersTeacher",
]
