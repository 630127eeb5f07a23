"""Config lines that go over a run's config."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, Final

import yaml  # type: ignore[import-untyped]

from lightning_distill import losses
from lightning_distill.errors import printable
from lightning_distill.explanation.without_teacher import without_teacher
from lightning_distill.security.safe_yaml import load_yaml
from lightning_distill.terms import TASK, UNIMODAL

Lines = dict[str, Any]
_INNER: Final = ("OnTarget", "Excluding")


class RunConfig:
    """A run's config, and the changes to it.

    A second `--config` replaces dicts such as `losses` and `weights` as a whole, so that changes hold all of
    them; init args of a class are replaced one by one.

    Args:
        text: Of config.yaml.
    """

    def __init__(self, text: str) -> None:
        try:
            content = load_yaml(text)
        except yaml.YAMLError:
            content = None
        self.content: Lines = content if isinstance(content, dict) else {}
        self.module: Lines = self.at("model", "init_args") or {}

    def at(self, *keys: str) -> Any:
        """A value, or None where there is none."""
        value: Any = self.content
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        return copy.deepcopy(value)

    @property
    def losses(self) -> Lines:
        """Name -> term."""
        found = self.module.get("losses")
        return copy.deepcopy(found) if isinstance(found, dict) else {}

    @property
    def taught(self) -> Lines:
        """Those of the terms that compare with the teacher."""
        return {name: term for name, term in self.losses.items() if _needs_teacher(term)}

    def weight(self, name: str) -> float | None:
        """Of a term; None where it changes during training."""
        value = (self.module.get("weights") or {}).get(name, 1.0)
        return float(value) if isinstance(value, int | float) else None

    def with_weights(self, new: Mapping[str, float]) -> Lines:
        """All weights, some of them new."""
        return {"weights": {**(self.module.get("weights") or {}), **new}}

    def without_teacher(self, *comments: str) -> str:
        """YAML of what trains on labels alone; terms that need no teacher stay.

        Args:
            comments: Sentences above it.
        """
        made = without_teacher(self.content, self.taught)
        module = made["model"]["init_args"]
        own: Lines = {"teacher": None, "losses": module["losses"] or {}}
        own["weights"] = {TASK: 1.0, **(module["weights"] or {})}
        if self.module.get("balancer"):
            own["balancer"] = None
        lines: Lines = {"model": {"init_args": own}}
        if made.get("data") != self.content.get("data"):
            views = made["data"]["init_args"]["teacher_processors"]
            lines["data"] = {"init_args": {"teacher_processors": views}}
        for part in ("early_stopping", "checkpoint"):
            if made.get(part) != self.content.get(part):
                lines[part] = {key: made[part][key] for key in ("monitor", "mode")}
        if self.content.get("cache"):
            lines["cache"] = None
        return as_yaml(lines, *comments)

    def with_terms(self, change: Callable[[Lines], Lines]) -> Lines:
        """All terms, with those that compare with the teacher changed."""
        taught = self.taught
        return {"losses": {n: change(term) if n in taught else term for n, term in self.losses.items()}}


def excluding(term: Lines, classes: list[int] | None = None, samples: str | None = None) -> Lines:
    """A term that leaves out classes or samples, what it leaves out already included."""
    known = (term.get("init_args") or {}) if name_of(term) == "Excluding" else {}
    if known and samples is None:
        classes = sorted({*(known.get("classes") or ()), *(classes or ())})
        return {**term, "init_args": {**known, "classes": classes}}
    options = {"classes": classes} if samples is None else {"samples": samples}
    return {"class_path": "Excluding", "init_args": {"loss": term, **options}}


def overlay(lines: Lines, *comments: str) -> str:
    """YAML of changes to the module, below comments.

    Args:
        lines: Init args of the module.
        comments: Sentences; what stands in them cannot end the comment.
    """
    return as_yaml({"model": {"init_args": lines}}, *comments)


def as_yaml(content: Lines, *comments: str) -> str:
    """YAML below comments."""
    text: str = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=100)
    return "".join(f"# {printable(line, 2000)}\n" for line in comments) + text


def name_of(spec: Any) -> str:
    """Name of the class of a part of a config."""
    path = spec.get("class_path") if isinstance(spec, dict) else None
    return path.rpartition(".")[2] if isinstance(path, str) else ""


def inner(term: Lines) -> Lines:
    """The term inside of those that choose rows for another one."""
    while name_of(term) in _INNER and isinstance(nested := (term.get("init_args") or {}).get("loss"), dict):
        term = nested
    return term


def _needs_teacher(term: Any) -> bool:
    """Of a foreign class, yes."""
    known = getattr(losses, name_of(inner(term)), None) if isinstance(term, dict) else None
    return bool(getattr(known, "needs_teacher", True))


__all__ = ["TASK", "UNIMODAL", "Lines", "RunConfig", "as_yaml", "excluding", "inner", "name_of", "overlay"]
