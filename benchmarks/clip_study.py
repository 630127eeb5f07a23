"""Which clip helps? Every rule, feature clip and balancer on images, number words and human speech.

    LIGHTNING_DISTILL_DATA=DATA python benchmarks/clip_study.py --seeds 5 --out FILE
    python benchmarks/clip_study.py --report FILE

1. Each rule with SGD (momentum 0.9) and AdamW, on clean data and with 1 % broken samples: audio times 100
   after normalisation, and a random label. Then SGD at every learning rate from 0.01 to 1.
2. Each feature clip, and LayerNorm in its place, with and without modality dropout of 0.2: 5 % of one
   modality's inputs at +-1000, or one modality zeroed, at test time.
3. Joint training, plain, with each rule and with each balancer, against late fusion of unimodal models.

Two of six speakers and every fourth of 78 languages are in the test set only. The learning rate and the range
of every row, baselines included, are chosen on clean validation data (in 2: on the mean over the same faults
of validation data) by one seed that is not reported; what has no range to try is given as many more learning
rates. The test set chooses nothing. Then all rows are trained on the same seeds; differences are paired by
seed. Finished trainings are kept beside the result: a run that was cut goes on. The loop is bare, models and
rules are the library's. `--plan` counts the trainings, `--quick` runs one range and one rate of each.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).parent))
import clip_study_tables as tables
import turns
from clip_study_data import SIZES
from clip_study_jobs import Counter, Job, Runner
from clip_study_parts import SCREEN_SEED, Plan, Study
from clip_study_rows import BY_PART

SECONDS: Final = {"rules": 1.5, "features": 2.0, "joint": 3.2, "late": 3.0}
"""One training of 500 steps on one of two threads that share a core; only the estimate reads it."""
STEPS: Final = 500


def parts_of(study: Study) -> dict[str, list[dict[str, Any]]]:
    """All that is reported."""
    return {
        "rules": study.rules(),
        "sweep": study.sweep(),
        "features": study.features(),
        "joint": study.joint(),
    }


def estimate(jobs: Sequence[Job], steps: int, workers: int) -> str:
    """How many trainings, and how long they may take."""
    counts = {part: sum(job.part == part for job in jobs) for part in SECONDS}
    seconds = sum(SECONDS[part] * n for part, n in counts.items()) * steps / STEPS / max(workers, 1)
    listed = ", ".join(f"{part} {n}" for part, n in counts.items())
    return f"{len(jobs)} trainings of {steps} steps ({listed}): about {seconds / 60:.0f} minutes"


def main(words: Sequence[str] | None = None) -> int:
    """Run the study, or write its report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/clip_study.json"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2, help="processes; 0 for none beside this one")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--quick", action="store_true", help="one range and one rate of each")
    parser.add_argument("--plan", action="store_true", help="only count the trainings")
    parser.add_argument("--report", type=Path, help="a result; its tables are written to --page")
    parser.add_argument("--page", type=Path, default=Path("docs/clip-study.md"))
    options = parser.parse_args(words)
    if options.report is not None:
        tables.write(options.page, json.loads(options.report.read_text()))
        return 0
    if "LIGHTNING_DISTILL_DATA" not in os.environ:
        print("skipped: LIGHTNING_DISTILL_DATA does not name the folder with the real data", file=sys.stderr)
        return 0
    begun, plan = time.monotonic(), Plan(range(options.seeds), options.quick)
    work = options.out.with_suffix("") / f"{options.steps}_steps.jsonl"
    folder = Path(os.environ["LIGHTNING_DISTILL_DATA"], "digits")
    with Runner(work, folder, options.workers, options.steps) as runner:
        counter = Counter()
        parts_of(Study(counter, plan))
        print(estimate(counter.missing(runner), options.steps, options.workers), flush=True)
        missing = {row.name: row.missing for rows in BY_PART.values() for row in rows if row.missing}
        for name, names in missing.items():
            print(f"left out: {name}, for there is no {', '.join(names)}", flush=True)
        if options.plan:
            return 0
        found = parts_of(Study(runner, plan))
    report = {
        "seeds": list(plan.seeds),
        "screen_seed": SCREEN_SEED,
        "steps": options.steps,
        "rows_of_data": SIZES,
        "missing": missing,
        "seconds_of_this_run": round(time.monotonic() - begun),
        "about": turns.about(("lightning_distill", "torch")),
    }
    turns.write(options.out, report | found)
    print(tables.page(report | found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
