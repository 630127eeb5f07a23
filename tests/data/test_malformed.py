"""5,000 malformed inputs: each is read or refused in one paragraph. No crash, no hang, no traceback."""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_distill.data import (
    AudioProcessor,
    ByteTextProcessor,
    ImageProcessor,
    ManifestSource,
    MultiLabel,
    RegressionTarget,
    SingleLabel,
)
from lightning_distill.data.audio import decode_audio
from lightning_distill.data.image import decode_image
from lightning_distill.errors import DistillError

IMAGES, SOUNDS, TABLES, WRITTEN = 260, 200, 600, 680
"""Inputs of each of 4 image formats, 4 sound formats, 4 table formats and from each of 2 grammars."""
LONGEST = 10.0
"""Seconds any one input may take."""


def total() -> int:
    return 4 * (IMAGES + SOUNDS + TABLES) + 2 * WRITTEN


def mutations(whole: bytes, count: int, seed: int) -> Iterator[bytes]:
    """Flipped bits, cut ends, removed, doubled and zeroed blocks, random bytes put in."""
    rng = np.random.default_rng(seed)
    for at in range(count):
        data = bytearray(whole)
        start, length = (int(x) for x in rng.integers(1, max(len(data) - 1, 2), 2))
        stop = min(len(data), start + length % 64 + 1)
        kind = at % 6
        if kind == 0:
            for place in rng.integers(len(data), size=1 + at % 32):
                data[place] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            del data[start:]
        elif kind == 2:
            del data[start:stop]
        elif kind == 3:
            data[start:start] = data[start:stop]
        elif kind == 4:
            data[start:stop] = bytes(stop - start)
        else:
            data[start:start] = rng.bytes(1 + at % 9)
        yield bytes(data)


def survives(read: Callable[[], Any]) -> bool:
    """Whether it was read; refused in a paragraph of ours otherwise. Anything else is a failure."""
    started, refusal = time.monotonic(), None
    try:
        read()
    except DistillError as error:
        refusal = error
    assert time.monotonic() - started < LONGEST
    if refusal is not None:
        assert all((refusal.where, refusal.found, refusal.expected, refusal.fix))
        assert "\n" not in str(refusal)
        assert "Traceback" not in str(refusal)
    return refusal is None


@pytest.fixture(autouse=True)
def _bounded_memory() -> Iterator[None]:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**20, "more than 1 GiB"


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".bmp"])
def test_images(suffix: str) -> None:
    y, x = np.mgrid[:60, :80]
    picture = np.stack([y * 4, x * 3, (x * y) % 256], axis=2).astype(np.uint8)
    whole = cv2.imencode(suffix, picture)[1].tobytes()
    processor = ImageProcessor(16)

    def read(data: bytes) -> None:
        processor.collate([processor.prepare(decode_image(data, "row 2, column 'image'", "a" + suffix))])

    assert survives(lambda: read(whole))
    results = [survives(lambda data=data: read(data)) for data in mutations(whole, IMAGES, 0)]
    assert not all(results)


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".mp3"])
def test_sounds(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    soundfile.write(path, 0.3 * np.sin(np.arange(4000) / 5), 8000)
    whole = path.read_bytes()
    processor = AudioProcessor(8000, 0.25, mels=12)

    def read(data: bytes) -> None:
        features = processor.collate(
            [processor.prepare(decode_audio(data, "row 2, column 'audio'", path.name))]
        )
        assert np.isfinite(np.asarray(features)).all()

    assert survives(lambda: read(whole))
    results = [survives(lambda data=data: read(data)) for data in mutations(whole, SOUNDS, 1)]
    assert not all(results)


def rows() -> list[dict[str, Any]]:
    return [
        {"text": f"some text, {i}", "label": "xyz"[i % 3], "tags": "a|b", "price": f"{i}.5", "split": "train"}
        for i in range(12)
    ]


def write_table(path: Path) -> bytes:
    found = rows()
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(found), path, write_page_checksum=True)
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, found)))
    else:
        mark = "," if path.suffix == ".csv" else "\t"
        lines = [mark.join(f'"{cell}"' for cell in row.values()) for row in found]
        path.write_text("\n".join([mark.join(found[0]), *lines]))
    return path.read_bytes()


TARGETS = (SingleLabel(), MultiLabel("tags"), RegressionTarget(["price"]))


@pytest.mark.filterwarnings("ignore:.*look too good")
@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_tables(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"m{suffix}"
    whole = write_table(path)
    text = ByteTextProcessor()

    def read(at: int) -> None:
        source = ManifestSource(path, {"text": "text"}, TARGETS[at % 3])
        there = np.flatnonzero(source.samples.present["text"]).tolist()
        text.collate([text.prepare(source.load("text", row)) for row in there])

    assert survives(lambda: read(0))
    results = []
    for at, data in enumerate(mutations(whole, TABLES, 2)):
        path.write_bytes(data)
        results.append(survives(lambda at=at: read(at)))
    assert any(results) != all(results)


@settings(max_examples=WRITTEN)
@pytest.mark.filterwarnings("ignore:.*look too good")
@given(cells=st.lists(st.lists(st.text(max_size=8), min_size=1, max_size=4), min_size=1, max_size=5))
def test_csv_of_any_text(cells: list[list[str]], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "any.csv"
    lines = "\n".join(",".join(row) for row in cells)
    path.write_bytes(b"text,label\n" + lines.encode("utf-8", "surrogatepass"))
    survives(lambda: ManifestSource(path, {"text": "text"}))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["text", "label", "x"]), inner)
    ),
    max_leaves=6,
)


@settings(max_examples=WRITTEN)
@pytest.mark.filterwarnings("ignore:.*look too good")
@given(values=st.lists(JSON | st.fixed_dictionaries({"text": JSON, "label": JSON}), min_size=1, max_size=5))
def test_jsonl_of_any_values(values: list[Any], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    path.write_text("\n".join(map(json.dumps, values)))
    survives(lambda: ManifestSource(path, {"text": "text"}))


def test_there_are_five_thousand() -> None:
    assert total() >= 5000
