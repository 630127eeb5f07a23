"""What stands in a folder that an export is about to replace."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import yaml  # type: ignore[import-untyped]

from lightning_distill.errors import CheckpointError, ConfigError, printable
from lightning_distill.security.safe_yaml import load_yaml
from lightning_distill.shipping.onnx_file import ONNX
from lightning_distill.shipping.program_file import PROGRAM
from lightning_distill.student_config import CONFIG, WEIGHTS, read_config
from lightning_distill.writing.seal import FILES

CARD: Final = "README.md"
CHECKS: Final = "verification.json"
_AUTHORS: Final = ("license", "license_name", "license_link")
"""Metadata of a card that are the author's to say."""


def check_only_ours(folder: Path) -> None:
    """Refuse to replace a folder to which somebody has added something.

    Args:
        folder: With a student, or not there.

    Raises:
        ConfigError: Names what was added; or if metadata of its card cannot be read.
    """
    if not (folder / CONFIG).exists():
        return
    licence_of(folder)  # what is wrong with it is said now, not once all is measured
    written = {CONFIG, WEIGHTS, CARD, CHECKS, ONNX, f"{ONNX}.data", PROGRAM, *_listed(folder)}
    homes = {parent.as_posix() for name in written for parent in Path(name).parents}
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*")} - written - homes
    # Of a folder that was added, its name is enough.
    added = sorted(name for name in found if Path(name).parent.as_posix() in homes)
    if added:
        raise ConfigError(
            where=folder,
            found=f"{', '.join(printable(name, 60) for name in added[:5])}"
            + (f" and {len(added) - 5} more" if len(added) > 5 else "")
            + ", which export did not write and would remove",
            expected="a new folder, or one that holds an export and nothing else",
            fix="name another folder with --out, and copy its files over; or move what you added away",
        )


def _listed(folder: Path) -> list[str]:
    try:
        return list(read_config(folder).get(FILES) or ())
    except CheckpointError:  # a damaged student may be replaced
        return []


def licence_of(folder: Path) -> dict[str, Any]:
    """The licence that somebody has written into the card of an export, as the card's metadata have it.

    Args:
        folder: With an export, or not there.

    Returns:
        `license`, `license_name` and `license_link`, those that are set.

    Raises:
        ConfigError: If the card's metadata cannot be read: a licence in them would be lost.
    """
    path = folder / CARD
    if not path.is_file():
        return {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        if not lines or lines[0].strip() != "---":
            return {}
        told = load_yaml("\n".join(lines[1 : 1 + [line.strip() for line in lines[1:]].index("---")]))
        return {name: told[name] for name in _AUTHORS if told.get(name)}
    except (OSError, ValueError, AttributeError, yaml.YAMLError) as error:
        raise ConfigError(
            where=path,
            found=f"metadata that cannot be read ({error})",
            expected="YAML between two lines of ---, whose licence is taken over into the new card",
            fix="repair them, or name another folder with --out",
        ) from error
