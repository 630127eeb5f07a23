"""A step of distillation, against a bare loop, Lightning alone, torchdistill, and training without a teacher.

    LIGHTNING_DISTILL_DATA=... python benchmarks/step.py --out FILE

A ResNet-18 teaches three convolutions on MNIST as 3 x 32 x 32, in batches of 64 with T = 4. Ours is
`DistillationModule` under the Trainer with a clip rule, a logger and every term logged; nothing of that is on
in what it is compared with. One thread, CPU time; whole trainings take turns of ten steps in rotated order, a
round is five turns of each, and a ratio is the median of the rounds' ratios, with the least and the largest.

`extra_us_per_step` is what the library adds to a Trainer that computes the same terms with the same models
and clips the same gradients, on tiny models with 2, 5 and 10 terms: the largest of the three medians. Seeding
is left out there and timed alone.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ["MKL_NUM_THREADS"] = "1"

import argparse
import copy
import json
import logging
import platform
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parent))
import step_extra
import step_parts as parts

from lightning_distill import DistillationModule
from lightning_distill.clipping import ValueClip
from lightning_distill.losses import LogitKD
from lightning_distill.model import MultimodalModel
from lightning_distill.randomness import seed_step
from lightning_distill.teachers import CachedTeacher, FrozenTeacher, HalfPrecisionTeacher, Teacher

SGD = partial(torch.optim.SGD, lr=parts.RATE)
RATIOS = {
    "online_over_bare": ("ours", "plain Lightning"),
    "bf16_online_over_torchdistill": ("ours, bfloat16", "torchdistill"),
    "cached_over_online": ("ours, cached", "ours"),
    "cached_over_student_only": ("ours, cached", "plain Lightning, student alone"),
}
MORE = {
    "plain Lightning over the bare loop": ("plain Lightning", "bare loop"),
    "ours over the bare loop": ("ours", "bare loop"),
    "torchdistill over the bare loop": ("torchdistill", "bare loop"),
    "ours, bfloat16, over ours": ("ours, bfloat16", "ours"),
    "bare bfloat16 loop over the bare loop": ("bare loop, bfloat16", "bare loop"),
    "ours, cached, over ours without a teacher": ("ours, cached", "ours, student alone"),
    "ours without a teacher over plain Lightning without": (
        "ours, student alone",
        "plain Lightning, student alone",
    ),
    "plain Lightning, answers in memory, over student alone": (
        "plain Lightning, answers in memory",
        "plain Lightning, student alone",
    ),
}


def trained_teacher(x: Tensor, y: Tensor) -> MultimodalModel:
    """An epoch of it, so that it knows something."""
    model = parts.teacher_model()
    network = nn.Sequential(model.encoders["image"], model.head)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    for rows in parts.Shuffled(len(x)):
        optimizer.zero_grad()
        F.cross_entropy(network(x[rows]), y[rows]).backward()
        optimizer.step()
    return model.eval()


def torchdistill_loop(
    student: nn.Module, teacher: nn.Module, x: Tensor, y: Tensor
) -> Callable[[Callable[[], None]], None]:
    from torchdistill.core.distillation import DistillationBox

    at = {"student_module_path": ".", "teacher_module_path": "."}
    io = {"student_module_io": "output", "teacher_module_io": "output"}
    loss = {"key": "KDLoss", "kwargs": {**at, **io, "temperature": parts.TEMPERATURE, "alpha": parts.ALPHA}}
    settings = {
        "num_epochs": 1,
        "teacher": {"forward_proc": "forward_batch_only", "requires_grad": False},
        "student": {"forward_proc": "forward_batch_only"},
        "criterion": {
            "key": "WeightedSumLoss",
            "kwargs": {"sub_terms": {"kd": {"criterion": loss, "weight": 1.0}}},
        },
        "optimizer": {"key": "SGD", "kwargs": {"lr": parts.RATE}},
    }

    def run(step_done: Callable[[], None]) -> None:
        box = DistillationBox(teacher, student, {}, settings, torch.device("cpu"), None, False, 1)
        gather = parts.Gather(x, y)
        while True:
            box.pre_epoch_process(epoch=0)
            box.teacher_model.eval()  # it leaves it in train mode
            for rows in parts.Shuffled(len(x)):
                images, labels = gather[rows]
                box.post_forward_process(box.forward_process(images, targets=labels, supp_dict=None))
                step_done()

    return run


def cached(model: MultimodalModel, data: Any, folder: Path) -> CachedTeacher:
    """With all answers on disk."""

    def make() -> Teacher:
        return FrozenTeacher(copy.deepcopy(model))

    teacher = CachedTeacher(make, folder)
    data.setup("fit")
    teacher.open(data, ("train", "val"))
    for loader in (data.train_dataloader(), data.val_dataloader()):
        list(teacher.fill(loader))
    return CachedTeacher(make, folder)


class InMemory(parts.PlainModule):
    """Distillation from a tensor of answers, with Lightning alone: what a cache can reach."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, (y, said) = batch
        return parts.distilled(self.student(x), said, y)


class GatherAll(parts.Gather):
    """Images, labels and answers."""

    def __init__(self, x: Tensor, y: Tensor, said: Tensor) -> None:
        super().__init__(x, y)
        self.said = said

    def __getitem__(self, rows: Tensor) -> Any:
        x, y = super().__getitem__(rows)
        return x, (y, self.said.index_select(0, rows))


def variants(folder: Path) -> dict[str, Callable[[Callable[[], None]], None]]:
    torch.manual_seed(0)
    images, labels = parts.digits()
    x, y = torch.from_numpy(images[: -parts.BATCH]), torch.from_numpy(labels[: -parts.BATCH])
    taught, student = trained_teacher(x, y), parts.student_model()

    def networks() -> tuple[nn.Module, nn.Module]:
        return parts.bare(student), parts.bare(taught)

    def ours(teacher: Teacher | None) -> Callable[[Callable[[], None]], None]:
        terms: dict[str, Any] = {"losses": {"kd": LogitKD(parts.TEMPERATURE)}}
        terms |= {"weights": {"task": parts.ALPHA, "kd": 1 - parts.ALPHA}}
        module = DistillationModule(
            copy.deepcopy(student),
            teacher,
            **(terms if teacher else {}),
            clip_rule=ValueClip(1.0),
            optimizer=SGD,
        )
        return parts.fitting(module, parts.our_data(images, labels), folder)

    def half(network: nn.Module) -> nn.Module:
        class Half(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                with torch.autocast("cpu", dtype=torch.bfloat16):
                    return inner(x.contiguous(memory_format=torch.channels_last)).float()

        inner = network.to(memory_format=torch.channels_last)
        return Half()

    s, t = networks()
    with torch.no_grad():
        said = torch.cat([t.eval()(part) for part in x.split(500)])
    loader = parts.plain_loader(x, y)
    memory = torch.utils.data.DataLoader(
        GatherAll(x, y, said), batch_size=None, sampler=parts.Shuffled(len(x))
    )
    frozen = lambda: FrozenTeacher(copy.deepcopy(taught))  # noqa: E731
    kept = cached(taught, parts.our_data(images, labels), folder / "cache")
    plain = parts.PlainModule
    return {
        "bare loop": parts.bare_loop(*networks(), x, y),
        "bare loop, bfloat16": parts.bare_loop(networks()[0], half(networks()[1]), x, y),
        "torchdistill": torchdistill_loop(*networks(), x, y),
        "plain Lightning": parts.fitting(plain(*networks()), loader, folder),
        "ours": ours(frozen()),
        "ours, bfloat16": ours(HalfPrecisionTeacher(frozen())),
        "ours, cached": ours(kept),
        "plain Lightning, student alone": parts.fitting(plain(s, None), loader, folder),
        "plain Lightning, answers in memory": parts.fitting(InMemory(networks()[0], None), memory, folder),
        "ours, student alone": ours(None),
    }


def told(values: NDArray[np.float64]) -> dict[str, float]:
    return {"median": float(np.median(values)), "min": float(values.min()), "max": float(values.max())}


def seeding() -> dict[str, float]:
    """Microseconds of `seed_step`, and of `torch.manual_seed`, which it replaces."""

    def timed(f: Callable[[int], Any], calls: int) -> float:
        start = time.process_time()
        for i in range(calls):
            f(i)
        return (time.process_time() - start) / calls * 1e6

    return {
        "seed_step": float(np.median([timed(lambda i: seed_step(0, i, 0), 2000) for _ in range(5)])),
        "torch.manual_seed": float(np.median([timed(torch.manual_seed, 200) for _ in range(5)])),
    }


def measured(rounds: int, folder: Path) -> dict[str, Any]:
    with patch("lightning_distill.module.seed_step", lambda *_: None):
        extra = {n: step_extra.added(n, 3 * rounds, folder) for n in step_extra.TERMS}
    turns = parts.in_turns(variants(folder), rounds, steps=10)
    times = {name: found.mean(axis=1) for name, found in turns.items()}
    compared = {name: told(times[a] / times[b]) for name, (a, b) in (RATIOS | MORE).items()}
    return {
        "ratios": {name: compared[name]["median"] for name in RATIOS}
        | {"extra_us_per_step": max(values["median"] for values in extra.values())},
        "compared": compared,
        "ms_per_step": {name: told(values) for name, values in times.items()},
        "extra_us_per_step": {f"{n} terms": values for n, values in extra.items()},
        "seeding_us": seeding(),
    }


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args(words)
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    logging.disable(logging.INFO)
    with TemporaryDirectory() as folder:
        report = measured(options.rounds, Path(folder))
    report["machine"] = {
        "processor": platform.processor() or platform.machine(),
        "bfloat16_instructions": torch.cpu._is_avx512_bf16_supported(),
        "threads": 1,
    }
    names = ("torch", "lightning", "torchdistill", "torchvision", "lightning-distill")
    report["versions"] = {name: version(name) for name in names}
    report["rounds"], report["steps_a_round"] = options.rounds, parts.ROUND
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=1) + "\n")
    print(
        json.dumps({name: report[name] for name in ("ratios", "extra_us_per_step", "seeding_us")}, indent=1)
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
