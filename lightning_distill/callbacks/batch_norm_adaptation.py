"""Batch normalisation with the statistics of the domain that is evaluated."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lightning_distill import checks
from lightning_distill.batch_rows import in_target_domain, some_samples
from lightning_distill.errors import ConfigError
from lightning_distill.ranks import alone, average
from lightning_distill.structures import Batch

_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


class BatchNormAdaptation(Callback):
    """Before each validation of `fit`, batch statistics become those of the target domain's training rows.

    For every BatchNorm layer of the student, mean = (1/K) sum_k mean_k and var = (1/K) sum_k var_k, over K
    batches of target rows that pass through a student whose other parts are in eval mode. Each layer sees
    what the layers before it make with the batch's own statistics, as in training.

    Training is not changed, bit by bit, by a layer in eval mode or a mean teacher either: its own statistics
    come back with the next batch. An epoch without validation ends with the same, so that what is saved after
    a validation or an epoch, and the exported student, have the target's statistics. `validate`, `test` and
    `predict` take what was saved and do nothing. Only a checkpoint written amid an epoch, by
    `every_n_train_steps`, has those of training. The encoder of a modality that no target row has keeps its
    own.

        callbacks:
          - class_path: lightning_distill.callbacks.BatchNormAdaptation

    Args:
        batches: K, batches of the training loader that are read, as training would show them. Of each its
            target rows count; with fewer than two it is passed over. On several processes each reads K, and
            statistics are averaged over all.

    Raises:
        ConfigError: If there is less than one batch; before training, if the student has no BatchNorm layer
            with running statistics, or the strategy is one that lets nobody run the student alone; before
            validation, if batches do not tell of domains, or no two target rows are in any.

    Source: Li et al., Revisiting Batch Normalization For Practical Domain Adaptation (1603.04779), section 3,
    which adapts once, after training, layer by layer over all target samples. `torch.optim.swa_utils`'s
    `update_bn` does the same from batches, but with dropout at work, which also uses up random numbers.
    """

    def __init__(self, batches: int = 50) -> None:
        if batches < 1:
            raise ConfigError(
                where="BatchNormAdaptation.batches", found=batches, expected="1 or more", fix="try 50"
            )
        self.batches = batches
        self._own: dict[str, Tensor] = {}
        """Statistics of training, while those of the target are in their place."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse what cannot work."""
        if stage != "fit":
            return
        if not _layers(_student(pl_module)):
            raise ConfigError(
                where="BatchNormAdaptation",
                found="a student without a BatchNorm layer that keeps running statistics",
                expected="one or more; GroupNorm and LayerNorm have no statistics of a domain",
                fix="leave this callback out, or use encoders with BatchNorm",
            )
        if checks.shards(trainer) and "modelparallel" not in type(trainer.strategy).__name__.lower():
            raise ConfigError(
                where="BatchNormAdaptation",
                found=f"{type(trainer.strategy).__name__}, under which the student does not run by itself",
                expected="a strategy under which it does",
                fix="use `ddp`, or ModelParallelStrategy",
            )

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the target's statistics."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._adapt(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The same, where no validation has done so since the last step."""
        self._adapt(trainer, pl_module)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Give training back its own."""
        layers, own = _layers(_student(pl_module)), self._own
        self._own = {}
        if own:
            _put(layers, own, _STATISTICS)

    @torch.no_grad()
    def _adapt(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._own:
            return
        student = _student(pl_module)
        layers = _layers(student)
        with torch.inference_mode(False):  # what evaluation keeps, training uses
            own = {f"{n}.{key}": getattr(x, key).clone() for n, x in layers.items() for key in _STATISTICS}
        shown = 0
        try:
            with _cumulative(student, layers.values()), torch.random.fork_rng(devices=[]):
                for batch in islice(_train_loader(trainer), self.batches):
                    shown += self._show(batch, student, layers, trainer)
            if not shown:
                raise ConfigError(
                    where="BatchNormAdaptation.batches",
                    found=f"no two rows of a target domain in any of the first {self.batches} batches",
                    expected="target rows to take statistics from",
                    fix="train on batches of both domains, as CrossDomainDataModule gives them",
                )
        except BaseException:  # a student that is saved on the way out has statistics
            _put(layers, own, _STATISTICS)
            raise
        _pool(layers.values())
        unseen = {n: x for n, x in layers.items() if not x.num_batches_tracked}
        _put(unseen, own, _STATISTICS)
        _put(layers, own, ("num_batches_tracked",))
        self._own = own

    def _show(
        self, batch: Batch, student: nn.Module, layers: dict[str, _BatchNorm], trainer: Trainer
    ) -> bool:
        """Let the layers count a batch's target rows; whether there were enough."""
        rows = in_target_domain(batch).nonzero()[:, 0]
        device, plugin = trainer.strategy.root_device, trainer.precision_plugin
        there = torch.stack(
            [torch.tensor(len(rows) > 1), *(p[rows].any() for p in batch["present"].values())]
        )
        enough, *seen = _everywhere(there, device)
        if not enough:
            return False
        absent = tuple(f"encoders.{m}." for m, s in zip(batch["present"], seen, strict=True) if not s)
        for name, layer in layers.items():
            layer.training = not name.startswith(absent)
        moved = trainer.strategy.batch_to_device(plugin.convert_input(some_samples(batch, rows)), device)
        with plugin.forward_context():
            student(moved)
        return True

    def state_dict(self) -> dict[str, Any]:
        """The statistics of training, with which a resumed run goes on."""
        return {"own": dict(self._own)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take them up again."""
        self._own = dict(state_dict["own"])


def _student(module: LightningModule) -> nn.Module:
    found: nn.Module = getattr(module, "student", module)
    return found


def _layers(student: nn.Module) -> dict[str, _BatchNorm]:
    parts = student.named_modules()
    return {n: x for n, x in parts if isinstance(x, _BatchNorm) and x.running_mean is not None}


def _put(layers: dict[str, _BatchNorm], values: dict[str, Tensor], keys: Iterable[str]) -> None:
    for name, layer in layers.items():
        for key in keys:
            getattr(layer, key).copy_(values[f"{name}.{key}"])


@contextmanager
def _cumulative(student: nn.Module, layers: Iterable[_BatchNorm]) -> Iterator[None]:
    """The student in eval mode, and its layers ready for means over batches; afterwards as it was."""
    modes = {part: part.training for part in student.modules()}
    momenta = {layer: layer.momentum for layer in layers}
    student.eval()
    for layer in momenta:
        layer.reset_running_stats()
        layer.momentum = None
    try:
        yield
    finally:
        for layer, momentum in momenta.items():
            layer.momentum = momentum
        for part, mode in modes.items():
            part.training = mode


def _pool(layers: Iterable[_BatchNorm]) -> None:
    """Mean over the batches of all processes."""
    if alone():
        return
    for layer in layers:
        count, mean, var = layer.num_batches_tracked, layer.running_mean, layer.running_var
        assert count is not None
        assert mean is not None
        assert var is not None
        n, m, v = average([x.float() for x in (count, mean * count, var * count)])
        mean.copy_(m / n.clamp(min=1e-9))
        var.copy_(v / n.clamp(min=1e-9))
        count.copy_(n.ceil())


def _everywhere(flags: Tensor, device: torch.device) -> list[bool]:
    """What is true on all processes, so that layers that talk to each other are all shown a batch."""
    counted = flags.to(device, torch.int32)
    if not alone():
        dist.all_reduce(counted, op=dist.ReduceOp.MIN)
    return [bool(flag) for flag in counted.tolist()]


def _train_loader(trainer: Trainer) -> Iterable[Any]:
    """A loader of its own, so that the one training reads from goes on undisturbed."""
    found: Any = trainer.fit_loop._data_source.dataloader()
    while isinstance(found, list | tuple | dict):
        found = next(iter(found.values() if isinstance(found, dict) else found))
    return found  # type: ignore[no-any-return]
