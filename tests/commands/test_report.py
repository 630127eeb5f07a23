"""`lightning-distill report` through the real command line, on runs of a second."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest
import yaml

from lightning_distill.cli.parsing import parsed
from lightning_distill.commands.report import _write_change
from lightning_distill.explanation.findings import Finding, placed
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


@pytest.mark.parametrize("parent", ["runs", "my 'own' runs"])
def test_a_change_names_its_samples_by_a_file(distilled: Project, parent: str) -> None:
    run = Path(parent, "b")
    change = yaml.safe_dump({"model": {"init_args": {"x": "{changes}/odd.txt"}}})
    finding = placed(Finding("odd", "A title.", "A figure.", change, (3, 2**40)), run / "changes")
    words = shlex.split(_write_change(finding, run))
    files = [f"{parent}/b/config.yaml", f"{parent}/b/changes/odd.yaml"]
    expected = ["lightning-distill", "fit", "--config", files[0], "--config", files[1]]
    assert words == [*expected, "--run", f"{parent}/b-odd"]
    assert Path(run, "changes/odd.txt").read_text() == f"3\n{2**40}\n"
    found = yaml.safe_load(Path(files[1]).read_text())
    assert Path(found["model"]["init_args"]["x"]).is_file()
