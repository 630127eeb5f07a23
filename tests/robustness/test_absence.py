from __future__ import annotations

import math
from typing import Any

import torch

from lightning_distill.robustness import Absence
from lightning_distill.structures import Batch
from tests.robustness.batches import make, rows_of


def test_no_sample_is_left_with_nothing() -> None:
    batch = make("numbers")
    after = Absence()(batch, "m", 1.0, 0)
    there = batch["present"]
    assert torch.equal(after["present"]["m"], there["m"] & ~there["other"])
    assert torch.stack(list(after["present"].values())).any(dim=0).all()


def test_the_only_modality_stays() -> None:
    batch = make("numbers")
    alone: Batch = {
        **batch,
        "inputs": {"m": batch["inputs"]["m"]},
        "present": {"m": batch["present"]["m"]},
    }
    assert torch.equal(Absence()(alone, "m", 1.0, 0)["present"]["m"], batch["present"]["m"])
    assert Absence().spared(alone, "m").all()


def test_what_is_absent_is_blank_for_those_who_look() -> None:
    batch: Any = rows_of(make("text"), [0, 2])  # the second has nothing else
    after: Any = Absence()(batch, "m", 1.0, 0)["inputs"]["m"]
    assert (after["input_ids"][0] == 0).all()
    assert (after["attention_mask"][0] == 1).all()
    assert torch.equal(after["input_ids"][1], batch["inputs"]["m"]["input_ids"][1])
    numbers: Any = rows_of(make("numbers"), [0])
    numbers["inputs"]["m"] = torch.full((1, 7), math.nan)
    assert (Absence()(numbers, "m", 1.0, 0)["inputs"]["m"] == 0).all()  # type: ignore[union-attr]
