"""Rules by modality, and by patterns of names."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_distill.clipping import (
    ClipChain,
    ClipReport,
    ClipRule,
    NormClip,
    PerModality,
    PerPattern,
    ValueClip,
)
from lightning_distill.errors import ConfigError
from lightning_distill.gradients import Gradients
from tests.builders import same_bits

NAMES = (
    "encoders.image.conv.weight",
    "encoders.image.conv.bias",
    "encoders.image_2.conv.weight",
    "encoders.text.table",
    "fusion.bias",
    "head.weight",
    "head.bias",
)


class Skip(ClipRule):
    def edit(self, gradients: Gradients) -> ClipReport:
        assert len(gradients)
        return ClipReport({}, torch.stack([grad.isnan().any() for grad in gradients.local]).any())


def model(without: tuple[str, ...] = ()) -> dict[str, nn.Parameter]:
    made = {name: nn.Parameter(torch.zeros(3)) for name in NAMES}
    for name, parameter in made.items():
        parameter.grad = None if name in without else 10 * torch.randn(3)
    return made


def copy(given: dict[str, nn.Parameter]) -> dict[str, nn.Parameter]:
    made = {name: nn.Parameter(p.detach().clone()) for name, p in given.items()}
    for name, parameter in given.items():
        made[name].grad = None if parameter.grad is None else parameter.grad.clone()
    return made


def assert_clipped(
    found: dict[str, nn.Parameter], before: dict[str, nn.Parameter], parts: dict[str, Any]
) -> None:
    """`parts`: rule -> names clipped together by it; the others are as they were."""
    expected = copy(before)
    for rule, names in parts.values():
        rule.clip({name: expected[name] for name in names})
    for name, parameter in found.items():
        mine, theirs = parameter.grad, expected[name].grad
        assert (mine is None) == (theirs is None)
        if mine is not None and theirs is not None:
            assert same_bits(mine, theirs), name


IMAGE, SECOND, TEXT, OTHERS = NAMES[:2], NAMES[2:3], NAMES[3:4], NAMES[4:]


@pytest.mark.parametrize("rest", [None, NormClip(3.0)])
def test_each_modality_under_its_rule(rest: ClipRule | None) -> None:
    """ "image_2" is none of "image"."""
    given = model()
    before = copy(given)
    report = PerModality({"image": NormClip(1.0), "text": ValueClip(0.5)}, rest).clip(given)
    parts = {"image": (NormClip(1.0), IMAGE), "text": (ValueClip(0.5), TEXT)}
    if rest is not None:
        parts["rest"] = NormClip(3.0), (*SECOND, *OTHERS)
    assert_clipped(given, before, parts)
    expected = {"image/norm", "image/coefficient"} | ({"rest/norm", "rest/coefficient"} if rest else set())
    assert set(report.values) == expected
    flat = torch.cat([before[name].grad for name in IMAGE])  # type: ignore[misc]
    assert report.values["image/norm"].item() == pytest.approx(flat.norm().item(), rel=1e-5)


@pytest.mark.parametrize("rest", [None, ValueClip(4.0)])
def test_the_first_pattern_that_matches_has_it(rest: ClipRule | None) -> None:
    given = model()
    before = copy(given)
    rules: dict[str, ClipRule] = {
        "head.*": NormClip(1.0),
        "*.bias": NormClip(0.5),
        "encoders.image*": NormClip(2.0),
    }
    report = PerPattern(rules, rest).clip(given)
    parts: dict[str, Any] = {
        "head.*": (NormClip(1.0), ("head.weight", "head.bias")),
        "*.bias": (NormClip(0.5), ("encoders.image.conv.bias", "fusion.bias")),
        "encoders.image*": (NormClip(2.0), ("encoders.image.conv.weight", *SECOND)),
    }
    if rest is not None:
        parts["rest"] = ValueClip(4.0), TEXT
    assert_clipped(given, before, parts)
    assert set(report.values) == {
        f"{pattern}/{name}" for pattern in rules for name in ("norm", "coefficient")
    }


@pytest.mark.parametrize(
    "rule",
    [PerModality({"text": NormClip(1.0)}, NormClip(1.0)), PerPattern({"encoders.text.*": NormClip(1.0)})],
)
def test_what_has_no_gradient_now_is_passed_over(rule: ClipRule) -> None:
    """Already in the first step, such as a modality absent from its batch."""
    report = rule.clip(model(without=TEXT))
    assert not [name for name in report.values if "text" in name]
    report = rule.clip(model())
    assert [name for name in report.values if "text" in name]
    rule.clip({"head.weight": model()["head.weight"]})


def test_a_modality_that_is_not_there_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"rules\['imgae'\].*did you mean 'image'\?.*\['image', 'image_2', 'text'\]"
    ):
        PerModality({"text": NormClip(1.0), "imgae": NormClip(1.0)}).clip(model())


def test_a_pattern_that_matches_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"rules\['heads.bias'\].*did you mean 'head.bias'\?"):
        PerPattern({"*": NormClip(1.0), "heads.bias": NormClip(1.0)}).clip(model())


@pytest.mark.parametrize("cls", [PerModality, PerPattern])
def test_no_rule_at_all_is_refused(cls: Any) -> None:
    with pytest.raises(ConfigError, match=rf"{cls.__name__}\.rules"):
        cls({})


@pytest.mark.parametrize("bad", list(NAMES))
def test_one_part_that_skips_skips_the_step(bad: str) -> None:
    rules: list[ClipRule] = [
        PerModality({"image": ClipChain([Skip()]), "text": Skip(), "image_2": ValueClip(1.0)}, Skip()),
        PerPattern({"head.*": Skip(), "*.bias": Skip(), "encoders.image_2.*": ValueClip(1.0)}, Skip()),
    ]
    for rule in rules:
        given = model()
        assert given[bad].grad is not None
        report = rule.clip(given)
        assert report.skip is not None
        assert not report.skip
        given[bad].grad.fill_(float("nan"))
        report = rule.clip(given)
        assert report.skip is not None
        assert bool(report.skip) is ("image_2" not in bad)  # whose rule never skips


class Mean(ClipRule):
    """Remembers the mean of the first gradient."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))

    def edit(self, gradients: Gradients) -> ClipReport:
        self.mean.copy_(gradients.local[0].mean())
        return ClipReport()


def test_history_finds_its_part_in_whatever_order_the_config_is() -> None:
    for one, other in [
        (PerModality({"image": Mean(), "text": Mean()}), PerModality({"text": Mean(), "image": Mean()})),
        (PerPattern({"*.bias": Mean(), "head.*": Mean()}), PerPattern({"head.*": Mean(), "*.bias": Mean()})),
    ]:
        assert isinstance(one.rules, nn.ModuleDict)
        assert isinstance(other.rules, nn.ModuleDict)
        one.clip(model())
        other.load_state_dict(one.state_dict())
        for name, rule in one.rules.items():
            assert rule.mean == other.rules[name].mean != 0


def test_patterns_inside_a_modality() -> None:
    given = model()
    before = copy(given)
    PerModality({"image": PerPattern({"*.bias": ValueClip(0.1)})}).clip(given)
    assert_clipped(given, before, {"bias": (ValueClip(0.1), ["encoders.image.conv.bias"])})
