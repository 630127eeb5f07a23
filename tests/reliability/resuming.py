"""A training of three epochs that leaves a checkpoint wherever one can be made, and what it comes to."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from torch import Tensor

from lightning_distill.callbacks import BestCheckpoint, ConfiguredHyperparameters
from lightning_distill.cli.loggers import HistoryLogger
from lightning_distill.cli.run_folder import RunFolder
from lightning_distill.cli.run_record import RunRecord
from lightning_distill.clipping import ClipRule
from lightning_distill.data import Shuffle
from lightning_distill.losses import LogitKD
from lightning_distill.module import DistillationModule
from lightning_distill.teachers import CachedTeacher, FrozenTeacher, Teacher
from tests.builders import make_data, make_model, make_trainer
from tests.module.parts import ADAM

EPOCHS = 3


@dataclass(frozen=True)
class Case:
    """What is trained, and how.

    Attributes:
        workers: Processes that read.
        accumulate: Batches a step.
        cache: Whether the teacher's answers are kept.
        rule: Makes the clip rule.
        schedule: Makes the schedule of the learning rate.
        interval: When it steps.
        teacher: Makes another teacher.
        module: Other settings of the module.
        trainer: Other settings of the Trainer.
        callbacks: Make callbacks.
    """

    workers: int = 0
    accumulate: int = 1
    cache: bool = False
    rule: Callable[[], ClipRule] | None = None
    schedule: Callable[..., Any] | None = None
    interval: str = "epoch"
    teacher: Callable[[], Teacher] | None = None
    module: Callable[[], dict[str, Any]] = dict
    trainer: dict[str, Any] = field(default_factory=dict)
    callbacks: Sequence[Callable[[], Callback]] = ()

    def __str__(self) -> str:
        rule = getattr(self.rule, "func", self.rule)
        cache = "cache" if self.cache else "no cache"
        name = getattr(rule, "__name__", "no rule")
        return f"{self.workers} workers, {self.accumulate} batches, {cache}, {name}, by {self.interval}"


class Everywhere(ModelCheckpoint):
    """Saves a checkpoint in every hook in which one can be saved, and the run folder as it is then.

    A `ModelCheckpoint`, so that Lightning puts it after all other callbacks.

    Args:
        folder: For each place, `NAME.ckpt` and the run folder `NAME`.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, save_top_k=0)
        self.folder = folder
        self.places: list[Path] = []

    def _save(self, trainer: Trainer, hook: str) -> None:
        if trainer.sanity_checking:
            return
        at = f"{len(self.places):03d}-epoch{trainer.current_epoch}-batch{trainer.fit_loop.batch_idx}-{hook}"
        path = self.folder / f"{at}.ckpt"
        trainer.save_checkpoint(path)
        shutil.copytree(trainer.default_root_dir, self.folder / at)
        self.places.append(path)

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        self._save(trainer, "train")

    def on_validation_batch_end(self, trainer: Trainer, pl_module: Any, out: Any, batch: Any, i: int) -> None:
        self._save(trainer, f"inside-validation{i}")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._save(trainer, "validated")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._save(trainer, "epoch")


def train(folder: Path, case: Case, resume: Path | None = None, saver: Callback | None = None) -> Result:
    """Train, in a folder that holds `metrics.csv` and the checkpoints `best` and `last`."""
    folder.mkdir(exist_ok=True)
    seed_everything(11, verbose=False)
    module = _module(folder, case)
    history = HistoryLogger(folder)
    record = RunRecord(RunFolder(folder, resume=resume is not None), "{}", ["fit"], [history])
    stopping = EarlyStopping("val/loss", patience=2, mode="min", strict=False)
    best = BestCheckpoint(
        folder / "checkpoints", "best", monitor="val/loss", mode="min", enable_version_counter=False
    )
    last = ModelCheckpoint(
        folder / "checkpoints", "last", save_on_train_epoch_end=True, enable_version_counter=False
    )
    own = [make() for make in case.callbacks]
    standing: list[Callback] = [ConfiguredHyperparameters(), record, stopping, best, last]
    options = {"max_epochs": EPOCHS, "log_every_n_steps": 2, "accumulate_grad_batches": case.accumulate}
    trainer = make_trainer(
        folder,
        callbacks=[*own, *standing, *([saver] if saver else [])],
        logger=history,
        enable_checkpointing=True,
        **(options | case.trainer),
    )
    data = make_data(num_workers=case.workers, sampling=Shuffle(labelled_per_batch=2), views=2)
    torch.rand(3)
    trainer.fit(module, data, ckpt_path=resume, weights_only=True)
    return Result.of(trainer, module, folder, [stopping, best, last])


def _frozen() -> Teacher:
    torch.manual_seed(5)
    return FrozenTeacher(make_model())


def _module(folder: Path, case: Case) -> DistillationModule:
    make = case.teacher or _frozen
    teacher = CachedTeacher(make, folder.parent / "cache") if case.cache else make()
    rule = case.rule() if case.rule else None
    options = {
        "student": make_model(("a",)),
        "teacher": teacher,
        "clip_rule": rule,
        "losses": {"kd": LogitKD()},
        "optimizer": ADAM,
    }
    schedule = {"lr_scheduler": case.schedule, "scheduler_interval": case.interval} if case.schedule else {}
    return DistillationModule(**(options | schedule | case.module()))


@dataclass
class Result:
    """What a training comes to.

    Attributes:
        tensors: Weights, history of rules, state of the optimizer, metrics that callbacks see.
        rest: State of schedules and callbacks, counts.
        rows: Of `metrics.csv`.
    """

    tensors: dict[str, Tensor]
    rest: dict[str, Any]
    rows: list[dict[str, str]]

    @classmethod
    def of(cls, trainer: Trainer, module: LightningModule, folder: Path, callbacks: list[Any]) -> Result:
        state = {n: x.detach().clone() for n, x in module.state_dict().items() if isinstance(x, Tensor)}
        tensors = {f"weights {name}": x for name, x in state.items()}
        for i, found in trainer.optimizers[0].state_dict()["state"].items():
            tensors |= {f"optimizer {i}.{name}": torch.as_tensor(x) for name, x in found.items()}
        tensors |= {f"metric {name}": torch.as_tensor(x) for name, x in trainer.callback_metrics.items()}
        rest = {
            "steps": trainer.global_step,
            "groups": [
                {k: v for k, v in g.items() if k != "params"} for g in trainer.optimizers[0].param_groups
            ],
            "schedules": [c.scheduler.state_dict() for c in trainer.lr_scheduler_configs],
            "logged steps": trainer.fit_loop.epoch_loop._batches_that_stepped,
            "batches": trainer.fit_loop.total_batch_idx,
        }
        for callback in callbacks:
            own = callback.state_dict()
            rest[type(callback).__name__ + str(getattr(callback, "filename", ""))] = {
                name: str(value).replace(str(folder), "") for name, value in own.items()
            }
        with (folder / "metrics.csv").open(newline="") as file:
            return cls(tensors, rest, list(csv.DictReader(file)))

    def differs(self, other: Result) -> list[str]:
        """Names of what is not the same to the last bit."""
        keys = self.tensors.keys() | other.tensors.keys()
        there = {k for k in keys if k in self.tensors and k in other.tensors}
        found = sorted(keys - there)
        found += [
            k for k in sorted(there) if not torch.equal(_bits(self.tensors[k]), _bits(other.tensors[k]))
        ]
        found += [f"{k}: {v} {other.rest[k]}" for k, v in self.rest.items() if other.rest[k] != v]
        found += [
            f"row {i}: {a} {b}" for i, (a, b) in enumerate(zip(self.rows, other.rows, strict=False)) if a != b
        ]
        return found + (
            [f"{len(self.rows)} rows, {len(other.rows)}"] if len(self.rows) != len(other.rows) else []
        )


def _bits(x: Tensor) -> Tensor:
    return (
        x
        if not x.is_floating_point()
        else x.contiguous().view({4: torch.int32, 8: torch.int64}[x.element_size()])
    )


def resumed(folder: Path, case: Case, place: Path, state: Path) -> Result:
    """Go on from a checkpoint in a run folder that is as in `state`."""
    shutil.rmtree(folder)
    shutil.copytree(state, folder)
    return train(folder, case, resume=place)


def all_places(folder: Path, case: Case, step: int = 1) -> tuple[int, dict[str, list[str]]]:
    """How many places were tried, and place -> what differs after a resume from there."""
    run, saver = folder / "run", Everywhere(folder / "places")
    whole = train(run, case, saver=saver)
    shutil.copytree(run, folder / "end")
    found: dict[str, list[str]] = {}
    for number, place in enumerate(saver.places[::step]):
        # As if it had been killed at once, or at its very end.
        state = folder / "end" if number % 2 else place.with_suffix("")
        other = resumed(run, case, place, state)
        if differing := other.differs(whole):
            found[place.stem] = differing
    return len(saver.places[::step]), found
