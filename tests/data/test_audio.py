"""Sounds: what is read and refused, resampling, cropping, log-mel against a float64 reference."""

from __future__ import annotations

import io
import struct
import sys
import tracemalloc
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from numpy.typing import NDArray
from transformers.audio_utils import mel_filter_bank

from lightning_distill.data import AudioProcessor, Waveform, read_audio
from lightning_distill.data.audio import decode_audio
from lightning_distill.data.log_mel import mel_bank
from lightning_distill.data.spec_augment import SpecAugment
from lightning_distill.errors import ConfigError, SampleError
from lightning_distill.randomness import uniform

RATE = 8000
TONE = (0.5 * np.sin(np.arange(RATE) / 10)).astype(np.float32)
KINDS = [("WAV", "PCM_16"), ("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III")]


def encoded(samples: NDArray[np.floating], kind: str = "WAV", subtype: str = "PCM_16") -> bytes:
    out = io.BytesIO()
    soundfile.write(out, samples, RATE, format=kind, subtype=subtype)
    return out.getvalue()


def read(folder: Path, data: bytes) -> Waveform:
    path = folder / "sound.bin"
    path.write_bytes(data)
    return read_audio(path, "m.csv, row 7, column 'audio'")


def refused(folder: Path, data: bytes, *words: str) -> None:
    with pytest.raises(SampleError) as caught:
        read(folder, data)
    assert caught.value.where == "m.csv, row 7, column 'audio'"
    for word in ("sound.bin", *words):
        assert word in caught.value.found
    assert caught.value.fix


@pytest.mark.parametrize(("kind", "subtype"), KINDS)
def test_every_format_is_read(tmp_path: Path, kind: str, subtype: str) -> None:
    sound = read(tmp_path, encoded(TONE, kind, subtype))
    assert (sound.sample_rate, sound.samples.dtype, sound.samples.shape) == (RATE, np.float32, (RATE,))
    error = np.abs(sound.samples - TONE)[200:-200].max()
    assert error < (1e-4 if subtype == "PCM_16" else 0.1)


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW"])
def test_A3_every_depth_is_scaled_to_one(tmp_path: Path, subtype: str) -> None:
    assert np.abs(read(tmp_path, encoded(TONE, subtype=subtype)).samples - TONE).max() < 0.02


def test_A3_channels_are_averaged(tmp_path: Path) -> None:
    left = np.full(300_000, 0.5)
    stereo = np.stack([left, -0.25 * np.ones_like(left)], axis=1)
    samples = read(tmp_path, encoded(stereo, subtype="FLOAT")).samples
    assert samples.shape == (300_000,)
    assert (samples == 0.125).all()


def test_A3_overshoot_of_floating_point_files_is_kept(tmp_path: Path) -> None:
    assert read(tmp_path, encoded(3 * TONE, subtype="FLOAT")).samples.max() > 1.4


@pytest.mark.parametrize(("kind", "subtype"), KINDS)
def test_A1_truncated_anywhere_is_refused(tmp_path: Path, kind: str, subtype: str) -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, 3 * RATE)
    data = encoded(noise, kind, subtype)
    read(tmp_path, data)
    # An MP3 file ends with frames that only flush the decoder: nothing is lost without them.
    end = len(data) - 1 if kind != "MP3" else int(0.95 * len(data))
    for size in [*range(1, 64), *np.linspace(64, end, 60).astype(int), end]:
        refused(tmp_path, data[:size])


def test_a_streamed_wav_may_leave_its_length_open(tmp_path: Path) -> None:
    data = bytearray(encoded(TONE))
    data[4:8] = data[40:44] = b"\xff" * 4
    assert len(read(tmp_path, bytes(data)).samples) == RATE


def test_chunks_before_the_samples_are_passed(tmp_path: Path) -> None:
    data = encoded(TONE)
    extra = b"LIST" + struct.pack("<I", 5) + b"INFOx\0"
    data = data[:4] + struct.pack("<I", len(data) - 8 + len(extra)) + data[8:36] + extra + data[36:]
    assert len(read(tmp_path, data).samples) == RATE
    refused(tmp_path, data[:-1], "cut short")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "0 bytes"),
        (b"<!DOCTYPE html>", "an HTML page"),
        (b"\x89PNG\r\n\x1a\n", "a PNG image"),
        (b"RIFF\x10\0\0\0AVI LIST", "an AVI video"),
        (b"FORM\0\0\0\0AIFF", "an unknown kind of file"),
        (b"fLaC\0\0\0", "sound.bin"),
        (b"ID3\x04", "sound.bin"),
    ],
)
def test_A1_what_is_no_sound_is_called_by_its_name(tmp_path: Path, data: bytes, words: str) -> None:
    refused(tmp_path, data, words)


def test_A4_no_samples_and_samples_that_are_not_finite(tmp_path: Path) -> None:
    refused(tmp_path, encoded(np.empty(0)), "0 frames")
    for value in (np.nan, np.inf, -np.inf):
        broken = TONE.copy()
        broken[[3, 70]] = value
        refused(tmp_path, encoded(broken, subtype="FLOAT"), "2 samples that are NaN or infinite")


def flac_that_claims(frames: int) -> bytes:
    data = bytearray(encoded(TONE, "FLAC"))
    data[21] = data[21] & 0xF0 | frames >> 32
    data[22:26] = (frames & 0xFFFFFFFF).to_bytes(4, "big")
    return bytes(data)


@pytest.mark.parametrize("frames", [2**36 - 1, 10 * 3600 * 16_000, 10**8, RATE + 1])
def test_A2_frames_a_header_only_claims_cost_no_memory(tmp_path: Path, frames: int) -> None:
    data = flac_that_claims(frames)
    tracemalloc.start()
    refused(tmp_path, data)
    assert tracemalloc.get_traced_memory()[1] < 20_000_000
    tracemalloc.stop()


def test_A3_rates_that_make_no_sense(tmp_path: Path) -> None:
    for rate, word in ((0, "sound.bin"), (2**31 - 1, "2147483647 Hz")):
        data = bytearray(encoded(TONE))
        data[24:28] = struct.pack("<I", rate)
        refused(tmp_path, bytes(data), word)


@pytest.mark.parametrize(("kind", "subtype"), KINDS)
def test_flipped_bits_are_refused_or_read(tmp_path: Path, kind: str, subtype: str) -> None:
    data = encoded(TONE, kind, subtype)
    rng = np.random.default_rng(1)
    for _ in range(100):
        damaged = bytearray(data)
        for at in rng.integers(0, len(data), rng.integers(1, 9)):
            damaged[at] ^= 1 << rng.integers(8)
        try:
            samples = read(tmp_path, bytes(damaged)).samples
        except SampleError:
            continue
        assert np.isfinite(samples).all()


@pytest.mark.parametrize(("kind", "subtype"), KINDS)
def test_A1_mutated_bytes_are_refused_or_read(kind: str, subtype: str) -> None:
    rng = np.random.default_rng(2)
    for damaged in mutations(encoded(TONE, kind, subtype), rng, 60):
        with suppress(SampleError):
            sound = decode_audio(damaged, "row 7", "sound.bin")
            assert sound.samples.ndim == 1
            assert np.isfinite(sound.samples).all()
            assert sound.sample_rate >= 1


def mutations(data: bytes, rng: np.random.Generator, count: int) -> Iterator[bytes]:
    # Half of them in the first 200 bytes, where the headers are.
    for at in range(count):
        start, run = int(rng.integers(len(data) if at % 8 < 4 else 200)), int(rng.integers(1, 33))
        head, middle, tail = data[:start], data[start : start + run], data[start + run :]
        yield head + (rng.bytes(len(middle)), b"", middle * 2, bytes(len(middle)))[at % 4] + tail


def test_bytes_are_decoded_as_files_are(tmp_path: Path) -> None:
    data = encoded(TONE, "FLAC")
    assert (decode_audio(data, "row 1", "a.flac").samples == read(tmp_path, data).samples).all()
    with pytest.raises(SampleError, match=r"row 1: found shard\.tar/a\.wav: a WAV sound cut short"):
        decode_audio(encoded(TONE)[:-5], "row 1", "shard.tar/a.wav")


def test_A5_without_a_decoder_it_is_said_at_setup(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(ConfigError, match="pip install soundfile"):
        AudioProcessor().check()
    with pytest.raises(ConfigError, match="pip install soundfile"):
        decode_audio(encoded_once, "row 1", "a.wav")


encoded_once = encoded(TONE)


def test_A3_sounds_of_other_sources_are_checked_too() -> None:
    processor = AudioProcessor(RATE)
    for samples, rate in ((TONE, 0), (TONE, -5), (TONE, 2**31 - 1), (TONE[:0], RATE)):
        with pytest.raises(ValueError, match=f"{len(samples)} samples at {rate} Hz"):
            processor.prepare(Waveform(samples, rate))
    broken = TONE.copy()
    broken[5] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        processor.prepare(Waveform(broken, RATE))


def test_clips_are_centred_padded_and_cropped() -> None:
    processor = AudioProcessor(100, 0.1, mels=2, window=0.04, hop=0.02)
    ramp = np.arange(1, 15, dtype=np.float32)
    assert processor.prepare(Waveform(ramp, 100)).tolist() == list(range(3, 13))
    assert processor.prepare(Waveform(ramp[:5], 100)).tolist() == [0, 0, 1, 2, 3, 4, 5, 0, 0, 0]
    assert torch.equal(processor.blank(), torch.zeros(10))


def test_A3_other_rates_are_resampled() -> None:
    time = np.arange(44_100) / 44_100
    sound = Waveform(np.sin(2 * np.pi * 440 * time).astype(np.float32), 44_100)
    found = AudioProcessor(16_000).prepare(sound).numpy()
    expected = np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000)
    assert np.abs(found - expected)[500:-500].max() < 2e-3


def log_mel(samples: NDArray[np.float64], rate: int, window: int, hop: int, mels: int) -> NDArray[np.float64]:
    """Log-mel "frames mels" of one clip: Hann window, HTK mel triangles, 80 dB of range, no mean a band."""
    padded = np.pad(samples, window // 2, mode="reflect")
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
    starts = range(0, len(padded) - window + 1, hop)
    power = np.stack([np.abs(np.fft.rfft(hann * padded[s : s + window])) ** 2 for s in starts])
    top = 2595 * np.log10(1 + rate / 2 / 700)
    corners = 700 * (10 ** (np.linspace(0, top, mels + 2) / 2595) - 1)
    hertz = np.linspace(0, rate / 2, window // 2 + 1)
    bank = np.zeros((mels, len(hertz)))
    for band in range(mels):
        low, centre, high = corners[band : band + 3]
        rising, falling = (hertz - low) / (centre - low), (high - hertz) / (high - centre)
        bank[band] = np.maximum(0, np.minimum(rising, falling))
    mel = np.log(np.maximum(power @ bank.T, 1e-10))
    mel = np.maximum(mel, mel.max() - 8 * np.log(10))
    mel -= mel.mean(axis=0)
    return mel / mel.std(ddof=1)


@pytest.mark.parametrize("rate", [1001, 8000, 11_025, 44_100])
@pytest.mark.parametrize(("bins", "mels"), [(2, 1), (129, 20), (513, 80)])
def test_the_bank_is_that_of_transformers_to_the_bit(rate: int, bins: int, mels: int) -> None:
    """Students of before were trained with it."""
    theirs = mel_filter_bank(bins, mels, 0.0, rate / 2, rate, mel_scale="htk")
    assert np.array_equal(mel_bank(rate, bins, mels), theirs)


def test_log_mel_equals_the_reference() -> None:
    rng = np.random.default_rng(3)
    clips = [rng.normal(0, 0.1, RATE), 0.3 * np.sin(np.arange(RATE) ** 1.5 / 900), np.zeros(RATE)]
    clips[2][4000] = 1
    processor = AudioProcessor(RATE, 1.0, mels=20, window=0.032, hop=0.016)
    found = processor.collate([torch.from_numpy(clip).float() for clip in clips]).double().numpy()
    expected = np.stack([log_mel(clip, RATE, 256, 128, 20) for clip in clips])
    assert found.shape == (3, 63, 20)
    np.testing.assert_allclose(found, expected, atol=2e-3)


def test_A4_silence_and_one_sample_stay_finite() -> None:
    processor = AudioProcessor(RATE)
    one = processor.prepare(Waveform(np.ones(1, np.float32), RATE))
    found = processor.collate([processor.blank(), one])
    assert torch.isfinite(found).all()
    assert found[0].abs().max() < 0.01


def test_shifts_repeat_the_first_or_last_frame() -> None:
    processor = AudioProcessor(RATE, max_shift=0.1)
    frames = torch.arange(20.0)[None, :, None].repeat(40, 1, 3)
    found = processor.augment(frames, 0, 0, np.arange(40, dtype=np.int64))
    assert isinstance(found, torch.Tensor)
    shifts = (found[:, 10, 0] - 10).int()
    assert set(shifts.tolist()) == {-2, -1, 0, 1, 2}
    for clip, shift in zip(found, shifts, strict=True):
        assert torch.equal(clip[:, 0], (torch.arange(20) + shift).clamp(0, 19).float())


@pytest.mark.parametrize(
    "options",
    [{"sample_rate": 0}, {"mels": 0}, {"window": 2.0}, {"max_shift": 0.5}, {"hop": 1e-5}, {"window": 1e-5}],
)
def test_settings_out_of_range(options: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="AudioProcessor"):
        AudioProcessor(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("length", "window", "hop", "mels"), [(801, 101, 33, 3), (40, 40, 7, 1), (500, 2, 1, 2)]
)
def test_odd_windows_and_few_bands(length: int, window: int, hop: int, mels: int) -> None:
    clip = np.random.default_rng(1).normal(0, 0.1, length)
    processor = AudioProcessor(1000, length / 1000, mels, window / 1000, hop / 1000)
    found = processor.collate([torch.from_numpy(clip).float()])
    frames = torch.stft(
        torch.from_numpy(clip), window, hop, window=torch.hann_window(window), return_complex=True
    )
    assert found.shape == (1, frames.shape[1], mels)
    assert torch.isfinite(found).all()
    assert found.mean(dim=1).abs().max() < 1e-2


def test_a_clip_is_the_same_in_any_batch() -> None:
    clips = [torch.from_numpy(clip).float() for clip in np.random.default_rng(4).normal(0, 0.1, (37, RATE))]
    processor = AudioProcessor(RATE)
    whole = processor.collate(clips)
    for at in (0, 15, 16, 36):
        assert torch.allclose(whole[at], processor.collate(clips[at : at + 1])[0], atol=1e-4)


IDS = np.arange(200, dtype=np.int64)


def hidden(frames: int, mels: int, augment: SpecAugment, epoch: int = 0) -> NDArray[np.bool_]:
    return (augment(torch.ones(200, frames, mels), 3, epoch, IDS) == 0).numpy()


def test_masks_are_those_of_their_draws() -> None:
    """Park et al., section 2: width uniform from 0 to the largest, begin uniform where it fits."""
    found = hidden(400, 50, SpecAugment(1, 0.3, 1, 0.5))
    for axis, share, name in ((1, 0.3, "time"), (2, 0.5, "frequency")):
        draws = uniform(3, 0, IDS, f"audio {name} masks", 2)
        lines, cells = found.all(axis=3 - axis), found.shape[axis]
        for line, (width, place) in zip(lines, draws * [share, 1], strict=True):
            inside = np.flatnonzero(line)
            assert abs(len(inside) / cells - width) <= 1 / cells
            if len(inside):
                assert abs(inside[0] / cells - place * (1 - width)) <= 1 / cells
                assert len(inside) == inside[-1] - inside[0] + 1
    crosses = found.all(axis=2)[:, :, None] | found.all(axis=1)[:, None, :]
    assert (found == crosses).all()


def test_masks_are_the_same_at_any_resolution() -> None:
    augment = SpecAugment(2, 0.3, 2, 0.3)
    coarse, fine = hidden(40, 20, augment), hidden(160, 80, augment)
    share = fine.reshape(200, 40, 4, 20, 4).mean(axis=(2, 4))
    assert np.abs(share - coarse).mean() < 0.05
    assert (coarse[share == 1]).all()


def test_teacher_at_16_khz_and_student_at_8_khz_have_the_same_masks_and_shifts() -> None:
    augment = SpecAugment()
    clips = np.random.default_rng(2).normal(0, 0.1, (5, 16_000)).astype(np.float32)
    found = []
    for rate in (8000, 16_000):
        processor = AudioProcessor(rate, max_shift=0.1, spec_augment=augment)
        mel = processor.collate([processor.prepare(Waveform(clip, 16_000)) for clip in clips])
        found.append(processor.augment(mel, 0, 4, IDS[:5]) == 0)
        assert processor.view_settings == AudioProcessor(max_shift=0.1, spec_augment=augment).view_settings
    assert torch.equal(*found)
    assert 0.1 < found[0].float().mean() < 0.8
    assert AudioProcessor(8000).settings != AudioProcessor(16_000).settings
    assert AudioProcessor().view_settings != processor.view_settings


def test_masks_depend_on_seed_epoch_and_sample() -> None:
    augment, mel = SpecAugment(), torch.ones(200, 30, 30)
    first = augment(mel, 3, 0, IDS)
    assert torch.equal(first[150:], augment(mel[150:], 3, 0, IDS[150:]))
    for seed, epoch in ((4, 0), (3, 1)):
        assert not torch.equal(first, augment(mel, seed, epoch, IDS))
    assert (mel == 1).all()


@pytest.mark.parametrize("options", [{"time_masks": -1}, {"time_share": 1.5}, {"frequency_share": -0.1}])
def test_mask_settings_out_of_range(options: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="SpecAugment"):
        SpecAugment(**options)  # type: ignore[arg-type]
