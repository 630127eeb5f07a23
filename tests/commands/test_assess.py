"""`lightning-distill assess` through the real command line, with a teacher of a second."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cli.conftest import Project, project

__all__ = ["project"]

AUDIO = {"class_path": "AudioProcessor", "init_args": {"sample_rate": 8000, "seconds": 0.7, "mels": 32}}
ENCODER = {"class_path": "LogMelCNN", "init_args": {"mels": 32, "width": 4}}


def model(encoders: dict[str, Any]) -> dict[str, Any]:
    return {"class_path": "MultimodalModel", "init_args": {"num_classes": 10, "encoders": encoders}}


def supervised(labelled: int | None) -> dict[str, Any]:
    image = {"class_path": "ImageProcessor", "init_args": {"size": 8, "channels": 1}}
    source = {"class_path": "Digits", "init_args": {"domain": "source", "labelled": labelled}}
    data = {"source": source, "processors": {"image": image, "audio": AUDIO}, "batch_size": 64}
    trainer = {
        "accelerator": "cpu",
        "max_epochs": 1,
        "limit_train_batches": 40,
        "limit_val_batches": 2,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    optimizer = {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.01}}
    student = model({"image": {"class_path": "ImageCNN", "init_args": {"width": 4}}})
    init_args = {"student": student, "optimizer": optimizer}
    return {
        "trainer": trainer,
        "model": {"class_path": "DistillationModule", "init_args": init_args},
        "data": {"class_path": "MultimodalDataModule", "init_args": data},
    }


def distilled(labelled: int | None) -> dict[str, Any]:
    config = copy.deepcopy(supervised(labelled))
    loader = {"class_path": "lightning_distill.export.load_student", "init_args": {"folder": "t/student"}}
    config["model"]["init_args"] |= {
        "student": model({"audio": ENCODER}),
        "teacher": {"class_path": "FrozenTeacher", "init_args": {"model": loader}},
        "losses": {"kd": {"class_path": "LogitKD"}},
    }
    return config


def write(name: str, config: dict[str, Any]) -> None:
    Path(name).write_text(yaml.safe_dump(config, sort_keys=False))


def test_a_teacher_of_images_for_a_student_of_sound(project: Project) -> None:
    """Few labels: the teacher's answers are most of what there is to learn."""
    write("t.yaml", supervised(None))
    assert project.fit("--run", "t", config="t.yaml") == 0, project.err
    write("few.yaml", distilled(50))
    assert project.run("assess", "--config", "few.yaml", "--samples", "300") == 0, project.err
    few = json.loads(Path("assessment.json").read_text())
    assert few["samples"] == 300
    assert few["word"] == "helps"
    assert few["measures"]["labelled_share"] < 0.05
    assert f"Verdict: {few['word']}" in project.out
    assert f"{few['measures']['teacher_accuracy']:.3f}" in project.out

    write("all.yaml", distilled(None))
    words = ("--samples", "300", "--run", "t", "--out", "deep/all.json")
    assert project.run("assess", "--config", "all.yaml", *words) == 0, project.err
    own = json.loads(Path("deep/all.json").read_text())
    assert own["measures"]["labelled_share"] == 1.0
    assert own["measures"]["rank_agreement"] == pytest.approx(1.0)  # the teacher is that run
    assert own["measures"]["student_accuracy"] == own["measures"]["teacher_accuracy"]
    assert own["measures"]["cka"] == pytest.approx(1.0, abs=0.2)
    assert own["expected_help"] < few["expected_help"]


def test_what_is_wrong_is_named(project: Project) -> None:
    assert "nothing.yaml" in project.fails("assess", "--config", "nothing.yaml")
    assert "teacher" in project.fails("assess", "--config", "small.yaml")
    assert "20 or more" in project.fails("assess", "--config", "small.yaml", "--samples", "3")
    config = distilled(None)
    config["model"]["init_args"]["task"] = {"class_path": "Regression"}
    write("other.yaml", config)
    assert "Classification" in project.fails("assess", "--config", "other.yaml")
    assert project.run("assess", "--help") == 0
    assert all(option in project.out for option in ("--config", "--run", "--samples", "--out"))
