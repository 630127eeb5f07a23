"""What is said of the terms during training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

from lightning_distill.terms import gradient_norms


class StepLog:
    """What training steps say, as one row every `log_every_n_steps`.

    Terms are added up in between as one tensor each step: `self.log` costs more than a small step.
    """

    def __init__(self) -> None:
        self._pending: list[Tensor] = []
        self._measured: dict[str, Tensor] = {}
        self._shown = False

    def begin(self, trainer: Trainer) -> None:
        """See whether anybody looks; forget what another training has left."""
        self._pending, self._measured = [], {}
        shown: Any = trainer.loggers or trainer.progress_bar_callback
        self._shown = bool(shown and trainer.log_every_n_steps)  # type: ignore[attr-defined]

    def state(self) -> dict[str, Any]:
        """What has been said and not written yet, for a checkpoint."""
        pending = torch.stack(self._pending).cpu() if self._pending else None
        return {"pending": pending, "measured": {name: x.cpu() for name, x in self._measured.items()}}

    def go_on(self, state: Mapping[str, Any], trainer: Trainer) -> None:
        """Write the row that a broken-off training has measured, and add to what it has said.

        Args:
            state: Of that training's log.
            trainer: Within `on_train_start`.
        """
        device = trainer.strategy.root_device
        if state.get("pending") is not None:
            self._pending = list(state["pending"].to(device).unbind())
        self._measured = {name: x.to(device) for name, x in state.get("measured", {}).items()}
        self.flush(trainer)

    def writes(self, trainer: Trainer) -> bool:
        """Whether this step has a row."""
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        return every > 0 and (trainer.global_step + 1) % every == 0

    def add(self, loss: Tensor, terms: Mapping[str, Tensor], trainer: Trainer, batch_idx: int) -> bool:
        """Keep the values of one batch; whether `means` is to be asked now.

        Args:
            loss: 0-d.
            terms: Name -> raw value.
            trainer: In the step.
            batch_idx: Within the epoch.
        """
        if not self._shown:
            return False
        if self._pending and len(self._pending[0]) != 1 + len(terms):
            self._pending.clear()  # of a checkpoint whose run had other terms
        with torch.no_grad():
            self._pending.append(torch.stack([loss, *terms.values()]))
        if not self.writes(trainer):
            return False
        return not (batch_idx + 1) % trainer.accumulate_grad_batches or trainer.is_last_batch

    def means(self, terms: Mapping[str, Tensor], weights: Mapping[str, float]) -> dict[str, Tensor]:
        """Since the last time: the loss, and each term raw and weighted."""
        loss, *values = torch.stack(self._pending).mean(dim=0).unbind()
        self._pending.clear()
        means = {"train/loss": loss}
        for name, value in zip(terms, values, strict=True):
            means[f"train/{name}"] = value
            means[f"train/{name}_weighted"] = weights[name] * value
        return means

    def measure(self, values: Mapping[str, Tensor], trainer: Trainer) -> None:
        """Show these to callbacks now, and to loggers when the step is done, if it has a row."""
        if values and self.writes(trainer):
            self._measured |= values
            trainer.callback_metrics.update(values)

    def flush(self, trainer: Trainer) -> None:
        """Give every logger the row.

        As Lightning does it at the end of a step, but without the bookkeeping for each name that comes with
        `self.log`, in the step where it is called and in all later ones.

        Args:
            trainer: Within `on_train_batch_end`.
        """
        if not self._measured:
            return
        values, self._measured = self._measured, {}
        trainer.logged_metrics.update(values)
        row = {name: float(value) for name, value in values.items()} | {"epoch": trainer.current_epoch}
        for logger in trainer.loggers:
            logger.log_metrics(row, step=trainer.fit_loop.epoch_loop._batches_that_stepped)
            logger.save()


def scale_report(
    terms: Mapping[str, Tensor], weights: Mapping[str, float], parameters: Iterable[nn.Parameter]
) -> list[str]:
    """How large each term is, and how strongly it pulls: a line a term.

    Args:
        terms: Name -> raw value, with its graph, which is kept.
        weights: Name -> weight now.
        parameters: Of the student.
    """
    weighted = {name: weights[name] * value for name, value in terms.items()}
    norms = {name: float(norm) for name, norm in gradient_norms(weighted, parameters).items()}
    total = sum(norms.values()) or 1.0
    lines = [f"terms at step 0:{'value':>15}{'weight':>10}{'weighted':>12}{'gradient':>12}{'share':>8}"]
    for name, value in terms.items():
        shown = f"{value.item():>12.4g}{weights[name]:>10.4g}{weighted[name].item():>12.4g}"
        lines.append(f"  {name:<17}{shown}{norms[name]:>12.4g}{norms[name] / total:>8.0%}")
    silent = [name for name, norm in norms.items() if weights[name] and norm == 0]
    if silent:
        lines.append(f"  no gradient on the student comes from {', '.join(silent)} in this step")
    return lines
