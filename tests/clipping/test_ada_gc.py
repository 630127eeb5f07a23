"""AdaGC against a float64 reference, and its traps."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from lightning_distill.clipping import AdaGC
from lightning_distill.errors import CheckpointError, ConfigError
from tests.verification import compared, guards

Step = dict[str, NDArray[np.float64]]


def clipped(rule: AdaGC, steps: Sequence[Step]) -> list[Step]:
    """Gradients after the rule; a name that is not in a step has no gradient there."""
    weights, found = {n: nn.Parameter(torch.zeros(g.shape)) for s in steps for n, g in s.items()}, []
    for step in steps:
        for name, weight in weights.items():
            weight.grad = torch.from_numpy(step[name]).float() if name in step else None
        rule.clip(weights)
        found.append({n: w.grad.double().numpy() for n, w in weights.items() if w.grad is not None})
    return found


def reference(steps: Sequence[Step], max_norm: float, factor: float, decay: float, warmup: int) -> list[Step]:
    """Algorithm 1 of the paper, for gradients that are never zero."""
    gamma: dict[str, float] = {}
    found = []
    for t, step in enumerate(steps):
        whole = math.sqrt(sum(float((g**2).sum()) for g in step.values()))
        after = {}
        for name, grad in step.items():
            norm = float(np.linalg.norm(grad))
            if t < warmup:
                h = min(max_norm / whole, 1)
                gamma[name] = min(gamma.get(name, math.inf), h * norm)
            else:
                h = min(factor * gamma[name] / norm, 1)
                gamma[name] = decay * gamma[name] + (1 - decay) * h * norm
            after[name] = h * grad
        found.append(after)
    return found


def random_steps(count: int, seed: int = 0) -> list[Step]:
    rng = np.random.default_rng(seed)
    shapes = {"a": (4, 3), "b": (5,), "c": ()}
    return [
        {n: np.asarray(rng.lognormal(sigma=1.5) * rng.normal(size=s)) for n, s in shapes.items()}
        for _ in range(count)
    ]


@pytest.mark.parametrize(
    ("max_norm", "factor", "decay", "warmup"),
    [(1.0, 1.05, 0.98, 10), (0.1, 1.0, 0.5, 1), (100.0, 2.0, 0.0, 3)],
)
def test_equals_the_paper(max_norm: float, factor: float, decay: float, warmup: int) -> None:
    steps = random_steps(40)
    expected = reference(steps, max_norm, factor, decay, warmup)
    for ours, theirs in zip(clipped(AdaGC(max_norm, factor, decay, warmup), steps), expected, strict=True):
        for name, grad in theirs.items():
            compared(AdaGC, ours[name], grad, rtol=2e-5, dtype=torch.float32)


def test_warm_up_bounds_the_norm_of_all_not_the_sum_of_squares() -> None:
    """Norm 0.5, sum of squares 0.25: passes. Norm 2 shrinks by 2, not by 4."""
    small, large = {"a": np.array([0.3]), "b": np.array([0.4])}, {"a": np.array([1.2]), "b": np.array([1.6])}
    for step, factor in ((small, 1.0), (large, 0.5)):
        (after,) = clipped(AdaGC(), [step])
        for name, grad in step.items():
            assert after[name] == pytest.approx(factor * grad)


def zeros(step: Step, name: str) -> Step:
    return {n: np.zeros_like(g) if n == name else g for n, g in step.items()}


@guards(AdaGC, "a running norm that starts at 0, so that a tensor never moves again")
def test_zero_gradients_in_the_warm_up_do_not_stop_a_tensor() -> None:
    steps = random_steps(12)
    silent = [zeros(s, "b") if i in (0, 2, 5) else s for i, s in enumerate(steps)]
    after = clipped(AdaGC(warmup=6), silent)
    for i, step in enumerate(silent):
        for name, grad in step.items():
            assert np.isfinite(after[i][name]).all()
            assert bool((after[i][name] != 0).any()) == bool((grad != 0).any())


def test_a_tensor_of_zeros_all_through_the_warm_up_passes_once_and_is_bounded_then() -> None:
    steps = [{"a": np.array([0.1]), "b": np.array([0.0])}] * 5
    later = [{"a": np.array([0.1]), "b": np.array([size])} for size in (0.2, 8.0)]
    after = clipped(AdaGC(warmup=3), [*steps, *later])
    assert after[5]["b"] == pytest.approx(0.2)
    assert after[6]["b"] == pytest.approx(1.05 * 0.2)


@pytest.mark.parametrize("size", [1e25, 3e38])
def test_gradients_whose_squares_leave_float32_are_bounded_too(size: float) -> None:
    rule = AdaGC(warmup=1)
    weights = {name: nn.Parameter(torch.zeros(2)) for name in ("a", "b")}
    for entry in (0.5, size):
        for weight in weights.values():
            weight.grad = torch.tensor([0.0, entry])
        rule.clip(weights)
    assert [w.grad[1].item() for w in weights.values()] == pytest.approx([0.525, 0.525])


def test_a_running_norm_grows_by_a_thousandth_a_step_at_most() -> None:
    rule, found = AdaGC(warmup=1), []
    for step in range(50):
        weight = nn.Parameter(torch.zeros(2))
        weight.grad = torch.tensor([0.0, 0.5 * 3.0**step])
        rule.clip({"w": weight})
        found.append(rule.gamma.item())
    assert found[1:] == pytest.approx([1.001 * gamma for gamma in found[:-1]], rel=1e-5)


def test_zeros_leave_the_running_norm_as_it_is() -> None:
    sizes = [0.2, 0.0, 0.1, 0.0, 0.0, 0.0, 9.0]
    after = clipped(AdaGC(warmup=3), [{"a": np.array([0.3]), "b": np.array([size])} for size in sizes])
    assert after[-1]["b"] == pytest.approx(1.05 * 0.1)


def test_a_tensor_without_gradient_keeps_its_running_norm() -> None:
    both = {"a": np.array([0.1]), "b": np.array([0.2])}
    spike = {"a": np.array([0.1]), "b": np.array([8.0])}
    after = clipped(AdaGC(warmup=2), [both, both, *[{"a": both["a"]}] * 3, spike])
    assert after[-1]["b"] == pytest.approx(1.05 * 0.2)


def test_names_find_their_running_norms_in_any_order() -> None:
    a, b = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    rule = AdaGC(warmup=1)
    for order, sizes in [((a, b), (0.1, 0.2)), ((b, a), (9.0, 9.0))]:
        a.grad, b.grad = torch.tensor([sizes[0]]), torch.tensor([sizes[1]])
        rule.clip({"a" if p is a else "b": p for p in order})
    assert [a.grad.item(), b.grad.item()] == pytest.approx([0.105, 0.21])


def saved(names: Sequence[str]) -> dict[str, object]:
    rule = AdaGC(warmup=1)
    clipped(rule, [{name: np.array([0.1 + i]) for i, name in enumerate(names)}])
    return rule.state_dict()


def test_history_of_other_names_is_refused_when_loaded_and_when_used() -> None:
    message = r"history of AdaGC: found a checkpoint about x, y; expected the gradients of this model: a, b"
    used = AdaGC()
    clipped(used, [{"a": np.ones(1), "b": np.ones(1)}])
    with pytest.raises(CheckpointError, match=message):
        used.load_state_dict(saved(["x", "y"]))
    new = AdaGC()
    new.load_state_dict(saved(["x", "y"]))
    with pytest.raises(CheckpointError, match=message):
        clipped(new, [{"a": np.ones(1), "b": np.ones(1)}])


def test_history_from_before_a_tensor_was_unfrozen_is_taken() -> None:
    rule = AdaGC(warmup=1)
    rule.load_state_dict(saved(["head"]))
    (after,) = clipped(rule, [{"image": np.array([7.0]), "head": np.array([5.0])}])
    assert after["head"] == pytest.approx(1.05 * 0.1)
    assert after["image"] == pytest.approx(7.0)


def test_history_can_go_back_to_fewer_names() -> None:
    rule = AdaGC(warmup=1)
    clipped(rule, random_steps(3))
    rule.load_state_dict(saved(["b"]))
    (after,) = clipped(rule, [{"b": np.array([5.0])}])
    assert after["b"] == pytest.approx(1.05 * 0.1)


def test_many_names_are_not_all_listed() -> None:
    rule = AdaGC()
    rule.load_state_dict(saved([f"layer{i}" for i in range(200)]))
    with pytest.raises(CheckpointError, match=re.escape("layer0, layer1, layer2 and 197 more")):
        clipped(rule, [{"a": np.ones(1)}])


def test_report() -> None:
    """The norm of all, and how many tensors of two shrink."""
    rule, weights = AdaGC(warmup=1), {n: nn.Parameter(torch.zeros(1)) for n in "ab"}
    for b in (0.4, 4.0):
        weights["a"].grad, weights["b"].grad = torch.tensor([0.3]), torch.tensor([b])
        report = rule.clip(weights)
    assert report.values["norm"].item() == pytest.approx(math.hypot(0.3, 4.0))
    assert report.values["clipped_tensors"].item() == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_norm", 0.0),
        ("max_norm", math.nan),
        ("factor", 0.9),
        ("decay", 1.0),
        ("decay", -0.1),
        ("warmup", 0),
    ],
)
def test_bad_arguments_are_refused(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"AdaGC\.{name}"):
        AdaGC(**{name: value})
