"""The student as an ONNX file."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor
from torch.export import ExportedProgram

from lightning_distill.errors import ConfigError
from lightning_distill.shipping.flat import FlatModel
from lightning_distill.shipping.program_file import not_exportable
from lightning_distill.shipping.quietly import quietly
from lightning_distill.structures import Batch

ONNX: Final = "model.onnx"
OUTPUT: Final = "logits"
_NEEDED: Final = ("onnx", "onnxscript", "onnxruntime")
_LARGEST: Final = 1_800_000_000
"""Bytes of weights that stay in the file; with more they lie beside it: protobuf ends at 2 GiB."""


def check_installed() -> None:
    """What writes and what checks an ONNX file is there.

    Raises:
        ConfigError: If not.
    """
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise ConfigError(
            where="export to ONNX",
            found=f"no package {missing[0]}",
            expected=", ".join(_NEEDED),
            fix="pip install 'lightning-distill[onnx]', or --no-onnx",
        )


def write_onnx(
    program: ExportedProgram, flat: FlatModel, batch: Batch, description: Mapping[str, Any], path: Path
) -> None:
    """Write the file; its metadata say what its inputs are, each entry as JSON.

    Args:
        program: Of the student.
        flat: The student.
        batch: One it reads.
        description: Name -> value, for the metadata.
        path: The file.

    Raises:
        ConfigError: If ONNX has no words for what the student does.
    """
    with quietly():
        try:
            made = torch.onnx.export(
                program,
                (),
                input_names=flat.input_names,
                output_names=[OUTPUT],
                dynamic_shapes=(flat.free_dims(batch),),
                dynamo=True,
                verbose=False,
            )
        except Exception as error:  # of torch, onnxscript or onnx, which share no base
            raise not_exportable("ONNX", error, "--no-onnx") from error
        assert made is not None
        for node in made.model.graph.all_nodes():
            node.metadata_props.clear()  # stack traces, which name folders of this machine
        made.model.metadata_props.update({name: json.dumps(value) for name, value in description.items()})
        size = sum(x.numel() * x.element_size() for x in program.state_dict.values())
        made.save(path, external_data=size > _LARGEST)


def onnx_answers(path: Path, flat: FlatModel) -> Callable[[Batch], Tensor]:
    """What onnxruntime answers on the CPU.

    Args:
        path: The file.
        flat: Says how a batch is taken apart.

    Returns:
        Makes of a batch its logits.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def answer(batch: Batch) -> Tensor:
        given = zip(flat.input_names, flat.flatten(batch), strict=True)
        (logits,) = session.run([OUTPUT], {name: x.numpy() for name, x in given})
        return torch.from_numpy(logits)

    return answer
