"""A loss that is not finite on one of two processes; run by `test_left_out_steps.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import seed_everything

from lightning_distill.clipping import AutoClip
from lightning_distill.module import DistillationModule
from lightning_distill.structures import Batch
from tests.builders import make_data, make_trainer
from tests.reliability.injections import Inject, Term, distilled


def main(folder: Path) -> None:
    """Write what each process has after each batch."""
    torch.set_num_threads(1)
    seed_everything(3, verbose=False)
    module = distilled(AutoClip(), losses={"kd": Term(detached=True)}, skip_non_finite=2)

    def do(module: DistillationModule, batch: Batch) -> None:
        term: Any = module.terms.losses["kd"]
        term.bad = torch.inf if module.global_rank == 1 else None

    def undo() -> None:
        term: Any = module.terms.losses["kd"]
        term.bad = None

    inject = Inject((1,), do, undo)
    options: dict[str, Any] = {"devices": 2, "strategy": "ddp_fork", "limit_val_batches": 0}
    trainer = make_trainer(folder, callbacks=[inject, Write(folder, inject)], **options)
    trainer.fit(module, make_data(batch_size=4))


class Write(Inject):
    """Writes the states before each batch, and at the end."""

    def __init__(self, folder: Path, inject: Inject) -> None:
        super().__init__((), lambda *_: None)
        self.folder, self.inject = folder, inject

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        left_out = float(pl_module._finite.left_out)
        found = {"states": self.inject.before, "left_out": left_out}
        torch.save(found, self.folder / f"rank{trainer.global_rank}.pt")
