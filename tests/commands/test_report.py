"""`lightning-distill report` through the real command line, on runs of a second."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest
import yaml

from lightning_distill.cli.parsing import parsed
from lightning_distill.commands.changes import Changes
from lightning_distill.explanation.findings import Finding
from lightning_distill.explanation.findings.overlay import RunConfig
from tests.cli.conftest import Project, module, project
from tests.commands.distilled import distilled, two_runs

__all__ = ["distilled", "project", "two_runs"]


def test_a_run_with_teacher_and_baseline(distilled: Project) -> None:
    assert distilled.run("baseline", "b") == 0, distilled.err
    assert distilled.run("report", "b") == 0, distilled.err
    said = distilled.out
    for model in ("student", "teacher", "baseline"):
        assert any(line.startswith(f"{model} ") for line in said.splitlines())
    assert "Student and teacher agree on" in said
    assert "against the same student without a teacher" in said
    assert "another seed could give another answer" in said
    assert said.endswith("Wrote b/report.html\n")
    page = Path("b/report.html").read_text()
    assert page.lower().startswith("<!doctype html>")
    assert "baseline" in page
    for path in Path("b/changes").glob("*.yaml"):
        line = next(line for line in said.splitlines() if line.startswith("  try: ") and path.name in line)
        words = line.removeprefix("  try: lightning-distill ").split()
        assert words[:3] == ["fit", "--config", "b/config.yaml"]
        assert words[-2:] == ["--run", f"b-{path.stem}"]
        assert parsed(words)  # what is proposed can be run


def test_a_run_without_teacher(distilled: Project) -> None:
    assert distilled.run("report", "a", "--split", "val", "--out", "deep/page.html") == 0, distilled.err
    assert Path("deep/page.html").is_file()
    assert not Path("a/report.html").exists()
    assert "split val" in distilled.out
    assert "none that can be asked" in distilled.out
    assert "agree on" not in distilled.out


def test_what_has_gone_is_said(distilled: Project) -> None:
    shutil.rmtree("a/student")
    shutil.copytree("b", "b/baseline")
    Path("b/baseline/student/model.safetensors").write_bytes(b"x")
    assert distilled.run("report", "b") == 0, distilled.err
    assert "No teacher: " in distilled.out
    assert "Not every baseline: " in distilled.out


def test_the_teacher_behind_a_cache_is_asked(distilled: Project) -> None:
    config = yaml.safe_load(Path("b/config.yaml").read_text())
    teacher = module(config)["teacher"]
    cached = {"class_path": "lightning_distill.teachers.CachedTeacher", "init_args": {"teacher": teacher}}
    module(config)["teacher"] = cached | {"init_args": {"teacher": teacher, "folder": "answers"}}
    Path("b/config.yaml").write_text(yaml.safe_dump(config))
    assert distilled.run("report", "b") == 0, distilled.err
    assert "Student and teacher agree on" in distilled.out
    assert not Path("answers").exists()


def test_mistakes(distilled: Project) -> None:
    assert "no such file" in distilled.fails("report", "c", code=4)
    assert "b is a folder" in distilled.fails("report", "b", "--out", "b")
    Path("table.csv").write_text(re.sub("[xy],test", ",test", Path("table.csv").read_text()))
    assert "no sample with a label" in distilled.fails("report", "b")


def with_a_finding(run: Path) -> None:
    """A baseline that is the student again: whether the teacher helps cannot be told."""
    shutil.copytree(run, "copy")
    shutil.move("copy", run / "baseline")


@pytest.mark.parametrize(("here", "word"), [("b", "."), ("b/checkpoints", "..")])
def test_a_run_named_by_dots(
    distilled: Project, here: str, word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_a_finding(Path("b"))
    home = Path.cwd()
    text = Path("b/config.yaml").read_text()
    for name in ("table.csv", "a/student"):
        assert f" {name}\n" in text
        text = text.replace(f" {name}\n", f" {home / name}\n")
    Path("b/config.yaml").write_text(text)
    monkeypatch.chdir(here)
    assert distilled.run("report", word) == 0, distilled.err
    overlay, again = home / "b/changes/teacher-no-help.yaml", home / "b-teacher-no-help"
    assert f"--config {overlay} --run {again}\n" in distilled.out
    assert overlay.is_file()
    assert (home / "b/report.html").is_file()


def test_a_page_that_cannot_be_written_leaves_no_changes(distilled: Project) -> None:
    with_a_finding(Path("b"))
    assert distilled.run("report", "b", "--out", "table.csv/page.html") != 0
    assert not Path("b/changes").exists()
    assert distilled.run("report", "b") == 0, distilled.err
    assert Path("b/changes/teacher-no-help.yaml").is_file()


def finding(name: str, *ids: int) -> Finding:
    samples = f"{{changes}}/{name}.txt"
    return Finding(
        name, "A title.", "A figure.", yaml.safe_dump({"model": {"init_args": {"x": samples}}}), ids
    )


def reported(run: Path, *found: Finding, split: str = "test") -> None:
    changes = Changes(run, split)
    changes.write([changes.placed(one) for one in found])


def samples_of(overlay: Path) -> str:
    return Path(yaml.safe_load(overlay.read_text())["model"]["init_args"]["x"]).read_text()


@pytest.mark.parametrize("parent", ["runs", "my 'own' runs"])
def test_a_change_names_its_samples_by_a_file(project: Project, parent: str) -> None:
    run = Path(parent, "b")
    changes = Changes(run, "test")
    placed = changes.placed(finding("odd", 3, 2**40))
    words = shlex.split(changes.command(placed))
    files = [f"{parent}/b/config.yaml", f"{parent}/b/changes/odd.yaml"]
    expected = ["lightning-distill", "fit", "--config", files[0], "--config", files[1]]
    assert words == [*expected, "--run", f"{parent}/b-odd"]
    changes.write([placed])
    assert samples_of(Path(files[1])) == f"3\n{2**40}\n"


def test_a_report_replaces_overlays_of_the_one_before_and_nothing_else(project: Project) -> None:
    run, folder = Path("b"), Path("b/changes")
    reported(run, finding("odd", 3), finding("even"))
    config = Path("rerun.yaml")  # what a rerun keeps of the change
    shutil.copy(folder / "odd.yaml", config)
    mine = ["mine.yaml", "notes.txt"]
    for name in mine:
        (folder / name).write_text("# Made by me\n")
    reported(run, finding("odd", 4))
    assert samples_of(folder / "odd.yaml") == "4\n"
    assert samples_of(config) == "3\n", "the rerun leaves out other samples than it was started with"
    assert sorted(p.name for p in folder.glob("*.yaml")) == ["mine.yaml", "odd.yaml"]
    assert all((folder / name).read_text() == "# Made by me\n" for name in mine)


def test_a_report_on_another_split_has_overlays_of_its_own(project: Project) -> None:
    run, folder = Path("b"), Path("b/changes")
    reported(run, finding("odd", 3))
    reported(run, finding("odd", 4), split="val")
    assert samples_of(folder / "odd.yaml") == "3\n"
    assert samples_of(folder / "odd-val.yaml") == "4\n"
    assert Changes(run, "val").command(finding("odd")).endswith("b/changes/odd-val.yaml --run b-odd-val")
    reported(run, split="val")
    assert [p.name for p in folder.glob("*.yaml")] == ["odd.yaml"]


def test_no_file_of_the_users_is_written_over(project: Project) -> None:
    run, own = Path("b"), Path("b/changes/odd.yaml")
    own.parent.mkdir(parents=True)
    own.write_text("seed_everything: 3\n")
    for _ in range(2):
        reported(run, finding("odd", 3))
    assert own.read_text() == "seed_everything: 3\n"
    assert sorted(p.name for p in own.parent.glob("*.yaml")) == ["odd-2.yaml", "odd.yaml"]
    assert Changes(run, "test").command(finding("odd")).endswith("b/changes/odd-2.yaml --run b-odd-2")


def test_a_rerun_without_teacher_of_a_run_that_needs_it_everywhere(distilled: Project) -> None:
    chosen = ("--checkpoint.monitor", "val/kd", "--early_stopping.monitor", "val/agreement")
    words = ("--early_stopping.mode", "max", "--cache", "auto", *chosen)
    assert distilled.fit("--run", "c", *words, config="distil.yaml") == 0, distilled.err
    saved = yaml.safe_load(Path("c/config.yaml").read_text())
    assert saved["cache"] == "auto"
    change = RunConfig(Path("c/config.yaml").read_text()).without_teacher("Labels alone.")
    assert change.startswith("# Labels alone.\n")
    Path("change.yaml").write_text(change)
    assert distilled.fit("--config", "change.yaml", "--run", "d", config="c/config.yaml") == 0, distilled.err
    again = yaml.safe_load(Path("d/config.yaml").read_text())
    assert again["cache"] is None
    assert (again["checkpoint"]["monitor"], again["checkpoint"]["mode"]) == ("val/task", "min")
    assert (again["early_stopping"]["monitor"], again["early_stopping"]["mode"]) == ("val/task", "min")
    assert again["early_stopping"]["patience"] == saved["early_stopping"]["patience"]
    assert again["data"]["init_args"]["teacher_processors"] is None
    assert (module(again)["teacher"], module(again)["losses"]) == (None, {})
