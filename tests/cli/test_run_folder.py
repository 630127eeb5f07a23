"""Run folders: complete, never half-made, never lost, resumed as if nothing had happened."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch
import yaml

from lightning_distill import load_student
from lightning_distill.cli.config_changes import differences
from lightning_distill.cli.run_folder import RunFolder
from tests.cli.conftest import Project


def rows(folder: str) -> list[dict[str, str]]:
    """The history of a run."""
    with Path(folder, "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def files(folder: str = ".") -> dict[str, bytes]:
    """Everything below a folder."""
    return {str(p): p.read_bytes() for p in sorted(Path(folder).rglob("*")) if p.is_file()}


def test_every_fit_makes_a_new_complete_folder(project: Project) -> None:
    assert project.fit() == 0, project.err
    assert project.fit() == 0, project.err
    first, second = sorted(Path("runs").iterdir())
    for run in (first, second):
        assert run.name.split("-")[2] == "small"
        found = {p.name for p in run.iterdir()}
        assert found == {"config.yaml", "env.json", "metrics.csv", "checkpoints", "student"}
        assert {p.name for p in (run / "checkpoints").glob("*.ckpt")} == {"best.ckpt", "last.ckpt"}
    env = json.loads((first / "env.json").read_text())
    assert env["command"] == ["lightning-distill", "fit", "--config", "small.yaml"]
    assert env["torch"] == torch.__version__.split("+")[0]
    assert {"python", "platform", "lightning", "lightning_distill"} <= set(env)
    assert rows(str(first)) == rows(str(second))
    assert [r["epoch"] for r in rows(str(first)) if r["val/accuracy"]] == ["0", "1"]
    assert f"run: {second}" in project.out


def test_the_saved_config_is_complete_and_makes_the_same_run(project: Project) -> None:
    assert project.fit("--run", "a", "--model.optimizer.lr", "0.02") == 0, project.err
    config = yaml.safe_load(Path("a/config.yaml").read_text())
    assert config["seed_everything"] == 0
    assert config["model"]["init_args"]["optimizer"]["init_args"]["lr"] == 0.02
    assert config["trainer"]["use_distributed_sampler"] is False
    assert config["early_stopping"]["patience"] == 10
    assert not {"run", "resume", "overwrite", "ckpt_path"} & set(config)
    assert project.fit("--run", "b", config="a/config.yaml") == 0, project.err
    assert rows("a") == rows("b")
    assert Path("a/config.yaml").read_text() == Path("b/config.yaml").read_text()


def test_checkpoints_hold_plain_things_only(trained: Project) -> None:
    for name in ("best", "last"):
        checkpoint = torch.load(f"a/checkpoints/{name}.ckpt", weights_only=True)
        assert checkpoint["state_dict"]


def test_the_student_is_that_of_the_best_checkpoint(project: Project) -> None:
    # One epoch is good, the next ones destroy it.
    words = ("--trainer.max_epochs", "2", "--checkpoint.monitor", "val/loss", "--checkpoint.mode", "min")
    assert project.fit("--run", "a", *words) == 0
    words = (*words, "--trainer.max_epochs", "4", "--model.optimizer.lr", "50")
    assert project.run("fit", "--run", "a", "--resume", "auto", *words) == 0, project.err
    best = torch.load("a/checkpoints/best.ckpt", weights_only=True)
    last = torch.load("a/checkpoints/last.ckpt", weights_only=True)
    assert best["global_step"] < last["global_step"]
    student = load_student(Path("a/student"))
    assert student.classes == ("x", "y")
    for name, tensor in student.state_dict().items():
        assert torch.equal(tensor, best["state_dict"][f"student.{name}"])


def test_a_folder_in_use_is_refused_in_one_line_that_says_what_to_do(trained: Project) -> None:
    before = files("a")
    paragraph = trained.fails("fit", "--config", "small.yaml", "--run", "a")
    assert "--resume auto" in paragraph
    assert "--overwrite" in paragraph
    assert files("a") == before


def test_overwrite_loses_nothing_on_a_mistake_and_then_replaces(project: Project) -> None:
    assert project.fit("--run", "a", "--trainer.max_epochs", "1") == 0
    before = files()
    overwrite = ("--run", "a", "--overwrite")
    mistakes = {
        "parsing": (["--model.student.num_clases", "2"], 2),
        "instantiation": (["--data.batch_size", "0"], 2),
        "set-up": (["--model.student.num_classes", "3"], 2),
        "missing data": (["--data.source.path", "nowhere.csv"], 3),
    }
    for words, code in mistakes.values():
        project.fails("fit", "--config", "small.yaml", *overwrite, *words, code=code)
        assert files() == before
    assert project.fit(*overwrite) == 0, project.err
    assert len([r for r in rows("a") if r["val/accuracy"]]) == 2
    assert {p.name for p in Path().iterdir()} == {"a", "small.yaml", "table.csv"}


def test_overwrite_refuses_what_is_no_run(project: Project) -> None:
    Path("thesis").mkdir()
    Path("thesis/chapter1.tex").write_text("text")
    paragraph = project.fails("fit", "--config", "small.yaml", "--run", "thesis", "--overwrite")
    assert "not the folder of a run" in paragraph
    assert Path("thesis/chapter1.tex").exists()


@pytest.mark.parametrize("run", [[], ["--run", "deep/down/here"]], ids=["default", "named"])
def test_a_run_that_cannot_start_leaves_nothing(project: Project, run: list[str]) -> None:
    before = files()
    folders = set(Path().rglob("*"))
    project.fails("fit", "--config", "small.yaml", "--model.student.num_classes", "3", *run)
    assert files() == before
    assert set(Path().rglob("*")) == folders


def test_a_folder_that_was_there_but_empty_stays(project: Project) -> None:
    Path("a").mkdir()
    project.fails("fit", "--config", "small.yaml", "--model.student.num_classes", "3", "--run", "a")
    assert list(Path("a").iterdir()) == []
    assert project.fit("--run", "a", "--trainer.max_epochs", "1") == 0


def test_a_release_spares_other_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = RunFolder(Path("runs/mine"))
    folder.__enter__()
    Path("runs/theirs").mkdir()
    folder.__exit__(RuntimeError, RuntimeError(), None)
    assert [p.name for p in Path("runs").iterdir()] == ["theirs"]


def test_a_resumed_run_equals_one_that_was_never_interrupted(project: Project) -> None:
    assert project.fit("--run", "whole", "--trainer.max_epochs", "4") == 0
    assert project.fit("--run", "parts") == 0
    # A crash after the last checkpoint: the history knows steps that will be done again.
    with Path("parts/metrics.csv").open("a") as file:
        file.write("8,2" + "," * (len(rows("parts")[0]) - 2) + "\n")
    resume = ("fit", "--run", "parts", "--resume", "auto", "--trainer.max_epochs", "4")
    assert project.run(*resume) == 0, project.err
    assert rows("parts") == rows("whole")
    assert "trainer.max_epochs: 2 -> 4" in project.out
    for name in ("last", "best"):
        parts, whole = (
            torch.load(f"{f}/checkpoints/{name}.ckpt", weights_only=True) for f in ("parts", "whole")
        )
        assert all(torch.equal(parts["state_dict"][k], v) for k, v in whole["state_dict"].items())
    env = json.loads(Path("parts/env.json").read_text())
    assert env["command"] == ["lightning-distill", *resume]
    assert len(env["before"]) == 1


def test_best_survives_a_move(trained: Project) -> None:
    Path("b").mkdir()
    Path("a").rename("b/moved")
    best = Path("b/moved/checkpoints/best.ckpt").read_bytes()
    words = ("--trainer.max_epochs", "3", "--model.optimizer.lr", "50")
    assert trained.run("fit", "--run", "b/moved", "--resume", "auto", *words) == 0, trained.err
    assert Path("b/moved/checkpoints/best.ckpt").read_bytes() == best


def test_resume_needs_something_to_go_on_with(trained: Project) -> None:
    project = trained
    resume = ("fit", "--config", "small.yaml", "--resume", "auto")
    Path("b").mkdir()
    Path("b/config.yaml").write_text(Path("small.yaml").read_text())
    bare = ("fit", "--resume", "auto", "--run", "b")
    assert "no checkpoints/last.ckpt" in project.fails(*bare, code=4)
    assert "without --run" in project.fails(*resume)
    assert "no config.yaml" in project.fails("fit", "--run", "nowhere", "--resume", "auto")
    both = ("--run", "a", "--ckpt_path", "a/checkpoints/last.ckpt")
    assert "--resume and --ckpt_path" in project.fails(*resume, *both)
    assert "--resume and --overwrite" in project.fails(*resume, "--run", "a", "--overwrite")


def test_fast_dev_run_writes_nothing(project: Project) -> None:
    before = files()
    assert project.fit("--trainer.fast_dev_run", "true") == 0, project.err
    assert files() == before


def test_two_runs_in_one_second_do_not_share_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("time.strftime", lambda _: "20250101-000000")
    names = []
    for _ in range(3):
        folder = RunFolder.for_fit(None, False, False, "fit")
        with folder:
            names.append(folder.path.name)
    assert names == ["20250101-000000-fit", "20250101-000000-fit-2", "20250101-000000-fit-3"]


def test_other_processes_of_a_run_take_the_folder_of_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    from lightning.pytorch.utilities.rank_zero import rank_zero_only

    first = RunFolder.for_fit(None, False, False, "fit")
    with first:
        monkeypatch.setattr(rank_zero_only, "rank", 1)
        with RunFolder.for_fit(None, False, False, "fit") as second:
            assert second.path == first.path
        assert first.path.is_dir()
        monkeypatch.setattr(rank_zero_only, "rank", 0)


def test_differences_names_what_changed(tmp_path: Path) -> None:
    old = tmp_path / "config.yaml"
    old.write_text("model: {init_args: {lr: 1, same: 2}}\nseed_everything: 1\n")
    new = "model: {init_args: {lr: 3, same: 2, extra: [1]}}\nseed_everything: 2\n"
    assert differences(old, new) == ["model.init_args.lr: 1 -> 3", "model.init_args.extra: None -> [1]"]
