"""Distillation dropped into a LightningModule that knows nothing of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from functools import wraps
from typing import Any, Final

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from lightning_distill import checks
from lightning_distill.data.mapped import read_batch
from lightning_distill.errors import ConfigError, TeacherError
from lightning_distill.extraction import LayerExtractor
from lightning_distill.guards.finite import FiniteCheck, on_accelerator
from lightning_distill.losses import Adapted, DistillationLoss
from lightning_distill.model import MultimodalModel
from lightning_distill.randomness import default_seed, derive
from lightning_distill.ranks import average_gradients, first_process_first, same_everywhere
from lightning_distill.schedules import Schedule
from lightning_distill.structures import Batch, ModelOutput
from lightning_distill.teachers import FrozenTeacher, ModelTeacher, Teacher
from lightning_distill.terms import TASK, WeightedTerms

_REPLACED: Final = ("training_step", "manual_backward")


class Distill(Callback):
    """Adds distillation terms to the loss of any LightningModule.

    loss = w_task * what training_step returns + sum_k w_k * term_k(student, teacher)

        teacher = timm.create_model("resnet50", pretrained=True)
        distill = Distill(teacher, {"kd": LogitKD()}, {"task": 0.1, "kd": 0.9}, logits="net.fc")
        Trainer(callbacks=[distill]).fit(MyModule(), data)

    What the terms read of the student is captured while `training_step` runs. During `fit`, the module's
    `training_step` (in manual optimization: its first `manual_backward` of a step) is wrapped to add the
    terms. A hook cannot do it: in `on_before_backward` the loss is already scaled and divided, and changing
    it in place would change what the user logs, or break the backward pass.

    Adaptors are built in the first training step and join the optimizer's first parameter group, so that
    every learning-rate schedule holds for them. They and a teacher that changes are kept in the callback's
    state: the module's own checkpoint loads without this library. Logs `train/<term>`, unweighted.

    Args:
        teacher: A plain module is frozen, and called with the input of the batch: `teacher(x)`, or
            `teacher(**x)` where it is a dict; it returns logits, or something with `logits`.
        losses: Name -> distillation term; layers of the student are paths of modules in the LightningModule.
        weights: Name -> weight, or a schedule; "task" is the module's own loss. 1 where not given.
        logits: Path of the module whose output is the student's logits. It runs once a step.
        read: Makes a `Batch` for teacher and terms of what the loader gives.

    Raises:
        ConfigError: If terms and weights contradict each other; before training, if a path names no module,
            or adaptors are to be trained under a strategy that shards; in the first step, if one did not run.
        TeacherError: If teacher and module share a tensor, or a plain module cannot be called or understood.
        NonFiniteError: On the CPU, on the step whose loss, or the teacher's logits, are NaN or infinite,
            before the update; elsewhere soon after, and before anything is saved or evaluated.
    """

    def __init__(
        self,
        teacher: Teacher | nn.Module,
        losses: dict[str, DistillationLoss],
        weights: dict[str, float | Schedule] | None = None,
        *,
        logits: str,
        read: Callable[[Any], Batch] = read_batch,
    ) -> None:
        self.teacher = _as_teacher(teacher)
        checks.terms_fit(losses, weights or {}, True, (TASK,))
        self.terms = WeightedTerms(losses, weights or {})
        self.logits, self.read = logits, read
        self._restored: dict[str, Any] = {}
        self._open: tuple[ExitStack, Mapping[str, Tensor], Any] | None = None
        self._original: dict[str, Any] | None = None
        self._adapted, self._steps_seen = False, 0
        self._finite = FiniteCheck(deferred=False)

    # -- set-up ---------------------------------------------------------------------------------------

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the layers, take up a checkpoint's state, begin to add the terms."""
        ours, theirs = self.terms.layers
        paths = [self.logits, *(name for name in ours if name != "logits")]
        self._extractor = LayerExtractor(pl_module, paths, type(pl_module).__name__)
        self.teacher.read_layers(theirs)
        with first_process_first(trainer):
            self.teacher.open(trainer.datamodule, ["train"])  # type: ignore[attr-defined]
        checks.nothing_shared(pl_module, self.teacher)
        checks.nothing_stepped(trainer.optimizers, self.teacher)
        self._refuse_sharding(trainer)
        self.teacher.begin(pl_module)
        self._take_up()
        self.teacher.to(pl_module.device)
        self._adapted, self._steps_seen = False, trainer.global_step
        self._finite = FiniteCheck(on_accelerator(pl_module.device))
        self._enlist(trainer, pl_module)
        self._wrap(pl_module)

    def _refuse_sharding(self, trainer: Trainer) -> None:
        trained = any(isinstance(part, Adapted) for part in self.terms.losses.modules())
        if checks.shards(trainer) and (trained or list(self.terms.parameters())):
            raise ConfigError(
                where="Distill.losses",
                found=f"terms with adaptors under {type(trainer.strategy).__name__}",
                expected="a strategy that does not shard parameters",
                fix="use `ddp`, or terms without adaptors",
            )

    def _take_up(self) -> None:
        if self._restored:
            self.terms.load_state_dict(self._restored["terms"])
            self.teacher.load_state_dict(self._restored["teacher"])
            self._restored = {}

    def _enlist(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the adaptors where the module is, and into the optimizer."""
        trainer.precision_plugin.convert_module(self.terms).to(pl_module.device)
        same_everywhere([*self.terms.parameters(), *self.terms.buffers()])
        groups = [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
        there = {id(p) for group in groups for p in group["params"]}
        new = [(n, p) for n, p in self.terms.named_parameters() if id(p) not in there]
        if not new:
            return
        if not groups:
            raise ConfigError(
                where="Distill.losses",
                found="terms with adaptors and a module without an optimizer",
                expected="an optimizer that trains them",
                fix="return one from configure_optimizers",
            )
        groups[0]["params"].extend(p for _, p in new)
        if "param_names" in groups[0]:
            groups[0]["param_names"].extend(f"distill.{n}" for n, _ in new)

    def _wrap(self, pl_module: LightningModule) -> None:
        step, backward = pl_module.training_step, pl_module.manual_backward

        @wraps(step)
        def training_step(*args: Any, **kwargs: Any) -> Any:
            with suppress(_NothingToAdd), ExitStack() as stack:
                batch = next(iter((*args, *kwargs.values())))
                self._open = (stack, stack.enter_context(self._extractor.capturing()), batch)
                output = step(*args, **kwargs)
                if pl_module.automatic_optimization and output is not None:
                    return self._added(output, pl_module)
                raise _NothingToAdd
            return output

        @wraps(backward)
        def manual_backward(loss: Tensor, *args: Any, **kwargs: Any) -> None:
            backward(self._total(loss, pl_module) if self._open else loss, *args, **kwargs)

        self._original = {name: vars(pl_module)[name] for name in _REPLACED if name in vars(pl_module)}
        vars(pl_module).update(training_step=training_step, manual_backward=manual_backward)

    def _unwrap(self, pl_module: LightningModule) -> None:
        if self._original is not None:
            self._extractor.close()
            for name in _REPLACED:
                vars(pl_module).pop(name, None)
            vars(pl_module).update(self._original)
            self._original, self._open = None, None

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave the module as it was."""
        self._unwrap(pl_module)
        self.teacher.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave the module as it was."""
        self._unwrap(pl_module)

    # -- one step -------------------------------------------------------------------------------------

    def _added(self, output: Any, pl_module: LightningModule) -> Any:
        if isinstance(output, Mapping):
            return {**output, "loss": self._total(output["loss"], pl_module)}
        return self._total(output, pl_module)

    def _total(self, loss: Tensor, pl_module: LightningModule) -> Tensor:
        """The module's loss and the terms, weighted."""
        assert self._open is not None
        (stack, layers, given), self._open = self._open, None
        stack.close()  # fills the layers
        batch, trainer = self.read(given), pl_module.trainer
        student = ModelOutput(layers[self.logits], layers=layers)
        teacher = self.teacher(_as_the_teacher_reads(batch))
        if not self._adapted:
            self._adapt(student, teacher, pl_module)
        self.terms.begin_step(trainer.global_step, trainer.current_epoch)
        raw = self.terms.raw(student, teacher, batch)
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if every and (trainer.global_step + 1) % every == 0:  # a log entry costs more than a small step
            pl_module.log_dict({f"train/{name}": value.detach() for name, value in raw.items()})
        weights = self.terms.weights_at(trainer.global_step, trainer.current_epoch)
        terms = {TASK: loss, **raw}
        return self._finite(self.terms.total(terms, weights), terms, batch, trainer, teacher.logits)

    def _adapt(self, student: ModelOutput, teacher: ModelOutput, pl_module: LightningModule) -> None:
        self._adapted = True
        with torch.random.fork_rng(devices=[]):
            # Only the CPU's generator: the random numbers of the training stay as they are.
            torch.default_generator.manual_seed(derive(default_seed(), "adaptors"))
            self.terms.adapt(student, teacher)
        self._enlist(pl_module.trainer, pl_module)

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Average the adaptors' gradients over processes: DDP does not know of them."""
        average_gradients(self.terms.parameters())

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Let the teacher follow, once an optimizer step."""
        self._finite.end_step(None)
        if trainer.global_step > self._steps_seen:
            self._steps_seen = trainer.global_step
            self.teacher.after_step(pl_module, self._steps_seen)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """See that the last steps were finite; let the teacher keep what it has said."""
        self._finite.settle()
        self.teacher.end_epoch(trainer.strategy.barrier)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """See that the last steps were finite."""
        self._finite.settle()

    # -- checkpoints ----------------------------------------------------------------------------------

    @property
    def state_key(self) -> str:
        """Tells several apart by their terms."""
        return f"Distill{list(self.terms.losses)}"

    def state_dict(self) -> dict[str, Any]:
        """Adaptors, and what a teacher that changes has become; nothing after a loss that is not finite."""
        self._finite.settle()
        return {"terms": dict(self.terms.state_dict()), "teacher": self.teacher.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep it for the start of training."""
        self._restored = state_dict


def _as_the_teacher_reads(batch: Batch) -> Batch:
    if "teacher_inputs" not in batch:
        return batch
    return {**batch, "inputs": {**batch["inputs"], **batch["teacher_inputs"]}}


class _NothingToAdd(Exception):  # noqa: N818 - no error
    """Ends the capture of a step that has no loss."""


class _PlainTeacher(ModelTeacher):
    """A module that is called with the batch's one input."""

    def answer(self, model: nn.Module, batch: Batch) -> ModelOutput:
        (inputs, *others) = batch["inputs"].values()
        if others:
            raise TeacherError(
                where=f"Distill.teacher, {type(model).__name__}",
                found=f"a plain module and inputs of {list(batch['inputs'])}",
                expected="one input to call it with",
                fix="give Distill a `read` that leaves one, or a Teacher",
            )
        output = model(**inputs) if isinstance(inputs, dict) else model(inputs)
        logits = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", output)
        if not isinstance(logits, Tensor):
            raise TeacherError(
                where=f"Distill.teacher, {type(model).__name__}",
                found=f"an answer of type {type(output).__name__}",
                expected="a tensor of logits, or something with `logits`",
                fix="wrap the teacher in a module that returns its logits",
            )
        return ModelOutput(logits)


def _as_teacher(teacher: Teacher | nn.Module) -> Teacher:
    if isinstance(teacher, Teacher):
        return teacher
    return FrozenTeacher(teacher) if isinstance(teacher, MultimodalModel) else _PlainTeacher(teacher)
