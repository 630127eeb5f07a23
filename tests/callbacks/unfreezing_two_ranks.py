"""Trains with `GradualUnfreezing` on one and on two processes; run by `test_unfreezing.py`."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from lightning_distill.callbacks import GradualUnfreezing
from tests.builders import make_trainer
from tests.callbacks.distill_two_ranks import Shared
from tests.callbacks.foreign import Plain
from tests.module.parts import Steps


class Reporting(Plain):
    """Writes a file a rank at the end."""

    def __init__(self, stem: str) -> None:
        super().__init__()
        self.features[1] = torch.nn.Identity()  # batch statistics differ by process
        self.stem = stem

    def on_fit_end(self) -> None:
        Path(f"{self.stem}_{self.global_rank}.json").write_text(json.dumps(Steps.flat(self).tolist()))


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    for processes in (1, 2):
        torch.manual_seed(1)
        trainer = make_trainer(
            folder,
            max_epochs=3,
            devices=processes,
            strategy="auto" if processes == 1 else "ddp_fork",
            use_distributed_sampler=False,
            callbacks=[GradualUnfreezing({1: ["features"]})],
        )
        trainer.fit(Reporting(f"{folder}/{processes}"), Shared())
