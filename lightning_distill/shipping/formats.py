"""A student's files for other programs, each read again and compared with the student."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from lightning_distill import __version__
from lightning_distill.export import load_student
from lightning_distill.shipping.flat import FlatModel
from lightning_distill.shipping.onnx_file import ONNX, onnx_answers, write_onnx
from lightning_distill.shipping.program_file import PROGRAM, make_program, write_program
from lightning_distill.shipping.verification import Answer, Verification, verified
from lightning_distill.structures import Batch
from lightning_distill.student_config import WEIGHTS


def write_formats(
    flat: FlatModel,
    folder: Path,
    batches: Sequence[Batch],
    described: Mapping[str, Any],
    packages: Sequence[str],
    onnx: bool = True,
    program: bool = True,
) -> list[Verification]:
    """Write them into a folder that holds the saved student, and verify all three.

    Args:
        flat: The student.
        folder: With its weights and config.json; new, and nobody else's.
        batches: Real samples, as `pieces` gives them; some.
        described: Of `description`.
        packages: Whose classes the saved student may name.
        onnx: Write the ONNX file.
        program: Write the program of torch.export.

    Raises:
        CheckpointError: If one does not answer as the student does.
        ConfigError: If the student cannot be expressed in a format.
    """
    model = flat.model

    def student(batch: Batch) -> torch.Tensor:
        logits: torch.Tensor = model(batch).logits
        return logits

    loaded = load_student(folder, packages)
    found = [verified("safetensors", WEIGHTS, student, lambda batch: loaded(batch).logits, batches, limit=0)]
    if not (onnx or program):
        return found
    made = make_program(flat, batches[0])
    if program:
        write_program(made, described, folder / PROGRAM)
        found.append(verified("torch.export", PROGRAM, student, _program(folder / PROGRAM, flat), batches))
    if onnx:
        write_onnx(made, flat, batches[0], described, folder / ONNX)
        found.append(verified("ONNX", ONNX, student, onnx_answers(folder / ONNX, flat), batches))
    return found


def _program(path: Path, flat: FlatModel) -> Answer:
    """What the program answers; only for a file just written here, since loading one may unpickle."""
    module = torch.export.load(path).module()

    def answer(batch: Batch) -> torch.Tensor:
        logits: torch.Tensor = module(*flat.flatten(batch))
        return logits

    return answer


def versions(onnx: bool) -> dict[str, str]:
    """With what the files were written and read.

    Args:
        onnx: Whether ONNX is among them.
    """
    names = ("torch", "safetensors", *(("onnx", "onnxscript", "onnxruntime") if onnx else ()))
    found = {"python": platform.python_version(), "lightning_distill": __version__}
    return found | {name: _version(name) for name in names}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not known"
