"""What balancers remember by name."""

from __future__ import annotations

import pytest
import torch

from lightning_distill.errors import ConfigError
from lightning_distill.gradient_balancing import Memory


def test_memory_stays_in_float32_and_refuses_another_shape() -> None:
    memory = Memory()
    memory.at("a", torch.zeros(3, dtype=torch.float64))
    memory.bfloat16()
    assert memory.at("a", torch.zeros(3)).dtype == torch.float32
    with pytest.raises(ConfigError, match="of 'a': found a tensor of shape"):
        memory.at("a", torch.zeros(4))
