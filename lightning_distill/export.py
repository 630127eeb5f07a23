"""Saving a model as safetensors and JSON, and loading it again without what it was trained from."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import jsonargparse
import safetensors
from torch import Tensor

from lightning_distill import __version__
from lightning_distill.errors import CheckpointError, ConfigError
from lightning_distill.model import MultimodalModel
from lightning_distill.security.allowed import only, refusal
from lightning_distill.security.secrets import redacted_values
from lightning_distill.security.trust import check_depth, check_trusted
from lightning_distill.student_weights import read_weights, write_weights
from lightning_distill.writing.disk import refusals_named
from lightning_distill.writing.seal import CHECK, FILES, differing, is_whole, sealed
from lightning_distill.writing.whole_folder import standing, whole_folder

WEIGHTS: Final = "model.safetensors"
CONFIG: Final = "config.json"
TRUSTED: Final = ("lightning_distill", "torch.nn")
"""Packages whose classes a saved model may name."""

_KEYS: Final = frozenset({"lightning_distill", "classes", "preprocessing", "fused", "model", FILES, CHECK})
_MAX_CONFIG = 4_000_000
"""Bytes of a config.json that are read."""
_HERE = "{folder}"
"""Stands in config.json for the folder it lies in."""
_LOADER = f"{__name__}.load_student"


def save_student(
    model: MultimodalModel,
    folder: Path | str,
    config: Mapping[str, Any],
    weights: Mapping[str, Tensor] | None = None,
) -> None:
    """Write `model.safetensors` and `config.json`, all or nothing; an older student is replaced.

    Encoders that were made from pretrained files keep their architecture in the folder, so that loading
    needs no such files and no network. config.json holds a checksum of each file and one of itself.

    Args:
        model: What to save.
        folder: Its parent is made where needed.
        config: `class_path` and `init_args` that make such a model, as in the run's config.yaml.
        weights: Its state dict, where the model itself is split over processes; None takes the model's.

    Raises:
        ConfigError: If `config` does not describe the model, or `folder` holds something else than a student.
        DiskError: If the disk refuses; what was there before is as it was.
    """
    folder = Path(folder).resolve()
    check_replaceable(folder)
    with whole_folder(folder) as partial, refusals_named(folder):
        content = {
            "lightning_distill": __version__,
            "classes": None if model.classes is None else list(model.classes),
            "preprocessing": model.preprocessing,
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
    return _swap(config, str(folder), _HERE)


def _swap(value: Any, old: str, new: str) -> Any:
    if isinstance(value, dict):
        return {key: _swap(item, old, new) for key, item in value.items()}
    if isinstance(value, list):
        return [_swap(item, old, new) for item in value]
    return value.replace(old, new) if isinstance(value, str) else value


def read_config(folder: Path | str) -> dict[str, Any]:
    """What `save_student` wrote to config.json, with real paths.

    Raises:
        CheckpointError: If it is missing or not such a file.
    """
    folder = standing(Path(folder).absolute())
    path = folder / CONFIG
    try:
        if path.stat().st_size > _MAX_CONFIG:
            raise ValueError(f"more than {_MAX_CONFIG:,} bytes")
        content = json.loads(path.read_text(encoding="utf-8"))
        check_depth(content)
        if not isinstance(content["model"]["class_path"], str) or "classes" not in content:
            raise KeyError("model")
        settings = content.get("preprocessing") or {}  # older files have none
        if not all(isinstance(values, dict) for values in settings.values()):
            raise TypeError("preprocessing")
    except OSError as error:
        raise _unreadable(path, "no such file" if isinstance(error, FileNotFoundError) else error) from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _unreadable(path, f"not the description of a saved model ({error!r})") from error
    if strange := set(content) - _KEYS:
        raise _unreadable(path, f"{sorted(strange)}, which this version does not know, or damage")
    if not is_whole(content):
        raise _damaged(path, "other content than was written")
    return {**content, "model": _swap(content["model"], _HERE, str(folder))}


def _damaged(path: Path, found: str, expected: str = "what `save_student` wrote") -> CheckpointError:
    return CheckpointError(
        where=path,
        found=found,
        expected=expected,
        fix=f"save it again, or take a copy; if you changed it yourself, remove `{CHECK}` (and, for another "
        f"file, `{FILES}`) from {CONFIG}",
    )


def _unreadable(path: Path, found: object) -> CheckpointError:
    return CheckpointError(
        where=path,
        found=found,
        expected=f"a folder with {CONFIG} and {WEIGHTS}, as `fit` leaves it in RUN/student",
        fix="check the path, or train the model first: lightning-distill fit --run RUN",
    )


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
    # The parser also refuses what stands in a file that is named, or comes out of a text.
    with only((*TRUSTED, *packages)) as names:
        check_trusted(content["model"], names, folder / CONFIG)
        if not (folder / WEIGHTS).is_file():
            raise _unreadable(folder / WEIGHTS, "no such file")
        _check_files(content, folder)
        model = _instantiate(content["model"], folder / CONFIG)
    _check_order(content, model, folder / CONFIG)
    _load_weights(model, folder / WEIGHTS)
    model.classes = None if content["classes"] is None else tuple(content["classes"])
    model.preprocessing = content.get("preprocessing")
    return model.eval()


def _check_files(content: Mapping[str, Any], folder: Path) -> None:
    try:
        other = differing(content, folder)
    except (OSError, AttributeError, TypeError) as error:
        raise _unreadable(folder, error) from error
    if other is not None:
        name, found, expected = other
        raise _damaged(folder / name, found, expected)


def _load_weights(model: MultimodalModel, path: Path) -> None:
    try:
        missing, unknown = read_weights(model, path)
    except (safetensors.SafetensorError, RuntimeError, OSError) as error:
        raise _unreadable(path, f"weights that do not fit ({error})") from error
    if missing or unknown:
        raise _unreadable(
            path,
            f"{len(missing)} missing weights {missing[:3]}, {len(unknown)} unknown ones {unknown[:3]}",
        )


def _instantiate(spec: dict[str, Any], path: Path) -> MultimodalModel:
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(MultimodalModel, "model")
    try:
        model = parser.instantiate(parser.parse_object({"model": spec})).model
    except (jsonargparse.ArgumentError, TypeError, ValueError, ConfigError) as error:
        refused = refusal(error, path)
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        found = f"a model that cannot be made ({cause})" if refused is None else refused.found
        raise _unreadable(path, found) from error
    if not isinstance(model, MultimodalModel):
        raise _unreadable(path, f"a {type(model).__name__}")
    return model


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
