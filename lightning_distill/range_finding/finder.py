"""Choosing the range of a clip, alone or with the learning rate, in a handful of trainings."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from typing import Any

from lightning.pytorch import LightningDataModule, Trainer, seed_everything
from torch import Tensor
from torch.optim import Optimizer

from lightning_distill.errors import ConfigError, NonFiniteError
from lightning_distill.module import DistillationModule
from lightning_distill.optimization import GroupedOptimizer
from lightning_distill.range_finding.best import BestValue
from lightning_distill.range_finding.places import ALL, GradientRange, Place
from lightning_distill.range_finding.quantiles import QuantileRecorder, Quantiles
from lightning_distill.range_finding.result import ClipRangeResult
from lightning_distill.range_finding.search import JointSearch, Ladder, RangeSearch, Search
from lightning_distill.range_finding.trials import Choice, Goal, Trial, plateaus

__all__ = ["Choice", "ClipRangeFinder", "ClipRangeResult", "Goal", "Trial"]

QUIET: dict[str, Any] = {
    "logger": False,
    "callbacks": None,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
}


class ClipRangeFinder:
    """Finds eps in a few trainings from one start: same weights, same seed, same batches.

    The first training has no clip and records quantiles of what would be clipped. From them a few ranges
    are chosen, and each is judged by the validation metric after a training of its own. A training whose
    loss becomes NaN or infinite counts as the worst. A fixed range that the module comes with is tried too,
    and a guard around its clip rule stays there in all trainings.

        finder = ClipRangeFinder(make_module, data, {"max_epochs": 3})
        result = finder.run()
        result.chosen.choice.epsilon, result.chosen.learning_rate

    Args:
        make_module: Makes the module to train, each time anew.
        data: What it is trained on.
        trainer: Arguments of `Trainer`, among them the length of a training; loggers and callbacks are left
            out.
        place: Which range to look for.
        rates: Look for the learning rate too.
        trials: Trainings after the first, at most.
        goal: The metric; None is the task's own.
        seed: Of all trainings; each calls `seed_everything` with it.

    Raises:
        ConfigError: If there is to be no trial, or the length of a training is not given.
    """

    def __init__(
        self,
        make_module: Callable[[], DistillationModule],
        data: LightningDataModule,
        trainer: Mapping[str, Any],
        place: Place | None = None,
        rates: bool = False,
        trials: int = 5,
        goal: Goal | None = None,
        seed: int = 0,
    ) -> None:
        _check(trials, trainer)
        self.make_module, self.data, self.trainer = make_module, data, {**trainer, **QUIET}
        self.place = place or GradientRange()
        self.rates, self.trials, self.goal, self.seed = rates, trials, goal, seed
        self._start: dict[str, Tensor] | None = None
        self._own: float | None = None
        self._defaults: dict[str, Any] = {}

    def run(self, report: Callable[[Trial], None] | None = None) -> ClipRangeResult:
        """Do all trainings.

        Args:
            report: Told of each training when it is done.

        Raises:
            ConfigError: If nothing could be recorded, or nobody logs the metric.
        """
        tell = report or (lambda trial: None)
        recorder = QuantileRecorder()
        done = [self.trial(Choice(), recorder)]
        tell(done[0])
        quantiles = recorded(recorder, done[0])
        ladder, goal = self.ladder(quantiles), self.settled_goal()
        search: Search = JointSearch(ladder, goal, self.trials) if self.rates else RangeSearch(ladder)
        while len(done) <= self.trials and (choice := search.following(done)) is not None:
            done.append(self.trial(choice))
            tell(done[-1])
        found = tuple(plateaus(done, goal))
        return ClipRangeResult(
            quantiles, ladder, tuple(done), goal.chosen(done), goal, found, self.untrained()
        )

    def untrained(self) -> float | None:
        """The metric of the weights all begin with."""
        module = self._fresh(1.0)
        best = BestValue(self.settled_goal(module))
        trainer = Trainer(**{**self.trainer, "callbacks": [best]})
        trainer.validate(module, datamodule=self.data, verbose=False)
        return best.found[0]

    def trial(self, choice: Choice, recorder: QuantileRecorder | None = None) -> Trial:
        """One training.

        Args:
            choice: What to train with.
            recorder: Gets what would be clipped; only where the choice has no range.

        Raises:
            ConfigError: If nobody logs the metric.
            KeyboardInterrupt: If it is interrupted.
        """
        began = time.perf_counter()
        module = self._fresh(choice.rate)
        if recorder is None:
            self.place.set(module, choice.epsilon)
        else:
            self.place.watch(module, recorder)
        goal = self.settled_goal(module)
        best, stopped = BestValue(goal), ""
        trainer = Trainer(**{**self.trainer, "callbacks": [best]})
        seed_everything(self.seed, workers=True, verbose=False)
        try:
            trainer.fit(module, datamodule=self.data)
            if best.step != trainer.global_step:
                trainer.validate(module, datamodule=self.data, verbose=False)
        except NonFiniteError as error:
            stopped = f"step {trainer.global_step}: {error.found}"
        except SystemExit:
            if trainer.interrupted:  # Lightning leaves the program where it is interrupted
                raise KeyboardInterrupt from None
            raise
        value, loss = (None, None) if stopped else best.found
        if value is None and not stopped:
            stopped = f"{goal.monitor} was never finite"
        rate = float(self._defaults.get("lr", 1.0)) * choice.rate
        return Trial(choice, rate, value, loss, stopped, time.perf_counter() - began)

    def ladder(self, quantiles: Mapping[str, Quantiles]) -> Ladder:
        """Ranges worth a trial, for the optimizer of the trainings so far; the module's own is among them.

        Args:
            quantiles: Group -> what was recorded.

        Raises:
            ConfigError: If nothing could be recorded.
        """
        if ALL not in quantiles:
            raise ConfigError(
                where="ClipRangeFinder",
                found="no step with a finite entry other than 0",
                expected="a training that begins well, if it does not end well",
                fix="check the data with lightning-distill doctor, or lower the learning rate",
            )
        ladder = self.place.ladder(quantiles[ALL], self._defaults)
        return ladder if self._own is None else ladder.including(self._own)

    def settled_goal(self, module: DistillationModule | None = None) -> Goal:
        """The metric that is compared: what was asked for, else the task's own."""
        if self.goal is None:
            metric, mode = (module or self._fresh(1.0)).task.monitor
            self.goal = Goal(f"val/{metric}", mode)
        return self.goal

    def _fresh(self, rate: float) -> DistillationModule:
        """A module with the weights all begin with."""
        seed_everything(self.seed, workers=True, verbose=False)
        module = self.make_module()
        if self._start is None:
            self._start = {name: x.detach().clone() for name, x in module.state_dict().items()}
            self._own = self.place.own(module)
        else:
            module.load_state_dict(self._start)
        module.optimizer_factory = self._at_rate(module.optimizer_factory, rate)
        return module

    def _at_rate(self, factory: Any, rate: float) -> Any:
        """The same factory, with another learning rate."""
        if isinstance(factory, GroupedOptimizer):
            other = copy.copy(factory)
            other.optimizer = self._at_rate(factory.optimizer, rate)
            return other

        def make(parameters: Any) -> Optimizer:
            optimizer: Optimizer = factory(parameters)
            self._defaults = dict(optimizer.defaults)
            for group in optimizer.param_groups:
                group["lr"] = group["lr"] * rate
            return optimizer

        return make


def recorded(recorder: QuantileRecorder, first: Trial) -> dict[str, Quantiles]:
    """Quantiles of the first training; where it exploded, of its first quarter, when it had not yet.

    Args:
        recorder: With all of its steps.
        first: What came of it.
    """
    return recorder.quantiles(1.0 if first.value is not None else 0.25)


def _check(trials: int, trainer: Mapping[str, Any]) -> None:
    if trials < 1:
        raise ConfigError(
            where="ClipRangeFinder.trials", found=trials, expected="1 or more", fix="leave it out for 5"
        )
    steps = trainer.get("max_steps")
    if trainer.get("max_epochs") is None and (steps is None or steps < 0):
        raise ConfigError(
            where="ClipRangeFinder.trainer",
            found="neither max_epochs nor max_steps",
            expected="the length of a training",
            fix="give one of the two; on the command line --steps N",
        )
