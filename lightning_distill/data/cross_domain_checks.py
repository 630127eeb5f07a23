"""What must hold between the DataModules of several domains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from lightning_distill.data.base import MultimodalDataModule
from lightning_distill.data.pairing import Independent, Pairing
from lightning_distill.data.processor import Processor
from lightning_distill.data.source import DataSource
from lightning_distill.errors import ConfigError
from lightning_distill.identity import identity_of

_NAME: Final = "CrossDomainDataModule"
_TAKEN: Final = ("loss", "score", "task", "unimodal")
"""What is logged beside the domains."""
_ALIKE: Final = ("in_memory", "on_bad_sample", "views")

Modules = Mapping[str, MultimodalDataModule]


def check_domains(sources: Modules, targets: Modules, pairing: Pairing) -> None:
    """Names, sources, settings and processors must go together.

    Args:
        sources: Domain -> its data.
        targets: Likewise.
        pairing: Of the two.

    Raises:
        ConfigError: The first that does not.
    """
    for side, modules in (("source", sources), ("target", targets)):
        if not modules:
            raise _error(
                side, "no domain", "one DataModule, or Domains with one or more", "name at least one"
            )
        for name, module in modules.items():
            _check_name(side, name)
            _check_source(side, name, module)
    for name in sources:
        if name in targets:
            told = f"two domains of the name {name!r}"
            raise _error("target", told, "one name for each domain", "give one of them another name")
    parts = {**sources, **targets}
    for setting in _ALIKE:
        _check_alike(setting, {name: getattr(module, setting) for name, module in parts.items()})
    for modality in dict.fromkeys(m for module in parts.values() for m in module.read_modalities):
        _check_processors(modality, {n: p for n, p in parts.items() if modality in p.read_modalities})
    if next(iter(parts.values())).on_bad_sample == "substitute" and not isinstance(pairing, Independent):
        found = f"{type(pairing).__name__}, and on_bad_sample: substitute, which would break pairs"
        raise _error("pairing", found, "pairs that stay together", "set on_bad_sample to stop")


def _error(key: str, found: object, expected: str, fix: str) -> ConfigError:
    return ConfigError(where=f"{_NAME}.{key}", found=found, expected=expected, fix=fix)


def _check_name(side: str, name: str) -> None:
    if name in _TAKEN or not name.strip() or not name.isprintable() or set("/.") & set(name):
        raise _error(
            side,
            f"a domain of the name {name!r}",
            f"a name without / and ., none of {', '.join(_TAKEN)}, since metrics are called "
            "<stage>/<name>/<metric>",
            "give the domain another name",
        )


def _check_source(side: str, name: str, module: MultimodalDataModule) -> None:
    if not isinstance(module.source, DataSource):
        raise _error(
            side,
            f"{type(module.source).__name__} in the domain {name!r}, a stream",
            "sources whose samples are all known, since domains are drawn side by side",
            "use one that can be indexed, such as ManifestSource or HuggingFaceSource",
        )
    own = [
        n
        for n in ("make_dataset", "make_sampler")
        if getattr(type(module), n) is not getattr(MultimodalDataModule, n)
    ]
    if own:
        raise _error(
            side,
            f"{type(module).__name__} in the domain {name!r}, with {own[0]} of its own",
            "DataModules whose rows can be put into one batch",
            "give each of its domains by itself, as name -> DataModule"
            if hasattr(module, "parts")
            else f"do in its source or its processors what {own[0]} does",
        )


def _check_alike(setting: str, values: Mapping[str, Any]) -> None:
    first, *others = values
    for name in others:
        if values[name] != values[first]:
            raise _error(
                setting,
                f"{values[first]} in the domain {first!r}, {values[name]} in {name!r}",
                "the same in all domains, whose rows are in one batch",
                f"set {setting} alike",
            )


def _check_processors(modality: str, parts: Modules) -> None:
    """One tensor holds the rows of all domains, and one mask tells who may read them."""
    first, *others = parts
    for name in others:
        ours, theirs = parts[first], parts[name]
        if (modality in ours.processors) != (modality in theirs.processors):
            alone, both = (name, first) if modality in ours.processors else (first, name)
            raise _error(
                f"processors[{modality!r}]",
                f"it is for the teacher alone in the domain {alone!r}, and for the student too in {both!r}",
                "the same readers in all domains that have it",
                f"move it from teacher_processors to processors in {alone!r}, or the other way in {both!r}",
            )
        pairs = {
            "processors": (ours.processors.get(modality), theirs.processors.get(modality)),
            "teacher_processors": (_teachers(ours, modality), _teachers(theirs, modality)),
        }
        for kind, (one, other) in pairs.items():
            if _told(one) != _told(other):
                raise _error(
                    f"{kind}[{modality!r}]",
                    f"{_shown(one, other)} in the domain {first!r}, {_shown(other, one)} in {name!r}",
                    "the same processor with the same settings and augmentation in all domains",
                    f"give both the same {kind}[{modality!r}]",
                )


def _teachers(module: MultimodalDataModule, modality: str) -> Processor | None:
    return module.teacher_processors.get(modality, module.processors.get(modality))


def _told(processor: Processor | None) -> str:
    if processor is None:
        return ""
    return identity_of(type(processor), processor.identity, dict(processor.view_settings))


def _shown(processor: Processor | None, other: Processor | None) -> str:
    """Its class, and those of its settings that the other has not."""
    if processor is None:
        return "none"
    ours, theirs = ({} if p is None else {**p.settings, **p.view_settings} for p in (processor, other))
    own = {key: value for key, value in ours.items() if key not in theirs or theirs[key] != value}
    return f"{type(processor).__name__} {own or ''}".strip()
