"""Whether models are fed what their encoders need, and a teacher what it was trained with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import zip_longest
from typing import Any, Final

from lightning_distill.errors import ConfigError, TeacherError
from lightning_distill.model import MultimodalModel
from lightning_distill.teachers import Teacher

_TOKENIZER: Final = ("tokenizer", "vocabulary", "vocabulary_size")


def preprocessing_fits(student: MultimodalModel | None, teacher: Teacher | None, datamodule: Any) -> None:
    """What the DataModule's processors make must be what student and teacher read.

    A DataModule without `processors` is not looked at.

    Raises:
        ConfigError: If the student's encoders need other settings.
        TeacherError: If the teacher's do, if it was trained with others, or if nothing prepares one of its
            modalities.
    """
    processors = getattr(datamodule, "processors", None)
    if not isinstance(processors, Mapping):
        return
    for modality, needed in ({} if student is None else student.requirements).items():
        if modality in processors:
            _student_fits(modality, needed, plain(processors[modality].settings))
    if teacher is None:
        return
    own = getattr(datamodule, "teacher_processors", {})
    theirs = {**processors, **own}
    _all_there(teacher, theirs)
    for modality, wanted in teacher.requirements.items():
        settings = plain(theirs[modality].settings)
        _trained_so(modality, (teacher.preprocessing or {}).get(modality, {}), settings)
        _teacher_fits(modality, wanted, settings)


def recorded(model: MultimodalModel, datamodule: Any) -> dict[str, dict[str, Any]] | None:
    """Settings of the processors a model is trained with, to be kept beside it; None where not known."""
    processors = getattr(datamodule, "processors", None)
    if not isinstance(processors, Mapping):
        return model.preprocessing
    return {m: plain(processors[m].settings) for m in model.modalities if m in processors}


def plain(settings: Mapping[str, object]) -> dict[str, Any]:
    """The settings as JSON gives them back, so that they equal those read from a file.

    >>> plain({"mean": (0.5, 0.5)})
    {'mean': [0.5, 0.5]}
    """
    values: dict[str, Any] = json.loads(json.dumps(dict(settings), default=str))
    return values


def _unmet(needed: Mapping[str, object], settings: Mapping[str, Any]) -> str | None:
    """The first requirement that known settings do not meet."""
    for key, value in plain(needed).items():
        if key in settings:
            fits = settings[key] <= value if key == "vocabulary_size" else settings[key] == value
            if not fits:
                return key
    return None


def _student_fits(modality: str, needed: Mapping[str, object], settings: Mapping[str, Any]) -> None:
    key = _unmet(needed, settings)
    if key is not None:
        raise ConfigError(
            where=f"student, encoder {modality!r}, {key}",
            found=f"an encoder with {key} {needed[key]}, and a processor with {key} {settings[key]}",
            expected=_rule(key),
            fix=f"change the {key} of the encoder or of data.processors.{modality}",
        )


def _teacher_fits(modality: str, needed: Mapping[str, object], settings: Mapping[str, Any]) -> None:
    key = _unmet(needed, settings)
    if key is not None:
        raise TeacherError(
            where=f"teacher, encoder {modality!r}, {key}",
            found=f"an encoder with {key} {needed[key]}, and a processor with {key} {settings[key]}",
            expected=_rule(key),
            fix=f"add teacher_processors: {{{modality}: ...}} with {key} {needed[key]}",
        )


def _rule(key: str) -> str:
    return "a processor with no more tokens than the encoder" if key == "vocabulary_size" else f"one {key}"


def _all_there(teacher: Teacher, processors: Mapping[str, Any]) -> None:
    missing = [m for m in teacher.requirements if m not in processors]
    if missing:
        raise TeacherError(
            where="DataModule.processors",
            found=f"none for {missing}, which the teacher reads",
            expected=f"a processor for each of {list(teacher.requirements)}",
            fix=f"add teacher_processors: {{{missing[0]}: ...}} to the DataModule; its source must have it",
        )


def _trained_so(modality: str, then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Settings that were recorded must be there again; the processor may have others besides."""
    same_words = "vocabulary" in then and then["vocabulary"] == now.get("vocabulary")
    kept = [k for k in then if not (k == "tokenizer" and same_words)]  # it may lie in two places
    key = next((k for k in kept if k not in now or now[k] != then[k]), None)
    if key is None:
        return
    found, expected = f"a processor with {key} {now.get(key, 'not set')}", f"{key} {then[key]}"
    if key in _TOKENIZER:
        found, expected = _told(now), _told(then) + _first_other_token(then, now)
    raise TeacherError(
        where=f"teacher, modality {modality!r}, {key}",
        found=found,
        expected=f"{expected}, as the teacher was trained with",
        fix=f"add teacher_processors: {{{modality}: ...}} with the settings {dict(then)}",
    )


def _told(settings: Mapping[str, Any]) -> str:
    name, size = settings.get("tokenizer"), settings.get("vocabulary_size", "an unknown number of")
    return f"a tokenizer{'' if name is None else f' {name!r}'} with {size} tokens"


def _first_other_token(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The first token that differs, where both tokenizers are on disk."""
    theirs, ours = _tokens(then.get("tokenizer")), _tokens(now.get("tokenizer"))
    if theirs and ours:
        for at, (a, b) in enumerate(zip_longest(theirs, ours)):
            if a != b:
                return f" (token {at} is {a!r} there and {b!r} here)"
    return ""


def _tokens(name: object) -> list[str]:
    if not isinstance(name, str):
        return []
    import transformers

    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            name, trust_remote_code=False, local_files_only=True
        )
    except Exception:  # whatever is wrong with it: this only adds to a message
        return []
    words: dict[str, int] = tokenizer.get_vocab()
    return sorted(words, key=words.__getitem__)
