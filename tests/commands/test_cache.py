"""`lightning-distill cache` and `cache: auto` through the real command line."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.cli.conftest import Project, module, project, small_config

__all__ = ["project"]


@pytest.fixture
def taught(project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project with a trained teacher and a config that distils it."""
    monkeypatch.setenv("LIGHTNING_DISTILL_CACHE", str(tmp_path / "cache"))
    assert project.fit("--run", "a") == 0, project.err
    config = small_config()
    model = {"class_path": "lightning_distill.export.load_student", "init_args": {"folder": "a/student"}}
    module(config)["teacher"] = {"class_path": "FrozenTeacher", "init_args": {"model": model}}
    module(config)["losses"] = {"kd": {"class_path": "LogitKD"}}
    Path("distil.yaml").write_text(yaml.safe_dump(config))
    return project


def test_filled_before_training_and_found_by_it(taught: Project, caplog: pytest.LogCaptureFixture) -> None:
    first = ("cache", "-c", "distil.yaml", "--part", "1/2")
    assert taught.run(*first) == 0, taught.err
    assert "24 answers" in taught.out
    assert "24 missing" in taught.out
    assert taught.run("cache", "-c", "distil.yaml") == 0, taught.err
    assert "48 answers" in taught.out
    assert "0 missing" in taught.out
    assert taught.fit("--run", "b", "--cache", "auto", config="distil.yaml") == 0, taught.err
    assert "48 of 48 are there, the teacher is not needed" in caplog.text
    kept = yaml.safe_load(Path("b/config.yaml").read_text())
    assert kept["cache"] == "auto"
    assert kept["model"]["init_args"]["teacher"]["class_path"].endswith("CachedTeacher")
    assert taught.run("test", "--run", "b") == 0, taught.err


def test_filled_by_training_and_gone_on_with(taught: Project, caplog: pytest.LogCaptureFixture) -> None:
    words = ("--cache", "auto", "--trainer.max_epochs", "1")
    assert taught.fit("--run", "b", *words, config="distil.yaml") == 0, taught.err
    assert "0 of 48 are there, 48 will be added" in caplog.text
    assert taught.run("fit", "--run", "b", "--resume", "auto", "--trainer.max_epochs", "2") == 0, taught.err
    assert "48 of 48 are there, the teacher is not needed" in caplog.text


def test_damage_is_found_and_repaired(taught: Project) -> None:
    assert taught.run("cache", "-c", "distil.yaml") == 0, taught.err
    assert taught.run("cache", "-c", "distil.yaml", "--verify") == 0, taught.err
    assert "0 damaged" in taught.out
    (path,) = Path("cache").rglob("*.data")
    raw = bytearray(path.read_bytes())
    raw[7] ^= 16
    path.write_bytes(raw)
    assert taught.run("cache", "-c", "distil.yaml", "--verify") == 3
    assert f"damaged: {path.absolute()}, block 0: other bytes than were written" in taught.out
    assert "cache: repair" in taught.fails(
        "fit", "-c", "distil.yaml", "--cache", "auto", "--run", "b", code=4
    )
    assert taught.run("cache", "-c", "distil.yaml", "--repair") == 0, taught.err
    assert "48 answers" in taught.out
    assert taught.run("cache", "-c", "distil.yaml", "--verify") == 0, taught.err


def test_mistakes(taught: Project) -> None:
    assert "a model without a teacher" in taught.fails(
        "fit", "-c", "small.yaml", "--cache", "auto", "--run", "c"
    )
    assert "found tran" in taught.fails("cache", "-c", "distil.yaml", "--split", "tran")
    for part in ("3/2", "0/2", "x", "1"):
        assert "--part" in taught.fails("cache", "-c", "distil.yaml", "--part", part)
    assert not Path("c").exists()
