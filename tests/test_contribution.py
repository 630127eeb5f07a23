"""What modalities contribute, against a plain loop over samples and orders."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from lightning_distill.contribution import Contributions, contributions
from lightning_distill.data import MultimodalDataModule
from lightning_distill.errors import ConfigError
from lightning_distill.fusion import AttentionFusion, ConcatFusion, GatedFusion
from lightning_distill.model import MultimodalModel
from lightning_distill.structures import UNLABELLED
from lightning_distill.tasks import Classification, Multilabel, Regression
from tests.builders import (
    DIMS,
    TokenEncoder,
    VectorEncoder,
    VectorProcessor,
    VectorSource,
    make_data,
    make_model,
    make_trainer,
    weights_of,
)
from tests.metrics_reference import probabilities

Array = NDArray[np.float64]

WIDTHS = {**DIMS, "c": 4}
FIRST = 28
"""First row that is evaluated."""
MESSY: dict[str, Any] = {
    "val": 37,
    "unlabelled": [30, 41, 42, 50],
    "absent": {"a": [29, 33, 41, 60, 62], "b": [31, 33, 46, 47, 62]},
}
"""Rows 33 and 62 have neither a nor b; row 62 has no c either."""


class ThreeSource(VectorSource):
    """A third modality, of noise; some rows lack it."""

    def __init__(self, target: NDArray[Any] | None = None, **options: Any) -> None:
        super().__init__(**options)
        table = self._table
        rows = len(table.sample_id)
        self.vectors["c"] = np.random.default_rng(8).normal(size=(rows, WIDTHS["c"]))
        there = ~np.isin(np.arange(rows), [35, 46, 62])
        target = table.target if target is None else target
        self._table = replace(table, present={**table.present, "c": there}, target=target)


def data_of_three(source: VectorSource) -> MultimodalDataModule:
    processors: Any = {m: VectorProcessor(dim) for m, dim in WIDTHS.items()}
    return MultimodalDataModule(source, processors, 8, 0)


def model_of(modalities: Sequence[str], fusion: Any, classes: int = 3) -> Any:
    """Untyped, so that its parts can be looked into."""
    encoder: Any = TokenEncoder if getattr(fusion, "reads_tokens", False) else VectorEncoder
    return MultimodalModel({m: encoder(WIDTHS[m]) for m in modalities}, classes, fusion)


def present_in(source: VectorSource, row: int, modalities: Sequence[str]) -> tuple[str, ...]:
    return tuple(m for m in modalities if source.samples.present[m][row])


def answer(model: MultimodalModel, source: VectorSource, row: int, subset: tuple[str, ...]) -> Array:
    """Logits of one sample by the whole model in eval mode, told that it has only these modalities."""
    one: Any = {
        "inputs": {m: torch.from_numpy(source.vectors[m][row : row + 1]).float() for m in model.modalities},
        "present": {m: torch.tensor([m in subset]) for m in model.modalities},
    }
    with torch.no_grad():
        return np.asarray(model.eval()(one).logits[0].double().numpy())


def class_scores(logits: Array, target: Any) -> dict[str, float]:
    p = probabilities(logits[None])[0]
    return {"log_likelihood": float(np.log(p[target])), "accuracy": float(logits.argmax() == target)}


def number_scores(outputs: Array, target: Any) -> dict[str, float]:
    return {"minus_squared_error": -float(np.nanmean((outputs - target) ** 2))}


def plain_loop(
    model: MultimodalModel, source: VectorSource, score: Any, guess: Any
) -> tuple[list[int], dict[str, dict[str, list[float]]]]:
    """Rows, and name -> modality -> phi of each row: the mean change on arrival over all orders."""
    target = source.samples.target
    known = np.isfinite(target).any(axis=1) if target.ndim == 2 else target != UNLABELLED
    rows = [r for r in range(FIRST, len(target)) if known[r] and present_in(source, r, model.modalities)]
    constant, orders = guess(target[rows]), list(permutations(model.modalities))
    found: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        there = present_in(source, row, model.modalities)
        worth: dict[tuple[str, ...], dict[str, float]] = {(): score(constant, target[row])}
        totals: defaultdict[tuple[str, str], float] = defaultdict(float)
        for order in orders:
            before: tuple[str, ...] = ()
            for m in order:
                after = tuple(sorted({*before, m} & set(there)))
                if after not in worth:
                    worth[after] = score(answer(model, source, row, after), target[row])
                for name in worth[()]:
                    totals[name, m] += worth[after][name] - worth[before][name]
                before = after
        for (name, m), total in totals.items():
            found.setdefault(name, {}).setdefault(m, []).append(total / len(orders))
    return rows, found


def frequencies(target: NDArray[np.int64]) -> Array:
    return np.asarray(np.log(np.bincount(target, minlength=3) / len(target)))


def agrees(found: Contributions, rows: list[int], expected: dict[str, dict[str, list[float]]]) -> None:
    """Per sample, mean and standard error."""
    assert found.samples == len(rows)
    assert found.sample_id.tolist() == [5000 + row for row in rows]
    assert found.values.keys() == found.scores.keys() == expected.keys()
    for name, by_modality in expected.items():
        score = found.scores[name]
        for m, phi in by_modality.items():
            np.testing.assert_allclose(found.values[name][m].numpy(), phi, rtol=1e-4, atol=2e-6)
            assert score.means[m] == pytest.approx(np.mean(phi), rel=1e-4, abs=1e-6)
            assert score.errors[m] == pytest.approx(np.std(phi, ddof=1) / math.sqrt(len(phi)), rel=1e-4)
        assert sum(score.means.values()) == pytest.approx(score.everything - score.without_looking)


@pytest.mark.parametrize("modalities", [("a", "b", "c"), ("b", "a"), ("b",)])
@pytest.mark.parametrize("fusion", [ConcatFusion, GatedFusion, AttentionFusion])
def test_equals_a_plain_loop_over_samples_and_orders(
    tmp_path: Path, fusion: Any, modalities: tuple[str, ...]
) -> None:
    source, model = ThreeSource(**MESSY), model_of(modalities, fusion)
    expected = plain_loop(model, source, class_scores, frequencies)
    assert len(expected[0]) == {3: 32, 2: 31, 1: 28}[len(modalities)]
    found = contributions(model, data_of_three(source), Classification(), "val", make_trainer(tmp_path))
    assert found.modalities == modalities
    agrees(found, *expected)


def test_numbers_of_which_some_are_unknown(tmp_path: Path) -> None:
    target = np.random.default_rng(1).normal(size=(65, 2)).astype(np.float32)
    target[35:50, 0] = target[45:55, 1] = np.nan
    source, model = ThreeSource(target, **MESSY), model_of("abc", ConcatFusion, 2)
    source.classes = ("height", "weight")

    def means(known: Any) -> Any:
        return np.nanmean(known.astype(np.float64), axis=0)

    expected = plain_loop(model, source, number_scores, means)
    found = contributions(model, data_of_three(source), Regression(), "val", make_trainer(tmp_path))
    agrees(found, *expected)


def test_labels_get_their_scores(tmp_path: Path) -> None:
    target = np.random.default_rng(2).integers(-1, 2, size=(65, 3)).astype(np.int8)
    source, model = ThreeSource(target, **MESSY), model_of("abc", ConcatFusion)
    found = contributions(model, data_of_three(source), Multilabel(), "val", make_trainer(tmp_path))
    assert list(found.scores) == ["log_likelihood", "accuracy"]
    for score in found.scores.values():
        assert sum(score.means.values()) == pytest.approx(score.everything - score.without_looking)


def test_what_a_sample_lacks_adds_exactly_nothing(tmp_path: Path) -> None:
    source = ThreeSource(**MESSY)
    found = contributions(
        model_of("abc", GatedFusion), data_of_three(source), Classification(), "val", make_trainer(tmp_path)
    )
    for m in "abc":
        there = torch.from_numpy(source.samples.present[m])[found.sample_id - 5000]
        phi = found.values["log_likelihood"][m]
        assert bool((phi[~there] == 0).all())
        assert bool((phi[there] != 0).all())


@pytest.mark.parametrize("modalities", ["abc", "ab", "a"])
def test_encoders_run_once_a_batch(tmp_path: Path, modalities: str) -> None:
    model, calls = model_of(modalities, ConcatFusion), Counter[str]()
    for name, module in (*model.encoders.items(), ("fusion", model.fusion)):
        module.register_forward_hook(lambda *_, name=name: calls.update([name]))
    contributions(model, data_of_three(ThreeSource(val=37)), Classification(), "val", make_trainer(tmp_path))
    batches = math.ceil(37 / 8)
    assert calls == {**dict.fromkeys(modalities, batches), "fusion": batches * (2 ** len(modalities) - 1)}


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_as_it_was(tmp_path: Path, training: bool) -> None:
    model = make_model(modality_dropout=0.5).train(training)
    before = weights_of(model)
    contributions(model, make_data(), Classification(), "val", make_trainer(tmp_path))
    assert all(torch.equal(before[name], tensor) for name, tensor in weights_of(model).items())
    assert all(module.training is training for module in model.modules())


def test_without_a_trainer_and_of_one_sample(capfd: pytest.CaptureFixture[str]) -> None:
    source = VectorSource(unlabelled=range(28, 40))
    found = contributions(make_model(), make_data(source), Classification(), "val")
    assert found.samples == 1
    assert found.scores["accuracy"].without_looking == 1
    assert found.scores["log_likelihood"].without_looking == pytest.approx(0, abs=1e-12)
    assert all(math.isnan(e) for score in found.scores.values() for e in score.errors.values())
    assert "accuracy" not in capfd.readouterr().out


def refused(match: str, model: MultimodalModel | None = None, data: Any = None, **options: Any) -> None:
    given: dict[str, Any] = {"task": Classification(), **options}
    with pytest.raises(ConfigError, match=match):
        contributions(model or make_model(), data or make_data(), **given)


def test_what_does_not_fit() -> None:
    refused(r"contributions, split.*'tset'.*did you mean 'test'", split="tset")
    refused("Regression", task=Regression())
    refused("4 of them", make_model(("a",), classes=4))
    model = make_model()
    model.classes = ("cat", "bee", "ant")
    refused(r"ant, bee, cat; expected cat, bee, ant", model)
    data = make_data()
    del data.processors["b"]
    refused("a processor for 'b'", data=data)
    refused("no sample with a label", data=make_data(VectorSource(unlabelled=range(41))), split="val")


def test_nine_modalities_are_too_many(tmp_path: Path) -> None:
    names = [f"m{i}" for i in range(9)]
    model = MultimodalModel({m: VectorEncoder(6) for m in names}, 3)
    data = make_data()
    data.processors.update({m: VectorProcessor(6) for m in names})
    refused(r"found 9 modalities; expected 8 or fewer", model, data, trainer=make_trainer(tmp_path))


def test_several_processes_are_refused(tmp_path: Path) -> None:
    refused("found 2 processes; expected one", trainer=make_trainer(tmp_path, devices=2))
