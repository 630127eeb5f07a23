"""Run folders that are in use, cannot be written, are damaged, or hold the checkpoints of another run."""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from lightning_distill.checkpoints import read_checkpoint
from lightning_distill.cli.run_folder import RunFolder
from lightning_distill.cli.run_lock import RunLock
from lightning_distill.errors import ConfigError, DiskError
from tests.cli.conftest import Project, project, trained, trained_run
from tests.reliability.small_disk import small_disk

__all__ = ["project", "trained", "trained_run"]

RESUME = ("fit", "--run", "a", "--resume", "auto")


@contextmanager
def elsewhere(work: Callable[[], object]) -> Iterator[int]:
    """A process that has done `work`, keeps what it gave, and waits; its number."""
    ready, tell = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            kept = work()
            os.write(tell, b"!")
            signal.pause()
            del kept
        finally:
            os._exit(1)
    try:
        os.close(tell)
        assert os.read(ready, 1) == b"!"
        yield pid
    finally:
        os.close(ready)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def code_of(work: Callable[[], None]) -> int:
    """The exit code a process has after `work`: that of its error, or 0."""
    pid = os.fork()
    if not pid:
        code = 99
        try:
            work()
            code = 0
        except DiskError as error:
            code = error.exit_code
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def content(folder: Path) -> dict[str, bytes]:
    """All files below a folder."""
    return {str(p): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def taken(folder: Path) -> RunLock:
    """The lock of a folder."""
    lock = RunLock(folder)
    lock.take()
    return lock


# -- two runs in one folder -----------------------------------------------------------------------------


@pytest.mark.row("K11")
def test_a_second_run_in_a_folder_is_told_who_has_it(trained: Project) -> None:
    with elsewhere(lambda: taken(Path("a"))) as pid:
        before = content(Path("a"))
        for words in (RESUME, ("fit", "--config", "small.yaml", "--run", "a", "--overwrite")):
            paragraph = trained.fails(*words)
            assert f"process {pid} on {platform.node()}" in paragraph
        assert content(Path("a")) == before
    # It was killed: its lock is still there, and keeps nobody out.
    assert json.loads(Path("a/.lock").read_text())["pid"] == pid
    assert trained.run(*RESUME, "--trainer.max_epochs", "3") == 0, trained.err
    assert not Path("a/.lock").exists()


@pytest.mark.row("K11")
def test_of_two_that_start_at_once_the_second_removes_nothing(tmp_path: Path) -> None:
    quick, slow = (RunFolder.for_fit(tmp_path / "a", False, False, "fit") for _ in range(2))
    with elsewhere(quick.__enter__):
        with pytest.raises(ConfigError, match="at work"), slow:
            pass
        assert (tmp_path / "a" / ".lock").exists()


def test_a_worker_does_not_keep_the_lock_of_its_run(tmp_path: Path) -> None:
    lock = taken(tmp_path)
    with elsewhere(lambda: None):  # forked while it was held
        lock.release()
        RunLock(tmp_path).take()


def test_a_run_that_was_killed_while_it_replaced_another_gives_it_back(trained: Project) -> None:
    before = content(Path("a/checkpoints"))

    with elsewhere(lambda: RunFolder.for_fit(Path("a"), False, True, "fit").__enter__()):
        assert not list(Path("a").glob("*.yaml"))
        with pytest.raises(ConfigError, match="at work"):
            RunFolder.for_fit(Path("a"), True, False, "fit")
    assert trained.run(*RESUME) == 0, trained.err
    assert content(Path("a/checkpoints")) == before
    assert not list(Path().glob(".a.*"))


# -- folders that cannot be written ---------------------------------------------------------------------


@pytest.mark.row("K10")
@pytest.mark.skipif(not hasattr(os, "setuid") or os.getuid() != 0, reason="takes root to become nobody")
@pytest.mark.parametrize("locked", ["a", "a/checkpoints"])
def test_a_folder_without_the_right_to_write_is_found_at_once(locked: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        home.chmod(0o777)
        (home / "a" / "checkpoints").mkdir(parents=True)
        for path in (home / "a", home / "a" / "checkpoints"):
            path.chmod(0o777)
        (home / locked).chmod(0o555)

        def begin() -> None:
            os.setuid(65534)
            with RunFolder(home / "a", resume=True):
                pass

        assert code_of(begin) == 28
        (home / locked).chmod(0o777)
        assert code_of(begin) == 0


@pytest.mark.row("K10")
def test_a_disk_that_is_read_only_or_too_small_is_found_before_the_first_step(project: Project) -> None:
    fit = ("fit", "--config", "small.yaml", "--run", "disk/a")
    with small_disk(Path("disk")) as disk:
        wide = ("--model.student.encoders.text.width", "200")
        paragraph = project.fails(*fit, *wide, code=28)
        assert "bytes are free" in paragraph
        assert "takes" in paragraph
        assert list(disk.iterdir()) == []
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        assert "Read-only" in project.fails(*fit, code=28)
        assert "terms at step 0" not in project.out + project.err
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
        assert project.run(*fit, "--trainer.max_epochs", "1") == 0, project.err


# -- what to resume -------------------------------------------------------------------------------------


def damage(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 4
    path.write_bytes(raw)


@pytest.mark.row("K3")
def test_the_older_good_checkpoint_is_used_where_the_newer_is_damaged(project: Project) -> None:
    assert project.fit("--run", "whole", "--trainer.max_epochs", "3") == 0, project.err
    assert project.fit("--run", "a", "--trainer.max_epochs", "1") == 0, project.err
    shutil.copytree("a/checkpoints", "older")
    assert project.run(*RESUME, "--trainer.max_epochs", "2") == 0, project.err
    shutil.rmtree("a/checkpoints")
    shutil.copytree("older", "a/checkpoints")
    for number, break_it in enumerate((damage, lambda p: p.write_bytes(p.read_bytes()[:999]), Path.touch)):
        newer = Path(f"a/checkpoints/newer{number}.ckpt")
        shutil.copy("whole/checkpoints/last.ckpt", newer)
        if break_it is Path.touch:
            newer.write_bytes(b"")
        else:
            break_it(newer)
    assert project.run(*RESUME, "--trainer.max_epochs", "3") == 0, project.err
    assert "damaged" in project.err
    assert all(f"newer{number}.ckpt" in project.err for number in range(3))
    found, whole = (read_checkpoint(Path(f"{run}/checkpoints/last.ckpt")) for run in ("a", "whole"))
    assert all(torch.equal(found["state_dict"][name], x) for name, x in whole["state_dict"].items())
    assert Path("a/metrics.csv").read_text() == Path("whole/metrics.csv").read_text()


@pytest.mark.row("K3")
def test_if_all_are_damaged_all_are_named(trained: Project) -> None:
    for path in list(Path("a/checkpoints").iterdir()):
        damage(path)
    paragraph = trained.fails(*RESUME, "--config", "small.yaml", code=4)
    assert all(path.name in paragraph for path in Path("a/checkpoints").iterdir())


def test_the_same_words_start_a_run_and_go_on_with_it(project: Project) -> None:
    words = (*RESUME, "--config", "small.yaml")
    assert project.run(*words, "--trainer.max_epochs", "1") == 0, project.err
    assert "starts from the beginning" in project.out + project.err
    assert project.run(*words) == 0, project.err
    assert "starts from the beginning" not in project.out + project.err
    assert project.fit("--run", "whole") == 0, project.err
    assert Path("a/metrics.csv").read_text() == Path("whole/metrics.csv").read_text()
    # Killed before its first checkpoint.
    shutil.rmtree("a/checkpoints")
    assert project.run(*words) == 0, project.err
    assert "starts from the beginning" in project.out + project.err
    assert Path("a/metrics.csv").read_text() == Path("whole/metrics.csv").read_text()


def test_what_is_no_run_is_not_started_in(project: Project) -> None:
    Path("thesis").mkdir()
    Path("thesis/chapter1.tex").write_text("text")
    words = ("fit", "--run", "thesis", "--resume", "auto")
    assert "neither a run" in project.fails(*words, "--config", "small.yaml")
    assert "no config.yaml" in project.fails(*words)
    Path("thesis/config.yaml").write_text(Path("small.yaml").read_text())
    assert "no checkpoints/last.ckpt" in project.fails(*words, code=4)
    assert [p.name for p in sorted(Path("thesis").iterdir())] == ["chapter1.tex", "config.yaml"]


@pytest.mark.row("K6")
def test_the_command_line_forces(project: Project) -> None:
    assert project.fit("--run", "a", "--trainer.max_epochs", "1") == 0, project.err
    text = Path("table.csv").read_text()
    Path("table.csv").write_text(text + "ccc1,x,train\n")
    words = (*RESUME, "--trainer.max_epochs", "2")
    assert "data " in project.fails(*words, code=4)
    with pytest.warns(UserWarning, match="going on from"):
        assert project.run(*words, "--force") == 0, project.err
