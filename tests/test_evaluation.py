"""Subsets of modalities against a plain loop over the samples, with the masks set by hand."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lightning_distill.errors import ConfigError
from lightning_distill.evaluation import SubsetResult, evaluate_subsets, subsets
from lightning_distill.fusion import AttentionFusion, ConcatFusion, GatedFusion
from lightning_distill.model import MultimodalModel
from lightning_distill.structures import UNLABELLED
from lightning_distill.tasks import Classification, Regression
from tests.builders import CLASSES, DIMS, VectorSource, make_data, make_model, make_trainer, weights_of
from tests.evaluation_ranks import evaluate_on_ranks
from tests.metrics_reference import accuracy, calibration_error, macro_f1
from tests.processes import needs_fork, run_apart

MESSY: dict[str, Any] = {
    "val": 37,
    "unlabelled": [30, 41, 42, 50],
    "absent": {"a": [29, 33, 41, 60], "b": [31, 36, 45, 46, 47, 48, 64]},
}
"""Rows 28 to 64 are evaluated."""


class Counting(VectorSource):
    """Counts how often each cell is loaded; its second split can be another one."""

    def __init__(self, split: str = "val", **options: Any) -> None:
        super().__init__(**options)
        self.loads: Counter[tuple[str, int]] = Counter()
        if split == "test":
            self._table = replace(self._table, split=2 * self._table.split)

    def load(self, modality: str, row: int) -> Any:
        self.loads[modality, row] += 1
        return super().load(modality, row)


def answer(model: MultimodalModel, source: VectorSource, row: int, subset: tuple[str, ...]) -> Any:
    """Logits of one sample, in eval mode, told that it has only these modalities."""
    one: Any = {
        "inputs": {m: torch.from_numpy(source.vectors[m][row : row + 1]).float() for m in DIMS},
        "present": {m: torch.tensor([m in subset]) for m in DIMS},
    }
    with torch.no_grad():
        return model.eval()(one).logits[0].double().numpy()


def by_hand(model: MultimodalModel, source: VectorSource, subset: tuple[str, ...]) -> SubsetResult:
    """One sample at a time, in one process."""
    table, logits, targets = source.samples, [], []
    for row in np.flatnonzero(table.split > 0):
        if table.target[row] == UNLABELLED or not all(table.present[m][row] for m in subset):
            continue
        logits.append(answer(model, source, row, subset))
        targets.append(table.target[row])
    answers, labels = np.array(logits), np.array(targets)
    metrics = {
        "accuracy": accuracy(answers, labels),
        "macro_f1": macro_f1(answers, labels),
        "calibration_error": calibration_error(answers, labels),
    }
    return SubsetResult(subset, len(labels), metrics)


@pytest.mark.parametrize("split", ["val", "test"])
@pytest.mark.parametrize("fusion", [ConcatFusion, GatedFusion, AttentionFusion])
def test_every_subset_is_that_of_a_plain_loop(tmp_path: Path, fusion: Any, split: str) -> None:
    source, model = Counting(split, **MESSY), make_model(fusion=fusion)
    expected = [by_hand(model, source, subset) for subset in (("a", "b"), ("a",), ("b",))]
    found = evaluate_subsets(model, make_data(source), Classification(), split, make_trainer(tmp_path))
    assert [r.modalities for r in found] == [r.modalities for r in expected]
    assert [r.samples for r in found] == [r.samples for r in expected] == [23, 30, 26]
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.metrics == pytest.approx(theirs.metrics, rel=1e-5)
    assert len({r.metrics["calibration_error"] for r in found}) == 3


def test_each_batch_is_loaded_once(tmp_path: Path) -> None:
    source = Counting(**MESSY)
    evaluate_subsets(make_model(), make_data(source), Classification(), "val", make_trainer(tmp_path))
    present = source.samples.present
    there = {(m, row) for m in DIMS for row in range(28, 65) if present[m][row]}
    assert source.loads == Counter(there)


def test_order_of_three() -> None:
    image, text, audio = modalities = ("image", "text", "audio")
    pairs = [(image, text), (image, audio), (text, audio)]
    assert subsets(modalities) == [modalities, *pairs, (image,), (text,), (audio,)]


def test_a_student_of_one_modality_reads_data_of_two(tmp_path: Path) -> None:
    source, model = VectorSource(**MESSY), make_model(("b",))
    (only,) = evaluate_subsets(model, make_data(source), Classification(), "val", make_trainer(tmp_path))
    assert only.modalities == ("b",)
    assert only.samples == 26
    assert only.metrics == pytest.approx(by_hand(model, source, ("b",)).metrics, rel=1e-5)


def test_a_subset_that_no_sample_has_is_said(tmp_path: Path) -> None:
    source = VectorSource(absent={"a": range(28, 34), "b": range(34, 41)})
    both, a, b = evaluate_subsets(
        make_model(), make_data(source), Classification(), "val", make_trainer(tmp_path)
    )
    assert both == SubsetResult(("a", "b"), 0, {})
    assert (a.samples, b.samples) == (7, 6)
    assert a.metrics.keys() == b.metrics.keys() == {"accuracy", "macro_f1", "calibration_error"}


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_as_it_was(tmp_path: Path, training: bool) -> None:
    model = make_model(modality_dropout=0.5).train(training)
    before = weights_of(model)
    evaluate_subsets(model, make_data(), Classification(), "val", make_trainer(tmp_path))
    assert all(torch.equal(before[name], tensor) for name, tensor in weights_of(model).items())
    assert all(module.training is training for module in model.modules())


def test_without_a_trainer(capfd: pytest.CaptureFixture[str]) -> None:
    source, model = VectorSource(**MESSY), make_model()
    found = evaluate_subsets(model, make_data(source), Classification(), "val")
    assert found[0].metrics == pytest.approx(by_hand(model.cpu(), source, ("a", "b")).metrics, rel=1e-4)
    assert "accuracy" not in capfd.readouterr().out


def test_what_does_not_fit() -> None:
    data, task = make_data(), Classification()
    with pytest.raises(ConfigError, match=r"'tset'.*val or test; did you mean 'test'"):
        evaluate_subsets(make_model(), data, task, "tset")
    with pytest.raises(ConfigError, match="Regression"):
        evaluate_subsets(make_model(), data, Regression())
    del data.processors["b"]
    with pytest.raises(ConfigError, match="a processor for 'b'"):
        evaluate_subsets(make_model(), data, task)
    with pytest.raises(ConfigError, match="4 of them"):
        evaluate_subsets(make_model(("a",), classes=4), data, task)
    model = make_model(("a",))
    model.classes = tuple(reversed(CLASSES))
    with pytest.raises(ConfigError, match=r"ant, bee, cat; expected cat, bee, ant"):
        evaluate_subsets(model, data, task)


def test_numbers_of_which_some_are_unknown(tmp_path: Path) -> None:
    source, model = VectorSource(**MESSY), make_model(classes=2)
    source.classes = ("height", "weight")
    target = np.random.default_rng(1).normal(size=(65, 2)).astype(np.float32)
    target[35:50, 0] = target[45:55, 1] = np.nan
    source._table = replace(source.samples, target=target)
    found = evaluate_subsets(model, make_data(source), Regression(), "val", make_trainer(tmp_path))
    for result in found:
        complete = [all(source.samples.present[m][row] for m in result.modalities) for row in range(28, 65)]
        rows = 28 + np.flatnonzero(complete & np.isfinite(target[28:]).any(axis=1))
        answers = np.stack([answer(model, source, row, result.modalities) for row in rows])
        errors = np.abs(answers - target[rows])
        assert result.samples == len(rows)
        assert result.metrics["mae"] == pytest.approx(np.nanmean(errors), rel=1e-5)


@needs_fork
def test_two_ranks_give_what_one_gives(tmp_path: Path) -> None:
    """Only the last sample has a label, so that one rank has nothing to measure."""
    run_apart(evaluate_on_ranks, tmp_path, MESSY)
    one, first, second = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("one", "0", "1"))
    assert first == second
    assert [subset["samples"] for subset in first[0]] == [23, 30, 26]
    assert [subset["samples"] for subset in first[1]] == [1, 1, 1]
    for ours, theirs in zip(first[0] + first[1], one[0] + one[1], strict=True):
        assert ours["metrics"] == pytest.approx(theirs["metrics"], rel=1e-5)
