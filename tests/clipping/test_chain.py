"""Rules one after the other."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lightning_distill.clipping import ClipChain, ClipReport, ClipRule, NormClip, TensorNormClip, ValueClip
from lightning_distill.errors import ConfigError
from lightning_distill.gradients import Gradients
from tests.builders import same_bits


class Counting(ClipRule):
    """Subtracts 1, counts steps, and says whether to skip."""

    taken: Tensor

    def __init__(self, skip: bool | None = None) -> None:
        super().__init__()
        self.register_buffer("taken", torch.zeros((), dtype=torch.int64))
        self.skip = skip

    def edit(self, gradients: Gradients) -> ClipReport:
        for grad in gradients.local:
            grad.sub_(1)
        if gradients.fresh:
            self.taken += 1
        return ClipReport(
            {"taken": self.taken.clone()}, None if self.skip is None else torch.tensor(self.skip)
        )


def model() -> dict[str, nn.Parameter]:
    made = {"a": nn.Parameter(torch.zeros(2)), "b": nn.Parameter(torch.zeros(2))}
    made["a"].grad, made["b"].grad = torch.tensor([3.0, -40.0]), torch.tensor([0.5, 6.0])
    return made


def grads(given: dict[str, nn.Parameter]) -> Tensor:
    return torch.cat([p.grad for p in given.values() if p.grad is not None])


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_equals_the_rules_in_that_order(order: tuple[int, ...]) -> None:
    rules: list[ClipRule] = [ValueClip(4.0), NormClip(2.5), Counting()]
    chained, apart = model(), model()
    ClipChain([rules[i] for i in order]).clip(chained)
    for i in order:
        rules[i].clip(apart)
    assert same_bits(grads(chained), grads(apart))


def test_the_order_matters() -> None:
    one, other = model(), model()
    ClipChain([Counting(), ValueClip(1.0)]).clip(one)
    ClipChain([ValueClip(1.0), Counting()]).clip(other)
    assert grads(one).tolist() == [1.0, -1.0, -0.5, 1.0]
    assert grads(other).tolist() == [0.0, -2.0, -0.5, 0.0]


def test_reports_are_told_apart() -> None:
    chain = ClipChain([NormClip(1.0), Counting(), NormClip(0.5), TensorNormClip(0.1), NormClip(0.1)])
    report = chain.clip(model())
    labels = {name.split("/")[0] for name in report.values}
    assert labels == {"NormClip", "NormClip_2", "NormClip_3", "Counting", "TensorNormClip"}
    assert report.values["NormClip/coefficient"] < 1
    assert report.values["NormClip_2/norm"] != report.values["NormClip/norm"]


@pytest.mark.parametrize(
    ("skips", "expected"),
    [
        ((None, None), None),
        ((None, True), True),
        ((True, False), True),
        ((False, True), True),
        ((False, None), False),
    ],
)
def test_one_that_skips_is_enough(skips: tuple[bool | None, ...], expected: bool | None) -> None:
    report = ClipChain([Counting(skip) for skip in skips]).clip(model())
    assert (None if report.skip is None else bool(report.skip)) is expected


def test_history_is_in_the_state_dict_and_moves_once_a_step() -> None:
    chain = ClipChain([Counting(), ClipChain([Counting()])])
    for step in (0, 0, 1):
        chain.clip(model(), step=step)
    state = chain.state_dict()
    assert {name: int(value) for name, value in state.items()} == {
        "rules.0.taken": 2,
        "rules.1.rules.0.taken": 2,
    }
    fresh = ClipChain([Counting(), ClipChain([Counting()])])
    fresh.load_state_dict(state)
    assert fresh.clip(model()).values["ClipChain/Counting/taken"] == 3


def test_a_chain_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"ClipChain\.rules"):
        ClipChain([])
