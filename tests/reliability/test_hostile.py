"""What comes from elsewhere: nothing of it runs, is imported, or calls out; each is told in one paragraph."""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.processes import needs_fork, run_apart
from tests.reliability.canaries import MODULE, TRACE, Watch, leave_the_network, write_modules
from tests.reliability.hostile import HEAD, Opening
from tests.reliability.hostile_checkpoints import CHECKPOINTS, STUDENTS
from tests.reliability.hostile_configs import CLASSES, TEXTS, fusion
from tests.reliability.hostile_data import DATA
from tests.reliability.hostile_folders import FOLDERS

GROUPS: dict[str, dict[str, Callable[[], Opening]]] = {
    "classes": CLASSES,
    "texts": TEXTS,
    "checkpoints": CHECKPOINTS,
    "students": STUDENTS,
    "folders": FOLDERS,
    "data": DATA,
}
OURS = ("CheckpointError", "ConfigError", "ManifestError", "SampleError", "TeacherError")
HARMLESS = ("pickles in a table's metadata",)
"""Read, without what is hostile in it."""
OTHERWISE = ("a way over a class", "a student that trusts more", "in dict_kwargs", "pickles, please")
"""Refused for another reason than the package."""
CONTROL = "control"
"""The same canary, allowed: the watch must hear it."""

pytestmark = needs_fork


class Outcome(NamedTuple):
    """What became of an artefact: kind and text of the error, what was heard, and what it cost."""

    kind: str
    text: str
    heard: list[str]
    ran: bool
    seconds: float
    megabytes: float


def _open(make: Callable[[], Opening], watch: Watch) -> Outcome:
    opening = make()
    err, kind, text = io.StringIO(), "", ""
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with watch.on() as heard, contextlib.redirect_stderr(err), contextlib.redirect_stdout(io.StringIO()):
        try:
            code = opening()
            kind, text = ("" if code in (0, None) else f"exit {code}"), err.getvalue()
        except BaseException as error:
            kind, text = type(error).__name__, str(error)
    spent = time.process_time() - start
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    return Outcome(kind, text, list(heard), Path(TRACE).exists(), spent, grown)


def _open_all(folder: Path) -> None:
    """In a process of its own, for what listens to it cannot be removed again."""
    os.environ.pop("LIGHTNING_DISTILL_ALLOW", None)
    os.environ["HF_HUB_OFFLINE"] = "0"  # so that what wants to call out does
    write_modules(folder / "modules")
    sys.path.insert(0, str(folder / "modules"))
    warnings.simplefilter("ignore")
    told: dict[str, Any] = {"network": not leave_the_network()}
    watch = Watch()
    for group, cases in GROUPS.items():
        for name, make in cases.items():
            told[f"{group}: {name}"] = _in(folder / group / name.replace("/", "_"), make, watch)
    os.environ["LIGHTNING_DISTILL_ALLOW"] = MODULE
    told[CONTROL] = _in(folder / CONTROL, fusion(HEAD), watch)
    (folder / "told.json").write_text(json.dumps(told))


def _in(folder: Path, make: Callable[[], Opening], watch: Watch) -> Outcome:
    folder.mkdir(parents=True)
    with contextlib.chdir(folder):
        return _open(make, watch)


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("hostile")
    run_apart(_open_all, folder)
    found: dict[str, Any] = json.loads((folder / "told.json").read_text())
    return found


def check(told: dict[str, Any], group: str) -> None:
    """None of the group has done anything, and each was told in one paragraph."""
    for name in GROUPS[group]:
        outcome = Outcome(*told[f"{group}: {name}"])
        assert outcome.heard == [], (name, outcome)
        assert not outcome.ran, (name, outcome)
        if name in HARMLESS:
            assert outcome.kind == "", (name, outcome)
            continue
        if group in ("classes", "texts"):
            assert outcome.kind in ("exit 2", "exit 4"), (name, outcome)
            assert outcome.text.startswith("error: "), (name, outcome)
            assert outcome.text.count("error: ") == 1, (name, outcome)
        else:
            assert outcome.kind in OURS, (name, outcome)
            assert "\n" not in outcome.text, (name, outcome)
        assert "Traceback" not in outcome.text, (name, outcome)


@pytest.mark.row("F3")
def test_classes_from_outside(told: dict[str, Any]) -> None:
    check(told, "classes")
    for name in set(CLASSES) - {*OTHERWISE}:
        outcome = Outcome(*told[f"classes: {name}"])
        assert outcome.kind == "exit 2", (name, outcome)
        assert "packages that a config may name" in outcome.text, (name, outcome)


@pytest.mark.row("F2")
def test_texts_that_make_objects_or_much(told: dict[str, Any]) -> None:
    check(told, "texts")


@pytest.mark.row("K4", "Q1")
def test_checkpoints_that_run_code(told: dict[str, Any]) -> None:
    check(told, "checkpoints")


@pytest.mark.row("Q1")
def test_students_that_run_code(told: dict[str, Any]) -> None:
    check(told, "students")


@pytest.mark.row("Q4")
def test_model_folders_with_code_or_pickles(told: dict[str, Any]) -> None:
    check(told, "folders")


@pytest.mark.row("Q2", "Q3")
def test_data_that_lead_elsewhere_or_grow(told: dict[str, Any]) -> None:
    check(told, "data")
    for group in ("texts", "data", "students"):
        for name in GROUPS[group]:
            outcome = Outcome(*told[f"{group}: {name}"])
            assert outcome.megabytes < 200, (name, outcome)
            assert outcome.seconds < 2, (name, outcome)


def test_there_are_enough() -> None:
    assert sum(map(len, GROUPS.values())) >= 60


def test_the_watch_hears_what_is_allowed(told: dict[str, Any]) -> None:
    outcome = Outcome(*told[CONTROL])
    assert any(MODULE in line for line in outcome.heard), outcome
    assert outcome.ran
    assert outcome.kind == "", outcome
