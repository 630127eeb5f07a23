"""The student as a program of torch.export."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch.export import Dim, ExportedProgram

from lightning_distill.errors import ConfigError
from lightning_distill.shipping.flat import FlatModel
from lightning_distill.shipping.quietly import quietly
from lightning_distill.structures import Batch

PROGRAM: Final = "model.pt2"
DESCRIPTION: Final = "lightning_distill.json"
"""File within the program that describes inputs and outputs."""


def make_program(flat: FlatModel, batch: Batch) -> ExportedProgram:
    """Trace the student, without gradients, for any number of samples and of tokens.

    Args:
        flat: The student.
        batch: One it reads; only the shapes and types are used.

    Raises:
        ConfigError: If its code cannot be traced.
    """
    free = tuple(dict.fromkeys(dims, Dim.DYNAMIC) for dims in flat.free_dims(batch))
    with torch.no_grad(), quietly():
        try:
            program = torch.export.export(flat, flat.example(batch), dynamic_shapes=(free,))
        except Exception as error:  # whatever the student's own code may raise while it is traced
            raise not_exportable("torch.export", error, "--no-program --no-onnx") from error
    for module in program.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
            node.meta.pop("stack_trace", None)  # it names folders of this machine
    return program


def write_program(program: ExportedProgram, description: Mapping[str, Any], path: Path) -> None:
    """Write a `.pt2` file, with its description inside.

    Args:
        program: Of `make_program`.
        description: As JSON takes it.
        path: The file.

    Raises:
        ConfigError: If it holds what only pickle could read again.
    """
    torch.export.save(program, path, extra_files={DESCRIPTION: json.dumps(description)})
    pickled = _pickled(path)
    if pickled:
        raise not_exportable("torch.export", TypeError(f"{pickled[0]} would be a pickle"), "--no-program")


def _pickled(path: Path) -> list[str]:
    """Weights and constants that `torch.export.load` would unpickle: code that runs when it is read."""
    found = []
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if name.endswith(("weights_config.json", "constants_config.json")):
                entries = json.loads(archive.read(name))["config"].items()
                found += [n for n, told in entries if told["use_pickle"]]
    return found


def not_exportable(what: str, error: BaseException, option: str) -> ConfigError:
    """A student whose code a format cannot express.

    Args:
        what: The format.
        error: What was raised.
        option: Leaves the format out.
    """
    while error.__cause__ is not None:
        error = error.__cause__
    text = " ".join(str(error).split()) or type(error).__name__
    return ConfigError(
        where=f"export to {what}",
        found=f"a student that cannot be traced ({type(error).__name__}: {text.partition('. ')[0][:400]})",
        expected="encoders, fusion and head whose code does not depend on the values in a batch",
        fix=f"leave the format out with {option}, or make it with torch.where instead of `if`",
    )
