"""A student split over the processes (FSDP2), under Lightning's `ModelParallelStrategy`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from lightning_distill.errors import ConfigError
from lightning_distill.structures import ModelOutput

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

    from lightning_distill.teachers import Teacher
    from lightning_distill.terms import WeightedTerms


def shard(student: nn.Module, terms: WeightedTerms, teacher: Teacher | None, mesh: DeviceMesh) -> None:
    """Split student and adaptors over the processes of a mesh, in place; a second call does nothing.

    Each encoder is gathered when it runs and freed after, the rest of the student once a step. What is
    already split, such as the blocks of a large encoder, is left so.

    Args:
        student: It may have `encoders`.
        terms: Terms with adaptors, which are trained too, and a balancer.
        teacher: It may not follow the student.
        mesh: As Lightning's `device_mesh`: "data_parallel" and "tensor_parallel".

    Raises:
        ConfigError: If the mesh is also one of tensor parallelism, the balancer needs gradients, or the
            teacher follows the student.
    """
    from torch.distributed.fsdp import FSDPModule, fully_shard

    _check(terms, teacher, mesh)
    _tell_torch_of_outputs()
    data_parallel = mesh["data_parallel"]
    parts = [*getattr(student, "encoders", nn.ModuleDict()).children(), student]
    parts += [*terms.losses.children(), *([] if terms.balancer is None else [terms.balancer])]
    for part in parts:
        # A module without parameters has nothing to split, and none of its gradients is to be averaged.
        if not isinstance(part, FSDPModule) and any(True for _ in part.parameters()):
            fully_shard(part, mesh=data_parallel)


def _check(terms: WeightedTerms, teacher: Teacher | None, mesh: DeviceMesh) -> None:
    split = mesh["tensor_parallel"].size()
    if split > 1:
        raise ConfigError(
            where="trainer.strategy",
            found=f"ModelParallelStrategy with tensor_parallel_size {split}",
            expected="tensor_parallel_size 1, since each process reads batches of its own",
            fix=f"set data_parallel_size: {mesh.size()} and tensor_parallel_size: 1",
        )
    if terms.balancer is not None and terms.balancer.needs_gradients:
        raise ConfigError(
            where="model.balancer",
            found=f"{type(terms.balancer).__name__} with a student that is split over processes",
            expected="a balancer that needs no gradient of each term, since no process has the student whole",
            fix="use UncertaintyBalancer, fixed weights, or the strategy ddp",
        )
    if teacher is not None and teacher.changes:
        raise ConfigError(
            where="model.teacher",
            found=f"{type(teacher).__name__}, which follows a student that is split over processes",
            expected="a teacher that stays as it is",
            fix="use a trained teacher, or the strategy ddp",
        )


def _tell_torch_of_outputs() -> None:
    """Let FSDP find the tensors the loss is made of: older versions of torch do not look into dataclasses."""
    from torch.utils import _pytree

    if ModelOutput not in _pytree.SUPPORTED_NODES:
        _pytree.register_dataclass(ModelOutput)


def whole(value: Any) -> Any:
    """A tensor that may be split, put together; all processes must ask. Other things stay as they are."""
    return value.full_tensor() if hasattr(value, "full_tensor") else value
