"""Warnings of a clip range appear once, and only where they are true: real rules' edits are looked at."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, Adamax, AdamW, NAdam, Optimizer, RAdam

from lightning_distill.clipping import AutoClip
from lightning_distill.errors import ConfigError
from lightning_distill.gradients import Gradients
from lightning_distill.telemetry.clip_watch import ClipWatch
from lightning_distill.telemetry.gradients import GradientTelemetry

Edit = Callable[[Gradients], None]
SIGNS, NEVER, CANCELS, SATURATED = "sign descent", "not bound once", "cancels a constant", "saturated for"
ALWAYS = "binds at every step"


def value_clip(epsilon: float) -> Edit:
    def edit(gradients: Gradients) -> None:
        for grad in gradients.local:
            grad.clamp_(-epsilon, epsilon)

    return edit


def rescale(factors: Iterator[float]) -> Edit:
    def edit(gradients: Gradients) -> None:
        gradients.scale(torch.tensor(next(factors)))

    return edit


def norm_clip(largest: float) -> Edit:
    def edit(gradients: Gradients) -> None:
        gradients.scale((largest / gradients.norm()).clamp(max=1))

    return edit


def each_norm_clip(largest: float) -> Edit:
    def edit(gradients: Gradients) -> None:
        for grad in gradients.local:
            grad.mul_((largest / grad.norm()).clamp(max=1))

    return edit


def adam(weight_decay: float = 0.0, kind: type[Optimizer] = Adam) -> Optimizer:
    return kind([nn.Parameter(torch.zeros(1))], lr=0.1, weight_decay=weight_decay)  # type: ignore[call-arg]


def sgd() -> Optimizer:
    return SGD([nn.Parameter(torch.zeros(1))], lr=0.1)


def run(
    edit: Edit, optimizer: Optimizer, steps: int = 400, every: int = 10, patience: int = 100
) -> list[str]:
    """Gradients of two groups through an edit, looked at every few steps."""
    generator = torch.Generator().manual_seed(0)
    watch, telemetry, told = ClipWatch(patience), GradientTelemetry(), []
    for step in range(0, steps, every):
        image, text = (torch.randn(40, 30, generator=generator) for _ in range(2))
        text[::2] = 0
        bias = 5 * torch.randn(30, generator=generator)
        names = ("encoders.image.weight", "encoders.text.embedding", "encoders.image.bias")
        grads = (image, text, bias)
        gradients = Gradients(names, tuple(nn.Parameter(torch.empty_like(g)) for g in grads), grads, step)
        telemetry.before(gradients)
        edit(gradients)
        told += watch.look(telemetry.after(), step, optimizer)
    return told


def about(told: list[str], what: str) -> list[str]:
    """Groups that were told it."""
    return [group for line in told if what in line for group in line.split(":")[0].split(", ")]


def test_everything_clipped_by_value_is_sign_descent() -> None:
    told = run(value_clip(1e-5), sgd())
    assert len(told) == 1
    assert about(told, SIGNS) == ["image", "text"]
    assert "100 steps" in told[0]
    assert "learning rate times range" in told[0]
    assert "Adam" in run(value_clip(1e-5), adam())[0]


def test_a_usual_range_is_told_nothing() -> None:
    assert run(value_clip(1.0), sgd(), steps=2000) == []
    assert run(value_clip(1.0), adam(), steps=2000) == []


@pytest.mark.parametrize("edit", [norm_clip(0.1), each_norm_clip(0.1)])
def test_a_clip_by_norm_changes_every_entry_but_is_no_sign_descent(edit: Edit) -> None:
    assert about(run(edit, sgd()), SIGNS) == []


def test_a_rule_that_never_binds() -> None:
    told = run(value_clip(1e3), sgd(), steps=700)
    assert len(told) == 1
    assert told[0].startswith("image, text: the clip rule has not bound once in 500 steps")
    assert run(value_clip(1e3), sgd(), steps=500) == []


def test_a_rule_that_bound_once_has_its_use() -> None:
    def edit(gradients: Gradients) -> None:
        if gradients.step == 20:
            value_clip(1.0)(gradients)

    assert run(edit, sgd(), steps=2000) == []


def wavering(low: float, high: float) -> Iterator[float]:
    while True:
        yield low
        yield high


@pytest.mark.parametrize("kind", [Adam, AdamW, NAdam, RAdam, Adamax])
def test_adams_cancel_a_constant_rescaling(kind: type[Optimizer]) -> None:
    told = run(rescale(wavering(0.30, 0.31)), adam(kind=kind), steps=2000)
    assert about(told, CANCELS) == ["image", "text"]
    assert about(told, ALWAYS) == []
    assert "c = 0.305 +- 0.005" in told[0]
    assert kind.__name__ in told[0]


def test_a_coefficient_that_moves_is_not_cancelled() -> None:
    assert about(run(rescale(wavering(0.2, 0.4)), adam()), CANCELS) == []


def test_a_coefficient_that_drifts_is_never_constant() -> None:
    assert about(run(rescale(0.9 * 0.95**i for i in range(100)), adam()), CANCELS) == []


def test_sgd_does_not_cancel_a_rescaling() -> None:
    assert about(run(rescale(wavering(0.3, 0.3)), sgd()), CANCELS) == []


def test_decay_inside_the_gradient_is_not_cancelled() -> None:
    assert about(run(rescale(wavering(0.3, 0.3)), adam(weight_decay=0.1)), CANCELS) == []
    assert about(run(rescale(wavering(0.3, 0.3)), adam(0.1, AdamW)), CANCELS) == ["image", "text"]


def test_constant_rescaling_leaves_adams_weights_where_they_were() -> None:
    """What the warning says, tried: after the same gradients, scaled and not, the weights are the same."""
    weights = []
    for factor in (1.0, 0.3):
        torch.manual_seed(0)
        weight = nn.Parameter(torch.zeros(20))
        optimizer = Adam([weight], lr=0.1)
        for _ in range(30):
            weight.grad = factor * torch.randn(20)
            optimizer.step()
        weights.append(weight.detach())
    torch.testing.assert_close(*weights, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("make", [sgd, adam])
def test_a_rule_that_rescales_every_step_makes_steps_of_one_length(make: Callable[[], Optimizer]) -> None:
    told = run(rescale(wavering(0.2, 0.4)), make(), patience=200)
    assert about(told, ALWAYS) == ["image", "text"]
    assert len(told) == 1
    assert "21 looks in 200 steps" in told[0]
    assert about(run(norm_clip(0.1), sgd()), ALWAYS) == ["image", "text"]


def test_it_takes_twenty_looks_however_many_steps_there_were() -> None:
    assert run(rescale(wavering(0.2, 0.4)), sgd(), steps=1900, every=100) == []
    assert about(run(rescale(wavering(0.2, 0.4)), sgd(), steps=2000, every=100), ALWAYS) == ["image", "text"]


@pytest.mark.parametrize("idle", [0, 7, 18])
def test_one_look_at_which_a_rule_does_not_bind_is_enough_to_acquit_it(idle: int) -> None:
    factors = [1.0 if i == idle else 0.3 - 0.1 * (i % 2) for i in range(200)]
    assert run(rescale(iter(factors)), sgd(), steps=2000) == []


def test_value_clips_and_absent_gradients_are_no_rescaling() -> None:
    def absent(gradients: Gradients) -> None:
        for grad in gradients.local:
            grad.zero_()

    assert about(run(value_clip(0.5), sgd(), steps=2000), ALWAYS) == []
    assert about(run(absent, sgd(), steps=2000), ALWAYS) == []


def test_an_auto_clip_leaves_the_smallest_steps_alone_and_is_told_nothing() -> None:
    """Percentile 10 of norms that do not drift: in 200 looks nearly one of ten does not bind."""
    rule, watch, telemetry, told, bound = AutoClip(10.0), ClipWatch(), GradientTelemetry(), [], []
    generator = np.random.default_rng(0)
    for step in range(0, 2000, 10):
        grad = torch.from_numpy(generator.normal(size=300) * generator.lognormal()).float()
        before = grad.clone()
        gradients = Gradients(("head.weight",), (nn.Parameter(torch.empty(300)),), (grad,), step)
        telemetry.before(gradients)
        rule.edit(gradients)
        bound.append(not torch.equal(before, grad))
        told += watch.look(telemetry.after(), step, sgd())
    assert 0.8 < np.mean(bound) < 1
    assert told == []


def test_groups_of_which_the_same_is_told_at_one_look_share_a_line() -> None:
    watch, told = ClipWatch(30), []
    for step in range(0, 80, 10):
        shares = {"image": 0.9, "text": 0.85, "audio": 0.9, "video": 0.9 if step >= 20 else 0.0}
        values = {f"saturated_share/{name}": torch.tensor(share) for name, share in shares.items()}
        told.append([line.split(" %")[0] for line in watch.look(values, step, sgd())])
    assert told == [[], [], [], ["image, audio: 90", "text: 85"], [], ["video: 90"], [], []]


def boundary(shares: list[float], name: str = "boundary_share/audio") -> list[str]:
    watch = ClipWatch(200)
    return [
        line
        for i, share in enumerate(shares)
        for line in watch.look({name: torch.tensor(share)}, i * 50, sgd())
    ]


def test_an_encoder_that_is_reached_by_signs_only_is_told_once() -> None:
    told = boundary(20 * [1.0])
    assert len(told) == 1
    assert told[0].startswith("audio: all of what flows back into the encoder has been clipped for 200 steps")
    assert boundary(20 * [1.0], "boundary_share")[0].startswith("fused feature: all of what flows back has")
    assert boundary(20 * [0.9]) == boundary(3 * [1.0] + [0.5] + 4 * [1.0]) == []


def saturated(shares: list[float], name: str = "saturated_share/audio", every: int = 50) -> list[str]:
    watch = ClipWatch(200)
    return [
        line
        for i, share in enumerate(shares)
        for line in watch.look({name: torch.tensor(share)}, i * every, sgd())
    ]


def test_a_saturated_feature_is_told_once() -> None:
    told = saturated([0.9, 0.85, 0.82, 0.95, 0.9, 0.9] + 20 * [0.9])
    assert about(told, SATURATED) == ["audio"]
    assert "82 %" in told[0]
    assert "200 steps" in told[0]
    assert about(saturated(10 * [0.9], "saturated_share"), SATURATED) == ["fused feature"]


def test_a_break_starts_anew() -> None:
    assert saturated(4 * [0.9] + [0.5] + 4 * [0.9] + [float("nan")] + 4 * [0.9]) == []


def test_two_log_steps_are_not_enough() -> None:
    assert saturated(3 * [0.9], every=1000) == []
    assert len(saturated(4 * [0.9], every=1000)) == 1


def test_not_a_number_is_told_nothing_of() -> None:
    def spoil(gradients: Gradients) -> None:
        for grad in gradients.local:
            grad.fill_(float("nan"))

    assert run(spoil, adam(), steps=2000) == []


def test_other_names_and_nothing_are_passed_over() -> None:
    watch = ClipWatch()
    assert watch.look({}, 0, sgd()) == []
    assert watch.look({"loss": torch.tensor(1.0), "epsilon/image": torch.tensor(1.0)}, 1, sgd()) == []


def test_a_step_that_goes_back_starts_anew() -> None:
    watch = ClipWatch(100)
    values = {"saturated_share": torch.tensor(0.9)}
    told = [watch.look(values, step, sgd()) for step in (0, 30, 60, 0, 30, 60, 90)]
    assert told == [[]] * 7
    assert len(watch.look(values, 120, sgd())) == 1


@pytest.mark.parametrize("patience", [0, -1])
def test_patience_must_be_positive(patience: int) -> None:
    with pytest.raises(ConfigError, match="patience"):
        ClipWatch(patience)


def test_values_may_be_of_any_floating_type() -> None:
    watch = ClipWatch(3)
    dtypes = [torch.float64, torch.bfloat16, torch.float16, torch.float32]

    def look(step: int, dtype: torch.dtype) -> list[str]:
        values: dict[str, Tensor] = {"saturated_share": torch.tensor(0.9, dtype=dtype)}
        return watch.look(values, step, sgd())

    assert [len(look(step, dtype)) for step, dtype in enumerate(dtypes)] == [0, 0, 0, 1]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_values_are_read_one_look_later_and_never_waited_for() -> None:
    watch = ClipWatch(30)
    shares = [torch.tensor(0.9, device="cuda") for _ in range(6)]
    watch.look({"saturated_share": shares[0]}, 0, sgd())
    torch.cuda.set_sync_debug_mode("error")
    try:
        told = [watch.look({"saturated_share": s}, 10 * i, sgd()) for i, s in enumerate(shares) if i]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert [len(lines) for lines in told] == [0, 0, 0, 1, 0]
    assert "30 steps" in told[3][0]
