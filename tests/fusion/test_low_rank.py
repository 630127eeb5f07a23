"""Low-rank fusion against its definition, and against the tensor fusion that it is, in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lightning_distill.errors import ConfigError
from lightning_distill.fusion import LowRankFusion, TensorFusion
from tests.fusion.reference import BATCH, COUNTS, HOLES, WIDTHS, Array, Mask, run, sample, values
from tests.verification import compared, guards

OUT = 6
RANKS = pytest.mark.parametrize("rank", [1, 4])


def factors(w: dict[str, Array], modality: str, rank: int) -> list[Array]:
    """W_m^r, "1+dim_m out", for each r; the row of the constant comes first."""
    rows = np.concatenate([w[f"factors.{modality}.bias"][:, None], w[f"factors.{modality}.weight"]], axis=1)
    return [rows[r::rank].T for r in range(rank)]


def reference(w: dict[str, Array], features: dict[str, Array], present: dict[str, Mask], rank: int) -> Array:
    """Liu et al. (1806.00064), section 3.2, one sample at a time."""
    rows = []
    for i in range(BATCH):
        x = w["bias"]
        for r in range(rank):
            product = np.ones(OUT)
            for m in features:
                feature = features[m][i] if present[m][i] else np.zeros_like(features[m][i])
                product = product * (np.array([1.0, *feature]) @ factors(w, m, rank)[r])
            x = x + w["rank_weights"][r] * product
        rows.append(x)
    return np.stack(rows)


@COUNTS
@HOLES
@RANKS
def test_low_rank_fusion(count: int, holes: bool, rank: int) -> None:
    widths, features, present = sample(count, holes)
    head = LowRankFusion(widths, output_dim=OUT, rank=rank)
    expected = reference(values(head), features, present, rank)
    compared(type(head), run(head, features, present), expected, rtol=1e-11, atol=1e-12)


@COUNTS
@HOLES
@RANKS
def test_it_is_the_tensor_fusion_of_its_weight_tensor(count: int, holes: bool, rank: int) -> None:
    """W = sum_r w_r W_1^r (x) ... (x) W_M^r, made in full; also where a modality is absent."""
    _, features, present = sample(count, holes)
    features = {m: x[:, :3] for m, x in features.items()}
    widths = dict.fromkeys(features, 3)
    low = LowRankFusion(widths, output_dim=OUT, rank=rank)
    w = values(low)
    weight = np.zeros((OUT, 4**count))
    for r in range(rank):
        for o in range(OUT):
            outer = np.ones(1)
            for m in widths:
                outer = np.kron(outer, factors(w, m, rank)[r][:, o])
            weight[o] += w["rank_weights"][r] * outer
    full = TensorFusion(widths, output_dim=OUT, factor_dim=3).double()
    with torch.no_grad():
        for m in widths:
            full.project[m].weight.copy_(torch.eye(3))
            full.project[m].bias.zero_()
        full.output.weight.copy_(torch.from_numpy(weight))
        full.output.bias.copy_(torch.from_numpy(w["bias"]))
    np.testing.assert_allclose(
        run(low, features, present), run(full, features, present), rtol=1e-12, atol=1e-12
    )


@guards(LowRankFusion, "factors in a plain list, or weights of the ranks that no optimizer has")
def test_everything_that_is_learned_is_a_parameter() -> None:
    """Others have kept the factors in a list, or the weights of the ranks out of the optimizer."""
    head = LowRankFusion(WIDTHS, output_dim=OUT, rank=4)
    sizes = {name: p.numel() for name, p in head.named_parameters()}
    assert sizes.pop("rank_weights") == 4
    assert sizes.pop("bias") == OUT
    assert sum(sizes.values()) == sum(4 * (dim + 1) * OUT for dim in WIDTHS.values())
    assert set(head.state_dict()) == {name for name, _ in head.named_parameters()}


def test_it_starts_xavier_normal() -> None:
    """The spread of each factor, its constant row with it, by its own two widths, for any rank."""
    head = LowRankFusion({"image": 99, "text": 19}, output_dim=60, rank=50)
    for modality, dim in head.feature_dims.items():
        layer = head.factors[modality]
        expected = np.sqrt(2 / (1 + dim + 60))
        # Standard error of a standard deviation of n normal numbers: 1 / sqrt(2 n); five of them.
        for parameter in layer.parameters():
            within = 5 / np.sqrt(2 * parameter.numel())
            np.testing.assert_allclose(parameter.std().item(), expected, rtol=within)
    assert not head.bias.any()
    assert head.rank_weights.unique().numel() == 50


@pytest.mark.parametrize("rank", [0, -1])
def test_no_rank_is_refused(rank: int) -> None:
    with pytest.raises(ConfigError, match=r"LowRankFusion\.rank"):
        LowRankFusion(WIDTHS, rank=rank)
