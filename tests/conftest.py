"""Settings of all tests: one thread, no network, a cache of its own, no leftovers of another test's seed."""

from __future__ import annotations

import os
from collections.abc import Iterator

os.environ.setdefault("OMP_NUM_THREADS", "1")  # processes that tests start share the machine
os.environ["WANDB_MODE"] = "disabled"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["LIGHTNING_DISTILL_ALLOW"] = "tests"  # configs of tests name classes of tests

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("tests", max_examples=20, deadline=None, derandomize=True, database=None)
settings.load_profile("tests")


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Indexes of manifests go with the tests."""
    os.environ["LIGHTNING_DISTILL_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True)
def _fresh_seed() -> Iterator[None]:
    """Every test draws the same numbers whatever ran before, and `seed_everything` ends with its test."""
    torch.manual_seed(0)
    yield
    for name in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS"):
        os.environ.pop(name, None)
