"""Saving a model as safetensors and JSON, and loading it again without what it was trained from."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import jsonargparse
import safetensors.torch
from torch import Tensor

from lightning_distill import __version__
from lightning_distill.errors import CheckpointError, ConfigError
from lightning_distill.model import MultimodalModel

WEIGHTS: Final = "model.safetensors"
CONFIG: Final = "config.json"
TRUSTED: Final = ("lightning_distill", "torch.nn")
"""Packages whose classes a saved model may name."""

_HERE = "{folder}"
"""Stands in config.json for the folder it lies in."""
_DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")
_LOADER = f"{__name__}.load_student"


def save_student(
    model: MultimodalModel,
    folder: Path | str,
    config: Mapping[str, Any],
    weights: Mapping[str, Tensor] | None = None,
) -> None:
    """Write `model.safetensors` and `config.json`, all or nothing; an older student is replaced.

    Encoders that were made from pretrained files keep their architecture in the folder, so that loading
    needs no such files and no network.

    Args:
        model: What to save.
        folder: Its parent is made where needed.
        config: `class_path` and `init_args` that make such a model, as in the run's config.yaml.
        weights: Its state dict, where the model itself is split over processes; None takes the model's.

    Raises:
        ConfigError: If `config` does not describe the model.
    """
    folder = Path(folder).absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        content = {
            "lightning_distill": __version__,
            "classes": None if model.classes is None else list(model.classes),
            "preprocessing": model.preprocessing,
            "fused": list(model.fusion.modalities),
            "model": _portable(model, dict(config), partial),
        }
        (partial / CONFIG).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        if weights is None:
            safetensors.torch.save_model(model, str(partial / WEIGHTS))
        else:
            safetensors.torch.save_file(_each_once(model, weights), partial / WEIGHTS, {"format": "pt"})
        shutil.copymode(partial / CONFIG, partial / WEIGHTS)  # safetensors lets nobody else read it
        _replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _each_once(model: MultimodalModel, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without the second name of a parameter that two modules share; loading ties them again."""
    names = [name for name, _ in (*model.named_parameters(), *model.named_buffers())]
    return {name: weights[name].contiguous() for name in names if name in weights}


def _replace(new: Path, target: Path) -> None:
    """Rename `new` to `target`; a folder that is in the way goes only once the new one stands."""
    old = target.with_name(f".{target.name}.{os.getpid()}.old")
    if target.exists():
        target.rename(old)
    new.rename(target)
    shutil.rmtree(old, ignore_errors=True)


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
    path = Path(folder, CONFIG)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content["model"]["class_path"], str) or "classes" not in content:
            raise KeyError("model")
        settings = content.get("preprocessing") or {}  # older files have none
        if not all(isinstance(values, dict) for values in settings.values()):
            raise TypeError("preprocessing")
    except OSError as error:
        raise _unreadable(path, "no such file" if isinstance(error, FileNotFoundError) else error) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _unreadable(path, f"not the description of a saved model ({error!r})") from error
    return {**content, "model": _swap(content["model"], _HERE, str(Path(folder).absolute()))}


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
    folder = Path(folder)
    content = read_config(folder)
    _check_trusted(content["model"], (*TRUSTED, *packages), folder / CONFIG)
    if not (folder / WEIGHTS).is_file():
        raise _unreadable(folder / WEIGHTS, "no such file")
    model = _instantiate(content["model"], folder / CONFIG)
    _check_order(content, model, folder / CONFIG)
    try:
        missing, unexpected = safetensors.torch.load_model(model, folder / WEIGHTS, strict=False)
    except (safetensors.SafetensorError, RuntimeError, OSError) as error:
        raise _unreadable(folder / WEIGHTS, f"weights that do not fit ({error})") from error
    if missing or unexpected:
        raise _unreadable(
            folder / WEIGHTS,
            f"{len(missing)} missing weights {sorted(missing)[:3]}, "
            f"{len(unexpected)} unknown ones {sorted(unexpected)[:3]}",
        )
    model.classes = None if content["classes"] is None else tuple(content["classes"])
    model.preprocessing = content.get("preprocessing")
    return model.eval()


def _instantiate(spec: dict[str, Any], path: Path) -> MultimodalModel:
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(MultimodalModel, "model")
    try:
        model = parser.instantiate(parser.parse_object({"model": spec})).model
    except (jsonargparse.ArgumentError, TypeError, ValueError, ConfigError) as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        raise _unreadable(path, f"a model that cannot be made ({cause})") from error
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


def _check_trusted(value: Any, packages: Sequence[str], path: Path, key: str = "") -> None:
    """Refuse import paths outside `packages`, wherever they stand: a plain string may name a callable."""
    if isinstance(value, dict):
        for name, item in value.items():
            _check_trusted(item, packages, path, name)
    elif isinstance(value, list):
        for item in value:
            _check_trusted(item, packages, path)
    elif isinstance(value, str) and (key == "class_path" or _could_be_imported(value)):
        home = _home(value, packages)
        if not (_inside(value, packages) and _inside(home, packages)):
            raise CheckpointError(
                where=f"{path}, {key}",
                found=f"{value!r}" + ("" if home == value else f", which is {home or 'not to be found'!r}"),
                expected=f"classes of {', '.join(packages)} only",
                fix=f"if you trust it, call load_student(folder, packages=[{value.split('.')[0]!r}])",
            )


def _could_be_imported(value: str) -> bool:
    top = value.split(".")[0]
    return bool(_DOTTED.fullmatch(value)) and (top in sys.modules or find_spec(top) is not None)


def _inside(name: str, packages: Sequence[str]) -> bool:
    return any(name.startswith(p + ".") for p in packages)


def _home(dotted: str, packages: Sequence[str]) -> str:
    """Where an object really comes from, since any module also offers what it has imported."""
    if not _inside(dotted, packages):
        return dotted  # nothing is imported before it is trusted
    module, _, name = dotted.rpartition(".")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError):
        return ""
    return f"{getattr(found, '__module__', module)}.{getattr(found, '__qualname__', name)}"
