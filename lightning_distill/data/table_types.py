"""What the columns of a Parquet file, or of a table in memory, become as text."""

from __future__ import annotations

from typing import Any, Final

from lightning_distill.errors import ManifestError

SEPARATOR: Final = "|"
"""Between the items of a list, in the text it becomes."""
EMPTY_LIST: Final = "-"
"""What a list without items becomes: it names no class, where an empty cell names no label."""


def to_text(table: object, name: str, column: Any) -> Any:
    """A column as text: numbers as the shortest that reads back as the same, lists of text joined by `|`.

    Args:
        table: Where the column is from, named in errors.
        name: Name of the column.
        column: Arrow array, chunked or not.

    Returns:
        Arrow large strings; null where there was null or NaN.

    Raises:
        ManifestError: If the type has no plain text, or an item of a list holds `|`.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    from pyarrow import types

    _check_type(table, name, column.type)
    if isinstance(column.type, pa.BaseExtensionType):
        column = column.cast(column.type.storage_type)
    if types.is_dictionary(column.type) and types.is_string_view(column.type.value_type):
        # Arrow cannot decode it, but change the kind of its text.
        column = column.cast(pa.dictionary(column.type.index_type, pa.large_string()))
    if types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if _is_list(column.type):
        return _join(table, name, column)
    if types.is_floating(column.type):
        column = pc.if_else(pc.is_nan(column), None, column)
    return column.cast(pa.large_string())


def _check_type(table: object, name: str, kind: Any) -> None:
    import pyarrow as pa
    from pyarrow import types

    plain = kind.value_type if types.is_dictionary(kind) else kind
    if isinstance(kind, pa.BaseExtensionType):
        known = _is_text(kind.storage_type)
    elif _is_list(plain):
        known = _is_text(plain.value_type)
    else:
        numbers = types.is_integer(plain) or types.is_floating(plain) or types.is_boolean(plain)
        known = numbers or _is_text(plain) or types.is_null(plain)
    if not known:
        nested = types.is_nested(plain) or types.is_binary(plain) or types.is_large_binary(plain)
        raise ManifestError(
            where=f"{table}, column {name!r}",
            found=f"the type {kind}",
            expected="text or numbers, or lists of text",
            fix="keep one value a cell: the path of a file instead of its content"
            if nested
            else "save that column as text",
        )


def _is_text(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def _is_list(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def _join(table: object, name: str, column: Any) -> Any:
    import pyarrow as pa
    import pyarrow.compute as pc

    lists = column.cast(pa.list_(pa.string()))
    lists = lists.combine_chunks() if isinstance(lists, pa.ChunkedArray) else lists
    items, rows = pc.list_flatten(lists), pc.list_parent_indices(lists)
    unfit = pc.fill_null(pc.or_(pc.equal(items, ""), pc.match_substring(items, SEPARATOR)), True)
    at = pc.index(unfit, True).as_py()
    if at >= 0:
        raise unfit_item(f"{table}, row {rows[at].as_py() + 1}, column {name!r}", items[at].as_py())
    joined = pc.binary_join(lists, SEPARATOR)
    return pc.if_else(pc.equal(joined, ""), EMPTY_LIST, joined).cast(pa.large_string())


def unfit_item(where: str, item: object) -> ManifestError:
    """The error for an item of a list that cannot be joined with others."""
    return ManifestError(
        where=where,
        found=f"a list with the item {item!r}",
        expected=f"items of text, not empty and without {SEPARATOR!r}",
        fix="rename the item, or leave it out",
    )
