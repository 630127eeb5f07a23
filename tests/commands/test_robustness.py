"""`lightning-distill robustness` through the real command line, on runs of a second."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from lightning_distill.commands.opening import data_and_task, run_config
from lightning_distill.export import load_student
from lightning_distill.robustness import robustness_curves
from tests.cli.conftest import Project, project
from tests.commands.test_evaluate import trained, two_modalities

__all__ = ["project", "trained", "two_modalities"]

WAYS = ("noise", "absence", "contradiction")
KINDS = [(way, modality) for way in WAYS for modality in ("text", "image")]


def written(folder: str) -> Any:
    return json.loads(Path(folder, "robustness.json").read_text())


def test_table_curves_and_picture(trained: Project) -> None:
    assert trained.run("robustness", "a") == 0, trained.err
    content = written("a")
    assert (content["split"], content["seed"], content["metric"]) == ("test", 0, "accuracy")
    (run,) = content["runs"]
    assert [(c["corruption"], c["modality"]) for c in run["curves"]] == KINDS
    for curve in run["curves"]:
        assert curve["levels"] == [0, 0.25, 0.5, 0.75, 1]
        assert set(curve["metrics"]) == {"accuracy", "macro_f1", "calibration_error"}
        assert f"{100 * curve['area']['accuracy']:.1f}" in trained.out
    assert Path("a/robustness.png").read_bytes().startswith(b"\x89PNG")
    assert "Wrote a/robustness.json and a/robustness.png" in trained.out


def test_level_0_is_what_evaluate_says_of_samples_that_have_everything(trained: Project) -> None:
    table = [row for row in Path("table.csv").read_text().splitlines() if ",," not in row]
    Path("table.csv").write_text("\n".join(table) + "\n")
    assert trained.run("evaluate", "a") == 0, trained.err
    expected = json.loads(Path("a/subsets.json").read_text())["subsets"][0]
    assert trained.run("robustness", "a", "--levels", "0", "1") == 0, trained.err
    for curve in written("a")["runs"][0]["curves"]:
        assert curve["samples"] == expected["samples"]
        assert {k: v[0] for k, v in curve["metrics"].items()} == pytest.approx(expected["metrics"], rel=1e-5)


def test_absence_at_level_1_is_what_evaluate_says_of_the_others_alone(trained: Project) -> None:
    table = [row for row in Path("table.csv").read_text().splitlines() if ",," not in row]
    Path("table.csv").write_text("\n".join(table) + "\n")
    assert trained.run("evaluate", "a") == 0, trained.err
    _, text, image = json.loads(Path("a/subsets.json").read_text())["subsets"]
    assert trained.run("robustness", "a", "--levels", "0", "1") == 0, trained.err
    without_text, without_image = written("a")["runs"][0]["curves"][2:4]
    for curve, alone in ((without_text, image), (without_image, text)):
        assert curve["corruption"] == "absence"
        assert {k: v[1] for k, v in curve["metrics"].items()} == pytest.approx(alone["metrics"], rel=1e-5)


def test_options_reach_the_curves(trained: Project) -> None:
    words = ("--split", "val", "--levels", "0", "0.5", "--seed", "7", "--out", "deep/er")
    assert trained.run("robustness", "a", *words) == 0, trained.err
    content = written("deep/er")
    assert (content["split"], content["seed"]) == ("val", 7)
    assert not Path("a/robustness.json").exists()
    data, task = data_and_task(run_config(Path("a")), Path("a/config.yaml"))
    student = load_student(Path("a/student"))
    expected = robustness_curves(student, data, task, "val", levels=(0.0, 0.5), seed=7)
    for curve, ours in zip(content["runs"][0]["curves"], expected, strict=True):
        assert curve["samples"] == ours.samples
        for name, values in ours.metrics.items():
            assert curve["metrics"][name] == pytest.approx(values, rel=1e-6)


def test_two_runs_each_on_its_own_data(trained: Project) -> None:
    shutil.copytree("a", "b")
    rows = Path("table.csv").read_text().splitlines()
    Path("half.csv").write_text("\n".join(rows[:33]) + "\n")
    config = yaml.safe_load(Path("b/config.yaml").read_text())
    text = yaml.safe_dump(config).replace("table.csv", "half.csv")
    Path("b/config.yaml").write_text(text)
    assert trained.run("robustness", "a", "b", "--levels", "0", "1") == 0, trained.err
    a, b = written("a")["runs"]
    assert (a["run"], b["run"]) == ("a", "b")
    assert 0 < b["curves"][0]["samples"] < a["curves"][0]["samples"]
    assert all("against_first" in curve for run in (a, b) for curve in run["curves"])
    assert f"samples: a {a['curves'][0]['samples']}, b {b['curves'][0]['samples']}." in trained.out
    assert not Path("b/robustness.json").exists()


def test_runs_of_other_classes_are_refused(trained: Project) -> None:
    shutil.copytree("a", "b")
    table = Path("table.csv").read_text().replace(",y,", ",z,")
    Path("other.csv").write_text(table)
    config = yaml.safe_load(Path("b/config.yaml").read_text())
    Path("b/config.yaml").write_text(yaml.safe_dump(config).replace("table.csv", "other.csv"))
    message = trained.fails("robustness", "a", "b")
    assert "Classification of x, z" in message
    assert "Classification of x, y, as in a" in message
    assert not Path("a/robustness.json").exists()


def test_what_is_missing_or_wrong_is_named(trained: Project) -> None:
    assert "no such file" in trained.fails("robustness", "b", code=4)
    assert "a twice" in trained.fails("robustness", "a", "a")
    assert "table.csv is a file" in trained.fails("robustness", "a", "--out", "table.csv")
    assert "found 0.5 1; expected" in trained.fails("robustness", "a", "--levels", "0.5", "1")
    Path("a/student/model.safetensors").unlink()
    assert "model.safetensors" in trained.fails("robustness", "a", code=4)


def test_help(project: Project) -> None:
    assert project.run("robustness", "--help") == 0
    assert all(option in project.out for option in ("RUN", "--split", "--levels", "--seed", "--out"))
    assert project.run("robustness") == 2
    assert "required: RUN" in project.err
