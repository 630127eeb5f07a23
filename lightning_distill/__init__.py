"""Cross-domain knowledge distillation with gradient clipping and multimodal fusion, on PyTorch Lightning.

Names are loaded when first used, so that `import lightning_distill` costs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lightning_distill.version import __version__ as __version__

_HOMES = {
    "Batch": "structures",
    "ModelOutput": "structures",
    "UNLABELLED": "structures",
    "DistillError": "errors",
    "MultimodalModel": "model",
    "DistillationModule": "module",
    "MutualDistillationModule": "mutual",
    "FrozenTeacher": "teachers",
    "load_student": "export",
    "save_student": "export",
    "Student": "shipping.student",
}

__all__ = [*_HOMES, "__version__"]

if TYPE_CHECKING:
    from lightning_distill.errors import DistillError as DistillError
    from lightning_distill.export import load_student as load_student
    from lightning_distill.export import save_student as save_student
    from lightning_distill.model import MultimodalModel as MultimodalModel
    from lightning_distill.module import DistillationModule as DistillationModule
    from lightning_distill.mutual import MutualDistillationModule as MutualDistillationModule
    from lightning_distill.shipping.student import Student as Student
    from lightning_distill.structures import UNLABELLED as UNLABELLED
    from lightning_distill.structures import Batch as Batch
    from lightning_distill.structures import ModelOutput as ModelOutput
    from lightning_distill.teachers import FrozenTeacher as FrozenTeacher


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
