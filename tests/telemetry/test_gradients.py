"""What is told of a clip rule against sums over every entry, in float64 NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lightning_distill.gradients import Gradients, gradients_of
from lightning_distill.telemetry.gradients import GradientTelemetry, group_of
from tests.telemetry.reference import Edit, as_gradients, clamp, large, observe, reference, small

NAMES = ("norm_before", "norm_after", "clipped_share", "zero_share", "cosine", "evenness")


@pytest.mark.parametrize("edit", [clamp, lambda g: g.mul_(0.25), lambda g: g.sign_()])
def test_small_tensors_are_told_exactly(edit: Edit) -> None:
    expected = reference(small(), edit)
    assert observe(small(), edit) == pytest.approx(expected, rel=2e-6, abs=2e-6)


def test_each_group_has_each_value_as_a_0d_float32() -> None:
    telemetry = GradientTelemetry()
    telemetry.before(as_gradients({name: g.double() for name, g in small().items()}))
    values = telemetry.after()
    groups = ("image", "text", "fusion", "head", "other")
    assert set(values) == {f"{name}/{group}" for name in NAMES for group in groups}
    assert all(value.shape == () and value.dtype == torch.float32 for value in values.values())


@pytest.mark.parametrize("dtypes", [(torch.float16,), (torch.bfloat16,), (torch.float32, torch.bfloat16)])
def test_low_precision_does_not_overflow(dtypes: tuple[torch.dtype, ...]) -> None:
    def grads() -> dict[str, Tensor]:
        torch.manual_seed(2)
        made = [(300 * torch.randn(50, 40)).to(dtype) for dtype in dtypes]
        return {f"head.{i}": grad for i, grad in enumerate(made)}

    def edit(grad: Tensor) -> Tensor:
        return grad.clamp_(-256, 256)

    assert observe(grads(), edit) == pytest.approx(reference(grads(), edit), rel=1e-5)


def test_nothing_changed() -> None:
    found = observe(large(), lambda g: g)
    for group in ("image", "text", "head"):
        assert found[f"clipped_share/{group}"] == 0
        assert found[f"cosine/{group}"] == pytest.approx(1, abs=1e-6)
        assert found[f"norm_before/{group}"] == found[f"norm_after/{group}"]


@pytest.mark.parametrize(("value", "edit", "cosine"), [(0.0, Tensor.zero_, 1), (1.0, Tensor.zero_, 0)])
@pytest.mark.parametrize("shape", [(3,), (200, 300)])
def test_zero_gradients_give_numbers(value: float, edit: Edit, cosine: float, shape: tuple[int, ...]) -> None:
    found = observe({"head.weight": torch.full(shape, value)}, edit)
    assert all(np.isfinite(list(found.values())))
    assert found["cosine/head"] == cosine
    assert found["zero_share/head"] == 1 - value
    assert found["norm_after/head"] == found["evenness/head"] == 0


def test_a_gradient_that_is_not_finite_shows() -> None:
    found = observe({"head.weight": torch.tensor([1.0, float("nan")])}, clamp)
    assert np.isnan([found["norm_before/head"], found["cosine/head"]]).all()


def test_signs_alone_are_even_whatever_zeros_there_are() -> None:
    grads = small()
    grads["encoders.text.dense.weight"] = torch.randn(60, 60)
    found = observe(grads, lambda g: g.clamp_(-1e-6, 1e-6))
    assert found["evenness/text"] == pytest.approx(1, abs=1e-4)
    assert found["zero_share/text"] == pytest.approx(20 * 128 / (30 * 128 + 3600))
    normal = observe({"head.weight": torch.randn(500, 500)}, lambda g: g.mul_(0.1))
    assert normal["evenness/head"] == pytest.approx(2 / np.pi, abs=0.02)


def test_no_gradient_at_all() -> None:
    telemetry = GradientTelemetry()
    telemetry.before(gradients_of([nn.Parameter(torch.randn(3))]))
    assert telemetry.after() == {}
    assert GradientTelemetry().after() == {}


def test_parameters_that_come_and_go_are_followed() -> None:
    telemetry, grads = GradientTelemetry(), small()
    observe(small(), clamp, telemetry)
    del grads["encoders.text.embedding.weight"]
    grads["head.weight"] = torch.randn(100, 100)
    assert observe(grads, Tensor.sign_, telemetry)["norm_after/head"] == pytest.approx(100)


def test_groups_are_the_callers() -> None:
    telemetry = GradientTelemetry(lambda name: "all")
    telemetry.before(as_gradients(small()))
    assert set(telemetry.after()) == {f"{name}/all" for name in NAMES}


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("encoders.audio.net.0.weight", "audio"),
        ("student.encoders.image.weight", "image"),
        ("fusion.gate.weight", "fusion"),
        ("student.head.bias", "head"),
        ("header.bias", "other"),
        ("encoders.weight", "other"),
        ("text.encoders.image.weight", "other"),
        ("3", "other"),
    ],
)
def test_group_of_a_name(name: str, group: str) -> None:
    assert group_of(name) == group


def test_parts_of_split_tensors_are_put_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes hold half of each split tensor; a plain one is whole on both."""
    torch.manual_seed(3)
    whole = {"head.a": torch.randn(40, 30), "head.b": torch.randn(11)}
    halves = [{"head.a": whole["head.a"][:25].clone()}, {"head.a": whole["head.a"][25:].clone()}]
    asked: list[Tensor] = []

    def run(half: dict[str, Tensor], other: Tensor | None) -> dict[str, float]:
        def all_reduce(part: Tensor, op: object, group: object) -> None:
            asked.append(part.clone())
            if other is not None:
                part += other

        monkeypatch.setattr("torch.distributed.all_reduce", all_reduce)
        given = as_gradients(half | {"head.b": whole["head.b"].clone()})
        split = Gradients(given.names, given.parameters, given.local, splits=((object(), (0,)),))
        telemetry = GradientTelemetry()
        telemetry.before(split)
        for grad in split.local:
            clamp(grad)
        return {name: value.item() for name, value in telemetry.after().items()}

    copies = [{"head.a": half["head.a"].clone()} for half in halves]
    run(copies[0], None)
    first = run(halves[1], asked[0])
    assert len(asked) == 2
    assert first == pytest.approx(reference(whole, clamp), rel=1e-5)


def test_empty_tensors_alone_give_numbers() -> None:
    found = observe({"head.weight": torch.randn(0, 3)}, clamp)
    assert found["norm_before/head"] == found["clipped_share/head"] == 0
    assert found["cosine/head"] == 1
    assert np.isfinite(list(found.values())).all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_is_told_the_same_and_never_waited_for() -> None:
    telemetry = GradientTelemetry()
    on_gpu = {name: grad.cuda() for name, grad in large().items()}
    observe(on_gpu, lambda g: g, telemetry)
    gradients = as_gradients(on_gpu, step=1)
    torch.cuda.set_sync_debug_mode("error")
    try:
        telemetry.before(gradients)
        for grad in gradients.local:
            clamp(grad)
        values = telemetry.after()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert {value.device.type for value in values.values()} == {"cuda"}
    found = {name: value.item() for name, value in values.items()}
    assert found == pytest.approx(observe(large(), clamp, step=1), rel=1e-4, abs=1e-5)
