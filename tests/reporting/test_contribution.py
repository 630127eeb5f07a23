from __future__ import annotations

import json
import math
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from lightning_distill.contribution import Contribution, Contributions
from lightning_distill.reporting import (
    contribution_sentence,
    contribution_table,
    save_contributions,
    save_sample_contributions,
)
from tests.reporting.test_tables import lines

CLASSES = {
    "log_likelihood": Contribution(
        -2.303, -0.21, {"image": 1.41, "text": 0.683}, {"image": 0.02, "text": 0.1}
    ),
    "accuracy": Contribution(0.104, 0.934, {"image": 0.843, "text": -0.013}, {"image": 0.011, "text": 0.009}),
}


def made(scores: dict[str, Contribution], samples: int = 1797) -> Contributions:
    modalities = tuple(next(iter(scores.values())).means)
    return Contributions(modalities, samples, scores, torch.arange(2), {})


def rows(found: Contributions) -> list[list[str]]:
    return [line.split() for line in lines(contribution_table(found, "run a")) if line.strip()]


def test_accuracy_comes_first_in_points() -> None:
    shown = rows(made(CLASSES))
    heading = " ".join(word for line in shown[1:3] for word in line)
    assert heading.index("accuracy,") < heading.index("log likelihood,")
    assert all(word in heading for word in ("points", "nats"))
    assert [line for line in shown if line[0] in ("without", "image", "text", "everything")] == [
        ["without", "looking", "10.4", "-2.303"],
        ["image", "+84.3", "±", "1.1", "+1.410", "±", "0.020", "█" * 20],
        ["text", "-1.3", "±", "0.9", "+0.683", "±", "0.100"],
        ["everything", "93.4", "-0.210"],
    ]


@pytest.mark.parametrize(
    ("means", "bars"),
    [
        ((0.5, 0.25), ("█" * 20, "█" * 10)),
        ((0.3, -0.1), ("     │" + "█" * 15, "█████│")),
        ((-0.1, -0.2), ("          " + "█" * 10 + "│", "█" * 20 + "│")),
        ((0.0, 0.0), ("", "")),
    ],
)
def test_bars_have_one_axis(means: tuple[float, float], bars: tuple[str, str]) -> None:
    names = ("image", "text")
    score = Contribution(0.1, 0.5, dict(zip(names, means, strict=True)), dict.fromkeys(names, math.nan))
    table = contribution_table(made({"accuracy": score}), "x")
    assert [str(cell).rstrip() for cell in list(table.columns[-1].cells)[1:3]] == list(bars)


def test_the_sentence_says_what_it_means() -> None:
    told = contribution_sentence(made(CLASSES))
    assert "over 1,797 samples: image adds 84.3 points; text can hardly be told from 0 (-1.3 ± 0.9)." in told
    assert "misleads" not in told
    worse = {"minus_squared_error": Contribution(-1, -2, {"a": -1.5, "b": 0.5}, {"a": 0.1, "b": 0.1})}
    told = contribution_sentence(made(worse))
    assert "b adds 0.500 squared units; a takes away 1.500 squared units. A modality that takes" in told
    flat = {"fit": Contribution(1, 1, {"a": 0.0}, {"a": 0.0})}
    assert "a adds nothing." in contribution_sentence(made(flat))
    alone = {"fit": Contribution(1, 2, {"a": 1.0}, {"a": math.nan})}
    assert "a adds 1.000." in contribution_sentence(made(alone, 1))


def test_names_are_not_read_as_markup() -> None:
    score = Contribution(0.1, 0.2, {"[b]x": 0.1}, {"[b]x": 0.01})
    table = contribution_table(made({"[red]fit": score}), "[i]run")
    text = "\n".join(lines(table))
    assert all(name in text for name in ("[b]x", "[red]fit", "[i]run"))


def test_eight_modalities_fit_into_a_terminal() -> None:
    means = {f"modality{i}": 0.1 for i in range(8)}
    scores = dict.fromkeys(CLASSES, Contribution(0.1, 0.9, means, dict.fromkeys(means, 0.01)))
    shown = rows(made(scores))
    assert [line[0] for line in shown if line[0].startswith("modality")][1:] == list(means)
    assert all(len(line) == 8 for line in shown if line[0] in means)


def test_json(tmp_path: Path) -> None:
    scores = {"accuracy": Contribution(0.25, 0.75, {"a": 0.5}, {"a": math.nan})}
    path = save_contributions(made(scores, 1), "val", tmp_path / "deep" / "c.json")
    assert json.loads(path.read_text()) == {
        "split": "val",
        "samples": 1,
        "scores": {
            "accuracy": {
                "without_looking": 0.25,
                "everything": 0.75,
                "modalities": {"a": {"mean": 0.5, "standard_error": None}},
            }
        },
    }


def test_parquet(tmp_path: Path) -> None:
    values = {"fit": {"a": torch.tensor([0.5, -1.0]).double(), "b": torch.tensor([0.0, 2.0]).double()}}
    score = Contribution(0.0, 0.75, {"a": -0.25, "b": 1.0}, {"a": 0.1, "b": 0.1})
    found = Contributions(("a", "b"), 2, {"fit": score}, torch.tensor([2**62, -5]), values)
    table = pq.read_table(save_sample_contributions(found, tmp_path / "deep" / "c.parquet"))
    assert table.to_pydict() == {"sample_id": [2**62, -5], "fit_a": [0.5, -1.0], "fit_b": [0.0, 2.0]}
    assert [str(kind) for kind in table.schema.types] == ["int64", "double", "double"]
