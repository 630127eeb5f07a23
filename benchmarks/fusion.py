"""Which fusion head? Every head on images, number words and human speech.

    LIGHTNING_DISTILL_DATA=DATA python benchmarks/fusion.py --seeds 5 --out benchmarks/results/fusion.json
    python benchmarks/fusion.py --report benchmarks/results/fusion.json

Images are MNIST, sounds the Free Spoken Digit Dataset with two of six speakers held out, words the numbers of
78 languages with every fourth held out; the three are paired by class and by seed. All heads have their
default settings, the same encoders (which give tokens to the heads that read them), a linear task head, and
the same steps with AdamW and modality dropout. The learning rate of each is chosen on validation data by
three seeds that are not reported; the test set chooses nothing. Accuracies are means over the same seeds,
with the standard error; differences to concatenation are paired by seed. `absent` is the accuracy on the
same test set with that modality taken from every sample. `params` are those of fusion and task head. `ms`
is a training step of the whole model at a batch of 64, CPU time of one thread; all heads take turns. It
wants a quiet machine: run again, it goes straight to the timing.

Finished trainings are kept beside the result: a run that was cut goes on. The loop is bare, the models are
the library's. `--report` writes table and picture.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch

sys.path.insert(0, str(Path(__file__).parent))
import fusion_jobs as jobs
import fusion_page as page
import kept
import turns
from fusion_jobs import HEADS, Job

RATES: Final = (1e-3, 3e-3, 1e-2, 3e-2)
SCREEN_SEEDS: Final = (100, 101, 102)
MODALITIES: Final = jobs.MODALITIES


def chosen_rates(runner: kept.Runner[Job], heads: Sequence[str], rates: Sequence[float]) -> dict[str, float]:
    """The learning rate of each head with the least validation loss over the seeds not reported."""
    tried = [Job(h, seed, rate, tested=False) for h in heads for rate in rates for seed in SCREEN_SEEDS]
    losses = dict.fromkeys(((job.head, job.rate) for job in tried), 0.0)
    for job, one in zip(tried, runner.all(tried, "choosing rates"), strict=True):
        losses[job.head, job.rate] += one["loss"]
    return {head: min(rates, key=lambda rate: losses[head, rate]) for head in heads}


def told(found: Sequence[dict[str, Any]], base: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A head's row, from what its seeds have found; the base's are of the same seeds."""
    accuracy, se = turns.mean_and_error([one["test"]["all"] for one in found])
    pairs = zip(found, base, strict=True)
    gain, gain_se = turns.mean_and_error([one["test"]["all"] - other["test"]["all"] for one, other in pairs])
    absent = {m: turns.mean_and_error([one["test"][m] for one in found]) for m in MODALITIES}
    return {
        "accuracy": accuracy,
        "se": se,
        "over_concat": {"mean": gain, "se": gain_se},
        "params": found[0]["params"],
        "absent": {m: mean for m, (mean, _) in absent.items()},
        "absent_se": {m: error for m, (_, error) in absent.items()},
    }


def milliseconds(heads: Sequence[str], rounds: int) -> dict[str, float]:
    """CPU time of a training step of the whole model, median over rounds in which all heads take turns."""
    torch.set_num_threads(1)
    steps: dict[str, Callable[[], object]] = {head: jobs.Stepper(head) for head in heads}
    found = turns.cpu_seconds(steps, rounds)
    return {head: turns.spread([1e3 * s for s in seconds])["median"] for head, seconds in found.items()}


def main(words: Sequence[str] | None = None) -> int:
    """Run the study, or write its report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/fusion.json"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2, help="processes; 0 for none beside this one")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=30, help="of timing")
    parser.add_argument("--heads", nargs="+", choices=sorted(HEADS), default=list(HEADS))
    parser.add_argument("--rates", type=float, nargs="+", default=list(RATES))
    parser.add_argument(
        "--report", type=Path, help="a result; its table is written to --page, with a picture"
    )
    parser.add_argument("--page", type=Path, default=Path("docs/fusion.md"))
    options = parser.parse_args(words)
    if options.report is not None:
        page.write(options.page, json.loads(options.report.read_text()))
        return 0
    if "LIGHTNING_DISTILL_DATA" not in os.environ:
        print("skipped: LIGHTNING_DISTILL_DATA does not name the folder with the real data", file=sys.stderr)
        return 0
    begun, seeds = time.monotonic(), range(options.seeds)
    folder = Path(os.environ["LIGHTNING_DISTILL_DATA"], "digits")
    file = options.out.with_suffix("") / f"{options.steps}_steps.jsonl"
    work = partial(jobs.run, steps=options.steps)
    with kept.Runner[Job](file, work, jobs.begin, (folder,), options.workers) as runner:
        rates = chosen_rates(runner, options.heads, options.rates)
        wanted = [Job(head, seed, rates[head], tested=True) for seed in seeds for head in options.heads]
        found = runner.all(wanted, "trainings")
    by_head = {h: [one for one in found if one["job"]["head"] == h] for h in options.heads}
    base = by_head.get(jobs.BASE, by_head[options.heads[0]])
    ms = milliseconds(options.heads, options.rounds)
    report = {
        "heads": {h: told(by_head[h], base) | {"ms": ms[h], "rate": rates[h]} for h in options.heads},
        "seeds": list(seeds),
        "screen_seeds": list(SCREEN_SEEDS),
        "rates": list(options.rates),
        "steps": options.steps,
        "batch": jobs.BATCH,
        "modality_dropout": jobs.DROPOUT,
        "rows_of_data": jobs.SIZES,
        "seconds_of_this_run": round(time.monotonic() - begun),
        "about": turns.about(("lightning_distill", "torch")),
    }
    turns.write(options.out, report)
    print(page.table(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
