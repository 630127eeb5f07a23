"""Small real objects for tests: batches, encoders of vectors, a data source in memory, a Trainer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers.logger import Logger
from numpy.typing import NDArray
from torch import Tensor, nn

from lightning_distill.data import DataSource, MultimodalDataModule, Processor, SampleTable, StreamSource
from lightning_distill.encoders import Encoder
from lightning_distill.fusion import ConcatFusion
from lightning_distill.model import MultimodalModel
from lightning_distill.randomness import View, uniform
from lightning_distill.structures import UNLABELLED, Batch, Inputs, ModelOutput, Tokens
from tests.shelves import build

CLASSES = ("ant", "bee", "cat")
DIMS = {"a": 6, "b": 5}
"""Two modalities of plain vectors, and their widths."""


def make_inputs(modality: str, size: int) -> Inputs:
    """What an encoder of that modality reads."""
    if modality == "image":
        return torch.randint(0, 256, (size, 1, 16, 16), dtype=torch.uint8)
    if modality == "text":
        mask = torch.arange(9)[None, :] < torch.randint(3, 10, (size, 1))
        return {"input_ids": torch.randint(3, 250, (size, 9)) * mask, "attention_mask": mask.long()}
    if modality == "audio":
        return torch.randn(size, 24, 40)
    return torch.randn(size, DIMS[modality])


def make_batch(
    modalities: Sequence[str] = tuple(DIMS), size: int = 4, absent: Mapping[str, Sequence[int]] | None = None
) -> Batch:
    """A labelled batch; `absent` is modality -> rows that lack it."""
    present = {m: torch.ones(size, dtype=torch.bool) for m in modalities}
    for modality, rows in (absent or {}).items():
        present[modality][list(rows)] = False
    return {
        "inputs": {m: make_inputs(m, size) for m in modalities},
        "present": present,
        "target": torch.arange(size) % len(CLASSES),
        "sample_id": torch.arange(size) + 1000,
        "domain": torch.zeros(size, dtype=torch.int64),
    }


def make_output(size: int = 6, classes: int = 4, dims: Mapping[str, int] | None = None) -> ModelOutput:
    """A random `ModelOutput`."""
    features = {m: torch.randn(size, dim) for m, dim in (dims or {"image": 8, "text": 8}).items()}
    layers = {"map": torch.randn(size, 6, 8, 8), "small_map": torch.randn(size, 5, 4, 4)}
    return ModelOutput(torch.randn(size, classes), torch.randn(size, 8), features, layers=layers)


class VectorEncoder(Encoder):
    """Linear, batch normalisation, dropout: all that a careless teacher or step could disturb."""

    def __init__(self, dim: int, embedding_dim: int = 8, dropout: float = 0.3) -> None:
        super().__init__(embedding_dim)
        self.linear = nn.Linear(dim, embedding_dim)
        self.norm = nn.BatchNorm1d(embedding_dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.dropout(torch.tanh(self.norm(self.linear(inputs))))


class TokenEncoder(Encoder):
    """Three tokens a sample, of which the last is not there where the first number is above 0."""

    def __init__(self, dim: int, embedding_dim: int = 8) -> None:
        super().__init__(embedding_dim, tokens=True)
        self.linear = nn.Linear(dim, 3 * embedding_dim)

    def forward(self, inputs: Tensor) -> Tokens:
        values = torch.tanh(self.linear(inputs)).unflatten(1, (3, self.embedding_dim))
        return Tokens(values, (torch.arange(3) < 2) | (inputs[:, :1] <= 0))


def make_model(
    modalities: Sequence[str] = tuple(DIMS),
    classes: int = len(CLASSES),
    fusion: Any = ConcatFusion,
    **options: Any,
) -> MultimodalModel:
    """A model of vector encoders, or of token encoders where the fusion head reads such."""
    encoder = TokenEncoder if getattr(fusion, "reads_tokens", False) else VectorEncoder
    make = partial(build, fusion) if isinstance(fusion, type) else fusion
    return MultimodalModel({m: encoder(DIMS[m]) for m in modalities}, classes, make, **options)


class VectorSource(DataSource):
    """Vectors around one mean a class, in memory.

    Args:
        train: Training samples.
        val: Validation samples.
        unlabelled: Rows without a label.
        absent: modality -> rows that lack it.
        broken: Rows whose vectors are NaN.
    """

    def __init__(
        self,
        train: int = 28,
        val: int = 13,
        unlabelled: Sequence[int] = (),
        absent: Mapping[str, Sequence[int]] | None = None,
        broken: Sequence[int] = (),
    ) -> None:
        rng, size = np.random.default_rng(7), train + val
        self.classes = CLASSES
        target = np.arange(size) % len(CLASSES)
        means = {m: rng.normal(size=(len(CLASSES), dim)) for m, dim in DIMS.items()}
        self.vectors = {m: means[m][target] + 0.5 * rng.normal(size=(size, dim)) for m, dim in DIMS.items()}
        for vectors in self.vectors.values():
            vectors[list(broken)] = np.nan
        target[list(unlabelled)] = UNLABELLED
        present = {m: np.ones(size, dtype=bool) for m in DIMS}
        for modality, rows in (absent or {}).items():
            present[modality][list(rows)] = False
        self._table = SampleTable(
            sample_id=np.arange(size, dtype=np.int64) + 5000,
            target=target.astype(np.int64),
            split=(np.arange(size) >= train).astype(np.int8),
            domain=np.zeros(size, dtype=np.int64),
            present=present,
        )

    @property
    def samples(self) -> SampleTable:
        return self._table

    def load(self, modality: str, row: int) -> NDArray[np.float64]:
        return self.vectors[modality][row]


class VectorProcessor(Processor):
    """Vectors as they are; the augmentation adds noise.

    Args:
        dim: Width of the vectors.
        noise: Of the augmentation.
    """

    def __init__(self, dim: int, noise: float = 0.1) -> None:
        self.dim, self.noise = dim, noise

    def prepare(self, raw: NDArray[np.float64], view: View | None = None) -> Tensor:
        return torch.from_numpy(raw).float()

    def blank(self) -> Tensor:
        return torch.zeros(self.dim)

    def collate(self, prepared: Sequence[Tensor]) -> Tensor:
        return torch.stack(list(prepared))

    def augment(self, inputs: Inputs, seed: int, epoch: int, sample_id: NDArray[np.int64]) -> Inputs:
        assert isinstance(inputs, Tensor)
        return inputs + self.noise * torch.from_numpy(uniform(seed, epoch, sample_id, "noise", self.dim))


def make_data(
    source: DataSource | StreamSource | None = None, batch_size: int = 8, num_workers: int = 0, **options: Any
) -> MultimodalDataModule:
    """A DataModule over a `VectorSource`."""
    processors: dict[str, Processor] = {m: VectorProcessor(dim) for m, dim in DIMS.items()}
    return MultimodalDataModule(source or VectorSource(), processors, batch_size, num_workers, **options)


class Notebook(Logger):
    """A logger that keeps what it is given: `rows` of (step, name -> value)."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[int | None, dict[str, float]]] = []

    @property
    def name(self) -> str:
        return "notebook"

    @property
    def version(self) -> int:
        return 0

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        pass

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.rows.append((step, dict(metrics)))

    def series(self, name: str) -> list[float]:
        """All values of one name, in order."""
        return [metrics[name] for _, metrics in self.rows if name in metrics]


def make_trainer(folder: Path, **options: Any) -> Trainer:
    """A Trainer on the CPU that writes nothing but below `folder`."""
    quiet: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": 1,
        "max_epochs": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "log_every_n_steps": 1,
        "default_root_dir": folder,
    }
    return Trainer(**(quiet | options))


def weights_of(module: LightningModule | nn.Module) -> dict[str, Tensor]:
    """A copy of all parameters and buffers."""
    found = module.state_dict().items()
    return {name: x.detach().clone() for name, x in found if isinstance(x, Tensor)}


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Equal to the last bit, -0.0 apart from 0.0 and NaN equal to itself."""
    as_int = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[a.element_size()]
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a.view(as_int), b.view(as_int))
