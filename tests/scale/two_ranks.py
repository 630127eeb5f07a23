"""Trains in two processes in every way there is, and writes what came of it; run by `test_two_ranks.py`.

    python -m tests.scale.two_ranks FOLDER PORT

Also imported by it, to train the same in one process.
"""

from __future__ import annotations

import json
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn

from lightning_distill.balancing import GradNormBalancer
from lightning_distill.callbacks import StudentExport
from lightning_distill.clipping import ValueClip
from lightning_distill.encoders import Encoder
from lightning_distill.errors import ConfigError
from lightning_distill.losses import LogitKD
from lightning_distill.model import MultimodalModel
from lightning_distill.module import DistillationModule
from lightning_distill.sharding import shard, whole
from lightning_distill.teachers import EmaTeacher, FrozenTeacher, ShardedTeacher, Teacher
from lightning_distill.terms import WeightedTerms
from tests.builders import CLASSES, DIMS, VectorSource, make_batch, make_data, make_trainer
from tests.module.parts import Follow, Spy


class PlainEncoder(Encoder):
    """Nothing that depends on the batch or on chance."""

    def __init__(self, dim: int, embedding_dim: int = 8) -> None:
        super().__init__(embedding_dim)
        self.first, self.second = nn.Linear(dim, 16), nn.Linear(16, embedding_dim)

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.tanh(self.second(torch.tanh(self.first(inputs))))


def make_plain(*modalities: str) -> MultimodalModel:
    """A model whose gradient on a batch is the mean of those on its halves."""
    return MultimodalModel({m: PlainEncoder(DIMS[m]) for m in modalities}, len(CLASSES))


def config() -> dict[str, Any]:
    encoder = {"class_path": "tests.scale.two_ranks.PlainEncoder", "init_args": {"dim": DIMS["a"]}}
    init_args = {"encoders": {"a": encoder}, "num_classes": len(CLASSES)}
    return {"class_path": "lightning_distill.MultimodalModel", "init_args": init_args}


def make_teacher() -> FrozenTeacher:
    torch.manual_seed(5)
    return FrozenTeacher(make_plain("a", "b"))


def train(
    folder: Path,
    size: int,
    sharded: bool = False,
    split: bool = False,
    folders: bool = False,
    frozen: bool = False,
    resume: Path | None = None,
    **options: Any,
) -> Any:
    """What becomes of a student, and how often the clip rule was called.

    Args:
        folder: To write to.
        size: Samples a batch and process.
        sharded: Whether the teacher is.
        split: Whether the student is.
        folders: Whether the checkpoints of a split student are.
        frozen: Whether only what follows the encoders is trained.
        resume: Checkpoint to go on from.
        options: For the trainer.
    """
    teacher: Teacher = make_teacher()
    if sharded:
        teacher = ShardedTeacher(teacher, "float32", ["encoders"])
    seed_everything(3, verbose=False)
    student, follow = make_plain("a"), {} if frozen else {"follow": Follow()}
    student.encoders.requires_grad_(not frozen)
    sgd = partial(torch.optim.SGD, lr=0.1, momentum=0.5)
    rule = Spy()
    rule.rule = ValueClip(0.02)
    terms = {"kd": LogitKD(), **follow}
    module = DistillationModule(student, teacher, terms, clip_rule=rule, optimizer=sgd)
    if split:
        options["strategy"] = ModelParallelStrategy(2, 1, save_distributed_checkpoint=folders)
    trainer = make_trainer(folder, **({"max_epochs": 2} | options))
    # Of 17 validation samples one process has one more than fills its batches.
    data = make_data(VectorSource(32, 17), batch_size=size)
    trainer.fit(module, data, ckpt_path=resume, weights_only=True)
    told = trainer.callback_metrics.items()
    return {
        "weights": {n: whole(x).flatten().tolist() for n, x in module.state_dict().items() if x.numel()},
        "clips": len(rule.calls),
        "steps": trainer.global_step,
        "metrics": {name: float(x) for name, x in told if name.startswith(("val/", "clip/"))},
        "shares": [p.to_local().numel() / p.numel() for p in module.student.parameters() if split],
    }


def answers() -> dict[str, Any]:
    """A sharded teacher beside the same one that is whole."""
    torch.manual_seed(1)
    batch, found = make_batch(), {}
    plain = make_teacher()
    plain.read_layers(["encoders.a.first"])
    expected = plain(batch)
    for dtype in ("float32", "bfloat16"):
        teacher = ShardedTeacher(make_teacher(), dtype, ["encoders"])  # type: ignore[arg-type]
        teacher.read_layers(["encoders.a.first"])
        teacher.to(torch.device("cpu"))
        for _ in range(2):
            output = teacher(batch)
        pairs = [(output.at(n), expected.at(n)) for n in ("logits", "embedding", "encoders.a.first")]
        found[dtype] = max((a - b).abs().max().item() for a, b in pairs)
        found[f"{dtype} share"] = sum(t.numel() for t in teacher.tensors()) / sum(
            t.numel() for t in plain.tensors()
        )
        found[f"{dtype} types"] = sorted({str(a.dtype) for a, _ in pairs})
    return found


def refused() -> dict[str, str]:
    """What is said of what cannot be split."""
    from torch.distributed.device_mesh import init_device_mesh

    names = ("data_parallel", "tensor_parallel")
    meshes = {sizes: init_device_mesh("cpu", sizes, mesh_dim_names=names) for sizes in ((2, 1), (1, 2))}
    plain, balanced = WeightedTerms({}, {}), WeightedTerms({}, {}, GradNormBalancer)
    cases: dict[str, Any] = {
        "tensor parallel": (plain, None, meshes[1, 2]),
        "balancer": (balanced, None, meshes[2, 1]),
        "teacher": (plain, EmaTeacher(), meshes[2, 1]),
    }
    found = {}
    for name, arguments in cases.items():
        try:
            shard(make_plain("a"), *arguments)
        except ConfigError as error:
            found[name] = str(error)
    return found


def work(rank: int, folder: Path, port: str) -> None:
    place = {"RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "test"}
    os.environ |= {**{name: str(value) for name, value in place.items()}, **meeting}
    torch.set_num_threads(1)
    two: dict[str, Any] = {"devices": 2}
    found: dict[str, Any] = {"ddp": train(folder, 8, strategy="ddp", **two)}
    found["accumulated"] = train(folder, 4, strategy="ddp", accumulate_grad_batches=2, **two)
    found["answers"], found["refused"] = answers(), refused()
    found["sharded teacher"] = train(folder, 8, sharded=True, strategy="ddp", **two)
    for name, folders in (("split", True), ("split, one file", False)):
        kept = folder / name
        keep = ModelCheckpoint(kept, "{epoch}", save_top_k=-1)
        callbacks = [keep, StudentExport(kept / "student", config())]
        saving: dict[str, Any] = {"enable_checkpointing": True, "callbacks": callbacks}
        found[name] = train(folder, 8, sharded=True, split=True, folders=folders, **saving, **two)
        found[f"{name}, resumed"] = train(folder, 8, split=True, resume=kept / "epoch=0.ckpt", **two)
    found["split, frozen"] = train(folder, 8, split=True, frozen=True, **two)
    found["split, accumulated"] = train(folder, 4, split=True, accumulate_grad_batches=2, **two)
    (folder / f"rank{rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    arguments = (Path(sys.argv[1]), sys.argv[2])
    torch.multiprocessing.start_processes(work, arguments, nprocs=2, start_method="fork")
