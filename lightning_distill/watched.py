"""A module whose steps are watched: what is not finite, memory that runs out, what must not be saved."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_distill.errors import NonFiniteError
from lightning_distill.gradients import counted, is_finite
from lightning_distill.guards.finite import FiniteCheck, on_accelerator
from lightning_distill.guards.memory import MemoryShortError, MemoryWatch
from lightning_distill.guards.origin import Origin, models_of, searched
from lightning_distill.model import MultimodalModel
from lightning_distill.randomness import default_seed, seed_step
from lightning_distill.structures import Batch, ModelOutput
from lightning_distill.tasks import Task
from lightning_distill.taught import TaughtModule
from lightning_distill.teachers import Teacher


class WatchedModule(TaughtModule):
    """Says what went wrong in a step, and keeps its traces out of checkpoints.

    Args:
        student: What is trained.
        teacher: As `TaughtModule` takes it.
        task: Of the student.
        skip_non_finite: How many optimizer steps in a row may be left out.
    """

    def __init__(
        self, student: MultimodalModel, teacher: Teacher | None, task: Task, skip_non_finite: int
    ) -> None:
        super().__init__(student, teacher, task)
        self.skip_non_finite = skip_non_finite
        self.seed = default_seed()
        self._finite = FiniteCheck(deferred=False)
        self._samples, self._half_updated = 0, False
        self._counted: dict[str, Any] | None = None

    def on_fit_start(self) -> None:
        """Begin to watch."""
        self._finite = FiniteCheck(on_accelerator(self.device), self.skip_non_finite)
        self._half_updated = False
        if self._counted is not None:
            self._finite.go_on(self._counted)
            self._counted = None

    # -- memory ---------------------------------------------------------------------------------------

    def forward_pass(self, batch: Batch) -> MemoryWatch:
        """The block in which a batch is answered.

        Args:
            batch: Of training.
        """
        self._samples = len(batch["target"])
        self._finite.keep(self)
        return self._memory("the forward pass")

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """As Lightning does it."""
        with self._memory("the backward pass"):
            super().backward(loss, *args, **kwargs)

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: Optimizer | LightningOptimizer,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        """As Lightning does it."""
        try:
            with self._memory("the update", updating=True):
                super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        except MemoryShortError as error:
            self._half_updated = error.updating
            raise

    def _memory(self, doing: str, updating: bool = False) -> MemoryWatch:
        return MemoryWatch(self.trainer, doing, self._samples, updating)

    # -- what is not finite ---------------------------------------------------------------------------

    def origin(self, batch: Batch, number: int) -> Origin:
        """Where something that is not finite began.

        Args:
            batch: Whose loss is not finite.
            number: Of that batch in the training.
        """

        def again() -> Mapping[str, ModelOutput]:
            seed_step(self.seed, number, self.global_rank)
            return self.answers_by_name(batch)

        models = {**self.students_by_name(), **models_of(self.teacher)}
        return searched(batch, models, again, self.trainer, late=self._finite.deferred)

    def students_by_name(self) -> dict[str, nn.Module]:
        """What is trained, as it is called in errors."""
        return {"student": self.student}

    def answers_by_name(self, batch: Batch) -> dict[str, ModelOutput]:
        """What students and teacher say."""
        student, teacher = self._pair.answers(batch)
        return {"student": student} | ({} if teacher is None else {"teacher": teacher})

    # -- checkpoints ----------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save nothing that is broken.

        Raises:
            NonFiniteError: If a trained weight, or a running mean or variance, is NaN or infinite, or a
                frozen weight is NaN; names the first.
            MemoryShortError: If memory ran out in the middle of an update.
        """
        where = f"checkpoint of step {self.trainer.global_step}"
        if self._half_updated:
            raise MemoryShortError(
                where=where,
                found="weights of which some are updated and others not, since memory ran out",
                expected="weights of a whole step; nothing was written, the last checkpoint is as it was",
                fix="resume from the last checkpoint with a smaller data.batch_size",
            )
        named = [*self.named_parameters(), *self.named_buffers()]
        statistics = tuple(f"running_{word}" for word in ("mean", "var"))
        for name, tensor in named:
            # Of what is split over processes, each looks at its part.
            here: Tensor = getattr(tensor.detach(), "to_local", tensor.detach)()
            if not here.is_floating_point() or is_finite(here):
                continue
            # A frozen parameter may be a mask of infinities.
            lost = tensor.requires_grad or bool(here.isnan().any())
            if (isinstance(tensor, nn.Parameter) and lost) or name.endswith(statistics):
                raise NonFiniteError(
                    where=where,
                    found=counted(name, here),
                    expected="finite weights; nothing was written, the last checkpoint is as it was",
                    fix="resume from the last checkpoint with a lower learning rate or a clip rule",
                )
        super().on_save_checkpoint(checkpoint)
        if self.skip_non_finite:
            checkpoint["steps_left_out"] = self._finite.state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Count on the steps that were left out."""
        super().on_load_checkpoint(checkpoint)
        self._counted = checkpoint.get("steps_left_out")
