"""A teacher too large for one device, split over the processes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor

from lightning_distill.errors import TeacherError
from lightning_distill.extraction import find_module
from lightning_distill.structures import Batch, ModelOutput
from lightning_distill.teachers.base import ModelTeacher, Teacher, TeacherWrapper


class ShardedTeacher(TeacherWrapper):
    """Each process keeps a part of the weights; they are gathered to answer and freed after (FSDP2).

    It does not matter how the student is trained: under `ddp`, under `ModelParallelStrategy`, or on one
    device, where nothing is split. All processes must ask the same number of times, so an epoch must have as
    many batches on each, in evaluation too; the DataModules of this library see to that for sources that are
    indexed. Weights, buffers and inputs are in `dtype`, answers in float32.

    In one process, or on devices that have room for the teacher, `HalfPrecisionTeacher` is faster: it
    computes sums and norms in float32, and there is nothing to gather.

    Args:
        teacher: A teacher with one torch model, such as `FrozenTeacher` or `TimmTeacher`.
        dtype: Of weights and computation; bfloat16 halves memory and traffic.
        blocks: Paths of modules whose children are gathered one after the other, such as
            "encoders.image.backbone.blocks". Without, the whole teacher is, for the time of its answer.

    Raises:
        ConfigError: If there is no module of that path.
        TeacherError: If the teacher is not one torch model, or changes while the student trains.
    """

    def __init__(
        self,
        teacher: Teacher,
        dtype: Literal["bfloat16", "float32"] = "bfloat16",
        blocks: Sequence[str] = (),
    ) -> None:
        if not isinstance(teacher, ModelTeacher) or teacher.changes:
            raise TeacherError(
                where="ShardedTeacher.teacher",
                found=type(teacher).__name__,
                expected="a teacher that is one torch model and does not change, such as FrozenTeacher",
                fix="shard each teacher of a group by itself; use an EmaTeacher as it is",
            )
        super().__init__(teacher)
        self.dtype = _DTYPES[dtype]
        self.blocks = [child for path in blocks for child in find_module(teacher.model, path).children()]
        self._model, self.is_sharded = teacher.model.to(self.dtype), False
        self._fingerprints = teacher.fingerprints()

    @property
    def identity(self) -> object:
        """The teacher in its precision: how it is split does not matter."""
        return {"teacher": self.teacher, "dtype": str(self.dtype)}

    def __call__(self, batch: Batch) -> ModelOutput:
        """The teacher's answer in float32."""
        output = self.teacher(_cast(batch, self.dtype))
        if self.dtype == torch.float32:
            return output
        changed = ("logits", "embedding", "features", "extras", "layers")
        return replace(output, **{name: _cast(getattr(output, name), torch.float32) for name in changed})

    def to(self, device: torch.device) -> None:
        """Move to the student's device, and keep only this process's part."""
        if self.is_sharded:
            return
        if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
            self.teacher.to(device)
            return
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh(device.type, (dist.get_world_size(),))
        for block in self.blocks:
            fully_shard(block, mesh=mesh)
        # Whatever is in no block too, so that nothing stays whole between two answers.
        fully_shard(self._model, mesh=mesh, reshard_after_forward=True)
        self.teacher.to(device)  # buffers, which are not split
        self.is_sharded = True

    def tensors(self) -> Iterator[Tensor]:
        """The teacher's; of split ones, the part that is here."""
        return (t.to_local() if hasattr(t, "to_local") else t for t in self.teacher.tensors())

    def fingerprints(self) -> Mapping[str, str]:
        """The teacher's, before it was split."""
        return self._fingerprints


_DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


def _cast(value: Any, dtype: torch.dtype) -> Any:
    if isinstance(value, Mapping):
        return {key: _cast(item, dtype) for key, item in value.items()}
    return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value
