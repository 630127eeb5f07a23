"""What `step.py` compares: data, networks, plain loops, and turns taken by whole trainings."""

from __future__ import annotations

import copy
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers.logger import Logger
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision.models import resnet18

from lightning_distill.data import DataSource, MultimodalDataModule, Processor, SampleTable
from lightning_distill.encoders import Encoder
from lightning_distill.model import MultimodalModel
from lightning_distill.randomness import View

BATCH, CLASSES, RATE, TEMPERATURE, ALPHA = 64, 10, 0.01, 4.0, 0.5
ROUND = 50
"""Steps a round: one log entry of the default `log_every_n_steps` lies in each."""


def digits() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """MNIST as 3 x 32 x 32."""
    root = os.environ.get("LIGHTNING_DISTILL_DATA")
    if root is None:
        raise SystemExit("set LIGHTNING_DISTILL_DATA to the folder that holds digits/mnist10k.npz")
    found = np.load(Path(root, "digits", "mnist10k.npz"))
    images = next(found[name] for name in found.files if found[name].ndim >= 3)
    labels = next(found[name] for name in found.files if found[name].ndim == 1)
    images = np.pad(images.reshape(-1, 28, 28), ((0, 0), (2, 2), (2, 2)))
    return np.repeat(images[:, None], 3, axis=1), labels.astype(np.int64)


class ArraySource(DataSource):
    """Images in memory; the last batch's worth of them is for validation."""

    def __init__(self, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> None:
        self.images, self.classes = images, tuple(map(str, range(CLASSES)))
        rows = np.arange(len(labels))
        split = (rows >= len(labels) - BATCH).astype(np.int8)
        self._table = SampleTable(rows, labels, split, np.zeros_like(rows), {"image": rows >= 0})

    @property
    def samples(self) -> SampleTable:
        return self._table

    def load(self, modality: str, row: int) -> NDArray[np.uint8]:
        return self.images[row]


class AsItIs(Processor):
    """Images stay uint8."""

    def prepare(self, raw: NDArray[np.uint8], view: View | None = None) -> Tensor:
        return torch.from_numpy(raw)

    def blank(self) -> Tensor:
        return torch.zeros(3, 32, 32, dtype=torch.uint8)

    def collate(self, prepared: Sequence[Tensor]) -> Tensor:
        return torch.stack(list(prepared))


def our_data(images: NDArray[np.uint8], labels: NDArray[np.int64]) -> MultimodalDataModule:
    return MultimodalDataModule(ArraySource(images, labels), {"image": AsItIs()}, BATCH, in_memory=True)


class Backbone(Encoder):
    """uint8 images to features."""

    def __init__(self, network: nn.Module, embedding_dim: int) -> None:
        super().__init__(embedding_dim)
        self.network = network

    def forward(self, inputs: Tensor) -> Tensor:
        return self.network(inputs.float() / 127.5 - 1.0)


def teacher_model() -> MultimodalModel:
    network = resnet18(weights=None)
    network.fc = nn.Identity()
    return MultimodalModel({"image": Backbone(network, 512)}, CLASSES)


def student_model() -> MultimodalModel:
    """Three convolutions of stride 2."""
    layers: list[nn.Module] = []
    for before, after in ((3, 16), (16, 32), (32, 64)):
        layers += [nn.Conv2d(before, after, 3, 2, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return MultimodalModel({"image": Backbone(network, 64)}, CLASSES)


def bare(model: MultimodalModel) -> nn.Module:
    """The same network and weights, without this library."""
    return copy.deepcopy(nn.Sequential(model.encoders["image"], model.head))


class Gather(Dataset[tuple[Tensor, Tensor]]):
    """An item is a batch: one gather a tensor."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y

    def __getitem__(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        return self.x.index_select(0, rows), self.y.index_select(0, rows)


class Shuffled:
    """Row numbers of whole batches in a new order each epoch."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __iter__(self) -> Iterator[Tensor]:
        return iter(torch.randperm(self.size).split(BATCH)[: len(self)])

    def __len__(self) -> int:
        return self.size // BATCH


def distilled(student: Tensor, teacher: Tensor, y: Tensor) -> Tensor:
    soft = F.kl_div(
        F.log_softmax(student / TEMPERATURE, dim=1),
        F.softmax(teacher / TEMPERATURE, dim=1),
        reduction="batchmean",
    )
    return ALPHA * F.cross_entropy(student, y) + (1 - ALPHA) * TEMPERATURE**2 * soft


class PlainModule(LightningModule):
    """What one writes with Lightning alone; without a teacher, cross-entropy. Nothing is logged."""

    def __init__(self, student: nn.Module, teacher: nn.Module | None) -> None:
        super().__init__()
        self.student, self._teacher = (
            student,
            [] if teacher is None else [teacher.eval().requires_grad_(False)],
        )

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        if not self._teacher:
            return F.cross_entropy(self.student(x), y)
        with torch.no_grad():
            said = self._teacher[0](x)
        return distilled(self.student(x), said, y)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=RATE)


def plain_loader(x: Tensor, y: Tensor) -> DataLoader[Any]:
    return DataLoader(Gather(x, y), batch_size=None, sampler=Shuffled(len(x)))


def bare_loop(
    student: nn.Module, teacher: nn.Module, x: Tensor, y: Tensor
) -> Callable[[Callable[[], None]], None]:
    """A loop in PyTorch alone; it calls what it is given after every step, until that raises `Done`."""

    def run(step_done: Callable[[], None]) -> None:
        teacher.eval().requires_grad_(False)
        student.train()
        optimizer, gather = torch.optim.SGD(student.parameters(), lr=RATE), Gather(x, y)
        while True:
            for rows in Shuffled(len(x)):
                images, labels = gather[rows]
                with torch.no_grad():
                    said = teacher(images)
                loss = distilled(student(images), said, labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                step_done()

    return run


class Memory(Logger):
    """A logger that costs nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[int | None, Mapping[str, float]]] = []

    @property
    def name(self) -> str:
        return "memory"

    @property
    def version(self) -> int:
        return 0

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        pass

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.rows.append((step, metrics))


class Done(Exception):  # noqa: N818 - no error
    """The last turn of a training is over."""


class _Stop(Callback):
    def __init__(self, step_done: Callable[[], None]) -> None:
        self.step_done = step_done

    def on_train_batch_end(self, *args: Any) -> None:
        self.step_done()


def fitting(
    module: LightningModule, data: Any, folder: Path, **options: Any
) -> Callable[[Callable[[], None]], None]:
    """A training under the Trainer, all variants with the same settings."""

    def run(step_done: Callable[[], None]) -> None:
        settings: dict[str, Any] = {
            "accelerator": "cpu",
            "devices": 1,
            "max_epochs": -1,
            "logger": Memory(),
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "limit_val_batches": 0,
            "default_root_dir": folder,
        }
        Trainer(**(settings | options), callbacks=[_Stop(step_done)]).fit(module, data)

    return run


def in_turns(
    variants: Mapping[str, Callable[[Callable[[], None]], None]], rounds: int, steps: int
) -> dict[str, NDArray[np.float64]]:
    """Milliseconds of CPU a step, "rounds turns": each training in a thread of its own, one at a time.

    Who begins changes with each turn. The first round warms up.
    """
    go = {name: threading.Semaphore(0) for name in variants}
    found = {name: list[float]() for name in variants}
    back, failed = threading.Semaphore(0), list[BaseException]()
    turns = (rounds + 1) * ROUND // steps

    def train(name: str) -> None:
        count, start = 0, 0.0

        def step_done() -> None:
            nonlocal count, start
            count += 1
            if count % steps == 0:
                found[name].append((time.thread_time() - start) / steps * 1e3)
                if len(found[name]) == turns:
                    raise Done
                back.release()
                go[name].acquire()
                start = time.thread_time()

        go[name].acquire()
        try:
            variants[name](step_done)
        except Done:
            pass
        except BaseException as error:
            failed.append(error)
        back.release()

    threads = [threading.Thread(target=train, args=(name,), daemon=True) for name in variants]
    for thread in threads:
        thread.start()
    names = list(variants)
    for number in range(turns):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            go[name].release()
            back.acquire()
            if failed:
                raise failed[0]
    return {name: np.array(times).reshape(rounds + 1, -1)[1:] for name, times in found.items()}
