"""Saving a model as safetensors and JSON, and loading it again without what it was trained from."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import safetensors
from torch import Tensor

from lightning_distill.data.processor import Processor
from lightning_distill.errors import CheckpointError, ConfigError
from lightning_distill.model import MultimodalModel
from lightning_distill.security.allowed import narrowed
from lightning_distill.security.secrets import redacted_values
from lightning_distill.security.trust import check_trusted
from lightning_distill.shipping.machine_paths import without_folders
from lightning_distill.shipping.making import make
from lightning_distill.shipping.preprocessing import described
from lightning_distill.structures import Outputs
from lightning_distill.student_config import (
    CONFIG,
    HERE,
    WEIGHTS,
    check_files,
    read_config,
    swapped,
    unreadable,
)
from lightning_distill.student_weights import read_weights, write_weights
from lightning_distill.version import __version__
from lightning_distill.writing.disk import refusals_named
from lightning_distill.writing.seal import sealed
from lightning_distill.writing.whole_folder import standing, whole_folder

TRUSTED: Final = ("lightning_distill", "torch.nn")
"""Packages whose classes a saved model may name."""

_LOADER = f"{__name__}.load_student"


def save_student(
    model: MultimodalModel,
    folder: Path | str,
    config: Mapping[str, Any],
    weights: Mapping[str, Tensor] | None = None,
    processors: Mapping[str, Processor] | None = None,
    outputs: Outputs | None = None,
) -> None:
    """Write `model.safetensors` and `config.json`, all or nothing; an older student is replaced.

    Encoders that were made from pretrained files keep their architecture in the folder, so that loading
    needs no such files and no network. config.json holds a checksum of each file and one of itself.

    Args:
        model: What to save.
        folder: Its parent is made where needed.
        config: `class_path` and `init_args` that make such a model, as in the run's config.yaml.
        weights: Its state dict, where the model itself is split over processes; None takes the model's.
        processors: modality -> preprocessing, so that `Student` can read raw samples.
        outputs: What the logits stand for; None where that is not known.

    Raises:
        ConfigError: If `config` does not describe the model, or `folder` holds something else than a student.
        DiskError: If the disk refuses; what was there before is as it was.
    """
    folder = Path(folder).resolve()
    check_replaceable(folder)
    with whole_folder(folder) as partial, refusals_named(folder):
        prepares = described(processors or {}, model.modalities, partial)
        content = {
            "lightning_distill": __version__,
            "classes": None if model.classes is None else list(model.classes),
            "outputs": None if outputs is None else outputs.name,
            "preprocessing": without_folders(model.preprocessing),
            "processors": redacted_values(swapped(prepares, str(partial), HERE)),
            "fused": list(model.fusion.modalities),
            "model": redacted_values(_portable(model, dict(config), partial)),
        }
        write_weights(model, model.state_dict() if weights is None else weights, partial / WEIGHTS)
        (partial / CONFIG).write_text(json.dumps(sealed(content, partial), indent=2) + "\n", encoding="utf-8")
        shutil.copymode(partial / CONFIG, partial / WEIGHTS)  # safetensors lets nobody else read it


def check_replaceable(folder: Path) -> None:
    """What `save_student` may replace: nothing, an empty folder, or a student.

    Raises:
        ConfigError: If something else is there.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    config = folder / CONFIG
    if config.is_file() and b'"lightning_distill"' in config.read_bytes():
        return
    raise ConfigError(
        where=folder,
        found="a folder that holds something else" if folder.is_dir() else "a file",
        expected="a new folder, or one with a student of before",
        fix="name another folder, or remove what is there",
    )


def _portable(model: MultimodalModel, config: dict[str, Any], folder: Path) -> Any:
    config = json.loads(json.dumps(config, default=str))
    if config.get("class_path") in (_LOADER, "lightning_distill.load_student"):
        config = read_config(config["init_args"]["folder"])["model"]  # it must not depend on the other folder
    encoders = (config.get("init_args") or {}).get("encoders")
    if not isinstance(encoders, dict) or set(encoders) != set(model.encoders):
        raise ConfigError(
            where="save_student, config",
            found=f"init_args.encoders {sorted(encoders or {})}",
            expected=f"class_path and init_args of a model with the encoders {sorted(model.encoders)}",
            fix="give the config that the model was made from",
        )
    for modality, encoder in model.encoders.items():
        changed = encoder.portable_init_args(folder / "encoders" / modality)  # type: ignore[operator]
        if changed:
            spec = encoders[modality]
            spec["init_args"] = {**(spec.get("init_args") or {}), **changed}
    return swapped(config, str(folder), HERE)


def load_student(folder: Path, packages: Sequence[str] = ()) -> MultimodalModel:
    """Make the model a folder describes, with the weights in it, in eval mode, on the CPU.

    In a config it is a `class_path` wherever a `MultimodalModel` is wanted.

    Args:
        folder: Written by `save_student`.
        packages: Whose classes it may name besides `lightning_distill` and `torch.nn`; only what you trust,
            since making an instance runs their code.

    Raises:
        CheckpointError: If a file is missing or damaged, names another package, or does not fit.
    """
    content, folder = read_config(folder), standing(Path(folder))
    names = narrowed((*TRUSTED, *packages))
    check_trusted(content["model"], names, folder / CONFIG)
    if not (folder / WEIGHTS).is_file():
        raise unreadable(folder / WEIGHTS, "no such file")
    check_files(content, folder)
    model = _instantiate(content["model"], names, folder / CONFIG)
    _check_order(content, model, folder / CONFIG)
    _load_weights(model, folder / WEIGHTS)
    model.classes = None if content["classes"] is None else tuple(content["classes"])
    model.preprocessing = content.get("preprocessing")
    return model.eval()


def _load_weights(model: MultimodalModel, path: Path) -> None:
    try:
        missing, unknown = read_weights(model, path)
    except (safetensors.SafetensorError, RuntimeError, OSError) as error:
        raise unreadable(path, f"weights that do not fit ({error})") from error
    if missing or unknown:
        raise unreadable(
            path,
            f"{len(missing)} missing weights {missing[:3]}, {len(unknown)} unknown ones {unknown[:3]}",
        )


def _instantiate(spec: dict[str, Any], packages: Sequence[str], path: Path) -> MultimodalModel:
    try:
        return make(spec, MultimodalModel, packages)
    except ImportError as error:
        raise CheckpointError(
            where=path,
            found=f"a model that needs what is not installed ({error})",
            expected="the packages its encoders are made with",
            fix=f"pip install {error.name or 'what is missing'}",
        ) from error
    except (TypeError, ValueError, ConfigError) as error:
        raise unreadable(path, f"a model that cannot be made ({error})") from error


def _check_order(content: Mapping[str, Any], model: MultimodalModel, path: Path) -> None:
    """Weights of a fusion head mean something in its order of modalities only: once that of the config."""
    order = list(model.fusion.modalities)
    saved = content.get("fused") or list(model.modalities)
    if saved != order:
        raise CheckpointError(
            where=path,
            found=f"a student whose fusion head has its modalities in the order {', '.join(saved)}",
            expected=f"the alphabetical order, {', '.join(order)}, which heads have kept since then",
            fix="train it again: fit with its config",
        )
