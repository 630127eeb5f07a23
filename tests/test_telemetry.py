"""What is told of a clip rule against sums over every entry, in float64 NumPy."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lightning_distill import telemetry as telemetry_module
from lightning_distill.gradients import Gradients, gradients_of
from lightning_distill.telemetry import GradientTelemetry, group_of

Edit = Callable[[Tensor], object]
NAMES = ("norm_before", "norm_after", "clipped_share", "zero_share", "cosine", "evenness")


def clamp(grad: Tensor) -> Tensor:
    return grad.clamp_(-0.7, 0.7)


def observe(
    grads: dict[str, Tensor], edit: Edit, telemetry: GradientTelemetry | None = None, step: int = 0
) -> dict[str, float]:
    gradients = as_gradients(grads, step)
    telemetry = telemetry or GradientTelemetry()
    telemetry.before(gradients)
    for grad in gradients.local:
        edit(grad)
    return {name: value.item() for name, value in telemetry.after().items()}


def as_gradients(grads: dict[str, Tensor], step: int = 0) -> Gradients:
    weights = tuple(nn.Parameter(torch.empty_like(g)) for g in grads.values())
    return Gradients(tuple(grads), weights, tuple(grads.values()), step)


def reference(grads: dict[str, Tensor], edit: Edit) -> dict[str, float]:
    """The definitions, over every entry."""
    sides: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    for name, grad in grads.items():
        after = grad.clone()
        edit(after)
        pair = (grad.double().numpy().reshape(-1), after.double().numpy().reshape(-1))
        sides.setdefault(group_of(name), []).append(pair)
    found = {}
    for group, pairs in sides.items():
        g, h = (np.concatenate(side) for side in zip(*pairs, strict=True))
        found[f"norm_before/{group}"] = np.sqrt((g**2).sum())
        found[f"norm_after/{group}"] = np.sqrt((h**2).sum())
        found[f"clipped_share/{group}"] = np.mean(g != h)
        found[f"zero_share/{group}"] = np.mean(g == 0)
        found[f"cosine/{group}"] = (g @ h) / np.sqrt((g @ g) * (h @ h))
        even = sum(np.abs(b).sum() ** 2 / max((a != 0).sum(), 1) for a, b in pairs)
        found[f"evenness/{group}"] = even / (h @ h)
    return {name: float(value) for name, value in found.items()}


def small() -> dict[str, Tensor]:
    torch.manual_seed(0)
    grads = {
        "encoders.image.conv.weight": torch.randn(4, 3, 5, 5),
        "encoders.image.conv.bias": torch.randn(4) * 3,
        "encoders.text.embedding.weight": torch.randn(30, 128),
        "fusion.scale": torch.tensor(2.0),
        "head.weight": torch.randn(7, 19),
        "losses.hint.adaptor.weight": torch.randn(64, 64),
    }
    grads["encoders.text.embedding.weight"][10:] = 0
    return grads


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


def large(seed: int = 0) -> dict[str, Tensor]:
    """Entries have heavy tails, and rows differ in size by a factor of about 1.6 either way."""
    torch.manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        rows = torch.randn(shape[0], *[1] * (len(shape) - 1)).mul(0.5).exp()
        return rows * torch.randn(shape) * torch.randn(shape).mul(0.5).exp()

    return {
        "encoders.image.a.weight": draw(256, 128, 3, 3),
        "encoders.image.a.bias": draw(256),
        "encoders.text.b.weight": draw(1536, 384),
        "encoders.text.c.weight": draw(384, 384),
        "head.weight": draw(40, 512),
    }


def test_large_tensors_are_told_within_a_few_percent() -> None:
    telemetry, errors = GradientTelemetry(), []
    for step in range(20):
        expected = reference(large(step), clamp)
        found = observe(large(step), clamp, telemetry, step)
        errors.append([found[name] / value - 1 if value else found[name] for name, value in expected.items()])
    spread = dict(zip(expected, np.sqrt(np.mean(np.square(errors), axis=0)), strict=True))
    assert all(error < 0.1 for error in spread.values()), spread
    assert abs(np.mean(errors)) < 0.01


def test_over_the_steps_every_part_of_a_large_tensor_counts_alike() -> None:
    n = 128 * 128 * 40
    profile = torch.linspace(0, 2, n).square().view(-1, 128)
    mean = np.mean(
        [
            observe({"w": profile.clone()}, lambda g: g, step=step)["norm_before/other"] ** 2
            for step in range(233)
        ]
    )
    assert mean == pytest.approx(profile.double().square().sum().item(), rel=2e-3)


def test_a_pattern_that_fixed_blocks_would_miss_is_seen_over_the_steps() -> None:
    spiky = torch.zeros(4096, 256)
    spiky[5::97] = 1.0
    telemetry = GradientTelemetry()
    shares = [
        1 - observe({"w": spiky.clone()}, lambda g: g.mul_(1), telemetry, step)["zero_share/other"]
        for step in range(400)
    ]
    assert np.mean(shares) == pytest.approx((spiky != 0).float().mean().item(), rel=0.05)


def test_the_same_step_gives_the_same_sample() -> None:
    assert observe(large(), clamp, step=3) == observe(large(), clamp, step=3)
    assert observe(large(), clamp, step=3) != observe(large(), clamp, step=4)


def layouts() -> dict[str, Tensor]:
    """The same values lie otherwise in memory."""
    torch.manual_seed(1)
    base = torch.randn(64, 32, 5, 5)
    return {
        "encoders.image.last": base.contiguous(memory_format=torch.channels_last),
        "encoders.image.turned": torch.randn(70, 90).t(),
        "encoders.image.gaps": torch.randn(80, 120)[:, ::2],
        "encoders.image.few": torch.randn(50, 4)[:, 1],
        "encoders.image.within": torch.randn(9000)[77:8000],
        "encoders.image.none": torch.randn(0, 3),
        "encoders.image.one": torch.randn(3)[2],
    }


def test_any_layout_is_read_from_where_it_lies() -> None:
    grads = layouts()
    expected = reference(grads, clamp)
    found = observe(grads, clamp)
    assert found == pytest.approx(expected, rel=0.05)


def test_small_tensors_of_any_layout_are_told_exactly() -> None:
    grads = {name: grad for name, grad in layouts().items() if 0 < grad.numel() <= 4096}
    grads["encoders.image.turned"] = torch.randn(30, 20).t()
    grads["encoders.image.wide"] = torch.randn(5, 7, 6).permute(2, 0, 1)[1:]
    expected = reference(grads, Tensor.sign_)
    assert observe(grads, Tensor.sign_) == pytest.approx(expected, rel=1e-6)


def test_a_transposed_weight_is_sampled_as_the_weight_itself() -> None:
    torch.manual_seed(4)
    weight = torch.randn(300, 200)
    assert observe({"w": weight.clone()}, clamp) == observe({"w": weight.clone().t()}, clamp)


def test_a_part_of_a_larger_memory_is_read_alone() -> None:
    """As gradients that are views of a bucket."""
    bucket = torch.zeros(3, 20_000)
    bucket[1] = 1.0
    found = observe({"a": bucket[1]}, lambda g: g.mul_(0.5))
    assert found["norm_before/other"] == pytest.approx(20_000**0.5)
    assert found["norm_after/other"] == pytest.approx(0.5 * 20_000**0.5)


def test_a_gradient_of_gaps_is_seen_after_it_was_edited() -> None:
    grads = {"a": torch.ones(80, 120)[:, ::2]}
    found = observe(grads, lambda g: g.mul_(0.5))
    assert found["norm_after/other"] == pytest.approx(0.5 * found["norm_before/other"])
    assert found["clipped_share/other"] == 1


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


def test_gradients_are_not_kept_alive() -> None:
    grads = large() | layouts()
    kept = [weakref.ref(grad) for grad in grads.values()]
    telemetry = GradientTelemetry()
    observe(grads, clamp, telemetry)
    del grads
    gc.collect()
    assert not any(ref() is not None for ref in kept)


def test_the_sample_leaves_gradients_as_they_are() -> None:
    grads = large() | layouts()
    copies = {name: grad.clone() for name, grad in grads.items()}
    observe(grads, lambda g: g)
    assert all(torch.equal(grads[name], copies[name]) for name in grads)


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
    assert telemetry_module.group_of(name) == group


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
