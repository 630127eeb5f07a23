"""What Weights & Biases gets of a run: one real offline run with a cached teacher, and its resumption."""

from __future__ import annotations

import base64
import contextlib
import csv
import hashlib
import json
import os
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pytest
import torch
import yaml

from lightning_distill import load_student
from lightning_distill.__main__ import main
from lightning_distill.data import ByteTextProcessor
from tests.cli import wandb_file
from tests.cli.conftest import Project, module, small_config
from tests.commands.test_evaluate import ROWS, cells, with_images, write_table

FIRST, SECOND = 0, 1
LR = 0.01


class Sessions(NamedTuple):
    """A run in two sessions."""

    run: Path
    folders: list[Path]
    said: str


def _student() -> dict[str, Any]:
    config = with_images()
    init_args, text_only = module(config), small_config()
    init_args["student"] = module(text_only)["student"]
    teacher = {"class_path": "lightning_distill.export.load_student", "init_args": {"folder": "t/student"}}
    init_args["teacher"] = {"class_path": "FrozenTeacher", "init_args": {"model": teacher}}
    init_args["losses"] = {"kd": {"class_path": "LogitKD"}}
    init_args["clip_rule"] = {"class_path": "ValueClip", "init_args": {"epsilon": 0.01}}
    return config


@pytest.fixture(scope="module")
def sessions(tmp_path_factory: pytest.TempPathFactory) -> Sessions:
    folder = tmp_path_factory.mktemp("wandb")
    write_table([cells(i) for i in range(ROWS)], folder)
    for i in range(ROWS):
        picture = np.random.default_rng(i).integers(0, 256, (200, 100, 3)) // (1 + i % 2)
        cv2.imwrite(str(folder / f"{i}.png"), picture.astype(np.uint8))
    (folder / "teacher.yaml").write_text(yaml.safe_dump(with_images()))
    (folder / "student.yaml").write_text(yaml.safe_dump(_student()))
    with pytest.MonkeyPatch.context() as patch, contextlib.chdir(folder):
        patch.setenv("LIGHTNING_DISTILL_CACHE", str(folder / "cache"))
        patch.delenv("WANDB_DATA_DIR", raising=False)
        assert main(["fit", "--config", "teacher.yaml", "--run", "t", "--trainer.max_epochs=1"]) == 0
        patch.setenv("WANDB_MODE", "offline")
        words = ["--config", "student.yaml", "--run", "a", "--cache", "auto"]
        # Accuracy is 1 from the first epoch on; by the loss, the third of four is the best.
        words += ["--checkpoint.monitor=val/loss", "--checkpoint.mode=min"]
        assert main(["fit", *words, "--trainer.max_epochs=1"]) == 0
        with (folder / "said").open("w") as said, contextlib.redirect_stdout(said):
            assert main(["fit", *words, "--trainer.max_epochs=4", "--resume", "auto"]) == 0
        for name in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS"):
            os.environ.pop(name, None)
    found = sorted((folder / "a" / "wandb").glob("offline-run-*"))
    return Sessions(folder / "a", found, (folder / "said").read_text())


def test_the_full_config_arrives_nested(sessions: Sessions) -> None:
    config = wandb_file.config(sessions.folders[FIRST])
    saved = yaml.safe_load((sessions.run / "config.yaml").read_text())
    assert config["model"]["init_args"]["optimizer"]["init_args"]["lr"] == LR
    config["trainer"]["max_epochs"] = saved["trainer"]["max_epochs"]  # what the second session changed
    assert {key: config[key] for key in saved} == saved


def test_metrics_have_the_step_of_the_optimizer_as_their_axis(sessions: Sessions) -> None:
    defined = {
        m.glob_name or m.name: m.step_metric for m in wandb_file.records(sessions.folders[0], "metric")
    }
    assert defined["*"] == "trainer/global_step"
    rows = wandb_file.history(sessions.folders[FIRST])
    assert all("trainer/global_step" in row for row in rows)
    groups = {key.partition("/")[0] for row in rows for key in row if "/" in key}
    assert groups == {"train", "val", "clip", "gradient_share", "gradient_cosine", "trainer"}
    assert all(any(row.get(f"clip/clipped_share/{part}", 0) > 0 for row in rows) for part in ("text", "head"))
    shares = [row["gradient_share/kd"] for row in rows if "gradient_share/kd" in row]
    assert shares
    assert all(0 < share < 1 for share in shares)


def test_the_best_value_is_in_the_summary(sessions: Sessions) -> None:
    with (sessions.run / "metrics.csv").open(newline="") as file:
        values = [float(row["val/loss"]) for row in csv.DictReader(file) if row["val/loss"]]
    assert len(values) == 4
    assert wandb_file.summary(sessions.folders[SECOND])["best/val/loss"] == pytest.approx(min(values))


def _table(folder: Path) -> tuple[dict[str, list[Any]], dict[str, Path]]:
    """Its columns, and the files in it."""
    (artifact,) = (a for a in wandb_file.records(folder, "artifact") if a.type == "run_table")
    files = {entry.path: Path(entry.local_path) for entry in artifact.manifest.contents}
    content = json.loads(files["samples.table.json"].read_text())
    return {name: [row[at] for row in content["data"]] for at, name in enumerate(content["columns"])}, files


def test_the_table_shows_samples_and_what_is_said_of_them(sessions: Sessions) -> None:
    table, files = _table(sessions.folders[SECOND])
    names = ["label", "student", "student_probability", "teacher", "teacher_probability"]
    assert sorted(table) == sorted(["text", "image", *names])
    val = [row for row in (cells(i) for i in range(ROWS)) if row[3] == "val"]
    assert table["text"] == [row[0] for row in val]
    assert table["label"] == [row[2] or None for row in val]
    assert [picture is None for picture in table["image"]] == [not row[1] for row in val]
    shown = next(picture for picture in table["image"] if picture)
    assert (shown["width"], shown["height"]) == (64, 128)
    height, width, _ = cv2.imread(str(files[shown["path"]])).shape
    assert (width, height) == (64, 128)
    assert all(path.is_relative_to(sessions.run) for path in files.values()), "nothing in the user's home"
    student = load_student(sessions.run / "student")
    processor = ByteTextProcessor(max_length=8)
    inputs = processor.collate([processor.prepare(text) for text in table["text"]])
    there = torch.ones(len(val), dtype=torch.bool)
    batch: Any = {"inputs": {"text": inputs}, "present": {"text": there}}
    with torch.no_grad():
        sure = student(batch).logits.softmax(dim=1)
    assert table["student"] == ["xy"[i] for i in sure.argmax(dim=1)]
    assert table["student_probability"] == pytest.approx(sure.amax(dim=1).tolist(), abs=1e-4)
    assert set(table["teacher"]) <= {"x", "y"}


def test_it_shows_the_same_samples_every_time(sessions: Sessions) -> None:
    first, second = (_table(folder)[0] for folder in sessions.folders)
    assert all(first[name] == second[name] for name in ("text", "label", "image"))


def test_student_and_answers_of_the_teacher_are_artifacts(sessions: Sessions) -> None:
    logged = {a.type: a for a in wandb_file.records(sessions.folders[SECOND], "artifact")}
    assert set(logged) == {"model", "dataset", "run_table"}
    student, answers = logged["model"], logged["dataset"]
    assert set(student.aliases) == {"best", "latest"}
    told = json.loads(student.metadata)
    assert told["modalities"] == ["text"]
    assert told["classes"] == ["x", "y"]
    assert set(told["best"]) == {"val/loss"}
    with (sessions.run / "metrics.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["val/loss"]]
    best = min(rows, key=lambda row: float(row["val/loss"]))
    names = {name for name in best if name.startswith("val/") and best[name]}
    assert told["metrics"] == {name: pytest.approx(float(best[name]), rel=1e-6) for name in names}
    assert best is not rows[-1], "else the last epoch's metrics would do"
    places = [entry.ref for entry in answers.manifest.contents]
    cache = sessions.run.parent / "cache"
    assert places
    assert all(
        ref.startswith(cache.as_uri()) and Path(ref.removeprefix("file://")).is_file() for ref in places
    )
    assert not any(entry.local_path for entry in answers.manifest.contents), "referred to, not sent"


def test_the_artifact_of_each_session_stays_what_it_was(sessions: Sessions) -> None:
    """An offline session is uploaded later, when the next one may have replaced the student."""
    students = []
    for folder in sessions.folders:
        (student,) = (a for a in wandb_file.records(folder, "artifact") if a.type == "model")
        files = {entry.path: entry for entry in student.manifest.contents}
        assert set(files) == {path.name for path in (sessions.run / "student").iterdir()}
        for entry in files.values():
            path = Path(entry.local_path)
            assert entry.digest == base64.b64encode(hashlib.md5(path.read_bytes()).digest()).decode()
            assert path.is_relative_to(sessions.run), "nothing in the user's home"
        students.append(files["model.safetensors"].digest)
    assert len(set(students)) == len(sessions.folders), "else the student was not replaced"


def test_a_resumed_run_goes_on_in_one_history(sessions: Sessions) -> None:
    steps = [[row["_step"] for row in wandb_file.history(folder)] for folder in sessions.folders]
    assert max(steps[FIRST]) < min(steps[SECOND])
    assert all(a < b for session in steps for a, b in pairwise(session))
    ids = [run.run_id for folder in sessions.folders for run in wandb_file.records(folder, "run")]
    assert len(set(ids)) == 1
    taken = [row["trainer/global_step"] for f in sessions.folders for row in wandb_file.history(f)]
    assert taken == sorted(taken)


def test_the_line_that_uploads_names_all_sessions_oldest_first(sessions: Sessions) -> None:
    line = next(line for line in sessions.said.splitlines() if "wandb sync" in line)
    assert line.partition("wandb sync ")[2].split() == [str(folder) for folder in sessions.folders]


@pytest.mark.parametrize(("student", "sent"), [(False, 0), ("a/student", 1)])
def test_artifacts_of_the_config_take_the_place_of_the_standing_ones(
    project: Project, monkeypatch: pytest.MonkeyPatch, student: str | bool, sent: int
) -> None:
    """Also in order: after the callback that saves the student."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    own = {"class_path": "WandbArtifacts", "init_args": {"student": student}}
    table = {"class_path": "SampleTable", "init_args": {"samples": 0}}
    name = project.change("own.yaml", lambda c: c["trainer"].update(callbacks=[own, table], max_epochs=1))
    assert project.fit("--run", "a", config=name) == 0, project.err
    (session,) = Path("a/wandb").glob("offline-run-*")
    assert [a.type for a in wandb_file.records(session, "artifact")] == ["model"] * sent
