"""What the card of a shipped student says on its use, and on what it cannot do."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from lightning_distill.shipping.examples import example
from lightning_distill.shipping.onnx_file import ONNX
from lightning_distill.shipping.program_file import PROGRAM
from lightning_distill.structures import Outputs


def three_lines(modalities: Collection[str], packages: Sequence[str] = (), folder: str = ".") -> list[str]:
    r"""How a student is used, as Python.

    Args:
        modalities: Those it reads.
        packages: Others than this one whose classes it is made of.
        folder: Where it lies.

    >>> print("\n".join(three_lines(["image", "text"])))
    from lightning_distill import Student
    student = Student.from_pretrained(".")
    print(student.predict({"image": "photo.png", "text": "a text"}))
    """
    trusted = f", packages={json.dumps(list(packages))}" if packages else ""
    return [
        "from lightning_distill import Student",
        f"student = Student.from_pretrained({json.dumps(folder)}{trusted})",
        f"print(student.predict({example(modalities)}))",
    ]


def use(description: Mapping[str, Any], files: Collection[str], outputs: Outputs) -> str:
    """Code for each format.

    Args:
        description: Of inputs and outputs.
        files: That were written.
        outputs: What the logits stand for.
    """
    parts = [
        "From raw files, with this library (in this folder, or give its path):\n",
        _code("\n".join(three_lines(description["modalities"], description["packages"]))),
    ]
    if ONNX in files:
        parts += [
            "With onnxruntime alone; the steps before it stand below:\n",
            _code(_onnx(description, outputs)),
        ]
    if PROGRAM in files:
        parts += ["With torch alone:\n", _code(_program(description))]
    return "\n".join(
        [
            *parts,
            "To publish this folder as it is: `hf upload OWNER/NAME .`, or "
            '`huggingface_hub.HfApi().upload_folder(repo_id="OWNER/NAME", folder_path=".")`.\n',
        ]
    )


def _code(text: str) -> str:
    return f"```python\n{text}\n```\n"


def _blank(told: Mapping[str, Any], library: str) -> str:
    """An array of the right shape and type, of two samples."""
    shape = ", ".join(
        "2" if size == "batch" else "8" if isinstance(size, str) else str(size) for size in told["shape"]
    )
    one = told["type"] == "bool" or told["name"].endswith("attention_mask")
    make, kind = ("ones" if one else "zeros"), "bool_" if told["type"] == "bool" else told["type"]
    if library == "torch":
        return f"torch.{make}({shape}, dtype=torch.{told['type']})"
    return f"np.{make}(({shape}{',' if ',' not in shape else ''}), np.{kind})"


def _onnx(description: Mapping[str, Any], outputs: Outputs) -> str:
    inputs = "".join(f"    {told['name']!r}: {_blank(told, 'numpy')},\n" for told in description["inputs"])
    last = {
        Outputs.CLASSES: 'print(logits.argmax(1), json.loads(told["classes"]))',
        Outputs.LABELS: 'print(1 / (1 + np.exp(-logits)), json.loads(told["classes"]))',
        Outputs.NUMBERS: "print(logits)",
    }
    return (
        "import json\n\nimport numpy as np\nimport onnxruntime\n\n"
        f'session = onnxruntime.InferenceSession("{ONNX}")\n'
        "told = session.get_modelmeta().custom_metadata_map  # inputs, classes, preprocessing, each as JSON\n"
        f"inputs = {{  # two samples; put prepared ones here\n{inputs}}}\n"
        f"(logits,) = session.run(None, inputs)\n{last[outputs]}"
    )


def _program(description: Mapping[str, Any]) -> str:
    inputs = "".join(f"    {_blank(told, 'torch')},  # {told['name']}\n" for told in description["inputs"])
    return (
        f'import torch\n\nprogram = torch.export.load("{PROGRAM}").module()\n'
        f"logits = program(\n{inputs})\nprint(logits)"
    )


def limitations(
    description: Mapping[str, Any], split: str, outputs: Outputs, files: Collection[str]
) -> list[str]:
    """What it cannot do, or nobody has looked at.

    Args:
        description: Of inputs and outputs.
        split: That metrics are from.
        outputs: What the logits stand for.
        files: That were written.
    """
    lines = [
        f"The figures above are of the {split} split of the data named above. On data from elsewhere it can "
        "be worse, and nothing here says by how much.",
        "Nobody has looked into what it does to groups of people, or against inputs made to deceive it.",
    ]
    if outputs is Outputs.CLASSES:
        lines.append("It always names one of its classes, also for a sample that is of none of them.")
    for modality, told in description["preprocessing"].items():
        settings = told["settings"]
        if "max_length" in settings:
            lines.append(f"{modality}: only the first {settings['max_length']} tokens of a text are read.")
        if "size" in settings:
            what = (
                "the largest centred square" if settings.get("keep_aspect") else "all, pressed into a square"
            )
            lines.append(f"{modality}: of an image it sees {what} of {settings['size']} pixels a side.")
        if "length" in settings and "sample_rate" in settings:
            seconds = settings["length"] / settings["sample_rate"]
            lines.append(f"{modality}: of a sound it hears {seconds:g} s from the middle.")
    if len(description["modalities"]) > 1:
        nothing = f"; of {ONNX} the logits then mean nothing" if ONNX in files else ""
        lines.append(
            f"Modalities may be missing, as the table of metrics shows, but not all of them{nothing}."
        )
    if PROGRAM in files:
        lines.append(
            f"`torch.export.load` can run code that stands in a file. {PROGRAM} was written without pickled "
            "weights or constants, but of a copy you know that only if you trust where it is from."
        )
    return lines
