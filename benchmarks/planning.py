"""The tables of docs/planning.md: devices, cores, disk and network for a data set of any size.

    python benchmarks/planning.py

rewrites what stands between the markers in docs/planning.md. Sizes of records are what the library makes of
such answers; times of images and speeds of the cache come from images.json and cache.json in
benchmarks/results. The arithmetic of the models, the speed of the device and the size of a photograph are
options: there was no GPU here to measure on.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from table import BEGIN, END, ROOT

from lightning_distill.storage import Field, RecordLayout
from lightning_distill.storage.segment import block_rows, entry_dtype

SETS = (("ImageNet", 1_281_167, 100), ("LAION", 2_000_000_000, 1))
ANSWERS: tuple[tuple[str, tuple[tuple[str, tuple[int, ...], str], ...]], ...] = (
    ("1,000 logits", (("logits", (1000,), "float16"),)),
    (
        "20 largest of 1,000 logits",
        (("values", (20,), "float16"), ("classes", (20,), "int32"), ("rest", (1,), "float16")),
    ),
    ("an embedding of 768", (("embedding", (768,), "float16"),)),
    ("embeddings of image and text, 768 each", (("image", (768,), "float16"), ("text", (768,), "float16"))),
    ("a layer of 257 x 1,024", (("layer", (257, 1024), "float16"),)),
)


def bytes_of(fields: tuple[tuple[str, tuple[int, ...], str], ...]) -> tuple[int, float]:
    """Bytes of a record, and of its share of the index."""
    record = RecordLayout(tuple(Field(*field) for field in fields)).size
    rows = block_rows(record)
    return record, entry_dtype(rows).itemsize / rows


def amount(number: float) -> str:
    """Bytes with a unit."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} PB"


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def sizes() -> str:
    rows = []
    for name, fields in ANSWERS:
        record, index = bytes_of(fields)
        total = [amount(count * (record + index)) for _, count, _ in SETS]
        rows.append([name, f"{record:,}", f"{index:.2f}", *total])
    return markdown(
        ["kept in fp16", "record, bytes", "index, bytes", *(f"{s[0]}, in all" for s in SETS)], rows
    )


def devices(options: argparse.Namespace, image_us: float) -> str:
    useful = options.tflops * 1e12 * options.utilisation
    teacher, student = options.teacher_gflop * 1e9 / useful, 3 * options.student_gflop * 1e9 / useful
    rows = []
    for name, count, epochs in (("a million samples", 1_000_000, 1), *SETS):
        once, each = count * teacher / 3600, count * student / 3600
        online, cached = epochs * (once + each), once + epochs * each
        told = [
            f"{x:,.2f}" if x < 10 else f"{x:,.0f}"
            for x in (once, epochs * each, online, cached, count * epochs * image_us / 3.6e9)
        ]
        rows.append([name, str(epochs), *told])
    head = ["", "epochs", "teacher once", "student", "online", "from the cache", "core hours of images"]
    return markdown(head, rows)


def rates(options: argparse.Namespace, image_us: float) -> str:
    useful = options.tflops * 1e12 * options.utilisation
    student = useful / (3 * options.student_gflop * 1e9)
    rows = []
    for name, fields in ANSWERS:
        record, _ = bytes_of(fields)
        answers, images = student * record, student * options.photograph
        network = 8 * 8 * (answers + images) / 1e9
        rows.append([name, amount(answers) + "/s", amount(images) + "/s", f"{network:.1f} Gbit/s"])
    cores = student * image_us / 1e6
    note = f"{student:,.0f} samples a second and device keep {cores:.1f} cores busy with images."
    head = ["kept in fp16", "answers, a device", "photographs, a device", "network, 8 devices"]
    return f"{markdown(head, rows)}\n\n{note}"


def measured(results: Path) -> tuple[float, dict[str, Any]]:
    """Microseconds of an image, and what the benchmark of the cache has found.

    Raises:
        SystemExit: If one of the two was not run.
    """
    found = []
    for name in ("images", "cache"):
        path = results / f"{name}.json"
        if not path.exists():
            raise SystemExit(f"{path.name} is missing: run python benchmarks/{name}.py --out {name}.json")
        found.append(json.loads(path.read_text(encoding="utf-8")))
    return found[0]["microseconds"]["ours"], found[1]


def constants(image_us: float, cache: dict[str, Any], options: argparse.Namespace) -> str:
    ours = cache["write"]["megabytes_per_second"]["ours"]
    gather = cache["gather"]["microseconds"]["ours"]
    here, not_here = "measured, one core", "not measured here"
    rows = [
        ["t_image", "read, decode, crop, resize, collate", f"{image_us:,.0f} us", here],
        ["t_gather", "256 answers of 1,044 bytes, in memory", f"{gather['median']:.0f} us", here],
        ["w", "writing answers with checksums", f"{ours['median']:,.0f} MB/s", here],
        ["F_t", "teacher, forward", f"{options.teacher_gflop:g} GFLOP a sample", not_here],
        [
            "F_s",
            "student, forward; training takes three times as much",
            f"{options.student_gflop:g} GFLOP",
            not_here,
        ],
        ["P", "the device's peak in bf16", f"{options.tflops:g} TFLOP/s", "its data sheet"],
        ["u", "the share of it that is used", f"{options.utilisation:g}", not_here],
        ["b_image", "a photograph as JPEG", f"{options.photograph / 1000:g} kB", not_here],
    ]
    return markdown(["", "", "", ""], rows)


def parsed(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "planning.md")
    parser.add_argument("--teacher-gflop", type=float, default=162.0, help="ViT-L/14 at 224")
    parser.add_argument("--student-gflop", type=float, default=8.2, help="ResNet-50 at 224")
    parser.add_argument("--tflops", type=float, default=312.0, help="A100, dense bf16")
    parser.add_argument("--utilisation", type=float, default=0.4)
    parser.add_argument("--photograph", type=float, default=110_000, help="bytes")
    return parser.parse_args(words)


def page_of(page: str, options: argparse.Namespace) -> str:
    """The page with the tables made anew: one between each pair of markers."""
    image_us, cache = measured(options.results)
    bodies = (
        constants(image_us, cache, options),
        devices(options, image_us),
        sizes(),
        rates(options, image_us),
    )
    first, *rest = page.split(BEGIN.replace("table", "planning"))
    if len(rest) != len(bodies):
        raise SystemExit(f"docs/planning.md needs {len(bodies)} markers, and has {len(rest)}")
    mark = BEGIN.replace("table", "planning")
    return first + "".join(
        f"{mark}\n{body}\n{END}{old.split(END, 1)[1]}" for body, old in zip(bodies, rest, strict=True)
    )


def main(words: Sequence[str] | None = None) -> int:
    options = parsed(words)
    options.page.write_text(page_of(options.page.read_text(encoding="utf-8"), options), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
