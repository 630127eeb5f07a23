"""What must hold of students that teach each other, each as one function that raises a clear error."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from lightning_distill.errors import ConfigError
from lightning_distill.losses import Adapted, DistillationLoss
from lightning_distill.model import MultimodalModel
from lightning_distill.optimization import GroupedOptimizer


def peers_fit(students: Mapping[str, MultimodalModel]) -> None:
    """There must be two or more, with usable names, the same outputs, and weights of their own."""
    where = "MutualDistillationModule.students"
    if len(students) < 2:
        raise ConfigError(
            where=where,
            found=f"{len(students)} ({', '.join(students)})" if students else "none",
            expected="two peers or more",
            fix="name another student, or use DistillationModule with EmaTeacher to learn from itself",
        )
    for name in students:
        if not name or set(name) & set("./") or hasattr(nn.ModuleDict, name):
            raise ConfigError(
                where=where,
                found=f"a peer called {name!r}",
                expected="a name without dots and slashes that is no method of a dict",
                fix="name it after what it reads, such as 'image' or 'small'",
            )
    widths = {name: peer.num_classes for name, peer in students.items()}
    if len(set(widths.values())) > 1:
        raise ConfigError(
            where=where,
            found=f"peers with num_classes {widths}",
            expected="the same outputs",
            fix="give all peers one num_classes",
        )
    _nothing_shared(students, where)


def _nothing_shared(students: Mapping[str, MultimodalModel], where: str) -> None:
    owners: dict[int, str] = {}
    for name, peer in students.items():
        for key, tensor in (*peer.named_parameters(), *peer.named_buffers()):
            owner = owners.setdefault(id(tensor), name)
            if owner != name:
                raise ConfigError(
                    where=where,
                    found=f"{key!r} of {name!r}, which is also a tensor of {owner!r}",
                    expected="peers with their own weights",
                    fix="make each peer anew; copies that start alike have nothing to teach each other",
                )


def terms_suit(losses: Mapping[str, DistillationLoss]) -> None:
    """A term must train nothing of its own."""
    for name, loss in losses.items():
        if any(isinstance(part, Adapted) for part in loss.modules()) or any(True for _ in loss.parameters()):
            raise ConfigError(
                where=f"MutualDistillationModule.losses[{name!r}]",
                found=f"{type(loss).__name__}, which trains an adaptor of its own",
                expected="terms without, as one adaptor cannot serve every pair of peers",
                fix="take a term on logits (LogitKD, DIST, ProxyKD), or on relations between samples (RKD, "
                "SimilarityPreserving)",
            )


def one_rate(optimizer: object) -> None:
    """Groups name the parts of one student, and would miss those of the other peers."""
    if isinstance(optimizer, GroupedOptimizer):
        raise ConfigError(
            where="MutualDistillationModule.optimizer",
            found="GroupedOptimizer, whose groups are parts of one student",
            expected="one optimizer for the parameters of all peers",
            fix="give the optimizer itself, such as torch.optim.AdamW",
        )
