"""Automatic balancing, against the papers' formulas in NumPy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import seed_everything
from torch import Tensor, nn

from lightning_distill.balancing import GradNormBalancer, UncertaintyBalancer
from lightning_distill.errors import ConfigError
from lightning_distill.terms import gradient_norms
from tests.builders import Notebook, make_data, make_trainer, same_bits, weights_of
from tests.module.parts import make_module
from tests.shelves import concrete
from tests.verification import compared

NAMES = ("task", "kd", "hint")
BALANCERS = pytest.mark.parametrize("cls", concrete("balancing"))


def terms(*values: float) -> dict[str, Tensor]:
    return {n: torch.tensor(v, dtype=torch.float64) for n, v in zip(NAMES, values, strict=True)}


@BALANCERS
def test_starts_with_equal_factors(cls: Any) -> None:
    balancer = cls(NAMES)
    assert len({float(f) for f in balancer.factors().values()}) == 1
    assert tuple(balancer.factors()) == NAMES


@BALANCERS
def test_a_term_may_be_left_out(cls: Any) -> None:
    """A term of weight 0 is not there."""
    balancer = cls(NAMES).double()
    some = {n: v for n, v in terms(1.0, 2.0, 4.0).items() if n != "kd"}
    assert balancer(some, dict.fromkeys(some, torch.tensor(1.0))).isfinite()


def test_uncertainty_is_the_likelihood_of_the_paper() -> None:
    """Minus the log-likelihood of a normal with variance e^s: L / (2 sigma^2) + log sigma."""
    balancer = UncertaintyBalancer(NAMES).double()
    s, losses = np.array([0.3, -1.2, 2.0]), np.array([1.5, 0.2, 7.0])
    with torch.no_grad():
        balancer.log_variance.copy_(torch.from_numpy(s))
    sigma = np.exp(s / 2)
    expected = np.sum(losses / (2 * sigma**2) + np.log(sigma))
    compared(UncertaintyBalancer, balancer(terms(*losses)), expected, atol=1e-9)


def test_uncertainty_learns_the_size_of_each_term() -> None:
    balancer, losses = UncertaintyBalancer(NAMES).double(), (0.1, 3.0, 20.0)
    optimizer = torch.optim.SGD(balancer.parameters(), lr=0.2)
    for _ in range(2000):
        optimizer.zero_grad()
        balancer(terms(*losses)).backward()
        optimizer.step()
    learned = balancer.log_variance.detach().exp().tolist()
    assert learned == pytest.approx(losses, rel=1e-3)


def grad_norm(steps: list[tuple[Any, Any]], alpha: float, rate: float) -> Any:
    """Algorithm 1 of 1711.02257, the logarithm of each factor going a share of its way to the aim."""
    w = np.ones(3)
    first = np.array(steps[0][0])
    for losses, norms in steps:
        g = w * np.array(norms)
        ratio = np.array(losses) / first
        target = g.mean() * (ratio / ratio.mean()) ** alpha
        w = np.exp(np.log(w) + rate * (np.log(target) - np.log(g)))
        w = 3 * w / w.sum()
    return w


@pytest.mark.parametrize("alpha", [0.0, 1.5])
def test_gradient_norm_is_the_algorithm_of_the_paper(alpha: float) -> None:
    rng = np.random.default_rng(0)
    steps = [(rng.uniform(0.5, 2, 3), rng.uniform(0.5, 2, 3)) for _ in range(7)]
    balancer = GradNormBalancer(NAMES, alpha=alpha, rate=0.1).double()
    for losses, norms in steps:
        total = balancer(terms(*losses), terms(*norms))
    expected = grad_norm(steps, alpha, 0.1)
    compared(GradNormBalancer, balancer.factor, expected, rtol=1e-9)
    compared(GradNormBalancer, total, float(expected @ steps[-1][0]), atol=1e-9)


def test_gradient_norms_become_equal() -> None:
    w = nn.Parameter(torch.ones(4, dtype=torch.float64))
    balancer = GradNormBalancer(NAMES, alpha=0.0).double()
    for _ in range(300):
        losses = {n: k * w.sum() for n, k in zip(NAMES, (1.0, 5.0, 25.0), strict=True)}
        norms = gradient_norms(losses, [w])
        balancer(losses, norms)
    sizes = [float(balancer.factors()[n] * norms[n]) for n in NAMES]
    assert max(sizes) / min(sizes) < 1.001  # 25 without


def test_factors_stay_positive() -> None:
    balancer = GradNormBalancer(NAMES, rate=1.0)
    for norms in ((1.0, 1e4, 1e-3), (1e5, 1.0, 1.0), (0.0, 0.0, 0.0), (1.0, 0.0, 1.0)):
        assert balancer(terms(1.0, 1.0, 1.0), terms(*norms)).isfinite()
        assert (balancer.factor > 0).all()


def test_settings_are_checked() -> None:
    with pytest.raises(ConfigError, match="GradNormBalancer: found alpha -1"):
        GradNormBalancer(NAMES, alpha=-1)


def run(cls: Any, folder: Path, epochs: int, resume: Path | None = None) -> tuple[Any, Notebook]:
    seed_everything(3, verbose=False)
    module, notebook = make_module(balancer=cls), Notebook()
    trainer = make_trainer(folder, max_epochs=epochs, logger=notebook)
    trainer.fit(module, make_data(), ckpt_path=resume, weights_only=True)
    trainer.save_checkpoint(folder / f"{epochs}.ckpt")
    return module, notebook


@BALANCERS
def test_trains_and_goes_on_where_it_was(cls: Any, tmp_path: Path) -> None:
    """What is learned or remembered is in the checkpoint; factors are logged and move."""
    run(cls, tmp_path, 1)
    resumed, _ = run(cls, tmp_path, 3, tmp_path / "1.ckpt")
    whole, notebook = run(cls, tmp_path, 3)
    shares = notebook.series("balance/kd")
    assert len(shares) == 12
    assert len(set(shares)) > 6
    expected = weights_of(whole)
    assert any("balancer" in name for name in expected)
    assert all(same_bits(tensor, expected[name]) for name, tensor in weights_of(resumed).items())


def test_gradients_are_measured_on_the_student() -> None:
    w = nn.Parameter(torch.tensor([3.0, 4.0], dtype=torch.float64))
    norms = gradient_norms({"a": (w**2).sum() / 2, "b": 2 * w[0], "c": torch.zeros(())}, [w])
    assert {n: float(v) for n, v in norms.items()} == pytest.approx({"a": 5.0, "b": 2.0, "c": 0.0})
