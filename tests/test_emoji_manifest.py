"""The script that writes the emoji set as files and a manifest, run as users run it."""

from __future__ import annotations

import csv
import importlib.util
import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import cv2
import numpy as np
import pytest
import soundfile

from lightning_distill.data import ManifestSource
from lightning_distill.data.splits import GroupSplit

SCRIPT = Path(__file__).parents[1] / "scripts" / "emoji_manifest.py"
STYLES = ("noto", "twemoji", "openmoji", "fluent3d")
NAMES = ("waving hand", "woman cook", "cook", "fog")

needs_data = [
    pytest.mark.data,
    pytest.mark.skipif(
        "LIGHTNING_DISTILL_DATA" not in os.environ, reason="LIGHTNING_DISTILL_DATA names no folder"
    ),
]


def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def table(out: Path) -> list[dict[str, str]]:
    with (out / "emoji.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def tile(style: int, i: int) -> np.ndarray:
    """A flat colour that tells where the tile comes from, BGR."""
    return np.full((48, 48, 3), (40 * style, 50 * i, 10), np.uint8)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A set of four emoji; the last style lacks the third, and is on nothing instead of white."""
    folder = tmp_path / "set"
    folder.mkdir()
    lines = ["i,emoji,name,group,subgroup,voice,start,length"]
    lines += [f"{i},x,{name},things,some,voice,{8000 * i},{8000 - i}" for i, name in enumerate(NAMES)]
    (folder / "emoji.csv").write_text("\n".join(lines) + "\n")
    for number, style in enumerate(STYLES):
        sheet = np.full((48, 1920, 4), 255, np.uint8)
        for i in range(len(NAMES)):
            sheet[:, 48 * i : 48 * (i + 1), :3] = tile(number, i)
        if style == "fluent3d":
            sheet[:, 96:144] = 0
        kept = sheet if style == "fluent3d" else sheet[..., :3]
        cv2.imwrite(str(folder / f"{style}_48px.webp"), kept, [cv2.IMWRITE_WEBP_QUALITY, 101])
    time = np.arange(32000) / 16000
    tones = np.concatenate([np.sin(2 * np.pi * 300 * (i + 1) * time[:8000]) for i in range(len(NAMES))])
    soundfile.write(folder / "names_tts_16k.opus.ogg", 0.5 * tones, 16000, format="OGG", subtype="OPUS")
    return folder


def test_each_row_has_its_own_picture_and_sound(small: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = run(out, "--data", small)
    assert done.returncode == 0, done.stderr
    rows = table(out)
    assert [(row["domain"], row["text"]) for row in rows] == [(s, n) for s in STYLES for n in NAMES]
    assert [row["group"] for row in rows[:4]] == ["waving hand", "cook", "cook", "fog"]
    assert {row["label"] for row in rows} == {"things"}
    for at, row in enumerate(rows):
        style, i = divmod(at, len(NAMES))
        if row["image"]:
            picture = cv2.imread(str(out / row["image"]), cv2.IMREAD_UNCHANGED)
            assert np.array_equal(picture, tile(style, i)), row
        samples, rate = soundfile.read(out / row["audio"])
        assert (len(samples), rate) == (8000 - i, 16000)
        loudest = np.abs(np.fft.rfft(samples)).argmax() * rate / len(samples)
        assert loudest == pytest.approx(300 * (i + 1), abs=5)


def test_a_style_without_a_tile_has_an_empty_cell(small: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = run(out, "--data", small)
    assert "fluent3d: 1 of 4 images missing" in done.stdout
    assert "noto: 0 of 4 images missing" in done.stdout
    assert [row["image"] == "" for row in table(out)] == [False] * 14 + [True, False]
    assert len(list(out.rglob("*.png"))) == 15


def test_the_same_files_every_time(small: Path, tmp_path: Path) -> None:
    contents = []
    for name in ("one", "two"):
        assert run(tmp_path / name, "--data", small).returncode == 0
        files = sorted(p for p in (tmp_path / name).rglob("*") if p.is_file())
        contents.append({p.relative_to(tmp_path / name): p.read_bytes() for p in files})
    assert contents[0] == contents[1]
    assert len(contents[0]) == 15 + 4 + 1


def test_what_is_there_is_left_alone(small: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("keep")
    done = run(out, "--data", small)
    assert done.returncode == 2
    assert "name a new folder" in done.stderr
    assert [p.name for p in out.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("spoiled", ["emoji.csv", "noto_48px.webp", "names_tts_16k.opus.ogg"])
def test_another_folder_is_refused_in_a_sentence(small: Path, tmp_path: Path, spoiled: str) -> None:
    (small / spoiled).unlink()
    done = run(tmp_path / "out", "--data", small)
    assert done.returncode != 0
    assert spoiled in done.stderr
    assert not (tmp_path / "out").exists()
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "names",
    [
        ("health worker", "man health worker", "woman health worker"),
        ("family", "family man, woman, boy", "family woman, girl, girl"),
        ("people holding hands", "woman and man holding hands"),
        ("Santa Claus", "Mrs. Claus", "Mx Claus"),
        ("merman", "mermaid", "merperson"),
        ("older person", "old woman"),
        ("men\u2019s room", "women's room"),
        ("girl", "person"),
    ],
)
def test_near_copies_share_a_group(names: tuple[str, ...]) -> None:
    spec = importlib.util.spec_from_file_location("emoji_manifest", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert len({script.group_of(name) for name in names}) == 1
    assert script.group_of(names[0]) != script.group_of("snowman")


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("emoji") / "out"
    done = run(out)
    assert done.returncode == 0, done.stderr
    assert all(f"{style}: 0 of 1599 images missing" in done.stdout for style in STYLES)
    return out


class TestRealSet:
    """One test a fact, on one run of the script."""

    pytestmark = needs_data

    def test_counts(self, real: Path) -> None:
        rows = table(real)
        assert len(rows) == 1599 * 4
        assert len({row["label"] for row in rows}) == 8
        for column, files in (("image", 1599 * 4), ("audio", 1599)):
            assert len({row[column] for row in rows}) == files
            assert all((real / row[column]).is_file() for row in rows)

    def test_every_file_decodes(self, real: Path) -> None:
        for path in real.rglob("*.png"):
            picture = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
            assert picture.shape == (48, 48, 3), path
            assert picture.min() < 250, path
        for path in real.rglob("*.flac"):
            samples, rate = soundfile.read(path, dtype="int16")
            assert rate == 16000, path
            assert 0.2 < len(samples) / rate < 4, path
            assert samples.max() > 500, path

    def test_a_group_is_in_no_two_classes_and_holds_all_near_copies(self, real: Path) -> None:
        texts, labels = defaultdict(set), defaultdict(set)
        for row in table(real):
            texts[row["group"]].add(row["text"])
            labels[row["group"]].add(row["label"])
        assert all(len(found) == 1 for found in labels.values())
        groups = {text: group for group, found in texts.items() for text in found}
        pairs = 0
        for text in groups:
            for man, woman in (("man ", "woman "), ("men ", "women "), ("man ", "person "), ("man ", "")):
                other = woman + text.removeprefix(man)
                if text.startswith(man) and other in groups:
                    assert groups[text] == groups[other], (text, other)
                    pairs += 1
        assert pairs > 100

    def test_a_source_reads_it_and_splits_it_by_group(self, real: Path) -> None:
        columns = {"image": "image", "text": "text", "audio": "audio"}
        source = ManifestSource(real / "emoji.csv", columns, splitter=GroupSplit("group", 0.1, 0.2))
        split = source.samples.split
        groups: dict[int, set[str]] = defaultdict(set)
        for at, row in zip(split, table(real), strict=True):
            groups[int(at)].add(row["group"])
        assert sorted(groups) == [0, 1, 2]
        assert sum(map(len, groups.values())) == len(set.union(*groups.values()))
        assert len(source.classes) == 8
        assert set(source.domains) == set(STYLES)
        assert source.load("image", 5).shape == (48, 48, 3)
        assert source.load("audio", 5).sample_rate == 16000
        assert source.load("text", 5) == table(real)[5]["text"]
