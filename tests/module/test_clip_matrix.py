"""Every rule in every mode makes the same step as a plain loop that calls the rule itself."""

from __future__ import annotations

import socket
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.module.clip_cases import Case, by_hand, cases, in_lightning, make_rule
from tests.module.clip_ranks import main
from tests.processes import needs_fork, run_apart

TOLERANCE = {"32-true": 1e-6, "bf16-mixed": 3e-3, "16-mixed": 3e-4}
"""Of weights about 0.3, where two processes add up in another order, in half precision."""


@cache
def expected(case: Case) -> Tensor:
    return by_hand(case, make_rule(case.rule))


@cache
def free(case: Case) -> Tensor:
    """Without the rule."""
    return by_hand(case, None)


def plain(case: Case) -> Case:
    """What the plain loop does alike."""
    return Case(case.rule, case.precision, True, case.accumulate, case.ranks)


def check_that_the_rule_acts(case: Case) -> None:
    moved = (expected(plain(case)) - free(plain(case))).abs().max().item()
    assert moved > 3 * TOLERANCE[case.precision]


@pytest.mark.parametrize("case", cases(1), ids=str)
def test_one_process(case: Case, tmp_path: Path) -> None:
    """Bit for bit."""
    check_that_the_rule_acts(case)
    assert torch.equal(in_lightning(case, tmp_path), expected(plain(case)))


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Tensor], ...]:
    folder = tmp_path_factory.mktemp("ranks")
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        (folder / "port").write_text(str(found.getsockname()[1]))
    run_apart(main, folder)
    return tuple(torch.load(folder / f"rank{rank}.pt") for rank in (0, 1))


@pytest.mark.row("G5")
@needs_fork
@pytest.mark.parametrize("case", cases(2), ids=str)
def test_two_processes(case: Case, two_ranks: tuple[dict[str, Tensor], ...]) -> None:
    first, second = (found[str(case)] for found in two_ranks)
    assert torch.equal(first, second)
    check_that_the_rule_acts(case)
    torch.testing.assert_close(first, expected(plain(case)), rtol=0, atol=TOLERANCE[case.precision])
