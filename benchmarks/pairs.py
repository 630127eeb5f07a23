"""When does distillation pay? All 49 pairs of modality sets, with few labels and with all, on human speech.

    LIGHTNING_DISTILL_DATA=DATA python benchmarks/pairs.py --out benchmarks/results/pairs.json

For every set of modalities a student may read, and every set its teacher may have read, five seeds each:

- scratch: labels only;
- self: taught by a scratch student of the same set with the same labels, which tells knowledge from the
  regularisation that soft targets are;
- distilled: taught by the pair's teacher, which was trained with all labels.

Images are MNIST, sounds the Free Spoken Digit Dataset with two of six speakers held out, words the numbers of
78 languages with every fourth held out; the three are paired by class and by seed. All labels are 3,000
triples; few labels are 300 of these, the other 2,700 then serve the distillation term alone. All trainings
have the same number of steps; the learning rate is chosen on validation data, separately for scratch, self
and distilled students of each set, by a seed that is not reported. Finished trainings are kept in `pairs/`
beside the result: a run that was cut goes on. Models and terms are the library's, the loop is bare.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parent))
import kept
from pairs_data import MODALITIES, SIZES, Pool, Triples, batch_of, pair, read_pools

from lightning_distill.commands.demo.models import model
from lightning_distill.losses import logit_kd
from lightning_distill.model import MultimodalModel

SETS = tuple(s for size in (1, 2, 3) for s in combinations(MODALITIES, size))
FEW = 300
BATCH, LABELLED_PER_BATCH = 64, 16
TEMPERATURE, ALPHA = 4.0, 0.9
RATES = (1e-3, 3e-3, 1e-2)
TUNING_SEED = 100
KINDS = ("scratch", "self", "distilled")


@dataclass(frozen=True)
class Job:
    """One training. `teacher` is empty for scratch, the student's own set for self."""

    seed: int
    few: bool
    kind: str
    student: tuple[str, ...]
    teacher: tuple[str, ...] = ()
    rate: float = 0.0

    @property
    def key(self) -> str:
        """What tells it from all others."""
        return json.dumps(asdict(self), sort_keys=True)


# -- one training ----------------------------------------------------------------------------------------


def batches(job: Job, steps: int) -> Iterator[tuple[Tensor, int]]:
    """Row numbers of each step, and how many of them, from the front, have a label."""
    rng = torch.Generator().manual_seed(job.seed)
    for _ in range(steps):
        if not job.few:
            yield torch.randint(SIZES["train"], (BATCH,), generator=rng), BATCH
        elif job.kind == "scratch":
            yield torch.randint(FEW, (BATCH,), generator=rng), BATCH
        else:
            labelled = torch.randint(FEW, (LABELLED_PER_BATCH,), generator=rng)
            others = torch.randint(SIZES["train"], (BATCH - LABELLED_PER_BATCH,), generator=rng)
            yield torch.cat([labelled, others]), LABELLED_PER_BATCH


def train(job: Job, pools: dict[str, Pool], soft: Tensor | None, steps: int) -> MultimodalModel:
    """Train on the seed's triples; `soft` is the teacher's logits for each of them."""
    torch.manual_seed(job.seed)
    student, triples = model(job.student), pair(pools, job.seed, "train")
    optimizer = torch.optim.AdamW(student.parameters(), lr=job.rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, job.rate, steps, cycle_momentum=False)
    student.train()
    for at, labelled in batches(job, steps):
        batch = batch_of(pools, triples, at, job.student)
        logits = student(batch).logits
        loss = F.cross_entropy(logits[:labelled], batch["target"][:labelled])
        if soft is not None:
            loss = (1 - ALPHA) * loss + ALPHA * logit_kd(logits, soft[at], TEMPERATURE)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return student.eval()


@torch.no_grad()
def answers(student: MultimodalModel, pools: dict[str, Pool], triples: Triples) -> Tensor:
    parts = torch.arange(len(triples.target)).split(500)
    return torch.cat([student(batch_of(pools, triples, at, student.modalities)).logits for at in parts])


def accuracy(student: MultimodalModel, pools: dict[str, Pool], seed: int, split: str) -> float:
    triples = pair(pools, seed, split)
    return float((answers(student, pools, triples).argmax(dim=1) == triples.target).double().mean())


# -- processes -------------------------------------------------------------------------------------------

_POOLS: dict[str, Pool] = {}


def begin(folder: Path) -> None:
    torch.set_num_threads(1)
    _POOLS.update(read_pools(folder))


def soft_file(store: Path, seed: int, few: bool, modalities: Sequence[str]) -> Path:
    return store / f"{seed}-{'few' if few else 'all'}-{'+'.join(modalities)}.npy"


def run(job: Job, store: Path, steps: int) -> dict[str, Any]:
    soft = None
    if job.kind != "scratch":
        few = job.few and job.kind == "self"
        soft = torch.from_numpy(np.load(soft_file(store, job.seed, few, job.teacher)))
    student = train(job, _POOLS, soft, steps)
    if job.kind == "scratch":
        path = soft_file(store, job.seed, job.few, job.student)
        partial = path.with_suffix(f".{os.getpid()}.npy")
        np.save(partial, answers(student, _POOLS, pair(_POOLS, job.seed, "train")).numpy())
        partial.replace(path)
    found = {s: accuracy(student, _POOLS, job.seed, s) for s in ("val", "test")}
    return {"job": asdict(job), **found}


Runner = kept.Runner[Job]


# -- the table -------------------------------------------------------------------------------------------


def tuned(runner: Runner, sets: Sequence[tuple[str, ...]]) -> dict[tuple[bool, str, tuple[str, ...]], float]:
    """The learning rate with the best validation accuracy, for each kind, set and number of labels."""
    everything = sets[-1]
    found: dict[tuple[bool, str, tuple[str, ...]], float] = {}
    for kind in KINDS:
        scores: dict[tuple[bool, str, tuple[str, ...]], list[tuple[float, float]]] = {}
        for rate in RATES:
            jobs = [
                Job(
                    TUNING_SEED, few, kind, s, {"scratch": (), "self": s, "distilled": everything}[kind], rate
                )
                for few in (True, False)
                for s in sets
            ]
            rows = runner.all(jobs, f"tuning {kind} at {rate:g}")
            for job, row in zip(jobs, rows, strict=True):
                scores.setdefault((job.few, kind, job.student), []).append((row["val"], rate))
        found |= {place: max(values)[1] for place, values in scores.items()}
        if kind == "scratch":  # the teachers of the tuning are the best of these
            again = [Job(TUNING_SEED, f, kind, s, (), found[f, kind, s]) for f in (True, False) for s in sets]
            for job in again:
                runner.done.pop(job.key)
            runner.all(again, "tuning teachers")
    return found


def mean_se(values: Sequence[float]) -> dict[str, float | None]:
    x = np.array(values)
    return {"mean": float(x.mean()), "se": float(x.std(ddof=1) / len(x) ** 0.5) if len(x) > 1 else None}


def table(runner: Runner, seeds: Sequence[int], sets: Sequence[tuple[str, ...]]) -> list[dict[str, Any]]:
    rates = tuned(runner, sets)

    def jobs(kind: str, few: bool, student: tuple[str, ...], teacher: tuple[str, ...] = ()) -> list[Job]:
        return [Job(seed, few, kind, student, teacher, rates[few, kind, student]) for seed in seeds]

    scratch = {(f, s): jobs("scratch", f, s) for f in (True, False) for s in sets}
    taught = {(f, s): jobs("self", f, s, s) for f in (True, False) for s in sets}
    distilled = {(f, s, t): jobs("distilled", f, s, t) for f in (True, False) for s in sets for t in sets}
    runner.all([job for group in scratch.values() for job in group], "scratch")
    runner.all([job for group in taught.values() for job in group], "self")
    runner.all([job for group in distilled.values() for job in group], "distilled")

    def test(group: Sequence[Job]) -> NDArray[np.float64]:
        return 100 * np.array([runner.done[job.key]["test"] for job in group])

    rows = []
    for (few, student, teacher), group in distilled.items():
        s, own, d = test(scratch[few, student]), test(taught[few, student]), test(group)
        same = test(distilled[few, student, student])
        rows.append(
            {
                "labels": FEW if few else SIZES["train"],
                "teacher": "+".join(teacher),
                "student": "+".join(student),
                "teacher_accuracy": mean_se(test(scratch[False, teacher])),
                "scratch": mean_se(s),
                "self": mean_se(own),
                "distilled": mean_se(d),
                "gain": mean_se(d - s),
                "gain_self": mean_se(own - s),
                "over_self": mean_se(d - own),
                "over_own_set": mean_se(d - same),
            }
        )
    return rows


def as_text(rows: Sequence[dict[str, Any]]) -> str:
    """A Markdown table a number of labels: a row a student, a column a teacher."""
    lines = []
    for labels in sorted({row["labels"] for row in rows}):
        mine = [row for row in rows if row["labels"] == labels]
        teachers = list(dict.fromkeys(row["teacher"] for row in mine))
        lines += [f"### {labels:,} labels of {SIZES['train']:,}", ""]
        lines += ["| student | scratch | self | " + " | ".join(f"by {t}" for t in teachers) + " |"]
        lines += ["|---" * (3 + len(teachers)) + "|"]
        for student in dict.fromkeys(row["student"] for row in mine):
            group = {row["teacher"]: row for row in mine if row["student"] == student}
            first = next(iter(group.values()))
            cells = [f"{first['scratch']['mean']:.1f}", signed(first["gain_self"])]
            cells += [signed(group[t]["gain"]) for t in teachers]
            lines.append(f"| {student} | " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


def signed(value: dict[str, float | None]) -> str:
    return f"{value['mean']:+.1f}" + ("" if value["se"] is None else f" ± {value['se']:.1f}")


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/pairs.json"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--sets", type=int, default=len(SETS), help="of modalities, the first ones")
    options = parser.parse_args(words)
    if "LIGHTNING_DISTILL_DATA" not in os.environ:
        print("skipped: LIGHTNING_DISTILL_DATA does not name the folder with the real data", file=sys.stderr)
        return 0
    started = time.monotonic()
    work = options.out.with_suffix("") / f"{options.steps}_steps"
    data = Path(os.environ["LIGHTNING_DISTILL_DATA"], "digits")
    store = work / "pairs_logits"
    store.mkdir(parents=True, exist_ok=True)
    train_and_keep = partial(run, store=store, steps=options.steps)
    with Runner(work / "pairs.jsonl", train_and_keep, begin, (data,), options.workers) as runner:
        rows = table(runner, range(options.seeds), SETS[: options.sets])
    report = {
        "seeds": options.seeds,
        "steps": options.steps,
        "temperature": TEMPERATURE,
        "alpha": ALPHA,
        "seconds_of_this_run": round(time.monotonic() - started),
        "rows": rows,
    }
    options.out.write_text(json.dumps(report, indent=1) + "\n")
    options.out.with_suffix(".md").write_text(as_text(rows))
    print(as_text(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
