"""Images: what is read, what is refused before and after decoding, resizing and shifting."""

from __future__ import annotations

import io
import os
import struct
import sys
import time
import zlib
from collections.abc import Iterator
from contextlib import suppress
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
from lightning_distill.data.image import decode_image
from lightning_distill.data.image_headers import image_size
from lightning_distill.data.image_views import ImageViews
from lightning_distill.errors import ConfigError, SampleError
from lightning_distill.randomness import View, uniform

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
def test_I6_every_mode_becomes_rgb_without_alpha(tmp_path: Path, mode: str, kind: str) -> None:
    image = Image.fromarray(PICTURE).convert(mode)
    if mode == "RGBA":
        image.putalpha(Image.fromarray(PICTURE[:, :, 0]))
    assert (read(tmp_path, encoded(image, kind)) == np.asarray(image.convert("RGB"))).all()


def test_I6_sixteen_bits_become_eight(tmp_path: Path) -> None:
    deep = (np.arange(96, dtype=np.uint16) * 680).reshape(8, 12)
    ok, data = cv2.imencode(".png", deep)
    assert ok
    found = read(tmp_path, data.tobytes())
    assert found.shape == (8, 12, 3)
    assert np.abs(found[:, :, 0] - deep / 257).max() <= 1


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_I6_orientation_is_applied(tmp_path: Path, kind: str, orientation: int) -> None:
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
def test_I2_truncated_anywhere_is_refused(tmp_path: Path, kind: str) -> None:
    data = encoded(PICTURE, kind)
    read(tmp_path, data)
    for size in range(1, len(data)):
        refused(tmp_path, data[:size])


def test_I2_a_truncated_jpeg_with_a_whole_thumbnail_is_refused(tmp_path: Path) -> None:
    thumbnail = encoded(PICTURE, "JPEG")
    data = encoded(PICTURE, "JPEG", exif=b"Exif\0\0" + thumbnail, progressive=True)
    assert data.count(b"\xff\xd9") == 2
    read(tmp_path, data + b"\0\0 what cameras append")
    refused(tmp_path, data[:-2], "cut short")
    refused(tmp_path, data[: 2 * len(data) // 3], "cut short")


@pytest.mark.parametrize("kind", FORMATS)
def test_I3_flipped_bits_are_refused_or_read(tmp_path: Path, kind: str) -> None:
    data = encoded(PICTURE, kind)
    rng = np.random.default_rng(1)
    for _ in range(80):
        damaged = bytearray(data)
        for at in rng.integers(0, len(data), rng.integers(1, 33)):
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
        (b"\0\x01\x02\x03", "the bytes '00 01 02 03'"),
    ],
)
def test_I1_what_is_no_image_is_called_by_its_name(tmp_path: Path, data: bytes, words: str) -> None:
    refused(tmp_path, data, words)


def test_missing_folders_and_pipes(tmp_path: Path) -> None:
    (tmp_path / "cat.jpg").touch()
    os.mkfifo(tmp_path / "pipe")
    for name, word in (("cat.jpeg", "did you mean 'cat.jpg'"), ("", "is a folder"), ("pipe", "pipe")):
        with pytest.raises(SampleError, match=r"m\.csv, row 7") as caught:
            read_image(tmp_path / name, "m.csv, row 7")
        assert word in caught.value.found


@pytest.mark.parametrize("kind", FORMATS)
def test_I3_mutated_bytes_are_refused_or_read(kind: str) -> None:
    rng = np.random.default_rng(2)
    for damaged in mutations(encoded(PICTURE, kind), rng, 60):
        with suppress(SampleError):
            found = decode_image(damaged, "row 7", "picture.bin")
            assert found.ndim == 3
            assert found.dtype == np.uint8


def mutations(data: bytes, rng: np.random.Generator, count: int) -> Iterator[bytes]:
    """Bytes replaced, cut out, doubled, or zeroed, in runs of 1 to 32."""
    for at in range(count):
        start, run = int(rng.integers(len(data))), int(rng.integers(1, 33))
        head, middle, tail = data[:start], data[start : start + run], data[start + run :]
        yield head + (rng.bytes(len(middle)), b"", middle * 2, bytes(len(middle)))[at % 4] + tail


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("GIF", "a GIF image"),
        ("TIFF", "a TIFF image"),
        ("EPS", "text that begins with '%!ps"),
        ("PDF", "PDF"),
    ],
)
def test_I5_other_formats_are_not_decoded(tmp_path: Path, kind: str, words: str) -> None:
    """OpenCV could read GIF and TIFF; a GIF of 100,000 frames or a TIFF of pointers never gets there."""
    refused(tmp_path, encoded(PICTURE, kind), words)
    refused(tmp_path, b"SIMPLE  =                    T", "text that begins with 'simple")
    refused(tmp_path, b"8BPS\0\x01", "a Photoshop image")


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def peak_kb(reset: bool = False) -> int:
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of memory from /proc")
@pytest.mark.parametrize("kind", ["iCCP", "zTXt", "eXIf"])
def test_I5_metadata_that_unpacks_to_200_mb_costs_no_memory(kind: str) -> None:
    packer = zlib.compressobj(9)
    bomb = b"".join([packer.compress(bytes(1_000_000)) for _ in range(200)]) + packer.flush()
    body = {"iCCP": b"x\0\0" + bomb, "zTXt": b"x\0\0" + bomb, "eXIf": b"MM\0*" + bytes(1_000_000)}[kind]
    plain = encoded(np.full((4, 4, 3), 7, np.uint8), "PNG")
    data = plain[:33] + png_chunk(kind.encode(), body) + plain[33:]
    decode_image(plain, "", "")
    before = peak_kb(reset=True)
    assert (decode_image(data, "", "") == 7).all()
    assert peak_kb() - before < 50_000


def test_I6_cmyk_is_converted_without_a_profile(tmp_path: Path) -> None:
    ramp = (np.indices((32, 48)).sum(axis=0) * 3).astype(np.uint8)
    cmyk = np.stack([ramp, ramp[:, ::-1], np.full_like(ramp, 40), np.full_like(ramp, 25)], axis=2)
    image = Image.fromarray(cmyk, "CMYK")
    found = read(tmp_path, encoded(image, "JPEG", quality=100, subsampling=0))
    ink = cmyk.astype(float) / 255
    expected = 255 * (1 - ink[:, :, :3]) * (1 - ink[:, :, 3:])
    assert np.abs(found - expected).max() < 4


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_I6_the_colour_under_transparent_pixels_is_kept(tmp_path: Path, kind: str) -> None:
    image = Image.fromarray(PICTURE)
    image.putalpha(Image.new("L", image.size, 0))
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    assert (read(tmp_path, encoded(image, kind, **options)) == PICTURE).all()


def test_I6_a_palette_with_a_transparent_colour(tmp_path: Path) -> None:
    image = Image.fromarray(PICTURE).convert("P")
    found = read(tmp_path, encoded(image, "PNG", transparency=int(np.asarray(image)[0, 0])))
    assert (found == np.asarray(image.convert("RGB"))).all()


def test_bytes_are_decoded_as_files_are(tmp_path: Path) -> None:
    data = encoded(PICTURE, "PNG")
    assert (decode_image(data, "row 1", "a.png") == read(tmp_path, data)).all()
    with pytest.raises(SampleError, match=r"row 1: found shard\.tar/a\.png: a PNG image cut short"):
        decode_image(data[:-5], "row 1", "shard.tar/a.png")


def png_that_claims(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    rows = zlib.compress(b"\0" * 4096)
    chunks = (b"IHDR", header), (b"IDAT", rows), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks)


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
def test_I4_bombs_are_refused_from_the_header(tmp_path: Path, kind: str) -> None:
    data = bombs()[kind]
    start = time.perf_counter()
    refused(tmp_path, data, "pixels")
    assert time.perf_counter() - start < 0.05


@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from(FORMATS))
def test_sizes_come_from_the_header(width: int, height: int, kind: str) -> None:
    picture = np.zeros((height, width, 3), np.uint8)
    assert image_size(encoded(picture, kind)) == (width, height)
    assert image_size(encoded(picture, "WEBP", lossless=True)) == (width, height)


def test_I7_a_size_of_zero_is_refused(tmp_path: Path) -> None:
    refused(tmp_path, png_that_claims(0, 5), "0 x 5 pixels")


@given(st.integers(1, 90), st.integers(1, 90), st.sampled_from([1, 3]), st.sampled_from([1, 7, 32]))
def test_I7_any_size_becomes_the_square(height: int, width: int, channels: int, size: int) -> None:
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


@pytest.mark.parametrize(("height", "width"), [(20, 24), (28, 31), (20, 12), (9, 30)])
def test_nothing_aliases_where_a_side_shrinks_by_less_than_half(height: int, width: int) -> None:
    """A fine pattern becomes grey in the mean; brightness and place stay where they are."""
    checks = np.indices((height, width)).sum(axis=0).astype(np.uint8) % 2 * 200
    assert ImageProcessor(16, 1).prepare(checks).numpy().mean() == pytest.approx(100, abs=4)
    ramp = np.linspace(0, 250, width)[None].repeat(height, axis=0)
    found = ImageProcessor(16, 1).prepare(ramp.round().astype(np.uint8)).numpy()[0, 8].astype(float)
    centres = (np.arange(16) + 0.5) * width / 16 - 0.5
    inner = (centres > 1) & (centres < width - 2)
    assert np.abs(found - np.interp(centres, np.arange(width), ramp[0]))[inner].max() < 2


@pytest.mark.parametrize(("height", "width"), [(80, 88), (110, 96), (150, 100), (149, 128), (140, 145)])
def test_shrinking_is_near_to_pillows_and_far_from_plain_interpolation(height: int, width: int) -> None:
    """Pillow's bilinear resize, which torchvision's `antialias` copies, on white noise, the worst."""
    noise = np.random.default_rng(3).integers(0, 256, (height, width, 3), dtype=np.uint8)
    wanted = np.asarray(Image.fromarray(noise).resize((64, 64), Image.Resampling.BILINEAR)).astype(float)

    def error(found: NDArray[np.uint8]) -> float:
        return float(np.sqrt(np.mean((found - wanted) ** 2)))

    plain = error(np.asarray(cv2.resize(noise, (64, 64), interpolation=cv2.INTER_LINEAR)))
    areas = error(np.asarray(cv2.resize(noise, (64, 64), interpolation=cv2.INTER_AREA)))
    found = error(ImageProcessor(64).prepare(noise).permute(1, 2, 0).numpy())
    assert found < 0.6 * plain
    assert found < 1.3 * areas


@given(st.integers(1, 90), st.integers(1, 90), st.integers(0, 255))
def test_one_colour_stays_itself(height: int, width: int, value: int) -> None:
    assert (ImageProcessor(32).prepare(np.full((height, width, 3), value, np.uint8)) == value).all()


def test_a_batch_is_made_of_whole_planes_whatever_it_is_made_of() -> None:
    processor = ImageProcessor(8)
    picture = np.random.default_rng(4).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    prepared = [processor.prepare(picture), processor.blank(), processor.prepare(picture[:, :, 0])]
    batch = processor.collate(prepared)
    assert batch.is_contiguous()
    assert torch.equal(batch, torch.stack(prepared))
    assert (batch[0].permute(1, 2, 0).numpy() == picture).all()


def test_I7_lines_of_one_pixel() -> None:
    line = np.full((1, 10_000, 3), 50, np.uint8)
    for raw in (line, line.transpose(1, 0, 2), line[:, :1]):
        assert (ImageProcessor(8).prepare(raw) == 50).all()
        views = ImageViews(min_crop=0.1, flip=True)
        assert (ImageProcessor(8, views=views).prepare(raw, View(0, 0, 1)) == 50).all()


def test_the_centre_is_cut_out_where_the_aspect_is_kept() -> None:
    wide = np.zeros((20, 60, 3), np.uint8)
    wide[:, 20:40] = 99
    assert (ImageProcessor(10, keep_aspect=True).prepare(wide) == 99).all()
    assert (ImageProcessor(10, keep_aspect=True).prepare(wide.transpose(1, 0, 2)) == 99).all()
    assert (ImageProcessor(10).prepare(wide) == 0).any()


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


SMOOTH = cv2.resize(np.random.default_rng(5).integers(0, 256, (7, 9, 3), dtype=np.uint8), (300, 200))


def shown(views: ImageViews, view: View, size: int = 32) -> NDArray[np.int64]:
    return ImageProcessor(size, views=views).prepare(SMOOTH, view).numpy().astype(np.int64)


@given(st.integers(1, 300), st.integers(1, 300), st.floats(0.05, 1), st.lists(st.floats(0, 1), min_size=4))
def test_a_crop_lies_inside_and_is_as_large_as_drawn(
    height: int, width: int, least: float, draws: list[float]
) -> None:
    rows, columns = ImageViews(least).box(height, width, draws[:4])
    high, wide = rows.stop - rows.start, columns.stop - columns.start
    assert 0 <= rows.start < rows.stop <= height
    assert 0 <= columns.start < columns.stop <= width
    clamped = high in (1, height) or wide in (1, width)
    if not clamped and least < 1:
        share = least + (1 - least) * draws[0]
        assert abs(high * wide - share * height * width) <= (high + wide) / 2 + 1
        assert 3 / 4 - 1 / high <= (wide + 0.5) / (high - 0.5)
        assert (wide - 0.5) / (high + 0.5) <= 4 / 3


def test_a_view_shows_a_part_of_the_image() -> None:
    rows, columns = np.indices((200, 300), dtype=np.uint8)
    places = np.stack([rows, (columns // 2).astype(np.uint8), rows], axis=2)
    sizes = []
    for at in range(40):
        shown = ImageProcessor(64, views=ImageViews(0.2)).prepare(places, View(1, 0, at)).float()
        high, wide = (float(shown[axis].max() - shown[axis].min()) for axis in (0, 1))
        sizes.append(high * 2 * wide / (200 * 300))
    assert 0.15 < min(sizes) < 0.4
    assert max(sizes) > 0.75


def test_views_are_the_same_at_any_size_and_in_grey() -> None:
    views = ImageViews(0.3, flip=True)
    for at in range(12):
        view = View(3, 1, at)
        small, large = shown(views, view, 32), shown(views, view, 64)
        assert np.abs(large.reshape(3, 32, 2, 32, 2).mean(axis=(2, 4)) - small).max() < 6
        grey = ImageProcessor(32, 1, views=views).prepare(SMOOTH, view).numpy().astype(float)
        assert np.abs(grey[0] - np.tensordot([0.299, 0.587, 0.114], small, 1)).max() < 2


def test_views_depend_on_seed_epoch_and_sample_and_nothing_else() -> None:
    views = ImageViews(0.3, flip=True)
    first = shown(views, View(3, 1, 7))
    assert (first == shown(views, View(3, 1, 7))).all()
    for other in (View(4, 1, 7), View(3, 2, 7), View(3, 1, 8)):
        assert (first != shown(views, other)).any()


def test_half_of_the_views_are_mirrored() -> None:
    views = ImageViews(min_crop=1, flip=True)
    plain = ImageProcessor(32).prepare(SMOOTH).numpy().astype(np.int64)
    mirrored = 0
    for at in range(200):
        found = shown(views, View(0, 0, at))
        assert (found == plain).all() or (found == plain[:, :, ::-1]).all()
        mirrored += int((found != plain).any())
    assert 70 < mirrored < 130


def test_evaluation_takes_no_view() -> None:
    processor = ImageProcessor(32, views=ImageViews(0.1, flip=True, transform=lambda image: 255 - image))
    assert torch.equal(processor.prepare(SMOOTH), ImageProcessor(32).prepare(SMOOTH))
    assert processor.varies
    assert not ImageProcessor(32, max_shift=0.1).varies


def test_a_torchvision_transform_is_a_function_of_the_view() -> None:
    v2 = pytest.importorskip("torchvision.transforms.v2")
    views = ImageViews(min_crop=1, transform=v2.Compose([v2.ColorJitter(0.8), v2.RandomErasing(0.5)]))
    before = torch.get_rng_state()
    first, again = (shown(views, View(0, 2, 5)) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    assert (first == again).all()
    assert (first == shown(views, View(0, 2, 5))).all()
    assert any((first != shown(views, View(0, 2, at))).any() for at in range(6, 9))


def test_a_transform_sees_the_crop_before_it_is_resized() -> None:
    shapes = []

    def note(image: torch.Tensor) -> torch.Tensor:
        shapes.append(tuple(image.shape))
        return 255 - image

    plain = shown(ImageViews(0.3), View(0, 0, 1), 16)
    assert np.abs(255 - plain - shown(ImageViews(0.3, transform=note), View(0, 0, 1), 16)).max() <= 1
    rows, columns = shapes[0][1:]
    assert shapes[0][0] == 3
    assert 0.25 < rows * columns / (200 * 300) < 1


def test_a_transform_that_normalises_is_a_mistake() -> None:
    views = ImageViews(transform=lambda image: image.float())
    with pytest.raises(ConfigError, match=r"makes torch.float32 \[3, .*normalise on the device"):
        shown(views, View(0, 0, 1))


def test_settings_tell_preprocessing_and_views_apart() -> None:
    small, large = (ImageProcessor(size, views=ImageViews(0.3, flip=True)) for size in (32, 64))
    assert small.settings != large.settings
    assert small.view_settings == large.view_settings != ImageProcessor(32).view_settings
    assert ImageProcessor(32).view_settings == ImageProcessor(64, 1, keep_aspect=True).view_settings
    for share in (0.0, 1.5, float("nan")):
        with pytest.raises(ConfigError, match=r"ImageViews\.min_crop"):
            ImageViews(share)
