"""A folder in which the commands of the pages find what they name: real files, as small as can be."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import cv2
import lightning.pytorch as pl
import numpy as np
import soundfile
import torch
import yaml
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from lightning_distill import DistillationModule
from lightning_distill.data import (
    AudioProcessor,
    ByteTextProcessor,
    CrossDomainDataModule,
    ImageProcessor,
    ImageTextAudioDataModule,
)
from lightning_distill.data.datasets import Digits
from tests.builders import make_data, make_model
from tests.docs.blocks import ROOT

ROWS = 48
SIZES = {"train": 60, "val": 20, "test": 20}
Config = dict[str, Any]


def write_table(name: str = "table.csv") -> None:
    """Two kinds of pictures, texts and sounds, below the current folder."""
    rng, rows = np.random.default_rng(0), ["image,text,audio,label"]
    folder = Path(name).parent
    for place in ("photos", "sounds"):
        (folder / place).mkdir(parents=True)
    for i in range(ROWS):
        label = ("bike", "car")[i % 2]
        picture = rng.integers(0, 90, (32, 36, 3), dtype=np.uint8)
        picture[:, : 18 if i % 2 else 36] += 120
        cv2.imwrite(str(folder / f"photos/{i}.jpg"), picture)
        wave = 0.3 * np.sin(2 * np.pi * (300 + 400 * (i % 2)) * np.arange(3200) / 8000)
        soundfile.write(folder / f"sounds/{i}.wav", wave, 8000)
        rows.append(f"photos/{i}.jpg,a red {label} number {i},sounds/{i}.wav,{label}")
    Path(name).write_text("\n".join(rows) + "\n")


def shrink(config: Config) -> Config:
    """A config of the digits with few samples and one epoch."""
    config["trainer"] |= {"max_epochs": 1, "accelerator": "cpu", "log_every_n_steps": 1}
    init = config["data"]["init_args"]
    for part in [init["source"], init["target"]] if "target" in init else [config["data"]]:
        part["init_args"]["source"]["init_args"] |= SIZES
        part["init_args"]["batch_size"] = 32
    return config


def write_configs() -> None:
    """The project's, with the experiments on few samples; and those that pages name as the reader's."""
    shutil.copytree(ROOT / "configs", "configs")
    for path in Path("configs/experiment").glob("digits*.yaml"):
        path.write_text(yaml.safe_dump(shrink(yaml.safe_load(path.read_text())), sort_keys=False))
    across = yaml.safe_load(Path("configs/experiment/digits_cross_domain.yaml").read_text())
    student = across["model"]["init_args"]["student"]["init_args"]
    student["encoders"]["text"] = {"class_path": "ByteTextCNN"}
    Path("cross_domain.yaml").write_text(yaml.safe_dump(across, sort_keys=False))
    across["model"]["init_args"]["teacher"] = {
        "class_path": "StoredTeacher",
        "init_args": {"folder": "knowledge/fused"},
    }
    Path("student.yaml").write_text(yaml.safe_dump(across, sort_keys=False))


def write_views(name: str, copy: str) -> None:
    """A config whose augmentations come again, as a cache of the teacher's answers wants them."""
    config = yaml.safe_load(Path(name).read_text())
    config["data"]["init_args"]["views"] = 4
    Path(copy).write_text(yaml.safe_dump(config, sort_keys=False))


def write_package() -> None:
    """What `--allow my_package` names."""
    Path("my_package").mkdir()
    Path("my_package/__init__.py").write_text("")


class MyModule(pl.LightningModule):
    """A reader's own module, which knows nothing of the library."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential()
        self.net.add_module("body", nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.ReLU()))
        self.net.add_module("fc", nn.Linear(8, 3))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        return F.cross_entropy(self.net(x), y)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def across() -> CrossDomainDataModule:
    """The data of `cross_domain.yaml`."""
    processors = {"image": ImageProcessor(12, 1), "text": ByteTextProcessor(), "audio": AudioProcessor(8000)}
    domains = [
        ImageTextAudioDataModule(Digits(domain, **SIZES, labelled=labelled), processors)
        for domain, labelled in (("source", None), ("target", 0))
    ]
    return CrossDomainDataModule(*domains)


def readers_names(several_domains: bool) -> dict[str, Any]:
    """What a snippet takes for the reader's own.

    Args:
        several_domains: Whether the reader's data are of several domains.
    """
    examples = TensorDataset(torch.randn(16, 3, 4), torch.arange(16) % 3)
    return {
        "MyModule": MyModule,
        "my_data": DataLoader(examples, batch_size=8),
        "teacher": nn.Sequential(nn.Flatten(), nn.Linear(12, 3)),
        "make_module": lambda: DistillationModule(make_model()),
        "data": across() if several_domains else make_data(),
    }
