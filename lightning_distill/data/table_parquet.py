"""Parquet read as text. Metadata that other programs put into the file is not used."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from lightning_distill.data.files import looks_like
from lightning_distill.data.table_types import to_text
from lightning_distill.errors import ManifestError

LARGE: Final = 256 << 20
"""Bytes in memory that any file may become."""
RATIO: Final = 200
"""Times its own size that a file may become beyond that; tables of paths and texts shrink to a tenth."""


def read_parquet(
    path: Path, data: bytes, choose: Callable[[list[str]], list[str]]
) -> tuple[dict[str, Any], NDArray[np.int64]]:
    """Read some columns of a Parquet file as text, by the rules of `to_text`.

    Args:
        path: File, named in errors.
        data: Its content.
        choose: Gets the names of all columns and gives those to read.

    Returns:
        Column name -> Arrow string array, and the number of each row, counted from 1.

    Raises:
        ManifestError: If the file is no Parquet, damaged, or a column has a type without plain text.
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
            wanted = choose(file.schema_arrow.names)
            _check_size(file.metadata, set(wanted), len(data))
            table = file.read(columns=wanted)
        for column in table.columns:
            column.validate(full=True)
        columns = {name: to_text(path, name, table.column(name)) for name in wanted}
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ManifestError(
            where=path,
            found=f"a damaged Parquet file ({error})",
            expected="one that can be read",
            fix="write or copy the file again",
        ) from error
    return columns, np.arange(1, table.num_rows + 1)


def _check_size(metadata: Any, wanted: set[str], size: int) -> None:
    """What the file says it becomes, before anything is unpacked."""
    claimed = metadata.num_rows * len(wanted) * 8  # where each text begins
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        columns = map(group.column, range(group.num_columns))
        claimed += sum(c.total_uncompressed_size for c in columns if c.path_in_schema in wanted)
    if claimed > max(LARGE, RATIO * size):
        raise ValueError(f"{size:,} bytes that would become {claimed:,}")
