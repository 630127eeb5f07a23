"""What is said of the terms during training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

from lightning_distill.terms import gradient_norms


class TermLog:
    """Adds terms up between two log entries, as one tensor: `self.log` costs more than a small step."""

    def __init__(self) -> None:
        self._pending: list[Tensor] = []

    def add(self, loss: Tensor, terms: Mapping[str, Tensor]) -> None:
        """Keep the values of one batch."""
        with torch.no_grad():
            self._pending.append(torch.stack([loss, *terms.values()]))

    def take(self, terms: Mapping[str, Tensor], weights: Mapping[str, float]) -> dict[str, Tensor]:
        """Means since the last time: the loss, and each term raw and weighted."""
        loss, *values = torch.stack(self._pending).mean(dim=0).unbind()
        self._pending.clear()
        means = {"train/loss": loss}
        for name, value in zip(terms, values, strict=True):
            means[f"train/{name}"] = value
            means[f"train/{name}_weighted"] = weights[name] * value
        return means


def log_row(trainer: Trainer, values: Mapping[str, Tensor]) -> None:
    """Give values of a training step to every logger, as one row.

    As Lightning does it at the end of a step, but without the bookkeeping for each name that comes with
    `self.log`, in the step where it is called and in all later ones.

    Args:
        trainer: Within `on_train_batch_end`.
        values: Name -> 0-d tensor.
    """
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
        lines.append(f"  no gradient on the student comes from {', '.join(silent)}")
    return lines
