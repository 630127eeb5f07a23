"""Teachers: where the student's targets come from."""

from lightning_distill.teachers.averaged import AveragedTeacher
from lightning_distill.teachers.base import ModelTeacher, Teacher, TeacherWrapper
from lightning_distill.teachers.by_modality import ModalityTeachers
from lightning_distill.teachers.cached import CachedTeacher
from lightning_distill.teachers.confident import ConfidentTeacher
from lightning_distill.teachers.ema import EmaTeacher
from lightning_distill.teachers.foreign import ForeignTeacher
from lightning_distill.teachers.frozen import FrozenTeacher
from lightning_distill.teachers.group_base import TeacherGroup
from lightning_distill.teachers.half_precision import HalfPrecisionTeacher
from lightning_distill.teachers.placed import PlacedTeacher
from lightning_distill.teachers.renamed import ClassesByName
from lightning_distill.teachers.sharded import ShardedTeacher
from lightning_distill.teachers.stored import StoredTeacher
from lightning_distill.teachers.timm import TimmTeacher
from lightning_distill.teachers.transformers import TransformersTeacher

__all__ = [
    "AveragedTeacher",
    "CachedTeacher",
    "ClassesByName",
    "ConfidentTeacher",
    "EmaTeacher",
    "ForeignTeacher",
    "FrozenTeacher",
    "HalfPrecisionTeacher",
    "ModalityTeachers",
    "ModelTeacher",
    "PlacedTeacher",
    "ShardedTeacher",
    "StoredTeacher",
    "Teacher",
    "TeacherGroup",
    "TeacherWrapper",
    "TimmTeacher",
    "TransformersTeacher",
]
