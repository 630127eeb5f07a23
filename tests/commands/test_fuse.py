"""`lightning-distill fuse` through the real command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from lightning_distill.knowledge import Knowledge
from lightning_distill.structures import UNLABELLED
from tests.cli.conftest import Config, Project, module, project, small_config, trained, trained_run

__all__ = ["project", "trained", "trained_run"]


def digits(domain: str, train: int, **labels: int) -> Config:
    source = {
        "class_path": "Digits",
        "init_args": {"domain": domain, "train": train, "val": 20, "test": 10, **labels},
    }
    processor = {"class_path": "ImageProcessor", "init_args": {"size": 12, "channels": 1}}
    init_args = {"source": source, "processors": {"image": processor}, "batch_size": 32}
    return {"class_path": "ImageDataModule", "init_args": init_args}


def cross_domain(labelled: int = 10) -> Config:
    """The small config with digits of two domains, and few labels in the second."""
    config = small_config()
    config["data"] = {
        "class_path": "CrossDomainDataModule",
        "init_args": {"source": digits("source", 96), "target": digits("target", 64, labelled=labelled)},
    }
    student: dict[str, Any] = module(config)["student"]["init_args"]
    student["num_classes"] = 10
    student["encoders"] = {"image": {"class_path": "ImageCNN", "init_args": {"width": 8}}}
    return config


def test_the_three_steps_on_digits(project: Project) -> None:
    Path("teacher.yaml").write_text(yaml.safe_dump(cross_domain()))
    assert project.fit("--run", "teacher", config="teacher.yaml") == 0, project.err
    assert project.run("knowledge", "--run", "teacher", "--out", "known") == 0, project.err
    words = ("fuse", "--knowledge", "known", "--config", "teacher.yaml", "--out", "fused")
    assert project.run(*words, "--neighbours", "5", "--alpha", "0.6", "--prior", "estimate") == 0, project.err
    for text in ("target: 84 samples", "mean entropy", "answers changed", "answers 9", "10 known labels"):
        assert text in project.out
    assert "Wrote fused: 200 samples" in project.out

    known, fused = Knowledge.open("known"), Knowledge.open("fused")
    fused.verify()
    np.testing.assert_array_equal(fused.sample_id, known.sample_id)
    np.testing.assert_array_equal(fused.arrays["embedding"], known.arrays["embedding"])
    told = fused.content["fusion"]
    assert [step["class"] for step in told["steps"]] == ["PriorCorrection", "LabelPropagation"]
    assert (told["steps"][1]["neighbours"], told["steps"][1]["alpha"]) == (5, 0.6)
    assert (told["numbers"]["known_labels"], told["targets"]) == (10, ["target"])
    from lightning_distill.data.datasets import Digits

    table = Digits("target", train=64, val=20, test=10, labelled=10).samples
    seen = (table.split == 0) & (table.target != UNLABELLED)
    logits = fused.rows(table.sample_id[seen], ["logits"])["logits"].astype(np.float64)
    expected = np.log(0.9 * np.eye(10)[table.target[seen]] + 0.01)
    np.testing.assert_allclose(logits, expected, rtol=2**-10)

    config = cross_domain()
    module(config)["teacher"] = {"class_path": "StoredTeacher", "init_args": {"folder": "fused"}}
    kd = {"class_path": "OnTarget", "init_args": {"loss": {"class_path": "LogitKD"}}}
    module(config)["losses"] = {"kd": kd}
    Path("student.yaml").write_text(yaml.safe_dump(config))
    assert project.fit("--run", "student", config="student.yaml") == 0, project.err


@pytest.fixture
def knowing(trained: Project) -> Project:
    """A project with the knowledge `k` of the run `a`, about data of one domain."""
    assert trained.run("knowledge", "--run", "a", "--out", "k") == 0, trained.err
    return trained


def test_several_teachers_of_one_domain(knowing: Project) -> None:
    assert knowing.run("knowledge", "--run", "a", "--out", "k2", "--float32") == 0, knowing.err
    words = ("fuse", "--knowledge", "k", "k2", "--config", "small.yaml", "--float32")
    for name, more in {
        "weighted": ("--weights", "3,1"),
        "geometric": ("--geometric", "--weights", "1,2"),
        "confident": ("--confident", "0.4"),
        "prior": ("--prior", "0.3,0.7", "--teacher-prior", "0.5,0.5"),
    }.items():
        assert knowing.run(*words, "--out", name, *more) == 0, knowing.err
        content = json.loads(Path(name, "knowledge.json").read_text())
        assert [parent["name"] for parent in content["fusion"]["parents"]] == ["k", "k2"]
        assert Knowledge.open(name).arrays["logits"].dtype == np.float32
    assert content["fusion"]["steps"][0] == {
        "class": "PriorCorrection",
        "prior": [0.3, 0.7],
        "teacher_prior": [0.5, 0.5],
    }


def test_mistakes(knowing: Project) -> None:
    words = ("fuse", "--knowledge", "k", "--config", "small.yaml", "--out", "f")
    for more, message in {
        ("--alpha", "0.5"): "together with --neighbours",
        ("--teacher-prior", "0.5,0.5"): "together with --prior",
        ("--prior", "half"): "numbers joined with commas",
        ("--prior", "0.5,0.5"): "give teacher_prior",
        ("--prior", "0.9,0.9"): "in sum 1",
        ("--neighbours", "0"): "expected 1 or more",
        ("--confident", "0.5", "--weights", "1"): "expected one of the two",
        ("--weights", "1,2"): "AveragedTeacher.weights",
        ("--target", "new"): "the data's domains: default",
        ("--split", "tran"): "did you mean 'train'",
        ("--smoothing", "1"): "0 to below 1",
    }.items():
        assert message in knowing.fails(*words, *more), more
    assert "expected a new folder" in knowing.fails(*words[:-1], "k")
    assert "lightning-distill knowledge" in knowing.fails(*words[:2], "none", *words[3:], code=4)
    Path("empty.yaml").write_text("model: {}\n")
    assert "data.class_path" in knowing.fails(*words[:4], "empty.yaml", *words[5:])
    assert "data.class_path" in knowing.fails(*words[:4], "nothing.yaml", *words[5:])
    assert not Path("f").exists()


def test_data_of_several_domains_need_to_be_told_which_is_new(knowing: Project) -> None:
    lines = Path("table.csv").read_text().splitlines()
    table = [f"{lines[0]},place", *(f"{line},{'pq'[i % 2]}" for i, line in enumerate(lines[1:]))]
    Path("table.csv").write_text("\n".join(table) + "\n")

    def add_domain(config: Config) -> None:
        config["data"]["init_args"]["source"]["init_args"]["columns"] = {"domain": "place"}

    knowing.change("places.yaml", add_domain)
    words = ("fuse", "--knowledge", "k", "--config", "places.yaml", "--out", "f")
    assert "for example --target q" in knowing.fails(*words)
    assert knowing.run(*words, "--target", "q") == 0, knowing.err
    assert "q: 24 samples" in knowing.out
