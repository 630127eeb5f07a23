"""Trainings of `fusion.py`: one model a head, on the data of `pairs.py`."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import torch
from fusion_heads import heads, reads_tokens
from pairs_data import MODALITIES, SIZES, Pool, Triples, batch_of, pair, read_pools
from torch import Tensor
from torch.nn import functional as F

from lightning_distill.encoders import ByteTextCNN, Encoder, ImageCNN, LogMelCNN
from lightning_distill.fusion import ConcatFusion
from lightning_distill.model import MultimodalModel
from lightning_distill.structures import Batch

BATCH: Final = 64
DROPOUT: Final = 0.2
BASE: Final = "ConcatFusion"
"""What the others are compared with."""

__all__ = ["BASE", "BATCH", "DROPOUT", "HEADS", "MODALITIES", "SIZES", "Job", "Stepper", "begin", "run"]


HEADS: Final = {BASE: ConcatFusion} | heads(ConcatFusion)


@dataclass(frozen=True)
class Job:
    """One training.

    Attributes:
        head: Its name.
        seed: Of pairing, weights, batches and modality dropout.
        rate: Learning rate at its highest.
        tested: Whether the test set is looked at; it is not while rates are chosen.
    """

    head: str
    seed: int
    rate: float
    tested: bool

    @property
    def key(self) -> str:
        """What tells it from all others."""
        return json.dumps(asdict(self), sort_keys=True)


def make_model(head: str) -> MultimodalModel:
    """A model with that head; its weights are torch's next random numbers."""
    tokens = reads_tokens(HEADS[head])
    encoders: dict[str, Encoder] = {
        "image": ImageCNN(channels=1, width=16, tokens=tokens),
        "text": ByteTextCNN(width=32, tokens=tokens),
        "audio": LogMelCNN(32, 8, tokens=tokens),
    }
    return MultimodalModel(encoders, 10, HEADS[head], modality_dropout=DROPOUT)


_POOLS: dict[str, Pool] = {}


def begin(folder: Path) -> None:
    """Make a process ready."""
    torch.set_num_threads(1)
    _POOLS.update(read_pools(folder))


def train(job: Job, steps: int) -> MultimodalModel:
    """Train a model on the seed's triples."""
    torch.manual_seed(job.seed)
    model, triples = make_model(job.head).train(), pair(_POOLS, job.seed, "train")
    optimizer = torch.optim.AdamW(model.parameters(), job.rate, weight_decay=0.01, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, job.rate, steps, cycle_momentum=False)
    draw = torch.Generator().manual_seed(job.seed)
    for _ in range(steps):
        at = torch.randint(SIZES["train"], (BATCH,), generator=draw)
        batch = batch_of(_POOLS, triples, at, MODALITIES)
        optimizer.zero_grad()
        F.cross_entropy(model(batch).logits, batch["target"]).backward()
        optimizer.step()
        schedule.step()
    return model.eval()


@torch.no_grad()
def answers(model: MultimodalModel, triples: Triples, absent: str | None = None) -> Tensor:
    """Logits of all rows, with one modality taken from every sample or none."""
    found = []
    for at in torch.arange(len(triples.target)).split(250):
        batch = batch_of(_POOLS, triples, at, MODALITIES)
        if absent is not None:
            gone = torch.zeros(len(at), dtype=torch.bool)
            batch = {**batch, "present": {**batch["present"], absent: gone}}
        found.append(model(batch).logits)
    return torch.cat(found)


def run(job: Job, steps: int) -> dict[str, Any]:
    """Train and measure: validation loss in nats, accuracies on the test set."""
    model = train(job, steps)
    val = pair(_POOLS, job.seed, "val")
    found: dict[str, Any] = {
        "job": asdict(job),
        "loss": float(F.cross_entropy(answers(model, val), val.target)),
        "params": sum(p.numel() for part in (model.fusion, model.head) for p in part.parameters()),
    }
    if job.tested:
        test = pair(_POOLS, job.seed, "test")
        right = {
            m or "all": answers(model, test, m).argmax(dim=1) == test.target for m in (None, *MODALITIES)
        }
        found["test"] = {name: float(x.double().mean()) for name, x in right.items()}
    return found


class Stepper:
    """Training steps of one head on one batch, for timing.

    Args:
        head: Its name.
    """

    def __init__(self, head: str) -> None:
        torch.manual_seed(0)
        self.model = make_model(head).train()
        self.model.modality_dropout = 0.0
        self.optimizer = torch.optim.AdamW(self.model.parameters(), 1e-3, fused=True)
        self.batch = made_batch()

    def __call__(self) -> None:
        """One step."""
        self.optimizer.zero_grad()
        F.cross_entropy(self.model(self.batch).logits, self.batch["target"]).backward()
        self.optimizer.step()


def made_batch() -> Batch:
    """Of the shapes of the real one: 12 x 12 pixels, 32 bytes, 36 frames of 32 bands."""
    draw = torch.Generator().manual_seed(0)
    there, ids = torch.ones(BATCH, dtype=torch.bool), torch.zeros(BATCH, dtype=torch.int64)
    return {
        "inputs": {
            "image": torch.randint(0, 256, (BATCH, 1, 12, 12), generator=draw, dtype=torch.uint8),
            "text": {
                "input_ids": torch.randint(3, 259, (BATCH, 32), generator=draw),
                "attention_mask": torch.ones(BATCH, 32, dtype=torch.int64),
            },
            "audio": torch.randn(BATCH, 36, 32, generator=draw),
        },
        "present": dict.fromkeys(MODALITIES, there),
        "target": torch.arange(BATCH) % 10,
        "sample_id": ids,
        "domain": ids,
    }
