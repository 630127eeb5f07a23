"""Free Spoken Digits: both layouts give the same samples; on the real recordings where they are at hand."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from lightning_distill.data.datasets.fsdd import FreeSpokenDigits, Recordings, read_fsdd
from lightning_distill.errors import ConfigError, DistillError, ManifestError, SampleError

SPEAKERS = ("ann", "bob", "cy")


def make_takes() -> dict[tuple[int, str, int], np.ndarray]:
    rng = np.random.default_rng(0)
    keys = [(digit, speaker, take) for digit in (0, 3, 9) for speaker in SPEAKERS for take in range(12)]
    return {key: rng.integers(-9000, 9000, rng.integers(50, 90)).astype(np.int16) for key in keys}


def write_files(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for (digit, speaker, take), samples in make_takes().items():
        soundfile.write(folder / f"{digit}_{speaker}_{take}.wav", samples, 8000, subtype="PCM_16")
    return folder


def write_stream(folder: Path) -> Path:
    folder.mkdir()
    rows, start = ["start,length,digit,speaker,take"], 0
    takes = sorted(make_takes().items(), key=lambda item: str(item[0]))
    for (digit, speaker, take), samples in takes:
        rows.append(f"{start},{len(samples)},{digit},{speaker},{take}")
        start += len(samples)
    (folder / "fsdd.csv").write_text("\n".join(rows))
    stream = np.concatenate([samples for _, samples in takes])
    soundfile.write(folder / "fsdd_8k.flac", stream, 8000, subtype="PCM_16")
    return folder


def assert_equal(one: Recordings, other: Recordings) -> None:
    for field in ("digit", "speaker", "take"):
        assert (getattr(one, field) == getattr(other, field)).all()
    for mine, theirs in zip(one.waveforms, other.waveforms, strict=True):
        assert mine.sample_rate == theirs.sample_rate
        assert np.array_equal(mine.samples, theirs.samples)


def test_both_layouts_give_equal_samples(tmp_path: Path) -> None:
    files = write_files(tmp_path / "published" / "recordings")
    stream = read_fsdd(write_stream(tmp_path / "stream"))
    assert_equal(read_fsdd(files), stream)
    assert_equal(read_fsdd(files.parent), stream)
    for at, (key, samples) in enumerate(sorted(make_takes().items())):
        assert (stream.digit[at], stream.speaker[at], stream.take[at]) == key
        assert np.array_equal(stream.waveforms[at].samples, samples / np.float32(32768))


def test_speakers_are_held_out_and_takes_are_shared(tmp_path: Path) -> None:
    source = FreeSpokenDigits(write_stream(tmp_path / "s"), test_speakers=["bob"], val_share=0.25)
    table, found = source.samples, read_fsdd(tmp_path / "s")
    assert source.domains == SPEAKERS
    assert source.classes == tuple("0123456789")
    assert (table.target == found.digit).all()
    assert ((table.split == 2) == (found.speaker == "bob")).all()
    assert (np.array(SPEAKERS)[table.domain] == found.speaker).all()
    takes = set(found.take[table.split == 1])
    assert len(takes) == 3
    assert not takes & set(found.take[table.split == 0])
    assert len(set(table.sample_id)) == len(table) == 108
    assert np.array_equal(source.load("audio", 40).samples, found.waveforms[40].samples)
    assert source.describe(0) == "FSDD 0_ann_0"


def replace(old: str, new: str) -> Callable[[Path], None]:
    return lambda folder: write_index(folder, read_index(folder).replace(old, new))


def add(line: str) -> Callable[[Path], None]:
    return lambda folder: write_index(folder, read_index(folder) + "\n" + line)


def read_index(folder: Path) -> str:
    return (folder / "fsdd.csv").read_text()


def write_index(folder: Path, content: str) -> None:
    (folder / "fsdd.csv").write_text(content)


@pytest.mark.parametrize(
    ("spoil", "kind", "where"),
    [
        (replace(",0,ann,0", ",10,ann,0"), ManifestError, "row 2, column 'digit'"),
        (replace("0,ann,1\n", "0,ann,-1\n"), ManifestError, "row 3, column 'take'"),
        (replace("speaker", "who"), ManifestError, "fsdd.csv, header"),
        (add("99999,50,9,cy,12"), ManifestError, "row 110, column 'length'"),
        (add("0,50,9,,12"), ManifestError, "row 110, column 'speaker'"),
        (add("0,50,9,cy,1"), ManifestError, "row 110, column 'speaker'"),
        (lambda folder: (folder / "fsdd.csv").unlink(), ManifestError, "fsdd.csv"),
        (lambda folder: (folder / "fsdd_8k.flac").unlink(), SampleError, "fsdd_8k.flac"),
    ],
)
def test_a_damaged_stream(
    tmp_path: Path, spoil: Callable[[Path], None], kind: type[DistillError], where: str
) -> None:
    folder = write_stream(tmp_path / "s")
    spoil(folder)
    with pytest.raises(kind) as caught:
        read_fsdd(folder)
    assert where in caught.value.where


def test_damaged_files(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"no such folder.*0_george_0.wav"):
        read_fsdd(tmp_path / "nowhere")
    with pytest.raises(ManifestError, match="no recordings"):
        read_fsdd(tmp_path)
    folder = write_files(tmp_path / "files")
    (folder / "0_ann_0.wav").write_bytes(b"<html>")
    with pytest.raises(SampleError, match=r"0_ann_0\.wav"):
        read_fsdd(folder)
    (folder / "0_ann_0.wav").rename(folder / "ann.wav")
    with pytest.raises(ManifestError, match=r"ann\.wav"):
        read_fsdd(folder)


def test_settings(tmp_path: Path) -> None:
    folder = write_stream(tmp_path / "s")
    with pytest.raises(ConfigError, match="did you mean 'ann'"):
        FreeSpokenDigits(folder, ["anne"])
    with pytest.raises(ConfigError, match="hold out fewer"):
        FreeSpokenDigits(folder, list(SPEAKERS))
    with pytest.raises(ConfigError, match="val_share"):
        FreeSpokenDigits(folder, ["ann"], val_share=1.0)


@pytest.mark.data
@pytest.mark.skipif(
    "LIGHTNING_DISTILL_DATA" not in os.environ, reason="LIGHTNING_DISTILL_DATA names no folder"
)
def test_the_real_recordings(tmp_path: Path) -> None:
    folder = Path(os.environ["LIGHTNING_DISTILL_DATA"]) / "digits"
    source, found = FreeSpokenDigits(folder), read_fsdd(folder)
    assert len(source.domains) == 6
    assert np.bincount(source.samples.split).tolist() == [1800, 200, 1000]
    assert np.bincount(found.digit).tolist() == [300] * 10
    lengths = [len(waveform.samples) for waveform in found.waveforms]
    assert 0.1 < min(lengths) / 8000 < max(lengths) / 8000 < 3
    chosen = range(0, 3000, 37)
    (tmp_path / "recordings").mkdir()
    for at in chosen:
        name = f"{found.digit[at]}_{found.speaker[at]}_{found.take[at]}.wav"
        soundfile.write(tmp_path / "recordings" / name, found.waveforms[at].samples, 8000, subtype="PCM_16")
    files = read_fsdd(tmp_path)
    for at, waveform in zip(chosen, files.waveforms, strict=True):
        assert np.array_equal(waveform.samples, found.waveforms[at].samples)
