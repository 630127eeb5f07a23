"""`lightning-distill knowledge` through the real command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import yaml

from lightning_distill.export import load_student
from lightning_distill.knowledge import Knowledge
from tests.cli.conftest import Project, module, project, small_config, trained, trained_run

__all__ = ["project", "trained", "trained_run"]


def test_a_run_is_asked_and_its_knowledge_trains_a_student(trained: Project) -> None:
    words = ("knowledge", "--run", "a", "--out", "k", "--layers", "encoders.text", "--alone")
    assert trained.run(*words) == 0, trained.err
    assert "Wrote k: 48 samples" in trained.out
    content = json.loads(Path("k/knowledge.json").read_text())
    assert (content["split"], content["classes"]) == ("train,val", ["x", "y"])
    assert content["data_fingerprint"]
    assert content["preprocessing"]["text"]["max_length"] == 8
    assert set(content["arrays"]) >= {"logits", "embedding", "layers/encoders.text", "alone/text/logits"}
    logits = np.load("k/logits.npy")
    np.testing.assert_array_equal(logits, np.load("k/alone/text/logits.npy"))
    assert logits.shape == (48, load_student(Path("a/student")).num_classes)

    config = small_config()
    module(config)["teacher"] = {"class_path": "StoredTeacher", "init_args": {"folder": "k"}}
    module(config)["losses"] = {"kd": {"class_path": "LogitKD"}}
    Path("distil.yaml").write_text(yaml.safe_dump(config))
    assert trained.fit("--run", "b", config="distil.yaml") == 0, trained.err


def test_the_teacher_of_a_config_is_asked(trained: Project) -> None:
    config = small_config()
    model = {"class_path": "lightning_distill.export.load_student", "init_args": {"folder": "a/student"}}
    module(config)["teacher"] = {"class_path": "FrozenTeacher", "init_args": {"model": model}}
    Path("distil.yaml").write_text(yaml.safe_dump(config))
    words = ("knowledge", "--config", "distil.yaml", "--split", "test", "--float32")
    assert trained.run(*words, "--out", "k") == 0, trained.err
    knowledge = Knowledge.open("k")
    knowledge.verify()
    assert (len(knowledge), knowledge.arrays["logits"].dtype) == (16, np.float32)


def test_mistakes(trained: Project) -> None:
    assert "no such file" in trained.fails("knowledge", "--run", "none", "--out", "k", code=4)
    assert "model.init_args.teacher" in trained.fails("knowledge", "--config", "small.yaml", "--out", "k")
    assert trained.run("knowledge", "--out", "k") == 2
    assert "found tran" in trained.fails("knowledge", "--run", "a", "--out", "k", "--split", "tran")
    assert "no module of that path" in trained.fails(
        "knowledge", "--run", "a", "--out", "k", "--layers", "encoders.txt"
    )
    assert not Path("k").exists()
