"""From seeing to acting: a teacher that misleads on some classes, the finding, and training again with it."""

from __future__ import annotations

from pathlib import Path

import yaml

from lightning_distill.commands.opening import finished_run, run_config, teacher_of
from lightning_distill.explanation.answers import answers
from lightning_distill.explanation.by_class import by_class
from lightning_distill.explanation.facts import RunFacts
from lightning_distill.explanation.findings import findings
from tests.cli.conftest import SPLITS, Config, Project, module, project, small_config
from tests.explanation.found import facts

__all__ = ["project"]

ANIMALS = ("ant", "bee", "cat")
MISTAKEN = {"ant": "ant", "bee": "cat", "cat": "bee"}


def write(folder: Path, name: str, swapped: bool) -> None:
    """144 texts that tell their class; for the teacher two classes have each other's label."""
    rows = []
    for i in range(144):
        label = ANIMALS[i % 3]
        rows.append(f"{label}{i},{MISTAKEN[label] if swapped else label},{SPLITS[i // 3 % 4]}")
    (folder / name).write_text("\n".join(["text,label,split", *rows]) + "\n")


def config(table: str, teacher: str = "") -> Config:
    found = small_config()
    found["trainer"]["max_epochs"] = 4
    found["data"]["init_args"]["source"]["init_args"]["path"] = table
    module(found)["student"]["init_args"]["num_classes"] = 3
    module(found)["optimizer"]["init_args"]["lr"] = 0.02
    if teacher:
        load = {"class_path": "lightning_distill.export.load_student", "init_args": {"folder": teacher}}
        module(found)["teacher"] = {"class_path": "FrozenTeacher", "init_args": {"model": load}}
        module(found)["losses"] = {"kd": {"class_path": "LogitKD", "init_args": {"temperature": 1.0}}}
        module(found)["weights"] = {"task": 0.1, "kd": 0.9}
    return found


def seen(run: Path) -> RunFacts:
    """What the run's student and teacher say of the test split."""
    opened, settings = finished_run(run), run_config(run)
    teacher = teacher_of(settings, None, run / "config.yaml")
    said = answers({"student": opened.student, "teacher": teacher}, opened.data)
    text = (run / "config.yaml").read_text()
    return facts(text, run=run, answers=said, classes=by_class(said))


def test_the_change_of_a_finding_makes_the_student_better(project: Project) -> None:
    for name, swapped in (("wrong.csv", True), ("right.csv", False)):
        write(project.folder, name, swapped)
    Path("teacher.yaml").write_text(yaml.safe_dump(config("wrong.csv")))
    Path("student.yaml").write_text(yaml.safe_dump(config("right.csv", "teacher/student")))
    assert project.fit("--run", "teacher", config="teacher.yaml") == 0, project.err
    assert project.fit("--run", "a", config="student.yaml") == 0, project.err
    before = seen(Path("a"))
    (found,) = [one for one in findings(before) if one.name == "misleading-class"]
    assert found.title == "The teacher misleads on the classes 'bee', 'cat'."
    Path("change.yaml").write_text(found.change)
    assert project.fit("--config", "change.yaml", "--run", "b", config="a/config.yaml") == 0, project.err
    after = seen(Path("b"))
    recall = [[one.accuracy["student"] for one in at.classes] for at in (before, after)]
    assert max(recall[0][1:]) < 0.5, "the first student believes its teacher"
    assert min(recall[1]) > 0.9
    excluding = yaml.safe_load(Path("b/config.yaml").read_text())["model"]["init_args"]["losses"]["kd"]
    assert excluding["class_path"].endswith("Excluding")
    assert excluding["init_args"]["classes"] == [1, 2]
