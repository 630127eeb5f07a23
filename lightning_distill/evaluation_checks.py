"""What must hold before a model is evaluated apart from training, each as one function."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_distill import checks
from lightning_distill.data import MultimodalDataModule
from lightning_distill.errors import ConfigError, nearest
from lightning_distill.model import MultimodalModel
from lightning_distill.tasks import Task

_SPLITS = ("val", "test")


def can_be_evaluated(
    model: MultimodalModel, data: MultimodalDataModule, task: Task, split: str, where: str
) -> None:
    """Model, data, task and split fit each other.

    Args:
        model: Reads what the data's `processors` make.
        data: Has at least the model's modalities.
        task: Of the data's kind of target.
        split: "val" or "test".
        where: Who asks, for messages.

    Raises:
        ConfigError: If they do not.
    """
    split_is_known(split, where)
    data_have(data, model.modalities, where)
    classes_fit(model, data, where)
    checks.target_fits(task, data, model.num_classes)
    checks.preprocessing_fits(model, None, data)


def split_is_known(split: str, where: str) -> None:
    """It is "val" or "test"."""
    if split not in _SPLITS:
        raise ConfigError(
            where=f"{where}, split",
            found=repr(split),
            expected="val or test" + nearest(split, _SPLITS),
            fix="evaluate on one of these",
        )


def data_have(data: MultimodalDataModule, modalities: Sequence[str], where: str) -> None:
    """The data have what the model reads."""
    missing = [m for m in modalities if m not in data.processors]
    if missing:
        raise ConfigError(
            where=where,
            found=f"data of {list(data.processors)}",
            expected=f"data of {list(modalities)}, which the model reads",
            fix=f"give the DataModule a processor for {missing[0]!r}{nearest(missing[0], data.processors)}",
        )


def classes_fit(model: MultimodalModel, data: MultimodalDataModule, where: str) -> None:
    """The data have the model's classes, in its order where it knows their names."""
    names = model.classes
    if len(data.classes) == model.num_classes and names in (None, tuple(data.classes)):
        return
    raise ConfigError(
        where=f"{where}, classes",
        found=f"data with {', '.join(data.classes)}",
        expected=f"{', '.join(names)}, as the model was trained on"
        if names
        else f"{model.num_classes} of them, as the model has",
        fix="give the data source `classes` in the model's order",
    )
