"""The console script: quick answers, exit codes, tracebacks on request."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

import lightning_distill
from lightning_distill import __main__ as entry
from tests.cli.conftest import Project

HEAVY = ("torch", "lightning", "transformers", "timm", "wandb", "pyarrow", "numpy")


@pytest.mark.parametrize("words", [["--version"], ["--help"], [], ["-h"], ["fti"]])
def test_quick_answers_import_nothing_heavy(words: list[str]) -> None:
    code = (
        "import sys; from lightning_distill.__main__ import main; main(sys.argv[1:]); "
        f"heavy = [m for m in {HEAVY} if m in sys.modules]; assert not heavy, heavy"
    )
    begin = time.perf_counter()
    result = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert time.perf_counter() - begin < 0.5 or words == ["fti"]


def test_python_m_runs_and_fails_with_the_errors_own_code(tmp_path: Path) -> None:
    """In a process of its own, as users do."""
    config = tmp_path / "broken.yaml"
    config.write_text("model: {class_path: DistilationModule}\n")
    command = [sys.executable, "-m", "lightning_distill"]
    result = subprocess.run(
        [*command, "fit", "--config", str(config)],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path.cwd(),
    )
    assert result.returncode == 2
    assert result.stderr.startswith("error: ")
    assert len(result.stderr.splitlines()) == 1
    assert "did you mean 'DistillationModule'?" in result.stderr


def test_version_and_help(project: Project) -> None:
    assert project.run("--version") == 0
    assert project.out.strip() == f"lightning-distill {lightning_distill.__version__}"
    for words in ([], ["--help"]):
        assert project.run(*words) == 0
        words = ("fit", "validate", "test", "predict", "init", "doctor", "evaluate", "demo")
        assert all(f"  {word} " in project.out for word in words)


def test_help_of_a_command(project: Project) -> None:
    assert project.run("fit", "--help") == 0
    for option in ("--run", "--resume", "--overwrite", "--early_stopping.patience", "--trainer.max_epochs"):
        assert option in project.out


@pytest.mark.parametrize("word", ["fti", "--config", "training"])
def test_unknown_command(project: Project, word: str) -> None:
    paragraph = project.fails(word)
    assert f"a command: {', '.join(entry._COMMANDS)}. To fix: " in paragraph


def test_debug_shows_the_traceback(project: Project) -> None:
    words = ("fit", "--config", "small.yaml", "--model.student.num_classes", "3")
    assert "Traceback" not in project.fails(*words)
    for at in (0, 1, 3):
        assert project.run(*words[:at], "--debug", *words[at:]) == 2
        assert "Traceback" in project.err
        assert project.err.splitlines()[-1].startswith("error: ")


def test_an_unknown_error_is_one_line_and_says_how_to_see_more(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(words: list[str]) -> int:
        raise ZeroDivisionError("by\nzero \x1b[31m")

    monkeypatch.setattr(entry, "_dispatch", fail)
    assert project.fails("fit", code=1) == "error: ZeroDivisionError: by zero \\x1b[31m (--debug shows where)"


def test_an_interrupt_has_its_own_code(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(words: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(entry, "_dispatch", interrupt)
    assert project.run("fit") == 130
