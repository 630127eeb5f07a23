"""Parquet read as text: strings stay, integers become their decimal text, anything else is refused."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_distill.data.files import looks_like
from lightning_distill.errors import ManifestError


def read_parquet(
    path: Path, data: bytes, choose: Callable[[list[str]], list[str]]
) -> tuple[dict[str, Any], NDArray[np.int64]]:
    """Read some columns of a Parquet file as text.

    Args:
        path: File, named in errors.
        data: Its content.
        choose: Gets the names of all columns and gives those to read.

    Returns:
        Column name -> Arrow string array, and the number of each row, counted from 1.

    Raises:
        ManifestError: If the file is no Parquet, damaged, or a column holds neither text nor integers.
    """
    import pyarrow as pa
    import pyarrow.parquet

    if data[:4] != b"PAR1" or data[-4:] != b"PAR1" or len(data) < 12:
        whole = data[:4] != b"PAR1"
        raise ManifestError(
            where=path,
            found=looks_like(data[:200]) if whole else "a Parquet file whose end is missing",
            expected="a whole Parquet file, which begins and ends with PAR1",
            fix="name a CSV file .csv" if whole else "write or copy the file again",
        )
    try:
        with pyarrow.parquet.ParquetFile(BytesIO(data), page_checksum_verification=True) as file:
            schema = file.schema_arrow
            wanted = choose(schema.names)
            for name in wanted:
                _check_type(path, name, schema.field(name).type)
            table = file.read(columns=wanted)
        columns = {name: table.column(name).cast(pa.large_string()) for name in wanted}
        for column in columns.values():
            column.validate(full=True)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ManifestError(
            where=path,
            found=f"a damaged Parquet file ({error})",
            expected="one that can be read",
            fix="write or copy the file again",
        ) from error
    return columns, np.arange(1, table.num_rows + 1)


def _check_type(path: Path, name: str, kind: Any) -> None:
    from pyarrow import types

    plain = kind.value_type if types.is_dictionary(kind) else kind
    texts = (types.is_string, types.is_large_string, types.is_string_view)
    if any(fits(plain) for fits in (*texts, types.is_integer, types.is_null)):
        return
    fix = "save that column as text"
    if types.is_floating(plain):
        fix = "save it as text, or as integers (in pandas: astype('Int64'), which keeps empty cells)"
    elif types.is_nested(plain):
        fix = "keep one value a cell: the path of a file instead of its content"
    raise ManifestError(
        where=f"{path}, column {name!r}", found=f"the type {kind}", expected="text or integers", fix=fix
    )
