"""Token ids that were made once and are read by all processes."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from io import FileIO
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lightning_distill.data.token_processor import TokenProcessor, Tokens
from lightning_distill.errors import ConfigError

_LENGTH_BITS: Final = 24
_LENGTHS: Final = (1 << _LENGTH_BITS) - 1


class TokenStore:
    """Tokens of the texts of a data set, filled as they come up: 2 or 4 bytes a token, 8 a text.

    They are in two files of the system's folder for temporary files, which this process and those it starts
    map, so that each text is tokenised once whoever reads it, and is in memory once. Ids are appended, which
    the system does for one writer after the other; after that one word a text says where they are. The
    process that made the store removes the files.

    Args:
        processor: Makes the tokens.
        size: Texts.

    Raises:
        ConfigError: If there is no room for the files.
    """

    def __init__(self, processor: TokenProcessor, size: int) -> None:
        self.processor, self.size = processor, size
        try:
            self.folder = Path(tempfile.mkdtemp(prefix="lightning-distill-tokens-"))
            # In this process alone, and, unlike `weakref.finalize`, also at the end of a spawned one.
            Finalize(self, shutil.rmtree, (self.folder, True), exitpriority=0)
            with (self.folder / "places").open("wb") as file:
                file.truncate(8 * max(size, 1))
            (self.folder / "ids").write_bytes(bytes(np.dtype(processor.id_type).itemsize))
        except OSError as error:
            raise _no_room(error) from error
        self._open()

    def _open(self) -> None:
        # start << 24 | length of each text: one word, so that no process sees half of it. No text starts at
        # the first id, so a 0 is a text that is not there.
        self._places = np.memmap(self.folder / "places", np.int64, "r+").view(np.ndarray)
        self._ids: NDArray[Any] = np.empty(0, self.processor.id_type)
        self._writer: tuple[int, FileIO] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Another process maps the files itself."""
        return {"processor": self.processor, "size": self.size, "folder": self.folder}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()

    def __len__(self) -> int:
        return self.size

    def has(self, at: NDArray[np.int64] | int) -> NDArray[np.bool_]:
        """Which of these texts are there."""
        return np.asarray(self._places[at] != 0)

    def length(self, at: NDArray[np.int64]) -> NDArray[np.int64]:
        """Tokens of each of these texts; 0 for those that are not there."""
        return np.asarray(self._places[at] & _LENGTHS)

    def add(self, at: NDArray[np.int64], prepared: Sequence[Any]) -> Tokens:
        """Tokenise some texts, and keep what comes out.

        Args:
            at: Numbers of the texts.
            prepared: The texts, as the processor prepared them.

        Raises:
            ConfigError: If there is no room for the tokens.
        """
        tokens = self.processor.tokens(prepared)
        written = tokens.ids.tobytes()
        try:
            file = self._appended()
            if file.write(written) != len(written):
                raise OSError("the disk is full")
            start = (file.tell() - len(written)) // tokens.ids.itemsize
        except OSError as error:
            raise _no_room(error) from error
        starts = start + np.cumsum(tokens.length) - tokens.length
        self._places[at] = starts << _LENGTH_BITS | tokens.length
        return tokens

    def batch(self, at: NDArray[np.int64], new: Mapping[int, Any] | None = None) -> dict[str, Tensor]:
        """Padded tokens of some texts.

        Args:
            at: Numbers of the texts.
            new: place in `at` -> prepared text, of all that are not there; they are added.
        """
        if new:
            tokens = self.add(at[list(new)], list(new.values()))
            if len(new) == len(at):
                return self.processor.padded(tokens)
        return self.processor.padded(self._take(at))

    def _take(self, at: NDArray[np.int64]) -> Tokens:
        places = self._places[at]
        length = places & _LENGTHS
        ends = np.cumsum(length)
        index = np.repeat((places >> _LENGTH_BITS) - ends + length, length)
        index += np.arange(len(index))
        try:
            return Tokens(self._ids[index], length)
        except IndexError:  # the file has grown since it was mapped
            self._ids = np.memmap(self.folder / "ids", self.processor.id_type, "r").view(np.ndarray)
            return Tokens(self._ids[index], length)

    def _appended(self) -> FileIO:
        """The file of ids, opened by this process, since a shared position would not be its own."""
        if self._writer is None or self._writer[0] != os.getpid():
            self._writer = os.getpid(), FileIO(self.folder / "ids", "a")
        return self._writer[1]


def _no_room(error: OSError) -> ConfigError:
    return ConfigError(
        where="token ids of the texts",
        found=f"no room in {tempfile.gettempdir()}: {error}",
        expected="a folder with 2 or 4 bytes a token",
        fix="set the environment variable TMPDIR to a folder with room",
    )
