"""What is written beside checkpoints: on full disks, without a network or W&B, and with hostile names."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_distill import DistillationModule
from lightning_distill.callbacks import PredictionWriter
from lightning_distill.cli.loggers import HistoryLogger, finish_wandb
from lightning_distill.cli.run_folder import RunFolder
from lightning_distill.cli.steady_wandb import SteadyWandbLogger
from lightning_distill.data.bad_samples import BadSample, BadSampleLog
from lightning_distill.errors import ConfigError, DiskError, printable
from lightning_distill.reporting.atomic import write_atomically
from tests.builders import make_data, make_model, make_trainer
from tests.cli.conftest import Project, project, write_project
from tests.processes import run_apart
from tests.reliability.counts import NIGHTLY
from tests.reliability.small_disk import FILLING, fill, small_disk

__all__ = ["project"]


def rows_of(file: Path) -> list[dict[str, str]]:
    """All rows of a history; each must be whole."""
    text = file.read_bytes().decode()
    assert text.endswith("\n")
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert all(None not in row and None not in row.values() for row in rows)
    return rows


# -- full and broken disks ------------------------------------------------------------------------------


@pytest.mark.row("P4")
def test_a_history_on_a_full_disk_stays_whole_and_says_where(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        history = HistoryLogger(disk)
        history.log_metrics({"loss": 1.0}, step=0)
        history.save()
        before = history.file.read_bytes()
        fill(disk)
        history.log_metrics({"loss": 2.0, "other": 3.0}, step=1)  # a new column: all is written anew
        with pytest.raises(DiskError, match=r"metrics\.csv.* bytes are free"):
            history.save()
        assert history.file.read_bytes() == before
        history = HistoryLogger(disk)
        for step in range(1, 1000):  # more than what is left of the block: half of a row would fit
            history.log_metrics({"loss": float(step)}, step=step)
        with pytest.raises(DiskError, match=r"metrics\.csv.* bytes are free"):
            history.save()
        assert history.file.read_bytes() == before
        (disk / FILLING).unlink()
        history.save()
        assert len(rows_of(history.file)) == 1000
        assert [p.name for p in disk.iterdir()] == ["metrics.csv"]


@pytest.mark.row("P4")
def test_config_environment_and_reports_on_a_full_disk(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        folder = RunFolder(disk / "run")
        with folder:
            folder.commit("a: 1\n", {"command": []})
            old = {p: p.read_bytes() for p in folder.path.iterdir() if p.suffix in (".json", ".yaml")}
            assert len(old) == 2
            fill(disk)
            for details in ({"command": ["x" * 5000]}, {"command": []}):
                with pytest.raises(DiskError, match=r"(env\.json|config\.yaml).* bytes are free"):
                    folder.commit("a: 2\n" * 5000, details)
        with pytest.raises(DiskError, match=r"report\.html.* bytes are free"):
            write_atomically(folder.path / "report.html", "x" * 5000)
        assert {p: p.read_bytes() for p in old} == old


@pytest.mark.row("P4")
def test_predictions_on_a_full_disk(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        old = disk / "p.parquet"
        old.write_bytes(b"old")
        fill(disk)
        trainer, data = make_trainer(tmp_path, callbacks=[PredictionWriter(old)]), make_data()
        data.setup("validate")
        with pytest.raises(DiskError, match=r"p\.parquet.* bytes are free"):
            trainer.predict(DistillationModule(make_model()), data.val_dataloader())
        assert old.read_bytes() == b"old"
        assert {p.name for p in disk.iterdir()} == {"p.parquet", FILLING}


@pytest.mark.row("P4")
def test_a_run_ends_with_28_wherever_the_disk_is_full(project: Project) -> None:
    """With more and more room each write in turn is the first that fails."""
    small = yaml.safe_load(Path("small.yaml").read_text())
    small["trainer"]["enable_checkpointing"] = False  # those have tests of their own
    Path("small.yaml").write_text(yaml.safe_dump(small))
    codes = []
    with small_disk(project.folder / "disk") as disk:
        for step, free in enumerate(range(0, 131_072, 4096) if NIGHTLY else (0, 65_536, 73_728, 90_112)):
            fill(disk, free)
            codes.append(project.fit("--run", f"disk/run{step}"))
            if codes[-1]:
                line = next(line for line in project.err.splitlines() if line.startswith("error: "))
                assert codes[-1] == 28, project.err
                assert f"disk/run{step}" in line
                assert re.search(r"[\d,]+ bytes are free", line)
                assert "Traceback" not in project.err
            for file in disk.rglob("metrics.csv"):
                rows_of(file)
            for file in disk.rglob("config.yaml"):
                assert yaml.safe_load(file.read_text())["model"]
            (disk / FILLING).unlink()
            subprocess.run(["rm", "-rf", str(disk / f"run{step}")], check=True)
    assert 28 in codes


@pytest.mark.row("P4")
@pytest.mark.skipif(
    not NIGHTLY, reason="nightly: starts Python under strace; the code is that of a full disk"
)
@pytest.mark.parametrize("error", ["EIO", "ENOSPC", "EDQUOT"])
def test_a_history_on_a_broken_disk(tmp_path: Path, error: str) -> None:
    history = HistoryLogger(tmp_path)
    history.log_metrics({"loss": 1.0}, step=0)
    history.save()
    before = history.file.read_bytes()
    code = (
        "import sys; from pathlib import Path; from lightning_distill.cli.loggers import HistoryLogger\n"
        "h = HistoryLogger(Path(sys.argv[1])); h.log_metrics({'loss': 2.0}, step=1); h.save()"
    )
    words = ["strace", "-f", "-o", os.devnull, "-P", str(history.file), "-e", f"inject=write:error={error}"]
    try:
        done = subprocess.run(
            [*words, sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True
        )
    except FileNotFoundError:
        pytest.skip("there is no strace here")
    assert done.returncode == 1
    assert "DiskError" in done.stderr
    assert "metrics.csv" in done.stderr
    assert history.file.read_bytes() == before


# -- without a network ----------------------------------------------------------------------------------

_WATCHED = """
import atexit, json, sys

tried, codes = [], []
atexit.register(lambda: print("TRIED", json.dumps([codes, tried])))  # the first to come runs last

def watch(event, arguments):
    if event == "socket.connect" and not isinstance(arguments[1], (str, bytes)):  # those are local
        tried.append(str(arguments[1]))
    if event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "urllib.Request"):
        tried.append(str(arguments[0]))

sys.addaudithook(watch)
from lightning_distill.__main__ import main

codes.append(main(["fit", "--config", "small.yaml", "--run", "a", "--trainer.max_epochs", "1"]))
"""


@pytest.mark.row("P5")
def test_without_a_key_and_a_network_nothing_tries_to_connect(tmp_path: Path) -> None:
    """Python's own attempts by an audit hook; those of W&B's process, in Go, at night and by strace.

    W&B's process is spoken to by a Unix socket, which is no network.
    """
    write_project(tmp_path)
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB", "NETRC"))}
    kept |= {
        "HOME": str(tmp_path),
        "OMP_NUM_THREADS": "1",
        "LIGHTNING_DISTILL_CACHE": str(tmp_path / "cache"),
    }
    words = [sys.executable, "-c", _WATCHED]
    trace = tmp_path / "trace"
    if NIGHTLY and _works(["strace", "-V"]):
        words = ["strace", "-f", "--seccomp-bpf", "-e", "trace=connect", "-o", str(trace), *words]
    if _works(["unshare", "-n", "true"]):
        words = ["unshare", "-n", *words]
    done = subprocess.run(words, cwd=tmp_path, env=kept, capture_output=True, text=True, timeout=200)
    line = next((line for line in done.stdout.splitlines() if line.startswith("TRIED ")), "")
    assert line, done.stdout[-2000:] + done.stderr[-2000:]
    assert json.loads(line.removeprefix("TRIED ")) == [[0], []]
    assert list((tmp_path / "a/wandb").glob("offline-run-*"))
    if trace.exists():
        connects = [line for line in trace.read_text().splitlines() if "connect(" in line]
        assert connects  # W&B's own, by a Unix socket
        assert [line for line in connects if "AF_INET" in line] == []


def _works(words: list[str]) -> bool:
    try:
        return subprocess.run(words, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


# -- W&B that is missing or fails -----------------------------------------------------------------------


@pytest.mark.row("P6")
@pytest.mark.parametrize("mode", ["offline", ""])
def test_without_wandb_training_goes_on(project: Project, monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    monkeypatch.setenv("WANDB_MODE", mode)
    monkeypatch.setitem(sys.modules, "wandb", None)  # as if it were not installed
    with pytest.warns(UserWarning, match="Weights & Biases fails") as told:
        assert project.fit("--run", "a", "--trainer.max_epochs", "1") == 0, project.err
    assert sum("Weights & Biases" in str(one.message) for one in told) == 1
    assert len(rows_of(Path("a/metrics.csv"))) > 3


class Kill(Callback):
    """Kills W&B's process after two steps."""

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if trainer.global_step == 2:
            for pid in _children("wandb-core"):
                os.kill(pid, 9)


class Fill(Callback):
    """Fills the disk after two steps."""

    def __init__(self, disk: Path) -> None:
        self.disk = disk

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if trainer.global_step == 2:
            fill(self.disk)


def _children(name: str) -> list[int]:
    """Processes of that name that this one has started."""
    found = []
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            fields = dict(line.split(":\t", 1) for line in status.read_text().splitlines() if ":\t" in line)
        except OSError:
            continue
        if fields["Name"] == name and int(fields["PPid"]) == os.getpid():
            found.append(int(fields["Pid"]))
    return found


def _train_beside(folder: Path, wandb_folder: Path, *callbacks: Callback) -> None:
    """A training whose W&B fails; the history has all of it, and there is one warning."""
    for name in ("WANDB_MODE", "WANDB_SERVICE"):  # nor W&B's process of another test
        os.environ.pop(name, None)
    history = HistoryLogger(folder)
    wandb = SteadyWandbLogger(name="a", save_dir=wandb_folder, project="p", mode="offline")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        trainer = make_trainer(folder, logger=[history, wandb], max_epochs=4, callbacks=list(callbacks))
        trainer.fit(DistillationModule(make_model()), make_data())
        finish_wandb([wandb])
    assert wandb.failed
    said = [str(one.message) for one in told if "Weights & Biases" in str(one.message)]
    assert len(said) == 1, said
    steps = [int(row["step"]) for row in rows_of(folder / "metrics.csv") if row["train/loss"]]
    assert steps == list(range(trainer.global_step))
    assert trainer.global_step > 8


def _full_then_killed(folder: Path, disk: Path) -> None:
    for name in ("full", "killed"):
        (folder / name).mkdir()
    _train_beside(folder / "full", disk, Fill(disk))
    _train_beside(folder / "killed", folder / "killed", Kill())


def _full_from_the_start(folder: Path, disk: Path) -> None:
    fill(disk)
    _train_beside(folder, disk)


@pytest.mark.row("P6", "P4")
def test_training_goes_on_when_wandbs_disk_is_full_and_when_its_process_dies(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        run_apart(_full_then_killed, tmp_path, disk)


@pytest.mark.row("P6", "P4")
@pytest.mark.skipif(not NIGHTLY, reason="nightly: starts W&B once more")
def test_training_goes_on_when_wandb_has_no_room_to_start(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        run_apart(_full_from_the_start, tmp_path, disk)


# -- strange names --------------------------------------------------------------------------------------


@pytest.mark.row("P8")
def test_strange_names_and_values_of_metrics_come_back(tmp_path: Path) -> None:
    names = ["a/b/c", 'a,"b"', "a;b", "ä", " a ", "=1+1", "a\tb\nc"]
    values = [0.5, math.nan, math.inf, -math.inf, 5e-324, 1e308, -0.0]
    history = HistoryLogger(tmp_path)
    for step in range(3):
        history.log_metrics(dict(zip(names, values, strict=True)), step=step)
        history.save()
    rows = rows_of(history.file)
    assert len(history.file.read_text().splitlines()) == 4
    assert [next(iter(row)) for row in rows] == ["step"] * 3
    for name, value in zip(names, values, strict=True):
        shown = name.replace("\t", "\\t").replace("\n", "\\n")
        assert all(repr(float(row[shown])) == repr(value) for row in rows)


@pytest.mark.row("P8")
def test_ten_thousand_metrics(tmp_path: Path) -> None:
    history = HistoryLogger(tmp_path)
    for step in range(5):
        history.log_metrics({f"layer{n}/norm": float(step) for n in range(10_000)}, step=step)
        history.save()
    rows = rows_of(history.file)
    assert len(rows) == 5
    assert len(rows[0]) == 10_001
    assert rows[-1]["layer9999/norm"] == "4.0"


HOSTILE = "\nerror: forged \x1b[31mred\r[bold red]\u202e\u2066\u200b\x9b2J\x00\u2028x"
"""A new line, colours, a return, rich's markup, directions of writing, an invisible space, a NUL."""
_FORBIDDEN = "\x1b\r\u202e\u2066\u200b\x9b\x00\u2028"


@pytest.mark.row("Q7")
@given(st.text())
def test_what_is_shown_of_any_text_is_one_line_of_visible_characters(text: str) -> None:
    error = ConfigError(where=text, found=HOSTILE, expected=text, fix=text)
    for shown in (printable(text), printable(HOSTILE + text), str(error)):
        assert shown.isprintable()
        assert len((shown + "x").splitlines()) == 1


@pytest.mark.row("Q7")
@given(st.text(max_size=20))
def test_no_name_adds_a_line_to_a_file_of_lines(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    folder = tmp_path_factory.mktemp("lines")
    history, log = HistoryLogger(folder), BadSampleLog(10_000, folder / "bad.jsonl")
    history.log_metrics({HOSTILE + text: 1.0}, step=0)
    history.save()
    where = f"{HOSTILE}{text}.png"
    log.add([BadSample("train", 0, 0, where, where, where)])
    assert len(history.file.read_text().splitlines()) == 2
    line, *others = (folder / "bad.jsonl").read_text().splitlines()
    assert not others
    assert line.isprintable()
    assert json.loads(line)["where"] == where


@pytest.mark.row("Q7")
def test_names_in_the_data_forge_nothing_in_the_terminal(project: Project) -> None:
    """Texts, classes and domains of a table, a metric, and the folder of the run itself."""
    rows = [
        [f"{'ab'[i % 2] * 3}{i}{HOSTILE}", "xy"[i % 2] + HOSTILE, "pq"[i // 4 % 2] + HOSTILE, split]
        for i in range(128)
        for split in [("train", "train", "val", "test")[i // 2 % 4]]
    ]
    hostile = [[cell.replace("\x00", "") for cell in row] for row in rows]  # a table with NUL is refused
    with Path("table.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["text", "label", "domain", "split"], *hostile])

    def edit(config: dict[str, Any]) -> None:
        config["data"]["init_args"]["source"]["init_args"]["columns"] = {"domain": "domain"}
        config["early_stopping"] = {"monitor": f"val/{HOSTILE.replace(chr(0), '')}"}
        config["trainer"]["max_epochs"] = 1

    name, run = project.change("hostile.yaml", edit), "a\nerror: forged [red]"
    said = ""
    for words in (
        ("doctor", "--config", name),
        ("fit", "--config", name, "--run", run),
        ("evaluate", run),
        ("contribution", run),
        ("init", "table.csv", "--out", "made.yaml"),
        ("fit", "--config", name, "--run", run),  # an error, since it is there
    ):
        project.run(*words)
        said += project.out + project.err
    assert [line for line in said.splitlines() if line.lstrip(" │").startswith("error: forged")] == []
    assert [character for character in _FORBIDDEN if character in said] == []
    assert "forged" in said
    assert Path(run, "subsets.json").is_file()
    made = yaml.safe_load(Path("made.yaml").read_text())
    assert set(made) == set(yaml.safe_load(Path("made.yaml").read_text().replace("#", "# ")))
    assert "error" not in made


@pytest.mark.row("Q7")
def test_a_report_shows_names_as_text() -> None:
    from lightning_distill.reporting.html import render_report
    from tests.reporting.example import example

    summary = example()
    for row in summary["rows"]:
        row["name"] = "<script>alert(1)</script>"
    page = render_report(summary, b"")
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert" in page
