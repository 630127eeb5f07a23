"""A table of samples in Weights & Biases: what they look like, and what student and teacher say."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_warn  # type: ignore[attr-defined]
from numpy.typing import NDArray
from torch import Tensor

from lightning_distill import checks
from lightning_distill.callbacks.wandb_cells import media_cell
from lightning_distill.callbacks.wandb_staging import staged_in
from lightning_distill.checkpoints import read_checkpoint
from lightning_distill.data import MultimodalDataModule
from lightning_distill.data.sampling import BatchKey
from lightning_distill.data.source import DataSource
from lightning_distill.errors import ConfigError, printable
from lightning_distill.pair import Pair
from lightning_distill.taught import TaughtModule

_KEY: Final = "samples"


class SampleTable(Callback):
    """At the end of `fit`, sends a table of validation samples to Weights & Biases.

    A row is one sample: a small picture, the text, the sound that can be played, the label, and what student
    and teacher say, with the probability. The student is that of the best checkpoint, where there is one.
    The same samples are shown every time: spread evenly over the validation data, without those that cannot
    be read. Where no `WandbLogger` is
    among the loggers, or the data or the module are not of this package, it does nothing. What fails in it
    is told, and does not end a training.

    Args:
        samples: How many; 0 sends none, so that no data leave the machine.

    Raises:
        ConfigError: If it is negative.
    """

    def __init__(self, samples: int = 32) -> None:
        if samples < 0:
            raise ConfigError(
                where="SampleTable.samples", found=samples, expected="0 or more", fix="0 sends no samples"
            )
        self.samples = samples

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Send the table."""
        loggers = [logger for logger in trainer.loggers if isinstance(logger, WandbLogger)]
        data: Any = getattr(trainer, "datamodule", None)
        asked = (
            loggers and self.samples and trainer.is_global_zero and not getattr(trainer, "fast_dev_run", 0)
        )
        if not asked or checks.shards(trainer):
            return
        if not (isinstance(pl_module, TaughtModule) and isinstance(data, MultimodalDataModule)):
            return
        if not isinstance(data.source, DataSource):
            return
        try:
            columns, rows = self._table(trainer, pl_module, data)
            for logger in loggers:
                with staged_in(logger.experiment):
                    logger.log_table(_KEY, columns=columns, data=rows, step=trainer.global_step)
        except Exception as error:  # training has ended well: a table is not worth its loss
            told = printable(f"{type(error).__name__}: {error}", 300)
            rank_zero_warn(f"the table of samples could not be sent to Weights & Biases: {told}")

    def _table(
        self, trainer: Trainer, module: TaughtModule, data: MultimodalDataModule
    ) -> tuple[list[str], list[list[Any]]]:
        shown = _shown(data, chosen(data, self.samples))
        rows = np.array(list(shown))
        batch: Any = data.dataset("val")[BatchKey(0, rows)]
        batch = module.transfer_batch_to_device(module.on_before_batch_transfer(batch, 0), module.device, 0)
        pair = Pair(_best(trainer, module), module.teacher)
        student, teacher = pair.dry_run(batch)
        said = {"student": student, **({} if teacher is None else {"teacher": teacher})}
        columns: dict[str, Sequence[Any]] = {
            m: [cells[m] for cells in shown.values()] for m in data.read_modalities
        }
        columns["label"] = _labels(batch["target"], data.classes)
        for name, output in said.items():
            columns |= _answers(name, module.task.predict(output.logits), data.classes)
        return list(columns), [list(row) for row in zip(*columns.values(), strict=True)]


def chosen(data: MultimodalDataModule, count: int) -> NDArray[np.int64]:
    """Positions in the validation split of the samples that are shown, spread evenly.

    Args:
        data: Set up for `fit`.
        count: How many at most.
    """
    there = len(data.dataset("val"))
    return np.unique(np.linspace(0, there - 1, min(count, there)).astype(np.int64))


def _shown(data: MultimodalDataModule, positions: NDArray[np.int64]) -> dict[int, dict[str, Any]]:
    """Position -> cell of each modality, for samples that can be read; no other stands in for one."""
    dataset: Any = data.dataset("val")
    found: dict[int, dict[str, Any]] = {}
    bad: list[Exception] = []
    for at in positions.tolist():
        try:
            batch = dataset[BatchKey(0, np.array([at]))]
            batch = getattr(batch, "batch", batch)
            cells = {m: media_cell(_loaded(data, m, dataset.rows[at])) for m in data.read_modalities}
            if int(batch["sample_id"][0]) == int(dataset.sample_id[at]):
                found[at] = cells
        except Exception as error:  # one bad file is not worth the other rows
            bad.append(error)
    if bad and not found:
        raise bad[0]
    if len(found) < len(positions):
        why = f", the first because of {printable(str(bad[0]), 300)}" if bad else ""
        rank_zero_warn(
            f"the table of samples leaves out {len(positions) - len(found)} that cannot be read{why}"
        )
    return found


def _loaded(data: MultimodalDataModule, modality: str, row: int) -> Any:
    there = data.indexed.samples.present[modality][row]
    return data.indexed.load(modality, int(row)) if there else None


def _best(trainer: Trainer, module: TaughtModule) -> Any:
    """A copy of the student, as the best checkpoint has it."""
    student = copy.deepcopy(module.student)
    best = Path(getattr(trainer.checkpoint_callback, "best_model_path", "") or "")
    if best.is_file():
        state = read_checkpoint(best)["state_dict"]
        own = {k.removeprefix("student."): v for k, v in state.items() if k.startswith("student.")}
        student.load_state_dict(own)
    return student


def _labels(target: Tensor, classes: Sequence[str]) -> list[Any]:
    """The name of the class; several names; numbers; None where there is no label."""
    values = target.cpu().tolist()
    if target.is_floating_point():
        return [", ".join(f"{x:.4g}" for x in row) for row in values]
    if target.ndim == 2:
        return [", ".join(n for n, yes in zip(classes, row, strict=True) if yes == 1) for row in values]
    return [classes[i] if i >= 0 else None for i in values]


def _answers(name: str, said: dict[str, Tensor], classes: Sequence[str]) -> dict[str, list[Any]]:
    """Columns of one model: what it says, and with what probability where it says one class."""
    prediction = said["prediction"].cpu()
    found = {name: _labels(prediction, classes)}
    if "probabilities" in said and prediction.ndim == 1:
        sure = said["probabilities"].float().cpu()
        found[f"{name}_probability"] = [round(float(p[i]), 4) for p, i in zip(sure, prediction, strict=True)]
    return found
