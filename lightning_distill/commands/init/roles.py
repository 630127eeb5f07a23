"""What each column of a table is for, guessed from its name and its cells."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from lightning_distill.commands.init.columns import Column, Columns
from lightning_distill.commands.init.labels import NAMES, label_column, target_of
from lightning_distill.data.folder import FolderSource
from lightning_distill.data.splits import SPLIT_NAMES
from lightning_distill.data.targets import Target
from lightning_distill.errors import ConfigError

TEXTS: Final = ("text", "caption", "sentence", "description", "name", "title", "txt")
_SPLITS: Final = ("split", "subset", "partition", "set", "fold")
GROUPS: Final = tuple(
    f"{name}{end}"
    for name in ("group", "speaker", "patient", "subject", "person", "user", "author", "session", "recording")
    for end in ("", "_id", "id")
)
"""Names of columns whose values should not be in several splits."""
_MOSTLY: Final = 0.5


@dataclass
class Roles:
    """What the columns are.

    Attributes:
        target: How the labels are read.
        modalities: modality -> column.
        split: Column that says which rows train, validate and test.
        group: Column whose values must not be in several splits.
        named: `domain`, `weight`, `sample_id` -> column.
        left_out: Column -> why it is not used.
    """

    target: Target
    modalities: dict[str, str] = field(default_factory=dict)
    split: str | None = None
    group: str | None = None
    named: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    def told(self) -> str:
        """One sentence or two."""
        parts = [f"{column} is {modality}" for modality, column in self.modalities.items()]
        parts.append(f"{', '.join(self.target.columns)} is the label")
        parts += [f"{self.split} is the split"] * bool(self.split) + [f"{self.group} is the group"] * bool(
            self.group
        )
        parts += [f"{column} is the {role.replace('_', ' ')}" for role, column in self.named.items()]
        left = "; ".join(f"{column} ({why})" for column, why in self.left_out.items())
        return f"{', '.join(parts)}. " + (f"Left out: {left}." if left else "No column is left out.")


def roles_of(columns: Columns, label: str | None) -> Roles:
    """Guess.

    Args:
        columns: The columns.
        label: Column of the labels, where the user named it.

    Raises:
        ConfigError: If there is no telling what the label is, or no modality.
    """
    free = {name: column for name, column in columns.all.items() if name != label}
    left_out = dict(columns.left_out)
    modalities: dict[str, str] = {}
    for modality, suffixes in FolderSource.suffixes.items():
        _take_media(columns, free, left_out, modalities, modality, suffixes)
    split = _take_split(free, left_out)
    group = _take(free, GROUPS)
    named = {role: column for role in ("domain", "weight", "sample_id") if (column := _take(free, (role,)))}
    for name in [name for name, column in free.items() if not column.cells]:
        del free[name]
        left_out[name] = "empty"
    unlikely = {name for name in free if name.casefold() in TEXTS}
    labels = label_column(columns, [name for name in free if name not in unlikely], label)
    free.pop(labels.name, None)
    _take_text(free, left_out, modalities)
    left_out |= dict.fromkeys(free, "not known what it is")
    if not modalities:
        raise _nothing(columns, left_out)
    order: dict[str, str] = {m: modalities[m] for m in ("image", "text", "audio") if m in modalities}
    return Roles(target_of(labels, columns.rows), order, split, group, named, left_out)


def _take(free: dict[str, Column], names: tuple[str, ...]) -> str | None:
    """The first column that has one of these names, which is then no longer free."""
    for wanted in names:
        for name in free:
            if name.casefold() == wanted:
                return free.pop(name).name
    return None


def _take_media(
    columns: Columns,
    free: dict[str, Column],
    left_out: dict[str, str],
    modalities: dict[str, str],
    modality: str,
    suffixes: tuple[str, ...],
) -> None:
    """The fullest column of paths of files that are there."""
    found = []
    for column in list(free.values()):
        if column.name in columns.media:
            named = there = float(columns.media[column.name] == modality)
        else:
            named, there = column.share_of_files(columns.root, suffixes)
        if named <= _MOSTLY:
            continue
        del free[column.name]
        if there > _MOSTLY:
            found.append(column)
        else:
            left_out[column.name] = (
                f"paths of {modality} files, {there / named:.0%} of which are in {columns.root}"
            )
    found.sort(key=lambda column: -column.filled)
    for column in found[1:]:
        left_out[column.name] = f"a second {modality}; {found[0].name} is as full or fuller"
    if found:
        modalities[modality] = found[0].name


def _take_split(free: dict[str, Column], left_out: dict[str, str]) -> str | None:
    import pyarrow.compute as pc

    column = next((free.pop(n) for wanted in _SPLITS for n in free if n.casefold() == wanted), None)
    if column is None:
        return None
    values = pc.unique(column.whole).to_pylist()
    wrong = [value for value in values if value not in SPLIT_NAMES]
    if not wrong:
        return column.name
    shown = "empty cells" if wrong == [None] else ", ".join(repr(value) for value in wrong[:3] if value)
    left_out[column.name] = f"no split, since it holds {shown}; the words are {', '.join(SPLIT_NAMES)}"
    return None


def _take_text(free: dict[str, Column], left_out: dict[str, str], modalities: dict[str, str]) -> None:
    """A column with a name for texts, else the one with the longest texts that are mostly different."""
    texts = [free[name] for wanted in TEXTS for name in free if name.casefold() == wanted]
    if not texts:
        texts = [column for column in free.values() if _is_prose(column)]
        texts.sort(key=lambda column: -column.length)
    for column in texts[:1]:
        modalities["text"] = free.pop(column.name).name
    for column in texts[1:]:
        del free[column.name]
        left_out[column.name] = f"a second text; {texts[0].name} was taken"


def _is_prose(column: Column) -> bool:
    mostly_new = column.distinct > _MOSTLY * column.filled
    words = column.share_with(" ") > _MOSTLY or column.length > 40
    return mostly_new and words and column.numbers is None and column.share_with("://") < _MOSTLY


def _nothing(columns: Columns, left_out: dict[str, str]) -> ConfigError:
    why = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
    return ConfigError(
        where=columns.table.path,
        found=f"no column of images, sounds or texts ({why or 'there is no other column than the label'})",
        expected="a column of paths that start in the folder of the table, or a column of texts",
        fix=f"correct the paths, or call the column of texts {TEXTS[0]!r}; a label is called {NAMES[0]!r}",
    )
