"""Deep sets against theorem 2 of the paper, in float64 NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from lightning_distill.errors import ConfigError
from lightning_distill.fusion import DeepSetsFusion
from tests.fusion.reference import BATCH, COUNTS, HOLES, WIDTHS, Array, Mask, gelu, run, sample, values
from tests.verification import compared


def network(w: dict[str, Array], name: str, t: Array) -> Array:
    """One hidden layer with GELU."""
    u = w[f"{name}.0.weight"] @ t + w[f"{name}.0.bias"]
    return np.asarray(w[f"{name}.2.weight"] @ gelu(u) + w[f"{name}.2.bias"])


def deep_sets(w: dict[str, Array], features: dict[str, Array], present: dict[str, Mask]) -> Array:
    """Zaheer et al. (1703.06114), theorem 2: rho of the sum of phi over the elements of the set."""
    rows = []
    for i in range(BATCH):
        elements = [
            w[f"project.{m}.weight"] @ features[m][i] + w[f"project.{m}.bias"]
            for m in features
            if present[m][i]
        ]
        rows.append(network(w, "rho", np.sum([network(w, "phi", t) for t in elements], axis=0)))
    return np.stack(rows)


@COUNTS
@HOLES
def test_deep_sets(count: int, holes: bool) -> None:
    widths, features, present = sample(count, holes)
    head = DeepSetsFusion(widths, output_dim=6, hidden_dim=5)
    expected = deep_sets(values(head), features, present)
    compared(type(head), run(head, features, present), expected, rtol=1e-10, atol=1e-12)


@HOLES
def test_elements_of_a_set_have_no_order(holes: bool) -> None:
    """Two modalities that swap map, embedding and input leave x as it was; half of it does not."""
    _, features, present = sample(3, holes)
    features["audio"] = features["audio"][:, : features["text"].shape[1]]
    widths = {m: x.shape[1] for m, x in features.items()}
    head, swapped = DeepSetsFusion(widths, 6, 5), DeepSetsFusion(widths, 6, 5)
    values(head)
    other = {"audio": "text", "text": "audio", "image": "image"}
    moved, there = ({m: given[other[m]] for m in widths} for given in (features, present))
    swapped.load_state_dict(head.state_dict())
    x = run(head, features, present)
    assert not np.allclose(run(swapped, moved, there), x)
    maps = {m: head.project[m].state_dict() for m in widths}
    for modality in widths:
        swapped.project[modality].load_state_dict(maps[other[modality]])
    np.testing.assert_allclose(run(swapped, moved, there), x, rtol=1e-10, atol=1e-12)
    assert not np.allclose(run(swapped, features, present), x)


def test_the_embedding_tells_modalities_apart() -> None:
    """Of features that are all zero, the embeddings are all that is left."""
    widths, features, everyone = sample(2, holes=False)
    head = DeepSetsFusion(widths, output_dim=6, hidden_dim=5)
    values(head)
    zeros = {m: np.zeros_like(x) for m, x in features.items()}
    first, second = (run(head, zeros, {m: p & (m == one) for m, p in everyone.items()}) for one in widths)
    assert not np.allclose(first, second)


def test_no_width_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"DeepSetsFusion\.hidden_dim: found 0"):
        DeepSetsFusion(WIDTHS, hidden_dim=0)
