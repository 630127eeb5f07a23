"""Students that teach each other while they learn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal, cast

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities.rank_zero import rank_zero_info  # type: ignore[attr-defined]
from torch import Tensor, nn

from lightning_distill import checks, parity, peer_checks
from lightning_distill.clipping import ClipRule
from lightning_distill.losses import DistillationLoss
from lightning_distill.model import MultimodalModel
from lightning_distill.module import DistillationModule
from lightning_distill.pair import Pair
from lightning_distill.randomness import seed_step
from lightning_distill.schedules import Schedule
from lightning_distill.stage_metrics import StageMetrics
from lightning_distill.structures import Batch, ModelOutput
from lightning_distill.tasks import Task
from lightning_distill.term_log import scale_report
from lightning_distill.terms import WeightedTerms, label_losses, own_terms


class MutualDistillationModule(DistillationModule):
    """Trains several students, each of which is a teacher of the others.

    loss = sum_i (w_task * task(peer_i, labels) + sum_k w_k * mean over j != i of term_k(peer_i, peer_j))

    No gradient flows into peer_j of a term, so each peer gets its own gradient from its own part of the sum,
    under one optimizer. The first peer is `student`: it is the one that predicts, is exported and monitored.
    Terms may read layers that all peers have. Terms that train something of their own, such as an
    `Adapted` one, are refused: one adaptor cannot serve every pair of peers.

    Two peers of different modalities, the task and a `ProxyKD` of weight 1 are C2KD's way of training. The
    paper of mutual learning has `LogitKD(temperature=1.0)` of weight 1.

    A clip rule that goes by names meets the first peer's as "encoders.image...", those of others as
    "others.<peer>.encoders.image...": give `PerPattern` patterns such as "*encoders.image.*".

    Logs as `DistillationModule` does. In training, a term is `train/<peer>/<term>` and `train/loss` is the
    whole sum. In evaluation, each peer's loss, terms and metrics are `val/<peer>/<name>`; those of the first
    peer are `val/<name>` too. The agreement of a peer is that with each of the others, averaged.

    Args:
        students: Name -> peer, two or more, with weights of their own.
        losses: Name -> term; the name is free, but for "task" and "unimodal".
        weights: Name -> weight, or a schedule, the same for all peers; "task" is the task loss. 1 where not
            given.
        task: Task loss and metrics; None is `Classification`.
        clip_rule: What happens to gradients before each optimizer step; it sees those of all peers.
        optimizer: Makes the optimizer from the parameters of all peers.
        lr_scheduler: Makes the scheduler from the optimizer.
        scheduler_interval: When the scheduler steps: once an epoch, or after every optimizer step.
        skip_non_finite: How many optimizer steps in a row may be left out because a loss or a gradient is NaN
            or infinite; 0 stops at the first.

    Raises:
        ConfigError: If there are fewer than two peers, they share weights or differ in their outputs, or a
            term cannot be used; else as `DistillationModule`.
        SampleError: On the CPU, if a sample has none of the modalities a peer reads.
        CheckpointError: On resuming `fit`, if the classes are others than before.
        NonFiniteError: As `DistillationModule`.

    Source: Zhang et al., Deep Mutual Learning (1706.00384), equations 4 to 8. The paper updates one peer
    after the other and asks the updated ones again; here all answer once and step together.
    """

    def __init__(
        self,
        students: dict[str, MultimodalModel],
        losses: dict[str, DistillationLoss],
        weights: dict[str, float | Schedule] | None = None,
        task: Task | None = None,
        clip_rule: ClipRule | None = None,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        lr_scheduler: LRSchedulerCallable | None = None,
        scheduler_interval: Literal["epoch", "step"] = "epoch",
        skip_non_finite: int = 0,
    ) -> None:
        peer_checks.peers_fit(students)
        peer_checks.terms_suit(losses)
        peer_checks.one_rate(optimizer)
        first, *others = students
        super().__init__(
            students[first],
            task=task,
            clip_rule=clip_rule,
            optimizer=optimizer,
            lr_scheduler=lr_scheduler,
            scheduler_interval=scheduler_interval,
            skip_non_finite=skip_non_finite,
        )
        # The terms have a teacher: the other peers.
        own = own_terms(students.values())
        checks.terms_fit(losses, weights or {}, True, own)
        checks.terms_fit_task(losses, self.task)
        self.terms = WeightedTerms(losses, weights or {}, own=own)
        self.others = nn.ModuleDict({name: students[name] for name in others})
        self._first = first
        places = [
            place for stage in ("val", "test") for place in (stage, *(f"{stage}/{n}" for n in students))
        ]
        self.metrics = StageMetrics(self.task, self.student.num_classes, True, places)
        self._pairs = {name: Pair(peer, None) for name, peer in students.items()}

    @property
    def peers(self) -> dict[str, MultimodalModel]:
        """Name -> peer, the `student` first."""
        others = cast(Mapping[str, MultimodalModel], dict(self.others.items()))
        return {self._first: self.student, **others}

    # -- set-up ---------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Check that data and peers agree on classes, targets, preprocessing and layers."""
        super().setup(stage)
        datamodule = getattr(self.trainer, "datamodule", None)
        for peer in self.peers.values():
            checks.classes_fit(peer, None, getattr(datamodule, "classes", None))
            if stage != "predict":
                checks.preprocessing_fits(peer, None, datamodule)
            if stage == "fit":
                peer.preprocessing = parity.recorded(peer, datamodule)

    def read_layers(self) -> None:
        """Those the terms read, of every peer."""
        names = list(dict.fromkeys(name for side in self.terms.layers for name in side))
        for pair in self._pairs.values():
            pair.read_layers(names, ())

    def see_shapes(self, batch: Batch) -> None:
        """See that all peers have all layers."""
        for pair in self._pairs.values():
            pair.dry_run(batch)

    def on_fit_start(self) -> None:
        """Check that the clip rule will be obeyed, put all peers in train mode."""
        super().on_fit_start()
        self.others.train()

    # -- one step -------------------------------------------------------------------------------------

    def answers(self, batch: Batch) -> dict[str, ModelOutput]:
        """Each peer's answer, with the layers the terms read.

        Raises:
            SampleError: On the CPU, if a sample has none of the modalities a peer reads.
        """
        checks.all_can_be_read(batch, {f"peer {name!r}": p.modalities for name, p in self.peers.items()})
        return {name: pair.answers(batch)[0] for name, pair in self._pairs.items()}

    def peer_terms(self, answers: Mapping[str, ModelOutput], batch: Batch) -> dict[str, Tensor]:
        """Each term's unweighted value, "<peer>/<term>", a peer's "task" first.

        Args:
            answers: Of all peers.
            batch: What they answered.
        """
        fixed = {name: _detached(answer) for name, answer in answers.items()}
        terms: dict[str, Tensor] = {}
        for name, answer in answers.items():
            terms |= {f"{name}/{n}": value for n, value in label_losses(self.task, answer, batch).items()}
            against = [self.terms.raw(answer, fixed[other], batch) for other in fixed if other != name]
            for term in against[0]:
                terms[f"{name}/{term}"] = torch.stack([values[term] for values in against]).mean()
        return terms

    def _weights_now(self) -> dict[str, float]:
        weights = super()._weights_now()
        return weights | {f"{peer}/{name}": w for peer in self.peers for name, w in weights.items()}

    def loss_of(self, batch: Batch, batch_idx: int) -> Tensor:
        """The sum of all peers' losses."""
        seed_step(self.seed, self.trainer.fit_loop.total_batch_idx, self.global_rank)
        self._step.scale_boundaries(self.trainer, self._log.writes(self.trainer))
        self.terms.begin_step(self.trainer.global_step, self.trainer.current_epoch)
        answers = self.answers(batch)
        terms = self.peer_terms(answers, batch)
        loss = self.total(terms)
        return self._looked_at(loss, terms, answers[self._first], None, batch, batch_idx)

    def students_by_name(self) -> dict[str, nn.Module]:
        """All peers."""
        return {f"peer {name!r}": peer for name, peer in self.peers.items()}

    def answers_by_name(self, batch: Batch) -> dict[str, ModelOutput]:
        """What all peers say."""
        return {f"peer {name!r}": answer for name, answer in self.answers(batch).items()}

    def _tell_scales(self, terms: Mapping[str, Tensor], batch_idx: int) -> None:
        """The gradient of a peer's term is that on the peer's own parameters, as there is no other."""
        if batch_idx == 0 and self.trainer.global_step == 0 and not checks.shards(self.trainer):
            for line in scale_report(terms, self._weights_now(), self.parameters()):
                rank_zero_info(line)

    # -- evaluation -----------------------------------------------------------------------------------

    def evaluate_batch(self, batch: Batch, stage: str) -> tuple[ModelOutput, ModelOutput | None]:
        """Update means and metrics of every peer."""
        answers = self.answers(batch)
        terms, means = self.peer_terms(answers, batch), dict[str, Tensor]()
        for name, answer in answers.items():
            own = {key: value for key, value in terms.items() if key.startswith(f"{name}/")}
            others = [other for peer, other in answers.items() if peer != name]
            values = {"loss": self.total(own)} | {k.removeprefix(f"{name}/"): v for k, v in own.items()}
            for place in [f"{stage}/{name}"] + [stage] * (name == self._first):
                means |= {f"{place}/{key}": value for key, value in values.items()}
                self.metrics.update_at(place, answer, others, batch)
        self.metrics.add(means, batch)
        self.update_unimodal(stage, answers[self._first], batch)
        return answers[self._first], None


def _detached(output: ModelOutput) -> ModelOutput:
    return replace(
        output,
        logits=output.logits.detach(),
        embedding=None if output.embedding is None else output.embedding.detach(),
        features={name: x.detach() for name, x in output.features.items()},
        layers={name: x.detach() for name, x in output.layers.items()},
        tokens={},
        unimodal={},
    )
