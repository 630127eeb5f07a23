"""What every rule with history must do."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from lightning_distill.clipping import ClipReport, ClipRule
from lightning_distill.gradients import Gradients
from tests.builders import same_bits
from tests.clipping import history_ranks
from tests.clipping.history_ranks import RULES
from tests.processes import needs_fork, run_apart

Rule = Callable[[], ClipRule]

EVERY = pytest.mark.parametrize("make", RULES.values(), ids=RULES)
SHAPES = {"a.weight": (4, 3), "a.bias": (3,), "b": ()}
Step = dict[str, Tensor]


def random_steps(count: int, seed: int = 0) -> list[Step]:
    """Of sizes that vary enough for every rule to clip some."""
    generator = torch.Generator().manual_seed(seed)
    return [
        {
            name: torch.randn(shape, generator=generator) * torch.randn((), generator=generator).mul(2).exp()
            for name, shape in SHAPES.items()
        }
        for _ in range(count)
    ]


def clip(rule: ClipRule, step: Step, number: int | None = None) -> Step:
    """The gradients after the rule."""
    weights = {name: nn.Parameter(torch.zeros_like(grad)) for name, grad in step.items()}
    for name, weight in weights.items():
        weight.grad = step[name].clone()
    rule.clip(weights, step=number)
    return {name: weight.grad for name, weight in weights.items() if weight.grad is not None}


def run(rule: ClipRule, steps: Sequence[Step]) -> list[Step]:
    return [clip(rule, step) for step in steps]


def same(ours: Step, theirs: Step) -> bool:
    return ours.keys() == theirs.keys() and all(same_bits(ours[n], theirs[n]) for n in ours)


def history(rule: ClipRule) -> Step:
    return {name: buffer.clone() for name, buffer in rule.named_buffers()}


@EVERY
def test_these_steps_are_clipped_by_every_rule(make: Rule) -> None:
    """Or what follows would hold for a rule that does nothing."""
    steps = random_steps(12)
    assert sum(not same(a, b) for a, b in zip(run(make(), steps), steps, strict=True)) >= 3


@EVERY
@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("when", [0, 2, 6])
def test_a_poisoned_step_is_as_if_it_had_not_been(make: Rule, poison: float, when: int) -> None:
    rule, twin, steps = make(), make(), random_steps(12)
    before = (run(rule, steps[:when]), run(twin, steps[:when]))
    assert all(same(a, b) for a, b in zip(*before, strict=True))
    bad = random_steps(1, seed=1)[0]
    bad["a.weight"][1, 2] = poison
    assert same(clip(rule, bad), bad)
    for step in steps[when:]:
        assert same(clip(rule, step), clip(twin, step))
    assert same(history(rule), history(twin))


@EVERY
def test_a_second_look_at_a_step_moves_nothing(make: Rule) -> None:
    rule, twin = make(), make()
    for number, (step, again) in enumerate(zip(random_steps(10), random_steps(10, seed=1), strict=True)):
        assert same(clip(rule, step, number), clip(twin, step, number))
        moved = history(rule)
        clip(rule, again, number)
        assert same(history(rule), moved)


@pytest.mark.row("G6")
@EVERY
@pytest.mark.parametrize("when", [0, 2, 6])
def test_a_resumed_rule_goes_on_bit_for_bit(make: Rule, when: int, tmp_path: Path) -> None:
    rule, steps = make(), random_steps(14)
    run(rule, steps[:when])
    file = tmp_path / "rule.pt"
    torch.save(rule.state_dict(), file)
    resumed = make()
    resumed.load_state_dict(torch.load(file, weights_only=True), strict=True)
    assert same(history(resumed), history(rule))
    for step in steps[when:]:
        assert same(clip(resumed, step), clip(rule, step))


@EVERY
def test_a_used_rule_can_be_taken_back_to_a_checkpoint(make: Rule) -> None:
    rule, steps = make(), random_steps(14)
    run(rule, steps[:4])
    checkpoint = copy.deepcopy(rule.state_dict())
    expected = run(rule, steps[4:])
    rule.load_state_dict(checkpoint)
    assert all(same(a, b) for a, b in zip(run(rule, steps[4:]), expected, strict=True))


@EVERY
def test_history_is_part_of_a_module_s_checkpoint(make: Rule) -> None:
    module, resumed = nn.ModuleDict({"rule": make()}), nn.ModuleDict({"rule": make()})
    run(module["rule"], random_steps(5))  # type: ignore[arg-type]
    resumed.load_state_dict(module.state_dict(), strict=True)
    assert same(history(resumed["rule"]), history(module["rule"]))  # type: ignore[arg-type]


@EVERY
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_history_is_float32_whatever_the_model_is(make: Rule, dtype: torch.dtype) -> None:
    rule = make()
    run(rule, random_steps(4))
    rule.to(dtype)
    run(rule, [{name: grad.to(dtype) for name, grad in step.items()} for step in random_steps(3, seed=1)])
    floats = [b for b in rule.buffers() if b.is_floating_point()]
    assert floats
    assert all(b.dtype == torch.float32 for b in floats)


@EVERY
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_change_of_the_model_s_precision_does_not_round_history(make: Rule, dtype: torch.dtype) -> None:
    rule = make()
    run(rule, random_steps(4))
    before = history(rule)
    rule.to(dtype)
    assert same(history(rule), before)


@EVERY
def test_counting_is_exact(make: Rule) -> None:
    """A float32 counter would stand still from 2^24 on."""
    rule = make()
    run(rule, random_steps(5))
    seen = dict(rule.named_buffers())["seen"]
    assert seen.dtype == torch.int64
    assert seen.item() == 5


@EVERY
def test_constant_gradients_pass(make: Rule) -> None:
    step = {name: 0.5 * grad / 10 for name, grad in random_steps(1)[0].items()}
    assert math.hypot(*(grad.norm().item() for grad in step.values())) < 0.9
    assert all(same(after, step) for after in run(make(), [step] * 12))


@EVERY
def test_an_unused_tensor_does_not_disturb(make: Rule) -> None:
    """Modality dropout: gradients of zeros, or none, in some steps."""
    steps = random_steps(12)
    for i in (0, 1, 5):
        steps[i]["b"] = torch.zeros(())
    for i in (2, 7):
        del steps[i]["b"]
    for step, after in zip(steps, run(make(), steps), strict=True):
        assert step.keys() == after.keys()
        for name, grad in after.items():
            assert grad.isfinite().all()
            assert torch.equal(grad == 0, step[name] == 0)


SIZES = st.lists(st.floats(0, 2.0**50, width=32), min_size=4, max_size=4)


@EVERY
@given(st.lists(SIZES, min_size=1, max_size=12), st.sampled_from([torch.float32, torch.bfloat16]))
def test_finite_stays_finite_and_nothing_grows_or_turns(
    make: Rule, sizes: list[list[float]], dtype: torch.dtype
) -> None:
    rule = make()
    for size in sizes:
        step = {"a": torch.tensor(size[:3]).to(dtype), "b": -torch.tensor(size[3]).to(dtype)}
        for name, grad in clip(rule, step).items():
            assert grad.isfinite().all()
            assert (grad.abs() <= step[name].abs()).all()
            assert (grad * step[name].sign() >= 0).all()
    for name, buffer in rule.named_buffers():
        assert name == "norms" or buffer.isfinite().all()


@pytest.fixture
def weights_elsewhere() -> Iterator[dict[str, nn.Parameter]]:
    """Weights on an accelerator that is not there: tensors without numbers."""
    with FakeTensorMode():
        weights = {name: nn.Parameter(torch.empty(shape, device="cuda")) for name, shape in SHAPES.items()}
        for weight in weights.values():
            weight.grad = torch.empty_like(weight)
        yield weights


@EVERY
def test_asks_an_accelerator_nothing(make: Rule, weights_elsewhere: dict[str, nn.Parameter]) -> None:
    rule = make()
    for number in (0, 0, 1, 2, 3, 4):
        report = rule.clip(weights_elsewhere, step=number)
    assert {b.device.type for b in [*rule.buffers(), *report.values.values()]} == {"cuda"}


def test_a_rule_that_asks_would_be_found(weights_elsewhere: dict[str, nn.Parameter]) -> None:
    class Asking(ClipRule):
        def edit(self, gradients: Gradients) -> ClipReport:
            return ClipReport({} if gradients.norm() > 1 else {"small": gradients.norm()})

    with pytest.raises(DataDependentOutputException):
        Asking().clip(weights_elsewhere)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, list[list[float]]]]:
    folder = tmp_path_factory.mktemp("ranks")
    run_apart(history_ranks.main, folder)
    return [json.loads((folder / f"rank{r}.json").read_text()) for r in (0, 1)]


@needs_fork
@pytest.mark.parametrize("name", RULES)
def test_two_processes_with_parts_of_tensors_do_as_one(
    name: str, ranks: list[dict[str, list[list[float]]]]
) -> None:
    expected = history_ranks.clipped(name)
    for rank in ranks:
        for ours, theirs in zip(rank[name], expected, strict=True):
            assert ours == pytest.approx(theirs, rel=1e-5, nan_ok=True)
