"""What is wrong in a config or on the command line is answered in one short paragraph."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Config, Project, module

HEAD = {"class_path": "GatedFusion"}
KD = {"class_path": "LogitKD", "init_args": {"temperature": 2.0}}
TEACHER = {
    "class_path": "FrozenTeacher",
    "init_args": {
        "model": {
            "class_path": "MultimodalModel",
            "init_args": {"num_classes": 2, "encoders": {"text": {"class_path": "ByteTextCNN"}}},
        }
    },
}


def student(config: Config) -> Config:
    """Init args of the student."""
    found: Config = module(config)["student"]["init_args"]
    return found


def distil(config: Config, **term: Any) -> None:
    """Add a teacher and a term."""
    module(config).update(teacher=TEACHER, losses={"kd": KD | term})


def fuse(config: Config, name: str, **given: Any) -> None:
    """Give the student a fusion head."""
    student(config)["fusion"] = {"class_path": name, "init_args": given}


IN_A_FILE: dict[str, tuple[Callable[[Config], Any], str, list[str]]] = {
    "trainer key": (
        lambda c: c["trainer"].update(max_epoch=3),
        "line 8",
        ["did you mean 'trainer.max_epochs'?"],
    ),
    "top key": (lambda c: c.update(modle={"x": 1}), "modle", ["did you mean 'model'?"]),
    "default callback": (
        lambda c: c.update(early_stopping={"patiense": 1}),
        "patiense",
        ["did you mean 'early_stopping.patience'?"],
    ),
    "module key": (lambda c: module(c).update(studnt=1), "model.studnt", ["did you mean 'student'?"]),
    "beside class_path": (
        lambda c: c["model"].update(init_arg=1),
        "model.init_arg",
        ["did you mean 'init_args'?"],
    ),
    "key in a loss": (
        lambda c: distil(c, init_args={"temprature": 3}),
        "model.losses.temprature",
        ["LogitKD does not have", "did you mean 'temperature'?"],
    ),
    "key in an encoder": (
        lambda c: student(c)["encoders"]["text"].update(init_args={"widht": 2}),
        "model.student.encoders.widht",
        ["ByteTextCNN", "did you mean 'width'?"],
    ),
    "key in a callable": (
        lambda c: student(c).update(fusion={"class_path": "AttentionFusion", "init_args": {"num_head": 3}}),
        "model.student.fusion.num_head",
        ["did you mean 'num_heads'?"],
    ),
    "key in the optimizer": (
        lambda c: module(c)["optimizer"].update(init_args={"lrr": 0.1}),
        "model.optimizer.lrr",
        ["did you mean 'lr'?"],
    ),
    "key in the data": (
        lambda c: c["data"]["init_args"].update(batch_sise=3),
        "data.batch_sise",
        ["did you mean 'batch_size'?"],
    ),
    "key in a callback": (
        lambda c: c["trainer"].update(
            callbacks=[{"class_path": "LearningRateMonitor", "init_args": {"loging_interval": "step"}}]
        ),
        "trainer.callbacks.loging_interval",
        ["did you mean 'logging_interval'?"],
    ),
    "module class": (
        lambda c: c["model"].update(class_path="DistilationModule"),
        "line 9, model",
        ["did you mean 'DistillationModule'?"],
    ),
    "loss class": (lambda c: distil(c, class_path="LogitKDD"), "model.losses", ["did you mean 'LogitKD'?"]),
    "loss class with its path": (
        lambda c: distil(c, class_path="lightning_distill.losses.LogitKDD"),
        "model.losses",
        ["did you mean 'LogitKD'?"],
    ),
    "class of another shelf": (
        lambda c: distil(c, class_path="ByteTextCNN"),
        "model.losses",
        ["found 'ByteTextCNN'", "CKA", "or another DistillationLoss"],
    ),
    "encoder class": (
        lambda c: student(c)["encoders"]["text"].update(class_path="ByteTxtCNN"),
        "model.student.encoders",
        ["did you mean 'ByteTextCNN'?"],
    ),
    "fusion class": (
        lambda c: student(c).update(fusion="AttentonFusion"),
        "model.student.fusion",
        ["did you mean 'AttentionFusion'?"],
    ),
    "optimizer class": (
        lambda c: module(c)["optimizer"].update(class_path="torch.optim.AdamWW"),
        "model.optimizer",
        ["did you mean 'AdamW'?"],
    ),
    "data class": (
        lambda c: c["data"].update(class_path="TxtDataModule"),
        "data",
        ["did you mean 'TextDataModule'?"],
    ),
    "no such module": (
        lambda c: c["data"]["init_args"]["source"].update(class_path="mine.Source"),
        "data.source",
        ["found 'mine.Source'", "packages that a config may name", "--allow mine"],
    ),
    "number in a loss": (
        lambda c: distil(c, init_args={"temperature": "abc"}),
        "model.losses.temperature",
        ["found 'abc'", "expected a number"],
    ),
    "number in the optimizer": (
        lambda c: module(c)["optimizer"].update(init_args={"lr": "fast"}),
        "model.optimizer.lr",
        ["found 'fast'", "expected a number"],
    ),
    "number in the trainer": (
        lambda c: c["trainer"].update(max_epochs="abc"),
        "line 4, trainer.max_epochs",
        ["found 'abc'", "expected a whole number"],
    ),
    "dict": (
        lambda c: student(c).update(encoders="ByteTextCNN"),
        "model.student.encoders",
        ["found 'ByteTextCNN'", "expected a dict"],
    ),
    "required key": (
        lambda c: module(c).update(clip_rule={"class_path": "ValueClip"}),
        "model.clip_rule",
        ["found no epsilon for ValueClip"],
    ),
    "number in a callable": (
        lambda c: fuse(c, "GatedFusion", output_dim="wide"),
        "model.student.fusion.output_dim",
        ["found 'wide'; expected a whole number"],
    ),
    "required key of a callable": (
        lambda c: fuse(c, "LearnedPlaceholders"),
        "model.student.fusion",
        ["found no fusion for LearnedPlaceholders; expected a FusionHead."],
    ),
    "key in a callable's callable": (
        lambda c: fuse(c, "LearnedPlaceholders", fusion=HEAD | {"init_args": {"output_dm": 3}}),
        "model.student.fusion.fusion.output_dm",
        ["which GatedFusion does not have; expected one of output_dim.", "did you mean 'output_dim'?"],
    ),
    "class in a callable's callable": (
        lambda c: fuse(c, "LearnedPlaceholders", fusion={"class_path": "GatedFuson"}),
        "model.student.fusion.fusion",
        ["found 'GatedFuson'", "or another FusionHead", "did you mean 'GatedFusion'?"],
    ),
    "number in a callable's callable": (
        lambda c: fuse(c, "LearnedPlaceholders", fusion=HEAD | {"init_args": {"output_dim": "wide"}}),
        "model.student.fusion.fusion.output_dim",
        ["found 'wide'; expected a whole number"],
    ),
    "required key of a callable's callable": (
        lambda c: fuse(c, "LearnedPlaceholders", fusion={"class_path": "LearnedPlaceholders"}),
        "model.student.fusion.fusion",
        ["found no fusion for LearnedPlaceholders; expected a FusionHead."],
    ),
    "mapping under a wrong key": (
        lambda c: fuse(c, "LearnedPlaceholders", fuson=HEAD),
        "model.student.fusion.fuson",
        ["which LearnedPlaceholders does not have; expected one of fusion.", "did you mean 'fusion'?"],
    ),
    "key in the task head": (
        lambda c: student(c).update(head={"class_path": "MLPHead", "init_args": {"hiden_dim": 3}}),
        "model.student.head.hiden_dim",
        ["expected one of hidden_dim, dropout.", "did you mean 'hidden_dim'?"],
    ),
    "beside class_path of a callable": (
        lambda c: student(c).update(fusion=HEAD | {"output_dim": 3}),
        "model.student.fusion.output_dim",
        ["found the key 'output_dim' beside class_path", "under init_args"],
    ),
    "beside class_path of a callable's callable": (
        lambda c: fuse(c, "LearnedPlaceholders", fusion=HEAD | {"output_dim": 3}),
        "model.student.fusion.fusion.output_dim",
        ["found the key 'output_dim' beside class_path", "under init_args"],
    ),
    "no class where one is taken": (
        lambda c: student(c).update(fusion=[1]),
        "model.student.fusion",
        ["found '[1]'; expected a class"],
    ),
    "no such module of a callable": (
        lambda c: student(c).update(fusion={"class_path": "mine.Head"}),
        "model.student.fusion",
        ["found 'mine.Head'", "packages that a config may name", "--allow mine"],
    ),
    "value out of range": (
        lambda c: module(c).update(clip_rule={"class_path": "ValueClip", "init_args": {"epsilon": -1}}),
        "ValueClip.epsilon",
        ["found -1.0", "expected a positive number"],
    ),
}


@pytest.mark.row("F1")
@pytest.mark.parametrize("name", IN_A_FILE)
def test_mistake_in_a_file(project: Project, name: str) -> None:
    edit, where, parts = IN_A_FILE[name]
    paragraph = project.fails("fit", "--config", project.change("mistake.yaml", edit))
    place = paragraph.split(": found ")[0]
    assert where in place or where in paragraph.split("; expected")[0]
    assert "mistake.yaml" in place or "ValueClip.epsilon" in place
    assert all(part in paragraph for part in parts), paragraph
    assert len(paragraph) < 500
    assert not Path("runs").exists()


ON_THE_LINE: dict[str, tuple[list[str], list[str]]] = {
    "trainer key": (["--trainer.max_epocs", "3"], ["did you mean 'trainer.max_epochs'?"]),
    "no abbreviation": (["--trainer.max_epoch", "3"], ["did you mean 'trainer.max_epochs'?"]),
    "top key": (["--modle.student.num_classes", "3"], ["did you mean 'model'?"]),
    "module key": (["--model.lossses.kd", "LogitKD"], ["model.lossses", "did you mean 'losses'?"]),
    "nested key": (["--model.student.encoders.text.widht", "3"], ["ByteTextCNN", "did you mean 'width'?"]),
    "optimizer key": (["--model.optimizer.lrr", "3"], ["did you mean 'lr'?"]),
    "optimizer class": (["--model.optimizer", "AdmW"], ["model.optimizer", "did you mean 'AdamW'?"]),
    "type": (["--model.student.num_classes", "abc"], ["found 'abc'", "expected a whole number"]),
    "choice": (["--resume", "aut"], ["resume: found 'aut'", "expected 'auto'"]),
    "part file": (
        ["--model.student.fusion", "smal.yaml"],
        ["no file smal.yaml", "did you mean 'small.yaml'?"],
    ),
    "stray word": (["stray"], ["found 'stray'"]),
    "value forgotten": (["--trainer.max_epochs"], ["--trainer.max_epochs", "expected one argument"]),
}


@pytest.mark.row("F1")
@pytest.mark.parametrize("name", ON_THE_LINE)
def test_mistake_on_the_command_line(project: Project, name: str) -> None:
    words, parts = ON_THE_LINE[name]
    paragraph = project.fails("fit", "--config", "small.yaml", *words)
    assert all(part in paragraph for part in parts), paragraph
    assert len(paragraph) < 500
    assert not Path("runs").exists()


IN_A_PART: dict[str, tuple[str, str, str]] = {
    "key": ("{class_path: GatedFusion,\ninit_args: {output_dm: 3}}", "line 2", "mean 'output_dim'?"),
    "class": ("class_path: GatedFuson", "line 1", "did you mean 'GatedFusion'?"),
    "type": ("class_path: GatedFusion\ninit_args: {output_dim: wide}", "line 2", "expected a whole number"),
    "beside": ("class_path: GatedFusion\noutput_dim: 3", "line 2", "under init_args"),
    "nested key": (
        "class_path: LearnedPlaceholders\n"
        "init_args:\n  fusion: {class_path: GatedFusion, init_args: {output_dm: 3}}",
        "line 3, model.student.fusion.fusion.output_dm",
        "which GatedFusion does not have",
    ),
    "required": ("class_path: LearnedPlaceholders", "line 1", "found no fusion for LearnedPlaceholders"),
    "a word": ("hello", "model.student.fusion", "found 'hello'; expected a class"),
    "nothing": ("", "model.student.fusion", "found nothing; expected a class"),
    "no YAML": ("class_path: [1\n", "model.student.fusion", "look at line 2"),
}


@pytest.mark.parametrize(
    "named", ["--model.student.fusion part.yaml", "--model.student.fusion=part.yaml", ""]
)
@pytest.mark.parametrize("name", IN_A_PART)
def test_mistake_in_a_part_file(project: Project, name: str, named: str) -> None:
    text, where, told = IN_A_PART[name]
    Path("part.yaml").write_text(text)
    edit = (lambda c: None) if named else (lambda c: student(c).update(fusion="part.yaml"))
    paragraph = project.fails("fit", "--config", project.change("whole.yaml", edit), *named.split())
    assert paragraph.startswith("error: part.yaml, "), paragraph
    assert where in paragraph.partition(": found ")[0]
    assert told in paragraph
    assert len(paragraph) < 500


@pytest.mark.parametrize(
    ("edit", "wanted"),
    [
        (lambda c: c["data"]["init_args"]["source"].update(class_path="mine.Source"), "another DataSource"),
        (lambda c: student(c).update(fusion={"class_path": "mine.Head"}), "or another FusionHead"),
    ],
)
def test_an_allowed_package_that_is_not_there(
    project: Project, monkeypatch: pytest.MonkeyPatch, edit: Callable[[Config], Any], wanted: str
) -> None:
    monkeypatch.setenv("LIGHTNING_DISTILL_ALLOW", "mine")
    paragraph = project.fails("fit", "--config", project.change("mistake.yaml", edit))
    assert "found 'mine." in paragraph
    assert wanted in paragraph


def test_a_part_file_and_a_mistake_after_it(project: Project) -> None:
    Path("part.yaml").write_text("class_path: GatedFusion\ninit_args: {output_dim: 3}\n")
    words = ("--model.student.fusion", "part.yaml", "--model.student.fusion.output_dm", "3")
    paragraph = project.fails("fit", "--config", "small.yaml", *words)
    assert paragraph.startswith("error: command line, model.student.fusion.output_dm: found the key")


@pytest.mark.parametrize(
    ("text", "part"),
    [("a: [1,\nb: 2", "look at line 3"), ("hello", "found no keys")],
    ids=["broken", "no mapping"],
)
def test_config_that_is_no_yaml(project: Project, text: str, part: str) -> None:
    Path("broken.yaml").write_text(text)
    paragraph = project.fails("fit", "--config", "broken.yaml")
    assert "broken.yaml" in paragraph
    assert part in paragraph


def test_config_that_is_not_there(project: Project) -> None:
    paragraph = project.fails("fit", "--config", "smal.yaml")
    assert "found no file smal.yaml" in paragraph
    assert "did you mean 'small.yaml'?" in paragraph


def test_no_config_at_all(project: Project) -> None:
    assert "--config FILE" in project.fails("fit")
    assert "--run RUN" in project.fails("test")


def test_errors_of_the_data_keep_their_exit_code(project: Project) -> None:
    paragraph = project.fails("fit", "--config", "small.yaml", "--data.source.path", "nowhere.csv", code=3)
    assert "nowhere.csv" in paragraph


def test_missing_teacher_names_the_folder_and_the_command_that_makes_it(project: Project) -> None:
    folder = {
        "class_path": "lightning_distill.export.load_student",
        "init_args": {"folder": "runs/t/student"},
    }
    teacher = {"class_path": "FrozenTeacher", "init_args": {"model": folder}}
    name = project.change("no_teacher.yaml", lambda c: module(c).update(teacher=teacher, losses={"kd": KD}))
    paragraph = project.fails("fit", "--config", name, code=4)
    assert "runs/t/student/config.json" in paragraph
    assert "lightning-distill fit --run" in paragraph
