"""Images: what is read, what is refused before and after decoding, resizing and shifting."""

from __future__ import annotations

import io
import os
import struct
import time
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import map_coordinates

from lightning_distill.data import ImageProcessor, read_image
from lightning_distill.data.image_headers import image_size
from lightning_distill.errors import ConfigError, SampleError
from lightning_distill.randomness import uniform

FORMATS = ("JPEG", "PNG", "WEBP", "BMP")
PICTURE = np.random.default_rng(0).integers(0, 256, (9, 14, 3), dtype=np.uint8)


def encoded(picture: NDArray[np.uint8] | Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    image.save(out, kind, **options)
    return out.getvalue()


def read(folder: Path, data: bytes) -> NDArray[np.uint8]:
    path = folder / "picture.bin"
    path.write_bytes(data)
    return read_image(path, "m.csv, row 7, column 'image'")


def refused(folder: Path, data: bytes, *words: str) -> None:
    with pytest.raises(SampleError) as caught:
        read(folder, data)
    assert caught.value.where == "m.csv, row 7, column 'image'"
    for word in ("picture.bin", *words):
        assert word in caught.value.found
    assert caught.value.fix


@pytest.mark.parametrize("kind", ["PNG", "BMP", "WEBP"])
def test_lossless_formats_come_back_exactly(tmp_path: Path, kind: str) -> None:
    found = read(tmp_path, encoded(PICTURE, kind, **({"lossless": True} if kind == "WEBP" else {})))
    assert found.dtype == np.uint8
    assert (found == PICTURE).all()


def test_jpeg_is_read_as_pillow_reads_it(tmp_path: Path) -> None:
    for options in ({}, {"progressive": True}, {"restart_marker_rows": 1}):
        data = encoded(PICTURE, "JPEG", **options)
        expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
        assert np.abs(read(tmp_path, data) - expected).max() <= 2


@pytest.mark.parametrize(
    ("mode", "kind"),
    [*((m, "PNG") for m in ("1", "L", "LA", "P", "RGBA")), *((m, "BMP") for m in ("1", "L", "P"))],
)
def test_every_mode_becomes_rgb_without_alpha(tmp_path: Path, mode: str, kind: str) -> None:
    image = Image.fromarray(PICTURE).convert(mode)
    if mode == "RGBA":
        image.putalpha(Image.fromarray(PICTURE[:, :, 0]))
    assert (read(tmp_path, encoded(image, kind)) == np.asarray(image.convert("RGB"))).all()


def test_sixteen_bits_become_eight(tmp_path: Path) -> None:
    deep = (np.arange(96, dtype=np.uint16) * 680).reshape(8, 12)
    ok, data = cv2.imencode(".png", deep)
    assert ok
    found = read(tmp_path, data.tobytes())
    assert found.shape == (8, 12, 3)
    assert np.abs(found[:, :, 0] - deep / 257).max() <= 1


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied(tmp_path: Path, kind: str, orientation: int) -> None:
    picture = np.zeros((16, 32, 3), np.uint8)
    picture[:8, :8] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = read(tmp_path, encoded(picture, kind, exif=exif))
    turned = {
        1: picture,
        2: picture[:, ::-1],
        3: picture[::-1, ::-1],
        4: picture[::-1],
        5: picture.transpose(1, 0, 2),
        6: np.rot90(picture, -1),
        7: np.rot90(picture, 2).transpose(1, 0, 2),
        8: np.rot90(picture),
    }[orientation]
    assert found.shape == turned.shape
    assert np.abs(found.astype(int) - turned).max() < 60


@pytest.mark.parametrize("kind", FORMATS)
def test_truncated_anywhere_is_refused(tmp_path: Path, kind: str) -> None:
    data = encoded(PICTURE, kind)
    read(tmp_path, data)
    for size in range(1, len(data)):
        refused(tmp_path, data[:size])


def test_a_truncated_jpeg_with_a_whole_thumbnail_is_refused(tmp_path: Path) -> None:
    thumbnail = encoded(PICTURE, "JPEG")
    data = encoded(PICTURE, "JPEG", exif=b"Exif\0\0" + thumbnail, progressive=True)
    assert data.count(b"\xff\xd9") == 2
    read(tmp_path, data + b"\0\0 what cameras append")
    refused(tmp_path, data[:-2], "cut short")
    refused(tmp_path, data[: 2 * len(data) // 3], "cut short")


@pytest.mark.parametrize("kind", FORMATS)
def test_flipped_bits_are_refused_or_read(tmp_path: Path, kind: str) -> None:
    data = encoded(PICTURE, kind)
    rng = np.random.default_rng(1)
    for _ in range(80):
        damaged = bytearray(data)
        for at in rng.integers(0, len(data), rng.integers(1, 9)):
            damaged[at] ^= 1 << rng.integers(8)
        try:
            found = read(tmp_path, bytes(damaged))
        except SampleError:
            continue
        assert found.ndim == 3
        assert found.dtype == np.uint8


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "0 bytes"),
        (b"<!DOCTYPE html><title>404</title>", "an HTML page"),
        (b"\n<?xml version='1.0'?><Error/>", "XML text"),
        (b"not found", "text that begins with 'not found'"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (b"GIF89a\x01\0\x01\0", "a GIF image"),
        (b"II*\0\x08\0\0\0", "a TIFF image"),
        (b"\0\x01\x02\x03", "the bytes '00 01 02 03'"),
    ],
)
def test_what_is_no_image_is_called_by_its_name(tmp_path: Path, data: bytes, words: str) -> None:
    refused(tmp_path, data, words)


def test_missing_folders_and_pipes(tmp_path: Path) -> None:
    (tmp_path / "cat.jpg").touch()
    os.mkfifo(tmp_path / "pipe")
    for name, word in (("cat.jpeg", "did you mean 'cat.jpg'"), ("", "is a folder"), ("pipe", "pipe")):
        with pytest.raises(SampleError, match=r"m\.csv, row 7") as caught:
            read_image(tmp_path / name, "m.csv, row 7")
        assert word in caught.value.found


def png_that_claims(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    rows = zlib.compress(b"\0" * 4096)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def bombs() -> dict[str, bytes]:
    jpeg = encoded(PICTURE, "JPEG")
    at = jpeg.index(b"\xff\xc0") + 5
    webp = encoded(PICTURE, "WEBP", lossless=True)
    bmp = bytearray(encoded(Image.fromarray(PICTURE).convert("P"), "BMP"))
    bmp[18:26] = struct.pack("<ii", 60_000, -60_000)
    bmp[30:38] = struct.pack("<II", 1, 100)
    canvas = (40_000 - 1).to_bytes(3, "little")
    extended = b"VP8X" + struct.pack("<I", 10) + b"\0\0\0\0" + canvas * 2 + webp[12:]
    return {
        "png": png_that_claims(65_535, 65_535),
        "jpeg": jpeg[:at] + struct.pack(">HH", 65_000, 65_000) + jpeg[at + 4 :],
        "webp": webp[:21] + b"\xff" * 4 + webp[25:],
        "webp extended": b"RIFF" + struct.pack("<I", len(extended) + 4) + b"WEBP" + extended,
        "bmp": bytes(bmp),
    }


@pytest.mark.parametrize("kind", list(bombs()))
def test_bombs_are_refused_from_the_header(tmp_path: Path, kind: str) -> None:
    data = bombs()[kind]
    start = time.perf_counter()
    refused(tmp_path, data, "pixels")
    assert time.perf_counter() - start < 0.05


@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from(FORMATS))
def test_sizes_come_from_the_header(width: int, height: int, kind: str) -> None:
    picture = np.zeros((height, width, 3), np.uint8)
    assert image_size(encoded(picture, kind)) == (width, height)
    assert image_size(encoded(picture, "WEBP", lossless=True)) == (width, height)


def test_a_size_of_zero_is_refused(tmp_path: Path) -> None:
    refused(tmp_path, png_that_claims(0, 5), "0 x 5 pixels")


@given(st.integers(1, 90), st.integers(1, 90), st.sampled_from([1, 3]), st.sampled_from([1, 7, 32]))
def test_any_size_becomes_the_square(height: int, width: int, channels: int, size: int) -> None:
    raw = np.full((height, width, 3), 77, np.uint8)
    found = ImageProcessor(size, channels).prepare(raw)
    assert found.shape == (channels, size, size)
    assert (found == 77).all()


def test_areas_are_averaged_when_shrinking() -> None:
    fine = np.indices((64, 64)).sum(axis=0).astype(np.uint8) % 2 * 255
    for raw in (fine, np.concatenate([fine] * 2, axis=1), fine[:8]):
        found = ImageProcessor(16, 1).prepare(raw).numpy()[0].astype(int)
        assert np.abs(found - 127.5).max() <= (1 if len(raw) > 16 else 128)
    whole = np.random.default_rng(2).integers(0, 256, (64, 64), dtype=np.uint8)
    means = whole.reshape(16, 4, 16, 4).mean(axis=(1, 3))
    assert np.abs(ImageProcessor(16, 1).prepare(whole).numpy()[0] - means).max() <= 0.5


def test_one_side_may_shrink_while_the_other_grows() -> None:
    raw = np.zeros((4, 1024), np.uint8)
    raw[:, ::2] = 254
    found = ImageProcessor(32, 1).prepare(raw)
    assert (found == 127).all()


def test_grey_and_colour_are_converted() -> None:
    grey = ImageProcessor(4, 3).prepare(np.full((4, 4), 9, np.uint8))
    assert grey.shape == (3, 4, 4)
    colour = np.zeros((4, 4, 3), np.uint8)
    colour[:, :, 0] = 255
    assert int(ImageProcessor(4, 1).prepare(colour)[0, 0, 0]) == round(0.299 * 255)


def test_what_is_no_image_array_is_refused() -> None:
    for raw in (np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4), np.float32), np.zeros((0, 4, 3), np.uint8)):
        with pytest.raises(ValueError, match="no uint8 grey or RGB"):
            ImageProcessor(4).prepare(raw)


def test_augmentation_is_one_affine_map_with_a_repeated_border() -> None:
    """Output pixel p shows input pixel scale * rotation * p + shift, p counted from the centre."""
    size, ids = 16, np.arange(6, dtype=np.int64)
    images = torch.randint(0, 256, (6, 3, size, size), dtype=torch.uint8)
    processor = ImageProcessor(size, 3, max_shift=0.1, max_scale=0.3, max_rotation=20)
    found = processor.augment(images, 3, 1, ids)
    assert isinstance(found, torch.Tensor)
    assert found.dtype == torch.uint8
    rows, columns = np.indices((size, size)) - (size - 1) / 2
    for at, draw in enumerate(2 * uniform(3, 1, ids, "image affine", 4).astype(np.float64) - 1):
        scale, angle = 1.3 ** draw[0], np.radians(20) * draw[1]
        x = scale * (np.cos(angle) * columns - np.sin(angle) * rows) + draw[2] * 0.1 * size
        y = scale * (np.sin(angle) * columns + np.cos(angle) * rows) + draw[3] * 0.1 * size
        places = np.stack([y, x]) + (size - 1) / 2
        for channel in range(3):
            plane = images[at, channel].numpy().astype(float)
            expected = map_coordinates(plane, places, order=1, mode="nearest")
            assert np.abs(found[at, channel].numpy() - expected).max() < 0.6


def test_augmentation_depends_on_seed_epoch_and_sample_alone() -> None:
    processor = ImageProcessor(16, 1, max_shift=0.2)
    images, ids = torch.randint(0, 256, (8, 1, 16, 16), dtype=torch.uint8), np.arange(8, dtype=np.int64)
    found, part, later = (
        processor.augment(images[rows], 3, epoch, ids[rows])
        for rows, epoch in ((slice(8), 1), (slice(5, 8), 1), (slice(8), 2))
    )
    assert torch.equal(found[5:], part)  # type: ignore[index, arg-type]
    assert not torch.equal(found, later)  # type: ignore[arg-type]
    assert ImageProcessor(16, 1).augment(images, 3, 1, ids) is images


@pytest.mark.parametrize("options", [{"size": 0}, {"channels": 2}, {"max_shift": 0.5}, {"max_shift": -0.1}])
def test_settings_out_of_range(options: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="ImageProcessor"):
        ImageProcessor(**options)  # type: ignore[arg-type]
