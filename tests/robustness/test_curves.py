"""Curves against plain loops over the samples."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lightning_distill.errors import ConfigError
from lightning_distill.fusion import AttentionFusion
from lightning_distill.robustness import Absence, Contradiction, Corruption, Curve, Noise, robustness_curves
from lightning_distill.structures import Batch
from lightning_distill.tasks import Classification, Regression
from tests.builders import CLASSES, DIMS, VectorSource, make_data, make_model, make_trainer, weights_of
from tests.evaluation_ranks import curves_on_ranks
from tests.metrics_reference import accuracy, calibration_error, macro_f1
from tests.processes import needs_fork, run_apart
from tests.test_evaluation import MESSY, Counting

LEVELS = (0.0, 0.3, 0.6, 1.0)
READ = tuple(row for row in range(28, 65) if row not in MESSY["unlabelled"])
"""Labelled rows that are evaluated; each has one modality at least."""


class Foreign(nn.Module):
    """A model of others: logits, from inputs alone."""

    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.linear = nn.Linear(DIMS["a"] + DIMS["b"], width)

    def forward(self, batch: Batch) -> Tensor:
        x = torch.cat([batch["inputs"]["a"], batch["inputs"]["b"]], dim=1)  # type: ignore[list-item]
        logits: Tensor = self.linear(x)
        return logits


def trained(source: VectorSource, model: nn.Module) -> nn.Module:
    """A model that has learnt enough to lose something."""
    data, optimizer = batch_of(source, list(range(28))), torch.optim.Adam(model.parameters(), 0.03)
    for _ in range(40):
        output = model.train()(data)
        logits = output if isinstance(output, Tensor) else output.logits
        optimizer.zero_grad()
        nn.functional.cross_entropy(logits, data["target"]).backward()
        optimizer.step()
    return model


def batch_of(source: VectorSource, rows: list[int]) -> Batch:
    """What a loader makes of these rows; absent vectors are zeros."""
    table = source.samples
    present = {m: torch.from_numpy(table.present[m][rows]) for m in DIMS}
    inputs = {m: torch.from_numpy(source.vectors[m][rows]).float() * present[m][:, None] for m in DIMS}
    return {
        "inputs": dict(inputs),
        "present": present,
        "target": torch.from_numpy(table.target[rows]),
        "sample_id": torch.from_numpy(table.sample_id[rows]),
        "domain": torch.zeros(len(rows), dtype=torch.int64),
    }


def by_hand(
    model: nn.Module, source: VectorSource, way: Corruption, modality: str, batches: list[list[int]]
) -> dict[str, list[float]]:
    """One batch at a time."""
    found: dict[str, list[float]] = {"accuracy": [], "macro_f1": [], "calibration_error": []}
    for level in LEVELS:
        logits, targets = [], []
        for rows in batches:
            batch = way(batch_of(source, rows), modality, level, 5)
            with torch.no_grad():
                output = model.eval()(batch)
            logits.append((output if isinstance(output, Tensor) else output.logits).double().numpy())
            targets.append(batch["target"].numpy())
        answers, labels = np.concatenate(logits), np.concatenate(targets)
        found["accuracy"].append(accuracy(answers, labels))
        found["macro_f1"].append(macro_f1(answers, labels))
        found["calibration_error"].append(calibration_error(answers, labels))
    return found


def eights() -> list[list[int]]:
    """The labelled rows of each batch."""
    return [[row for row in range(s, min(s + 8, 65)) if row in READ] for s in range(28, 65, 8)]


def measured(folder: Path, model: nn.Module, source: Any, batch_size: int = 8, **options: Any) -> list[Curve]:
    data, trainer = make_data(source, batch_size), make_trainer(folder)
    given = {"split": "val", "levels": LEVELS, "seed": 5, "trainer": trainer} | options
    return robustness_curves(model, data, Classification(), **given)


@pytest.mark.parametrize(
    ("way", "batches"),
    [(Noise(), [[row] for row in READ]), (Absence(), [[row] for row in READ]), (Contradiction(), eights())],
    ids=["noise", "absence", "contradiction"],
)
@pytest.mark.parametrize("make", [make_model, lambda: make_model(fusion=AttentionFusion), Foreign])
def test_every_curve_is_that_of_a_plain_loop(tmp_path: Path, make: Any, way: Any, batches: Any) -> None:
    source = VectorSource(**MESSY)
    model = trained(source, make())
    found = measured(tmp_path, model, source, corruptions=[way])
    assert [(c.corruption, c.modality) for c in found] == [(way.name, "a"), (way.name, "b")]
    for curve in found:
        expected = by_hand(model, source, way, curve.modality, batches)
        assert curve.levels == LEVELS
        assert curve.samples == len(READ) == 33
        for name, values in expected.items():
            assert curve.metrics[name] == pytest.approx(values, rel=1e-5, abs=1e-6)
    distinct = [len(set(c.metrics["calibration_error"])) for c in found]
    assert max(distinct) == len(LEVELS), "every level differs, or this test tells nothing"


def test_all_ways_at_once_are_what_each_is_alone(tmp_path: Path) -> None:
    source = VectorSource(**MESSY)
    model = trained(source, make_model())
    alone = [
        c
        for w in (Noise(), Absence(), Contradiction())
        for c in measured(tmp_path, model, source, corruptions=[w])
    ]
    assert measured(tmp_path, model, source) == alone
    assert measured(tmp_path, model, source, modalities=["b"]) == alone[1::2]


def test_samples_that_cannot_get_worse_are_counted(tmp_path: Path) -> None:
    noise_a, noise_b, absence_a, absence_b, contradiction_a, _ = measured(
        tmp_path, make_model(), VectorSource(**MESSY)
    )
    lacks = {m: set(MESSY["absent"][m]) & set(READ) for m in DIMS}
    assert (noise_a.unchanged, noise_b.unchanged) == (len(lacks["a"]), len(lacks["b"]))
    assert absence_a.unchanged == absence_b.unchanged == len(lacks["a"] | lacks["b"])
    # Every batch has other classes for each of its samples.
    assert contradiction_a.unchanged == len(lacks["a"])
    one_a_batch = measured(tmp_path, make_model(), VectorSource(**MESSY), batch_size=1)
    assert [c.unchanged for c in one_a_batch[-2:]] == [33, 33]


def test_noise_and_absence_do_not_depend_on_the_batch_size(tmp_path: Path) -> None:
    source = VectorSource(**MESSY)
    model = trained(source, make_model())
    some, others = (measured(tmp_path, model, source, batch_size=n)[:4] for n in (5, 64))
    for a, b in zip(some, others, strict=True):
        assert (a.corruption, a.modality, a.samples, a.unchanged) == (
            b.corruption,
            b.modality,
            b.samples,
            b.unchanged,
        )
        for name, values in a.metrics.items():
            assert values == pytest.approx(b.metrics[name], rel=1e-5)


def test_the_seed_matters(tmp_path: Path) -> None:
    source = VectorSource(**MESSY)
    model = trained(source, make_model())
    one, again, other = (measured(tmp_path, model, source, seed=seed) for seed in (0, 0, 1))
    assert one == again
    assert [c.metrics for c in one] != [c.metrics for c in other]


class Calls(Foreign):
    """Counts the batches it is asked about."""

    calls = 0

    def forward(self, batch: Batch) -> Tensor:
        self.calls += 1
        return super().forward(batch)


def test_one_pass_over_the_data_and_level_0_once(tmp_path: Path) -> None:
    source, model = Counting(**MESSY), Calls()
    measured(tmp_path, model, source)
    present = source.samples.present
    there = {(m, row) for m in DIMS for row in range(28, 65) if present[m][row]}
    assert source.loads == dict.fromkeys(there, 1)
    assert model.calls == len(eights()) * (1 + 3 * 2 * (len(LEVELS) - 1))


def test_a_student_of_one_modality_has_nothing_to_lose(tmp_path: Path) -> None:
    """The data have two: what the model cannot read is nothing else it could fall back on."""
    source, model = VectorSource(**MESSY), make_model(("b",))
    noise, absence, contradiction = measured(tmp_path, model, source)
    assert noise.samples == 33 - len(set(MESSY["absent"]["b"]) & set(READ))
    assert absence.unchanged == absence.samples
    assert len(set(absence.metrics["accuracy"])) == 1
    assert (noise.modality, contradiction.modality) == ("b", "b")


def test_the_model_is_left_as_it_was(tmp_path: Path) -> None:
    model = make_model(modality_dropout=0.5).train()
    before = weights_of(model)
    measured(tmp_path, model, VectorSource(**MESSY))
    assert all(torch.equal(before[name], tensor) for name, tensor in weights_of(model).items())
    assert all(module.training for module in model.modules())


def test_no_labelled_sample_no_metrics(tmp_path: Path) -> None:
    source = VectorSource(unlabelled=range(28, 41))
    curves = measured(tmp_path, make_model(), source)
    assert len(curves) == 6
    assert all((c.samples, c.unchanged, c.metrics) == (0, 0, {}) for c in curves)


def test_numbers_of_which_some_are_unknown(tmp_path: Path) -> None:
    source, model = VectorSource(**MESSY), make_model(classes=2)
    source.classes = ("height", "weight")
    target = np.random.default_rng(1).normal(size=(65, 2)).astype(np.float32)
    target[35:50, 0] = target[45:55, 1] = np.nan
    source._table = replace(source.samples, target=target)
    options: Any = {"split": "val", "trainer": make_trainer(tmp_path)}
    found = robustness_curves(model, make_data(source), Regression(), levels=LEVELS, **options)
    known = np.isfinite(target[28:]).any(axis=1)
    assert {c.samples for c in found} == {int(known.sum())}
    assert all(np.isfinite(c.metrics["mae"]).all() for c in found)
    assert any(len(set(c.metrics["mae"])) == len(LEVELS) for c in found)


@needs_fork
def test_two_ranks_give_what_one_gives(tmp_path: Path) -> None:
    """In the second data only one sample has a label, so that one rank has nothing to measure."""
    run_apart(curves_on_ranks, tmp_path, MESSY)
    one, first, second = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("one", "0", "1"))
    assert first == second
    assert [[c["samples"] for c in curves] for curves in first] == [[33] * 4, [1] * 4]
    for ours, theirs in zip(first[0] + first[1], one[0] + one[1], strict=True):
        assert ours["unchanged"] == theirs["unchanged"]
        for name, values in ours["metrics"].items():
            assert values == pytest.approx(theirs["metrics"][name], rel=1e-5)


def curves_of(model: Any, data: Any = None, **options: Any) -> list[Curve]:
    return robustness_curves(model, data or make_data(), Classification(), **options)


def test_what_does_not_fit(tmp_path: Path) -> None:
    model = make_model()
    with pytest.raises(ConfigError, match=r"'tset'.*val or test; did you mean 'test'"):
        curves_of(model, split="tset")
    for levels in ((), (0.0,), (0.5, 1.0), (0.0, 0.5, 0.5), (0.0, 1.5), (0.0, float("nan"))):
        with pytest.raises(ConfigError, match="rising from 0"):
            curves_of(model, levels=levels)
    with pytest.raises(ConfigError, match="two called 'noise'"):
        curves_of(model, corruptions=[Noise(1.0), Noise(3.0)])
    with pytest.raises(ConfigError, match="corruptions: found none"):
        curves_of(model, corruptions=[])
    with pytest.raises(ConfigError, match=r"found 'aa'.*a, b"):
        curves_of(model, modalities=["aa"])
    with pytest.raises(ConfigError, match="modalities: found none"):
        curves_of(model, modalities=[])
    with pytest.raises(ConfigError, match="Regression"):
        robustness_curves(model, make_data(), Regression())
    with pytest.raises(ConfigError, match="4 of them"):
        curves_of(make_model(classes=4))
    model.classes = tuple(reversed(CLASSES))
    with pytest.raises(ConfigError, match=r"ant, bee, cat; expected cat, bee, ant"):
        curves_of(model)
    with pytest.raises(ConfigError, match=r"\(8, 4\); expected .* batch x 3"):
        measured(tmp_path, Foreign(4), VectorSource())
    data = make_data()
    del data.processors["b"]
    with pytest.raises(ConfigError, match="a processor for 'b'"):
        curves_of(make_model(), data)
