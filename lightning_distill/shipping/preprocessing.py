"""What prepares raw samples for a student, kept beside its weights."""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from lightning_distill.data.own_view import OwnView
from lightning_distill.data.processor import Processor
from lightning_distill.errors import CheckpointError, DistillError
from lightning_distill.security.trust import check_trusted
from lightning_distill.shipping.making import make

FOLDER: Final = "tokenizer"
"""Where in a student's folder processors keep files of theirs."""
_NAMES: Final = ("tokenizer",)
"""Settings that tell where something lies, not what it is."""


def described(processors: Mapping[str, Processor], modalities: Sequence[str], folder: Path) -> dict[str, Any]:
    """Descriptions by which processors can be made again, to prepare samples as in evaluation.

    Args:
        processors: modality -> preprocessing.
        modalities: Those of the student.
        folder: Of the student; what a processor reads from files is written below it.

    Returns:
        modality -> `class_path` and `init_args`; without processors that cannot be told.

    >>> from lightning_distill.data import ByteTextProcessor
    >>> described({"text": ByteTextProcessor(9)}, ["text"], Path("student"))
    {'text': {'class_path': 'lightning_distill.data.ByteTextProcessor', 'init_args': {'max_length': 9}}}
    """
    found = {m: _spec(processors[m], folder / FOLDER / m) for m in modalities if m in processors}
    return {modality: spec for modality, spec in found.items() if spec is not None}


def _spec(processor: Processor, folder: Path) -> dict[str, Any] | None:
    while isinstance(processor, OwnView):  # in evaluation it is what it holds
        processor = processor.processor
    cls = type(processor)
    parameters = inspect.signature(cls).parameters.values()
    if "<locals>" in cls.__qualname__ or any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters):
        return None
    given = processor.portable_init_args(folder)
    unknown = inspect.Parameter.empty
    values = {p.name: given.get(p.name, getattr(processor, p.name, unknown)) for p in parameters}
    if not all(map(_is_plain, values.values())) or not _comes_back(cls, values, set(given)):
        return None
    return {"class_path": _import_path(cls), "init_args": values}


def _comes_back(cls: type, values: Mapping[str, Any], given: Collection[str]) -> bool:
    """Whether arguments make a processor that holds them: an attribute may be made of an argument."""
    try:
        made = cls(**values)
    except Exception:  # whatever a constructor of the user's raises at what is no argument of it
        return False
    return all(getattr(made, name, None) == value for name, value in values.items() if name not in given)


def _import_path(cls: type) -> str:
    """The shortest one: a class may move inside its package."""
    parts = cls.__module__.split(".")
    homes = [".".join(parts[: count + 1]) for count in range(len(parts))]
    shown = [home for home in homes if getattr(sys.modules.get(home), cls.__qualname__, None) is cls]
    return f"{shown[0] if shown else cls.__module__}.{cls.__qualname__}"


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(item) for key, item in value.items())
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def processors_of(
    content: Mapping[str, Any], modalities: Sequence[str], packages: Sequence[str], path: Path
) -> dict[str, Processor]:
    """Make the processors of a student again.

    Args:
        content: Its config.json, with real paths.
        modalities: Those of the student.
        packages: Whose classes it may name.
        path: Of that file, for messages.

    Raises:
        CheckpointError: If one is not told, is of another package, cannot be made, or prepares otherwise
            than the one the student was trained with.
        ConfigError: If what a processor needs is not installed, or its files are damaged.
    """
    told = content.get("processors") or {}
    check_trusted(told, packages, path, loader="Student.from_pretrained")
    if missing := [m for m in modalities if m not in told]:
        raise CheckpointError(
            where=path,
            found=f"no description of what prepares {', '.join(missing)}",
            expected="a processor for each modality, as `fit` has written it since version 0.1.0",
            fix="export it again; or make the processors yourself, as in the run's config: "
            "Student(load_student(folder), {modality: processor}). A processor of your own is written if "
            "each argument of its constructor is kept under the same name, or portable_init_args gives it",
        )
    return {m: _processor(m, told[m], content, packages, path) for m in modalities}


def _processor(
    modality: str, spec: Any, content: Mapping[str, Any], packages: Sequence[str], path: Path
) -> Processor:
    try:
        processor = make(spec, Processor, packages)  # type: ignore[type-abstract]
        settings = json.loads(json.dumps(dict(processor.settings), default=str))
    except DistillError:
        raise
    except (ImportError, TypeError, ValueError) as error:
        raise CheckpointError(
            where=f"{path}, processors.{modality}",
            found=f"a processor that cannot be made ({error})",
            expected="one as it was written",
            fix="install what is missing" if isinstance(error, ImportError) else "export the student again",
        ) from error
    then = (content.get("preprocessing") or {}).get(modality) or {}
    for key, value in then.items():
        if key not in _NAMES and settings.get(key) != value:
            raise CheckpointError(
                where=f"{path}, processors.{modality}",
                found=f"a processor with {key} {settings.get(key, 'not set')}",
                expected=f"{key} {value}, as the student was trained with",
                fix="use the version of the tokenizer's package it was trained with, or export it again",
            )
    return processor
