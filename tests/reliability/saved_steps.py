"""Checkpoints that are other ones at each step, and whether two values are the same."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor

from tests.builders import same_bits


def checkpoint(step: int, tensors: int = 12, size: int = 2000) -> dict[str, Any]:
    """Weights and states of about 100 kB that are other ones at each step."""
    draw = torch.Generator().manual_seed(step)
    weights = OrderedDict((f"layer{i}.weight", torch.randn(size, generator=draw)) for i in range(tensors))
    states = {i: {"step": torch.tensor(float(step)), "exp_avg": torch.randn(9)} for i in range(3)}
    return {
        "global_step": step,
        "epoch": step // 10,
        "state_dict": weights,
        "optimizer_states": [{"state": states, "param_groups": [{"lr": 0.1, "params": [0, 1, 2]}]}],
        "hyper_parameters": {"name": "a", "rate": 0.5},
    }


def same(a: Any, b: Any) -> bool:
    """Equal to the last bit, in types too."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return same_bits(a, b)
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b) or (a != a and b != b)


def weights_of_step(step: int) -> OrderedDict[str, Tensor]:
    found: OrderedDict[str, Tensor] = checkpoint(step)["state_dict"]
    return found
