"""What each modality contributes to a model's answers: exact Shapley values, in one pass over the data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from lightning_distill.batch_rows import only_samples
from lightning_distill.data import MultimodalDataModule
from lightning_distill.errors import ConfigError
from lightning_distill.evaluation_checks import can_be_evaluated
from lightning_distill.model import MultimodalModel
from lightning_distill.shapley import shapley_values
from lightning_distill.structures import Batch, labelled_rows
from lightning_distill.tasks import Task

MOST_MODALITIES: Final = 8
"""With M of them each batch passes through the fusion head 2^M - 1 times."""


@dataclass(frozen=True)
class Contribution:
    """How one score is shared out among the modalities.

    Attributes:
        without_looking: v(empty), mean score of the best constant answer.
        everything: v(all), mean score of the model's answer. The difference is the sum of `means`.
        means: modality -> mean of phi over the samples.
        errors: modality -> standard error of that mean, for a given v(empty); NaN for a single sample.
    """

    without_looking: float
    everything: float
    means: dict[str, float]
    errors: dict[str, float]


@dataclass(frozen=True)
class Contributions:
    """How every score is shared out among the modalities.

    Attributes:
        modalities: Those of the model.
        samples: How many samples have a label and one of these modalities or more.
        scores: Name of a score -> its shares, in the order of `Task.scores`.
        sample_id: int64 "samples".
        values: Name of a score -> modality -> phi, float64 "samples".
    """

    modalities: tuple[str, ...]
    samples: int
    scores: dict[str, Contribution]
    sample_id: Tensor
    values: dict[str, dict[str, Tensor]]


def contributions(
    model: MultimodalModel,
    data: MultimodalDataModule,
    task: Task,
    split: str = "test",
    trainer: Trainer | None = None,
) -> Contributions:
    """What each modality adds to the scores of a model, over all orders in which modalities could arrive.

    For each sample and each score, phi_m is the Shapley value (`shapley_values`) of the game v:

    - v(S) is the score of the answer from the modalities S alone (`MultimodalModel.answer_from`);
    - v(empty) is the score of the best constant answer (`Task.constant_logits`) of all samples counted here,
      so for classes their frequencies in this split;
    - what a sample lacks adds nothing: v(S) = v(S and there), so that phi_m is 0 where m is absent.

    The phi_m of a sample sum to v(all) - v(empty). A modality that the model does not read gets exactly 0
    only if the model, given it alone, answers as well as the best constant. Each batch passes through the
    encoders once and through the fusion head 2^M - 1 times.

    Args:
        model: Reads what the data's `processors` make, as a student does.
        data: Has at least the model's modalities.
        task: Says which scores.
        split: "val" or "test".
        trainer: Where it runs, in one process; None is one device, chosen by Lightning.

    Raises:
        ConfigError: If model, data and task do not fit, there is no such split or no sample with a label in
            it, the model has more than 8 modalities, or the trainer has several processes.

    Source: Shapley (1953) with modalities as players, which SHAPE (Hu et al., 2205.00302) proposes. Here the
        model is told what is absent, v(empty) is what a guess is worth, and each sample is a game of its own.
    """
    can_be_evaluated(model, data, task, split, "contributions")
    if trainer is None:
        trainer = Trainer(devices=1, logger=False, enable_checkpointing=False, enable_model_summary=False)
    _check(model, trainer)
    gathered = _Pass(model, task)
    run = trainer.validate if split == "val" else trainer.test
    run(gathered, datamodule=data, verbose=False)
    if not gathered.sample_id:
        raise ConfigError(
            where=f"contributions, split {split}",
            found="no sample with a label and one of the model's modalities",
            expected="one or more",
            fix="label some samples of this split, or name the other split",
        )
    return _shared_out(gathered)


def _check(model: MultimodalModel, trainer: Trainer) -> None:
    if len(model.modalities) > MOST_MODALITIES:
        raise ConfigError(
            where="contributions, model",
            found=f"{len(model.modalities)} modalities",
            expected=f"{MOST_MODALITIES} or fewer: each batch passes the fusion head 2^M - 1 times",
            fix="call evaluate_subsets on models of fewer modalities, or join some into one encoder",
        )
    processes = trainer.num_devices * trainer.num_nodes
    if processes > 1:
        raise ConfigError(
            where="contributions, trainer",
            found=f"{processes} processes",
            expected="one: v(empty) and the values of each sample are of the whole split",
            fix="pass Trainer(devices=1), or leave the trainer out",
        )


class _Pass(LightningModule):
    """Asks the model for its answer from every subset, and keeps the scores of each sample.

    Bit i of a subset's number tells whether the i-th modality is in it.
    """

    def __init__(self, model: MultimodalModel, task: Task) -> None:
        super().__init__()
        self.model = model
        self.task = task
        self.scores: dict[str, list[Tensor]] = {}
        """Name -> of each batch "subset batch", without the empty subset."""
        self.target: list[Tensor] = []
        self.present: list[Tensor] = []
        """Of each batch the number of the subset that is there."""
        self.sample_id: list[Tensor] = []

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        modalities = self.model.modalities
        present = torch.stack([batch["present"][m].long() << i for i, m in enumerate(modalities)]).sum(dim=0)
        rows = (labelled_rows(batch["target"]) & (present > 0)).nonzero()[:, 0]
        if not len(rows):
            return
        batch = only_samples(batch, rows, modalities)
        output = self.model(batch)
        answers = [self.model.answer_from(output, s) for s in _subsets(modalities)[1:-1]]
        scores = [self.task.scores(z, batch["target"]) for z in (*answers, output.logits)]
        for name in scores[0]:
            values = torch.stack([found[name] for found in scores])
            self.scores.setdefault(name, []).append(values.cpu())
        self.target.append(batch["target"].cpu())
        self.present.append(present[rows].cpu())
        self.sample_id.append(batch["sample_id"].cpu())

    validation_step = test_step


def _subsets(modalities: tuple[str, ...]) -> list[tuple[str, ...]]:
    """All of them by their number: the empty one first, all modalities last.

    >>> _subsets(("a", "b"))
    [(), ('a',), ('b',), ('a', 'b')]
    """
    numbers = range(2 ** len(modalities))
    return [tuple(m for i, m in enumerate(modalities) if number >> i & 1) for number in numbers]


def _shared_out(gathered: _Pass) -> Contributions:
    modalities, task = gathered.model.modalities, gathered.task
    target, present = torch.cat(gathered.target), torch.cat(gathered.present)
    constant = task.constant_logits(target, gathered.model.num_classes)
    guessed = task.scores(constant.expand(len(target), -1), target)
    shares, values = {}, {}
    for name, batches in gathered.scores.items():
        v = torch.cat([guessed[name].double()[None], torch.cat(batches, dim=1).double()])
        # A subset counts as what a sample has of it, which is a subset too.
        reached = {
            frozenset(s): v.gather(0, (present & number)[None])[0]
            for number, s in enumerate(_subsets(modalities))
        }
        values[name] = shapley_values(reached, modalities)
        shares[name] = Contribution(
            float(reached[frozenset()].mean()),
            float(reached[frozenset(modalities)].mean()),
            {m: float(phi.mean()) for m, phi in values[name].items()},
            {m: _standard_error(phi) for m, phi in values[name].items()},
        )
    return Contributions(modalities, len(target), shares, torch.cat(gathered.sample_id), values)


def _standard_error(phi: Tensor) -> float:
    return float(phi.std()) / math.sqrt(len(phi)) if len(phi) > 1 else math.nan
