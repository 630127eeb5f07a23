"""What a teacher knows about a data set, as a folder of plain arrays.

    knowledge.json        what is in the folder, see `Knowledge`
    sample_id.npy         int64 "samples", ascending, each id once
    logits.npy            "samples classes"
    embedding.npy         "samples dim", where the teacher has one
    features.image.npy    "samples dim", one file a modality, where the teacher has them
    layers/PATH.npy       "samples ...", the output of the module PATH, where asked for
    alone/image/...       the same again, for the teacher with that modality alone, where asked for

Row i of every file belongs to sample_id[i]. The answers are those to the sample as in evaluation, without
augmentation. A reader needs NumPy and JSON, not this library.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import xxhash
from numpy.typing import NDArray

from lightning_distill.errors import CheckpointError, nearest

FORMAT: Final = 1
"""Version of the folder's format."""
CONFIG: Final = "knowledge.json"
IDS: Final = "sample_id"

Array = NDArray[Any]


def checksum(path: Path) -> str:
    """XXH3-64 of a file's bytes, in hexadecimal."""
    summed = xxhash.xxh3_64()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            summed.update(block)
    return summed.hexdigest()


class Knowledge:
    """An open folder of knowledge; arrays are mapped, not read.

    Args:
        folder: As `write_knowledge` writes it. `Knowledge.open` checks it first.
        content: Of knowledge.json: `format`, `classes` (names in the order of the logits, or null), `split`,
            `samples` (their number), `data_fingerprint`, `preprocessing`, `lightning_distill` (version), and
            `arrays`: name -> `dtype`, `shape` and `xxh3_64`, the checksum of the file.
        arrays: name -> array.
    """

    def __init__(self, folder: Path, content: Mapping[str, Any], arrays: Mapping[str, Array]) -> None:
        self.folder, self.content = folder, content
        self.sample_id: NDArray[np.int64] = np.asarray(arrays[IDS])
        self.arrays = {name: array for name, array in arrays.items() if name != IDS}

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Names of the teacher's classes, where known."""
        names = self.content["classes"]
        return None if names is None else tuple(names)

    def __len__(self) -> int:
        return len(self.sample_id)

    @classmethod
    def open(cls, folder: Path | str) -> Knowledge:
        """Map the arrays of a folder, and check that all are there and of the size they should have.

        Raises:
            CheckpointError: If it is no such folder, or a file is missing or cut short.
        """
        folder = Path(folder)
        try:
            content = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
            version, told = content["format"], content["arrays"]
            if version != FORMAT or IDS not in told or "logits" not in told or "classes" not in content:
                raise ValueError(f"format {version!r}, arrays {', '.join(told)}")
            arrays = {name: _mapped(folder, name, entry) for name, entry in told.items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise _damaged(folder, error) from error
        if not bool((np.diff(arrays[IDS]) > 0).all()):
            raise _damaged(folder, "sample ids that do not ascend")
        return cls(folder, content, arrays)

    def verify(self) -> None:
        """Read everything and compare checksums.

        Raises:
            CheckpointError: If a file is not as it was written.
        """
        for name, entry in self.content["arrays"].items():
            if checksum(self.folder / f"{name}.npy") != entry["xxh3_64"]:
                raise _damaged(self.folder / f"{name}.npy", "another checksum than when it was written")

    def positions(self, sample_ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rows of these samples.

        Raises:
            CheckpointError: If some are not there.
        """
        at = np.searchsorted(self.sample_id, sample_ids)
        at = np.minimum(at, len(self.sample_id) - 1)
        missing = sample_ids[self.sample_id[at] != sample_ids]
        if len(missing):
            raise CheckpointError(
                where=self.folder,
                found=f"nothing about {len(missing)} of {len(sample_ids)} samples: {missing[:8].tolist()}",
                expected=f"an answer for each sample; it holds split {self.content['split']!r}, "
                f"{len(self)} samples",
                fix="write it again for these data: lightning-distill knowledge",
            )
        return at

    def rows(self, sample_ids: NDArray[np.int64], names: Sequence[str] | None = None) -> dict[str, Array]:
        """What is known of these samples, in their order.

        Args:
            sample_ids: int64 "batch".
            names: Of the arrays; None takes all.

        Raises:
            CheckpointError: If a sample or an array is not there.
        """
        at = self.positions(sample_ids)
        for name in names or ():
            if name not in self.arrays:
                raise CheckpointError(
                    where=self.folder,
                    found=f"no {name!r}{nearest(name, self.arrays)}",
                    expected=f"one of {', '.join(self.arrays)}",
                    fix="write it again with that layer or modality",
                )
        return {name: self.arrays[name][at] for name in (self.arrays if names is None else names)}


def _mapped(folder: Path, name: str, entry: Mapping[str, Any]) -> Array:
    path = folder / f"{name}.npy"
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"an array outside the folder: {name}")
    array: Array = np.load(path, mmap_mode="r", allow_pickle=False)
    if list(array.shape) != entry["shape"] or str(array.dtype) != entry["dtype"]:
        raise ValueError(f"{name}.npy of {array.dtype} {array.shape}, not {entry['dtype']} {entry['shape']}")
    return array


def _damaged(where: Path, found: object) -> CheckpointError:
    return CheckpointError(
        where=where,
        found=found,
        expected="a folder as `lightning-distill knowledge` writes it",
        fix="check the path, or write it again",
    )
