"""What another program must know to feed a student's flat inputs and to read its logits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from lightning_distill import __version__
from lightning_distill.data import ImageProcessor, Processor
from lightning_distill.data.own_view import OwnView
from lightning_distill.model import MultimodalModel
from lightning_distill.security.secrets import redacted_values
from lightning_distill.shipping.flat import MASK, FlatModel
from lightning_distill.shipping.machine_paths import without_folders
from lightning_distill.shipping.recipe import image_numbers, recipe
from lightning_distill.structures import Batch, Outputs


def description(
    flat: FlatModel,
    batch: Batch,
    processors: Mapping[str, Processor],
    outputs: Outputs,
    packages: Sequence[str] = (),
) -> dict[str, Any]:
    """Plain values, kept in the ONNX file's metadata and in the program.

    Args:
        flat: The student.
        batch: One it reads.
        processors: modality -> preprocessing, as in evaluation.
        outputs: What the logits stand for.
        packages: Others than this one whose classes the saved student is made of.

    Returns:
        `lightning_distill` (version), `packages`, `modalities`, `inputs` (name, modality, type, shape,
        range, meaning), `outputs`, `classes`, `preprocessing` (modality -> class, settings, steps).
    """
    model = flat.model
    rows = zip(flat.input_names, flat.flatten(batch), flat.free_dims(batch), strict=True)
    told = {name: (slot.modality, slot.key) for name, slot in zip(flat.input_names, flat.slots, strict=False)}
    return {
        "lightning_distill": __version__,
        "packages": list(packages),
        "modalities": list(model.modalities),
        "inputs": [_input(name, x, free, model, told.get(name)) for name, x, free in rows],
        "outputs": [{"name": "logits", "shape": ["batch", model.num_classes], "meaning": outputs.value}],
        "classes": None if model.classes is None else list(model.classes),
        "preprocessing": {m: preparation(processors[m], m) for m in model.modalities if m in processors},
    }


def preparation(processor: Processor, modality: str = "text") -> dict[str, Any]:
    """What prepares one modality: its class, its settings, and the steps for who does it by hand.

    Args:
        processor: As in evaluation.
        modality: Its name.
    """
    while isinstance(processor, OwnView):
        processor = processor.processor
    found: dict[str, Any] = {
        "class": f"{type(processor).__module__}.{type(processor).__qualname__}",
        "settings": redacted_values(without_folders(dict(processor.settings))),
        "steps": recipe(processor, modality),
    }
    return found | ({"numbers": image_numbers(processor)} if type(processor) is ImageProcessor else {})


def _input(
    name: str, x: Tensor, free: Mapping[int, str], model: MultimodalModel, told: tuple[str, str | None] | None
) -> dict[str, Any]:
    if told is None:
        meaning, span = "which samples have the modality; each sample has one at least", [False, True]
        return {"name": name, "type": "bool", "shape": ["batch"], "range": span, "meaning": meaning}
    modality, key = told
    limits: list[Any] | None = None
    if key == MASK:
        limits = [0, 1]
    elif key == "input_ids":
        size = model.requirements[modality].get("vocabulary_size")
        limits = None if size is None else [0, int(str(size)) - 1]
    elif str(x.dtype) == "torch.uint8":
        limits = [0, 255]
    return {
        "name": name,
        "modality": modality,
        "type": str(x.dtype).removeprefix("torch."),
        "shape": [free.get(at, size) for at, size in enumerate(x.shape)],
        "range": limits,
    }
