"""Training images at 224 pixels: decode, random crop, mirror, resize, collate; against decoding alone.

    python benchmarks/images.py --out benchmarks/results/images.json

The peers are `cv2.imdecode` alone, which nothing that decodes can go below, and torchvision's ImageFolder
with transforms v2. All read the same files in one run, one thread, process CPU time, in rotated order; a
ratio is the median over the rounds, with the least and the largest. Without `--images` the photographs are
made: smooth fields with texture and noise, 500 x 375, about 100 kB each. Without torchvision its row is left
out, with a word.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"

import argparse
import importlib.util
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parent))
import turns

from lightning_distill.data import ImageProcessor, read_image
from lightning_distill.data.image_views import ImageViews
from lightning_distill.randomness import View

SIZE, BATCH = 224, 64
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PACKAGES = ("lightning_distill", "torch", "torchvision", "opencv-python-headless", "pillow", "numpy")


def photograph(rng: np.random.Generator, height: int = 375, width: int = 500) -> NDArray[np.uint8]:
    picture = np.full((height, width, 3), 120.0)
    for cells, strength in ((4, 60.0), (16, 30.0), (64, 20.0)):
        coarse = rng.normal(0, strength, (cells * 3 // 4 + 1, cells, 3))
        picture += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    picture += rng.normal(0, 16, (height, width, 1)) + rng.normal(0, 4, (height, width, 3))
    return np.clip(picture, 0, 255).astype(np.uint8)


def make_photographs(folder: Path, count: int) -> str:
    rng = np.random.default_rng(0)
    (folder / "one").mkdir(parents=True)
    for at in range(count):
        cv2.imwrite(str(folder / "one" / f"{at:04d}.jpg"), photograph(rng), [cv2.IMWRITE_JPEG_QUALITY, 90])
    size = sum(path.stat().st_size for path in folder.rglob("*.jpg")) / count / 1000
    return f"{count} made photographs, 500 x 375, {size:.0f} kB on average"


def ours(paths: Sequence[Path]) -> Callable[[], None]:
    processor = ImageProcessor(SIZE, views=ImageViews(min_crop=0.08, flip=True))
    epochs = iter(range(10**9))

    def work() -> None:
        epoch = next(epochs)
        for start in range(0, len(paths), BATCH):
            rows = range(start, min(start + BATCH, len(paths)))
            processor.collate(
                [processor.prepare(read_image(paths[row], ""), View(0, epoch, row)) for row in rows]
            )

    return work


def decoding(paths: Sequence[Path]) -> Callable[[], None]:
    def work() -> None:
        for path in paths:
            cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)

    return work


def folder_and_v2(folder: Path) -> Callable[[], None]:
    from torch.utils.data import default_collate
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2

    steps = [v2.RandomResizedCrop(SIZE), v2.RandomHorizontalFlip(), v2.ToImage()]
    steps += [v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, DEVIATION)]
    images = ImageFolder(str(folder), v2.Compose(steps))

    def work() -> None:
        for start in range(0, len(images), BATCH):
            default_collate([images[row] for row in range(start, min(start + BATCH, len(images)))])

    return work


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/images.json"))
    parser.add_argument("--images", type=Path, help="folder with one folder of photographs a class")
    parser.add_argument("--count", type=int, default=200, help="photographs to make without --images")
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args(words)
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.images or Path(scratch, "photographs")
        made = make_photographs(folder, options.count) if options.images is None else None
        paths = sorted(path for path in folder.glob("*/*") if path.suffix.lower() in (".jpg", ".jpeg"))
        variants = {"ours": ours(paths), "cv2.imdecode alone": decoding(paths)}
        if importlib.util.find_spec("torchvision") is None:
            print("ImageFolder + v2 left out: pip install torchvision", file=sys.stderr)
        else:
            variants["ImageFolder + v2"] = folder_and_v2(folder)
        seconds = turns.cpu_seconds(variants, options.rounds)
    note = made or f"{len(paths)} photographs from {folder.name}"
    result = turns.report(seconds, len(paths), "cv2.imdecode alone", PACKAGES, note)
    turns.write(options.out, result)
    turns.show(result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
