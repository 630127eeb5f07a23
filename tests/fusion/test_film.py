"""FiLM against its definition, written in float64 NumPy."""

from __future__ import annotations

import numpy as np
import torch

from lightning_distill.fusion import FiLMFusion
from tests.fusion.reference import BATCH, COUNTS, HOLES, Array, Mask, run, sample, values
from tests.verification import compared

OUT = 6


def film(feature: Array, gamma: Array, beta: Array) -> Array:
    """Perez et al. (1709.07871), equation 2, of one sample."""
    return gamma * feature + beta


def modulated(w: dict[str, Array], modality: str, x: dict[str, Array]) -> Array:
    """One modality of one sample, whose generator (equation 1) reads those of `x` that are not it."""
    generated = w[f"modulation_bias.{modality}"]
    for other in x:
        if other != modality:
            condition = w[f"condition.{other}.weight"] @ x[other]
            generated = generated + w[f"modulation.{modality}.weight"] @ condition
    projected = w[f"project.{modality}.weight"] @ x[modality] + w[f"project.{modality}.bias"]
    return film(projected, generated[:OUT], generated[OUT:])


def reference(w: dict[str, Array], features: dict[str, Array], present: dict[str, Mask]) -> Array:
    """The sum over what a sample has, one sample at a time."""
    rows = []
    for i in range(BATCH):
        x = {m: features[m][i] for m in features if present[m][i]}
        rows.append(np.sum([modulated(w, m, x) for m in x], axis=0))
    return np.stack(rows)


@COUNTS
@HOLES
def test_film(count: int, holes: bool) -> None:
    widths, features, present = sample(count, holes)
    head = FiLMFusion(widths, output_dim=OUT)
    expected = reference(values(head), features, present)
    compared(type(head), run(head, features, present), expected, rtol=1e-11)


def test_two_modalities_are_film_of_each_by_the_other() -> None:
    widths, features, present = sample(2, holes=False)
    first, second = widths
    head = FiLMFusion(widths, output_dim=OUT)
    w = values(head)

    def by(modality: str, other: str) -> Array:
        generator = w[f"modulation.{modality}.weight"] @ w[f"condition.{other}.weight"]
        generated = features[other] @ generator.T + w[f"modulation_bias.{modality}"]
        projected = features[modality] @ w[f"project.{modality}.weight"].T + w[f"project.{modality}.bias"]
        return film(projected, generated[:, :OUT], generated[:, OUT:])

    expected = by(first, second) + by(second, first)
    compared(type(head), run(head, features, present), expected, rtol=1e-11)


@COUNTS
@HOLES
def test_without_conditions_it_starts_as_a_sum(count: int, holes: bool) -> None:
    """Scale 1 and shift 0 at the start: with generators of zero, x is the sum of what is there."""
    widths, features, present = sample(count, holes)
    head = FiLMFusion(widths, output_dim=OUT).double()
    for layer in head.modulation.values():
        torch.nn.init.zeros_(layer.weight)
    w = {name: p.detach().numpy() for name, p in head.named_parameters()}
    expected = np.zeros((BATCH, OUT))
    for m in widths:
        projected = features[m] @ w[f"project.{m}.weight"].T + w[f"project.{m}.bias"]
        expected += np.where(present[m][:, None], projected, 0)
    compared(type(head), run(head, features, present), expected, rtol=1e-11)


def test_a_sole_modality_has_no_generator() -> None:
    names = {name for name, _ in FiLMFusion({"image": 3}, output_dim=OUT).named_parameters()}
    assert names == {"project.image.weight", "project.image.bias", "modulation_bias.image"}
