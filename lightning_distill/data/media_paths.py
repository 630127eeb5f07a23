"""Paths in a table: whether they stay in their folder and lead to files, found before training starts."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from lightning_distill.data.files import problem_of, similar_name
from lightning_distill.data.tables import TextTable, first_true
from lightning_distill.errors import ManifestError, SampleError


def check_media(table: TextTable, column: str, root: Path, allow_outside_root: bool) -> None:
    """Look at every file a column names, without opening one.

    Args:
        table: The table.
        column: Holds paths, relative to `root`.
        root: Folder.
        allow_outside_root: Accept paths that leave `root`.

    Raises:
        ManifestError: If a path is a URL or a command, or leaves `root`.
        SampleError: If files are missing, empty, or no regular files; counts them and names the first.
    """
    import pyarrow.compute as pc

    cells = table.columns[column]
    _refuse(table, column, pc.match_substring(cells, "://"), "a URL", "download the file and give its path")
    command = pc.match_substring_regex(cells, "(?i)^pipe:")
    _refuse(table, column, command, "a command", "save what it writes in a file and give its path")
    if not allow_outside_root:
        outside = pc.match_substring_regex(cells, r"^/|^[A-Za-z]:[/\\]|^\\|(^|[/\\])\.\.([/\\]|$)")
        _refuse(table, column, outside, f"a path that leaves {root}", _ALLOW)
    paths: list[str] = pc.unique(cells.drop_null()).to_pylist()
    base = str(root)
    # One look at each file; links and whatever is wrong are looked at again.
    suspects = [path for path in paths if not _is_plain(os.path.join(base, path))]
    if not allow_outside_root:
        _check_links(table, column, root, paths, suspects)
    problems = [(path, problem) for path in suspects if (problem := problem_of(root / path))]
    if not problems:
        return
    named = [f"{path!r} (row {_row(table, column, path)}) {problem}" for path, problem in problems[:3]]
    path, problem = problems[0]
    hint = similar_name(root / path) if problem == "is missing" else ""
    raise SampleError(
        where=f"{table.path}, row {_row(table, column, path)}, column {column!r}",
        found=f"{len(problems)} of {len(paths)} files cannot be read: {'; '.join(named)}{hint}",
        expected=f"files in {root}",
        fix="correct the paths (folders are separated by /), set `root` to the folder they start from, "
        "or leave the cell empty to mark the modality absent",
    )


_ALLOW = "copy or move the file into that folder, or set allow_outside_root to true if you trust the table"


def _refuse(table: TextTable, column: str, mask: object, found: str, fix: str) -> None:
    row = first_true(mask)
    if row is not None:
        raise ManifestError(
            where=table.where(row, column),
            found=f"{table.columns[column][row].as_py()!r}, {found}",
            expected="the path of a file inside that folder",
            fix=fix,
        )


def _is_plain(path: str) -> bool:
    try:
        found = os.lstat(path)
    except (OSError, ValueError):
        return False
    return stat.S_ISREG(found.st_mode) and found.st_size > 0


def _check_links(table: TextTable, column: str, root: Path, paths: list[str], suspects: list[str]) -> None:
    """Refuse files that a symbolic link, their own or a folder's, takes out of `root`."""
    inside = os.path.join(os.path.realpath(root), "")

    def leaves(path: str) -> bool:
        try:
            return not os.path.join(os.path.realpath(root / path), "").startswith(inside)
        except (OSError, ValueError):
            return False

    folders = {folder for folder in set(map(os.path.dirname, paths)) if leaves(folder)}
    path = next((path for path in paths if os.path.dirname(path) in folders), None) if folders else None
    path = path if path is not None else next(filter(leaves, suspects), None)
    if path is not None:
        raise ManifestError(
            where=f"{table.path}, row {_row(table, column, path)}, column {column!r}",
            found=f"{path!r}, a symbolic link to {os.path.realpath(root / path)}",
            expected=f"a file inside {root}",
            fix=_ALLOW,
        )


def _row(table: TextTable, column: str, cell: str) -> int:
    import pyarrow.compute as pc

    return int(table.line[pc.index(table.columns[column], cell).as_py()])
