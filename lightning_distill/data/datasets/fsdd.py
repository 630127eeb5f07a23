"""Free Spoken Digit Dataset: six people say the digits, 8 kHz."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from lightning_distill.data.audio import read_audio
from lightning_distill.data.source import DataSource, SampleTable, Waveform
from lightning_distill.data.tables import TextTable, read_table
from lightning_distill.errors import ConfigError, ManifestError, nearest
from lightning_distill.randomness import derive

_NAME: Final = re.compile(r"([0-9])_([^_]+)_([0-9]+)\.wav")
_STREAM, _INDEX = "fsdd_8k.flac", "fsdd.csv"
_NUMBERS: Final = ("start", "length", "digit", "take")


@dataclass(frozen=True)
class Recordings:
    """Takes of spoken digits, sorted by digit, speaker and take.

    Attributes:
        waveforms: The sounds.
        digit: int64.
        speaker: Names.
        take: int64, counted from 0 for each digit and speaker.
    """

    waveforms: Sequence[Waveform]
    digit: NDArray[np.int64]
    speaker: NDArray[np.str_]
    take: NDArray[np.int64]


def read_fsdd(folder: Path) -> Recordings:
    """Read the recordings, as published or as one stream.

    Args:
        folder: Holds files `{digit}_{speaker}_{take}.wav` (or a folder `recordings` with them), or all takes
            in `fsdd_8k.flac` with `fsdd.csv` (start, length, digit, speaker, take; lengths in samples).

    Raises:
        ManifestError: If it holds neither, or the files do not fit together.
        SampleError: If a sound cannot be read.
    """
    folder = Path(folder)
    if (folder / _INDEX).exists() or (folder / _STREAM).exists():
        takes = _read_stream(folder)
    else:
        takes = _read_files(folder)
    keys = sorted(takes)
    return Recordings(
        [takes[key] for key in keys],
        np.array([digit for digit, _, _ in keys], np.int64),
        np.array([speaker for _, speaker, _ in keys], np.str_),
        np.array([take for _, _, take in keys], np.int64),
    )


def _read_files(folder: Path) -> dict[tuple[int, str, int], Waveform]:
    inner = folder / "recordings"
    files = sorted((inner if inner.is_dir() else folder).glob("*.wav"))
    if not files:
        raise ManifestError(
            where=folder,
            found="no such folder" if not folder.is_dir() else "no recordings",
            expected=f"files such as 0_george_0.wav, or {_STREAM} and {_INDEX}",
            fix="get github.com/Jakobovski/free-spoken-digit-dataset and give its folder `recordings`",
        )
    takes = {}
    for file in files:
        name = _NAME.fullmatch(file.name)
        if name is None:
            raise ManifestError(
                where=file,
                found="a recording with another name",
                expected="{digit}_{speaker}_{take}.wav",
                fix="rename it, or move it elsewhere",
            )
        takes[int(name[1]), name[2], int(name[3])] = read_audio(file, str(file))
    return takes


def _read_stream(folder: Path) -> dict[tuple[int, str, int], Waveform]:
    table = read_table(folder / _INDEX, ["speaker", *_NUMBERS])
    stream = read_audio(folder / _STREAM, str(folder / _STREAM))
    numbers = {name: _integers(table, name) for name in _NUMBERS}
    end = numbers["start"] + numbers["length"]
    for name, wrong in (
        ("digit", numbers["digit"] > 9),
        ("length", (numbers["length"] < 1) | (end > len(stream.samples))),
    ):
        if wrong.any():
            row = int(wrong.argmax())
            raise ManifestError(
                where=table.where(row, name),
                found=f"digit {numbers['digit'][row]}, samples {numbers['start'][row]} to {end[row]}",
                expected=f"a digit from 0 to 9, and some samples of the {len(stream.samples)} in {_STREAM}",
                fix=f"take {_INDEX} and {_STREAM} from the same place",
            )
    takes: dict[tuple[int, str, int], Waveform] = {}
    for row, speaker in enumerate(table.columns["speaker"].to_pylist()):
        key = int(numbers["digit"][row]), speaker or "", int(numbers["take"][row])
        if not speaker or key in takes:
            raise ManifestError(
                where=table.where(row, "speaker"),
                found=f"take {key[2]} of digit {key[0]} by {speaker!r}{' once more' if speaker else ''}",
                expected="a speaker, and each take once",
                fix="correct the row, or drop it",
            )
        takes[key] = Waveform(stream.samples[numbers["start"][row] : end[row]], stream.sample_rate)
    return takes


def _integers(table: TextTable, column: str) -> NDArray[np.int64]:
    cells = table.columns[column].to_pylist()
    for row, cell in enumerate(cells):
        if cell is None or re.fullmatch("[0-9]{1,15}", cell) is None:
            raise ManifestError(
                where=table.where(row, column),
                found=repr(cell or ""),
                expected="a whole number of 0 or more",
                fix="correct it",
            )
    return np.array(cells, np.int64)


class FreeSpokenDigits(DataSource):
    """Spoken digits, modality "audio"; each speaker is a domain.

    Whole speakers are held out for testing. Of the others, some takes are for validation: the same takes of
    every speaker and digit, so that classes stay balanced.

    Args:
        folder: See `read_fsdd`.
        test_speakers: Speakers nobody trains on.
        val_share: Share of the takes of the other speakers.

    Raises:
        ConfigError: If a speaker is unknown, none is left to train on, or the share is out of range.
        ManifestError: If the folder does not hold the data set.

    Source: Jackson et al., Free Spoken Digit Dataset, CC BY-SA 4.0,
        github.com/Jakobovski/free-spoken-digit-dataset.
    """

    classes = tuple("0123456789")

    def __init__(
        self, folder: Path, test_speakers: Sequence[str] = ("nicolas", "theo"), val_share: float = 0.1
    ) -> None:
        self._recordings = found = read_fsdd(folder)
        self.domains = tuple(sorted(set(found.speaker.tolist())))
        self._check(test_speakers, val_share)
        takes = sorted(set(found.take.tolist()), key=lambda take: derive("fsdd validation", take))
        validated = takes[: round(val_share * len(takes))]
        split = np.where(np.isin(found.take, validated), 1, 0)
        split[np.isin(found.speaker, list(test_speakers))] = 2
        keys = zip(found.digit.tolist(), found.speaker.tolist(), found.take.tolist(), strict=True)
        self._samples = SampleTable(
            sample_id=np.array([derive("fsdd", *key) for key in keys], np.int64),
            target=found.digit,
            split=split.astype(np.int8),
            domain=np.searchsorted(self.domains, found.speaker),
            present={"audio": np.ones(len(split), np.bool_)},
        )

    @property
    def samples(self) -> SampleTable:
        """The recordings, sorted by digit, speaker and take."""
        return self._samples

    def load(self, modality: str, row: int) -> Any:
        """The `Waveform` of a recording."""
        return self._recordings.waveforms[row]

    def describe(self, row: int) -> str:
        """Digit, speaker and take."""
        found = self._recordings
        return f"FSDD {found.digit[row]}_{found.speaker[row]}_{found.take[row]}"

    def _check(self, test_speakers: Sequence[str], val_share: float) -> None:
        for speaker in test_speakers:
            if speaker not in self.domains:
                raise ConfigError(
                    where="FreeSpokenDigits.test_speakers",
                    found=f"{speaker!r}{nearest(speaker, self.domains)}",
                    expected=f"some of {', '.join(self.domains)}",
                    fix="correct the name",
                )
        if set(test_speakers) == set(self.domains) or not 0 <= val_share < 1:
            raise ConfigError(
                where="FreeSpokenDigits",
                found=f"test_speakers={list(test_speakers)}, val_share={val_share}",
                expected="a speaker and takes to train on",
                fix="hold out fewer: test_speakers=[nicolas, theo], val_share=0.1",
            )
