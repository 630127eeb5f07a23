"""Rows of knowledge, in whatever order they come, as one array file each in the order of their ids."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from lightning_distill.errors import ConfigError
from lightning_distill.knowledge import IDS, checksum

Array = NDArray[Any]
ROWS: Final = 4096
"""Rows that are moved at a time."""


class RowWriter:
    """Gathers rows as they come into flat files, then writes them in the order of their ids.

    Args:
        folder: Where to; it must be there.
        dtype: Of the arrays.
    """

    def __init__(self, folder: Path, dtype: np.dtype[Any]) -> None:
        self._folder, self._dtype = folder, dtype
        self._ids: list[Array] = []
        self._shapes: dict[str, tuple[int, ...]] = {}

    def _raw(self, name: str) -> Path:
        return self._folder / f"{name}.raw"

    def add(self, ids: Array, answers: Mapping[str, Array]) -> None:
        """Keep these rows.

        Args:
            ids: int64 "rows".
            answers: Name of an array -> float "rows ...".

        Raises:
            ConfigError: If a number is too large, or a shape is not that of the rows before.
        """
        self._ids.append(ids)
        for name, values in answers.items():
            with np.errstate(over="ignore"):  # told below, with its name
                kept = values.astype(self._dtype)
            if np.isinf(kept).sum() > np.isinf(values).sum():
                raise ConfigError(
                    where=f"knowledge, {name}",
                    found=f"{np.abs(values[np.isinf(kept)]).max():.3g}, too large for {self._dtype}",
                    expected="numbers below 65504",
                    fix="store float32",
                )
            shape = tuple(kept.shape[1:])
            if self._shapes.setdefault(name, shape) != shape:
                raise ConfigError(
                    where=f"knowledge, {name}",
                    found=f"{shape} in one batch and {self._shapes[name]} in another",
                    expected="one shape for all samples",
                    fix="pad every batch to one length, or leave that layer out",
                )
            self._raw(name).parent.mkdir(parents=True, exist_ok=True)
            with self._raw(name).open("ab") as file:
                file.write(kept.tobytes())

    def finish(self) -> dict[str, dict[str, Any]]:
        """Write the arrays; of an id that came again, the first row counts.

        Returns:
            Name of an array -> what knowledge.json says of it.

        Raises:
            ConfigError: If there is no row.
        """
        ids = np.concatenate(self._ids) if self._ids else np.empty(0, np.int64)
        ordered, order = np.unique(ids, return_index=True)
        if not len(ids):
            raise ConfigError(
                where="knowledge",
                found="no sample",
                expected="at least one",
                fix="check the split",
            )
        np.save(self._folder / f"{IDS}.npy", ordered.astype(np.int64))
        for name, shape in self._shapes.items():
            raw: Array = np.memmap(self._raw(name), self._dtype, "r", shape=(len(ids), *shape))
            # Written, not mapped: a full disk would end a process that writes through a map.
            with (self._folder / f"{name}.npy").open("wb") as file:
                header = {"descr": self._dtype.str, "fortran_order": False, "shape": (len(order), *shape)}
                np.lib.format.write_array_header_1_0(file, header)  # type: ignore[no-untyped-call]
                for at in range(0, len(order), ROWS):
                    file.write(np.ascontiguousarray(raw[order[at : at + ROWS]]).data)
            del raw
            self._raw(name).unlink()
        return {name: _entry(self._folder, name) for name in (IDS, *self._shapes)}


def _entry(folder: Path, name: str) -> dict[str, Any]:
    array = np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
    entry = {"dtype": str(array.dtype), "shape": list(array.shape)}
    return {**entry, "xxh3_64": checksum(folder / f"{name}.npy")}
