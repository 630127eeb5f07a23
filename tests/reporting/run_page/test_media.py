from __future__ import annotations

from base64 import b64decode
from io import BytesIO
from typing import Any

import cv2
import numpy as np
import pytest
import soundfile

from lightning_distill.data.datasets import Digits
from lightning_distill.data.source import DataSource, SampleTable, Waveform
from lightning_distill.errors import SampleError
from lightning_distill.reporting.run_page.media import medium, picture, shown, sound


def decoded(uri: str) -> tuple[str, bytes]:
    kind, _, data = uri.partition(";base64,")
    return kind.removeprefix("data:"), b64decode(data, validate=True)


class _Source(DataSource):
    """Two rows: one whole, one without a text."""

    classes = ("a", "b")

    def __init__(self, raw: Any = "text") -> None:
        self.raw = raw

    @property
    def samples(self) -> SampleTable:
        two = np.arange(2)
        there = np.array([True, False])
        return SampleTable(two, two, two.astype(np.int8), two, {"text": there})

    def load(self, modality: str, row: int) -> Any:
        if isinstance(self.raw, Exception):
            raise self.raw
        return self.raw


def test_a_small_image_is_enlarged_pixel_by_pixel() -> None:
    image = np.random.default_rng(0).integers(0, 256, (8, 6), dtype=np.uint8)
    kind, data = decoded(picture(image))
    assert kind == "image/png"
    big = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert big.shape == (96, 72)
    np.testing.assert_array_equal(big[6::12, 6::12], image)


@pytest.mark.parametrize("channels", [3, 4])
def test_a_large_image_keeps_its_colours_and_its_shape(channels: int) -> None:
    image = np.zeros((300, 600, channels), np.uint8)
    image[..., 0] = 200  # red
    image[..., 3:] = 255
    _, data = decoded(picture(image))
    small = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert small.shape == (80, 160, 3)
    np.testing.assert_allclose(small.reshape(-1, 3).mean(axis=0), [0, 0, 200], atol=3)


def test_the_smaller_form_is_taken() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (160, 160, 3), dtype=np.uint8)
    assert decoded(picture(noise))[0] == "image/jpeg"
    assert decoded(picture(np.zeros((160, 160, 3), np.uint8)))[0] == "image/png"


@pytest.mark.parametrize("rate", [4000, 8000, 11_000, 16_000, 44_100, 96_000])
def test_a_sound_is_cut_and_stays_what_it_was(rate: int) -> None:
    hertz, seconds = 440.0, 6.0
    time = np.arange(int(seconds * rate)) / rate
    kind, data = decoded(sound(Waveform(np.sin(2 * np.pi * hertz * time).astype(np.float32), rate)))
    assert kind in ("audio/mpeg", "audio/wav")
    samples, played = soundfile.read(BytesIO(data))
    assert samples.ndim == 1
    assert 5.0 <= len(samples) / played <= 5.2
    strongest = np.abs(np.fft.rfft(samples)).argmax() * played / len(samples)
    assert strongest == pytest.approx(hertz, abs=1)
    assert len(data) < 130_000


def test_a_sound_that_goes_too_far_is_clipped() -> None:
    wave = np.array([5.0, -5.0, np.nan, 0.0] * 20, np.float32)
    samples, _ = soundfile.read(BytesIO(decoded(sound(Waveform(wave, 8000)))[1]))
    assert np.isfinite(samples).all()
    assert np.abs(samples).max() <= 1.5


def test_texts_are_cut_and_numbers_told() -> None:
    assert shown("text", "a" * 1000) == ("text", "text", "a" * 399 + "…")
    assert shown("x", np.arange(20.0).reshape(4, 5)).content == "float64, 4 by 5: 0, 1, 2, 3, 4, 5, 6, 7, …"
    assert shown("x", np.zeros((3, 4, 7), np.uint8)).kind == "words"
    assert shown("x", 3.5).content == "float64, one number: 3.5"
    assert shown("x", {"a": 1}) == ("x", "words", "dict")


def test_what_is_absent_or_broken_is_said() -> None:
    assert medium(_Source(), "text", 0) == ("text", "text", "text")
    assert medium(_Source(), "text", 1) == ("text", "words", "absent")
    broken = SampleError(where="table.csv, line 3", found="nothing", expected="a text", fix="mend it")
    assert medium(_Source(broken), "text", 0).content.startswith(
        "cannot be shown: table.csv, line 3: found nothing"
    )
    assert medium(_Source(ZeroDivisionError("by zero")), "text", 0).content == "cannot be shown: by zero"


def test_real_samples() -> None:
    source = Digits(domain="target", train=10, val=10, test=10)
    kinds = {m: medium(source, m, 25).kind for m in source.modalities}
    assert kinds == {"image": "image", "text": "text", "audio": "audio"}
    assert medium(source, "text", 25).content == source.load("text", 25)
