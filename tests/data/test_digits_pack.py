import csv
import hashlib
import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import soundfile

PACK = Path(__file__).parents[2] / "lightning_distill" / "data" / "datasets" / "digits_pack"
DIGITS = {str(digit) for digit in range(10)}
MAX_BYTES = 8_000_000


def array_digest(array):
    header = f"{array.dtype} {'x'.join(map(str, array.shape))}\n"
    return hashlib.sha256(header.encode() + array.tobytes()).hexdigest()


def table_digest(rows):
    return hashlib.sha256("".join("\t".join(row.values()) + "\n" for row in rows).encode()).hexdigest()


def read_table(name):
    with (PACK / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def words():
    return read_table("words.csv")


@pytest.fixture(scope="module")
def clips():
    return read_table("speech.csv")


@pytest.fixture(scope="module")
def samples():
    samples, rate = soundfile.read(PACK / "speech.flac", dtype="int16")
    assert rate == 8000
    return samples


@pytest.fixture(scope="module")
def checksums():
    return json.loads((PACK / "checksums.json").read_text(encoding="utf-8"))


def test_every_decoded_part_has_its_checksum(words, clips, samples, checksums):
    digests = {
        "words": table_digest(words),
        "speech.samples": array_digest(samples),
        "speech.table": table_digest(clips),
    }
    for name in ("mnist", "optdigits"):
        with np.load(PACK / f"{name}.npz") as arrays:
            digests |= {f"{name}.{key}": array_digest(arrays[key]) for key in ("images", "labels")}
    assert digests == checksums


def test_readme_lists_the_checksums(checksums):
    readme = (PACK / "README.md").read_text(encoding="utf-8")
    assert [part for part, digest in checksums.items() if f"| `{part}` | `{digest}` |" not in readme] == []


def test_pack_stays_small():
    assert sum(path.stat().st_size for path in PACK.iterdir()) <= MAX_BYTES


@pytest.mark.parametrize(
    ("name", "count", "side", "brightest"), [("mnist", 10_000, 28, 255), ("optdigits", 1797, 8, 16)]
)
def test_images_have_their_shape_and_range(name, count, side, brightest):
    with np.load(PACK / f"{name}.npz") as arrays:
        images, labels = arrays["images"], arrays["labels"]
    assert images.shape == (count, side, side)
    assert images.dtype == labels.dtype == np.uint8
    assert (images.min(), images.max()) == (0, brightest)
    assert labels.shape == (count,)
    assert set(labels.tolist()) == set(range(10))


def test_words_cover_every_digit_in_at_least_seventy_languages(words):
    digits = defaultdict(set)
    for row in words:
        digits[row["language"]].add(row["digit"])
    assert len(digits) >= 70
    assert {language for language, found in digits.items() if found != DIGITS} == set()


def test_words_are_clean_and_unambiguous(words):
    assert [row for row in words if set(row["text"]) & set("0123456789#%=<>[]$←→;") or not row["text"]] == []
    keys = [(int(row["digit"]), row["language"], row["text"]) for row in words]
    assert keys == sorted(set(keys))
    assert len({(row["text"], row["digit"]) for row in words}) == len({row["text"] for row in words})


def test_every_voice_speaks_every_digit(clips):
    digits = defaultdict(set)
    for row in clips:
        digits[row["language"], row["voice"]].add(row["digit"])
    assert {voice for voice, found in digits.items() if found != DIGITS} == set()
    assert sum(language == "en" for language, _ in digits) >= 20
    assert len({language for language, _ in digits}) >= 9


def test_english_speakers_are_their_own(clips):
    voices = {(row["language"] == "en", row["voice"]) for row in clips}
    english = [name.partition("+")[2] for is_english, name in voices if is_english]
    others = {name.partition("+")[2] for is_english, name in voices if not is_english}
    assert len(set(english)) == len(english)
    assert others.isdisjoint(english)


def test_clips_fill_the_stream(clips, samples):
    ends = np.cumsum([int(row["length"]) for row in clips])
    assert [int(row["start"]) for row in clips] == [0, *ends[:-1].tolist()]
    assert ends[-1] == len(samples)


def test_clips_are_spoken_and_unclipped(clips, samples):
    for row in clips:
        start, length = int(row["start"]), int(row["length"])
        clip = samples[start : start + length].astype(np.int32)
        assert 0.15 <= length / 8000 <= 0.9, row
        assert np.abs(clip).max() == 8192, row
        assert np.mean(np.abs(clip) > 80) > 0.3, row
