"""The demo's first table on human speech: speakers and languages held out.

Audio is the Free Spoken Digit Dataset: the source domain has four of its six speakers, the target theo and
nicolas. Images and words are those of the package. Everything else is as in `lightning-distill demo`.

    LIGHTNING_DISTILL_DATA=DATA python benchmarks/human_speech.py --out benchmarks/results/human_speech.json

prints the table too. Triples are paired by class, not recorded together.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import time
from pathlib import Path
from typing import Literal

import numpy as np
from rich.console import Console
from rich.table import Table

from lightning_distill.commands.demo import constants
from lightning_distill.commands.demo.results import gap_closed, story_rows
from lightning_distill.commands.demo.story import Domains, Story
from lightning_distill.data.datasets import Bank, ClassPairedSource, read_fsdd
from lightning_distill.data.datasets.class_paired import split_at_random
from lightning_distill.data.datasets.digits import DIGITS, handwriting, number_words

TARGET_SPEAKERS = ("nicolas", "theo")
SIZES = {"train": 6000, "val": 500, "test": 1000}


def human_speech(folder: Path, domain: Literal["source", "target"]) -> Bank:
    recordings = read_fsdd(folder)
    of_target = np.isin(recordings.speaker, TARGET_SPEAKERS)
    kept = np.flatnonzero(of_target if domain == "target" else ~of_target)
    return Bank(
        recordings.digit[kept].astype(np.int64),
        split_at_random(f"human speech {domain}", len(kept), 0.1, 0.25),
        lambda item: recordings.waveforms[kept[item]],
    )


def source(
    folder: Path, domain: Literal["source", "target"], labelled: int | None, seed: int
) -> ClassPairedSource:
    banks = {
        "image": handwriting(domain),
        "text": number_words(domain),
        "audio": human_speech(folder, domain),
    }
    return ClassPairedSource(f"human-{domain}", banks, DIGITS, SIZES, labelled, seed)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/human_speech.json"))
    parser.add_argument("--seeds", type=int, nargs="+", default=list(constants.SEEDS))
    parser.add_argument("--steps", type=int, default=constants.STEPS)
    options = parser.parse_args()
    if "LIGHTNING_DISTILL_DATA" not in os.environ:
        print("skipped: LIGHTNING_DISTILL_DATA does not name the folder with the real data", file=sys.stderr)
        return 0
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    folder = Path(os.environ["LIGHTNING_DISTILL_DATA"], "digits")
    started = time.monotonic()
    results = []
    for seed in options.seeds:
        domains = Domains(
            source(folder, "source", None, seed),
            source(folder, "target", constants.LABELS, seed),
            source(folder, "target", None, seed),
        )
        results.append(Story(seed, domains, options.steps).rows())
    rows = story_rows(results)
    gaps = {student: gap_closed(rows, student) for student in constants.STUDENTS}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    report = {"seeds": options.seeds, "steps": options.steps, "rows": rows, "gap_closed": gaps}
    report["seconds"] = round(time.monotonic() - started, 1)
    options.out.write_text(json.dumps(report, indent=2) + "\n")
    table = Table(
        "model", "accuracy %", "± SE", "agreement %", title="Human speech, target domain's test set"
    )
    for row in rows:
        error = row["accuracy_se"]
        table.add_row(
            row["name"],
            f"{100 * row['accuracy_mean']:.1f}",
            "" if error is None else f"{100 * error:.1f}",
            f"{100 * row['agreement']:.1f}",
        )
    console = Console()
    console.print(table)
    for student, gap in gaps.items():
        console.print(f"{student}: gap closed {gap['mean']:.0%}", highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
