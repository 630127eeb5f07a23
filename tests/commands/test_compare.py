"""`lightning-distill compare` through the real command line, on runs of a second."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.cli.conftest import Project, trained, trained_run
from tests.cli.conftest import project as project
from tests.reporting.browser import Look, looked_at
from tests.reporting.page import Page

__all__ = ["project", "trained", "trained_run"]


@pytest.fixture
def two(trained: Project) -> Project:
    """The run `a`, and `b`: the same with other settings and a history of its own."""
    shutil.copytree("a", "b")
    config = yaml.safe_load(Path("b/config.yaml").read_text())
    config["model"]["init_args"]["optimizer"]["init_args"]["lr"] = 0.5
    config["model"]["init_args"]["losses"] = {"kd": {"init_args": {"temperature": 3.0}}}
    config["data"]["init_args"]["password"] = "hunter2-hunter2"
    Path("b/config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    history = "step,epoch,val/accuracy,val/loss,val/only_b,test/accuracy\n"
    history += "4,0,0.5,0.9,1,\n9,1,0.75,0.4,1,\n14,2,0.625,0.1,1,\n14,2,,,,0.8125\n"
    Path("b/metrics.csv").write_text(history)
    environment = json.loads(Path("b/env.json").read_text())
    Path("b/env.json").write_text(json.dumps({**environment, "torch": "9.9.9"}))
    return trained


def test_tables(two: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert two.run("compare", "a", "b") == 0, two.err
    lines = {line.split("  ")[0].strip(): line.split() for line in two.out.splitlines() if line.strip()}
    # Of the step that is best for the monitored metric, not the last one.
    assert "75.0" in lines["val/accuracy %"]
    assert lines["val/loss"][-1] == "0.400"
    assert lines["optimizer steps"][-1] == "15"
    assert lines["model.optimizer.lr"][1:] == ["0.01", "0.5"]
    assert lines["model.losses.kd.temperature"][1:] == ["-", "3"]
    assert lines["torch"][-1] == "9.9.9"
    assert lines["data.password"][1:] == ["-", "***"]
    for same in ("val/only b", "test/accuracy %", "trainer.max_epochs", "python", "model.losses"):
        assert same not in lines
    assert "hunter2" not in two.out


def test_the_better_one_is_marked(two: Project) -> None:
    Path("a/metrics.csv").write_text(
        "step,epoch,val/accuracy,val/calibration_error,val/loss\n4,0,0.7,0.3,0.2\n"
    )
    Path("b/metrics.csv").write_text(
        "step,epoch,val/accuracy,val/calibration_error,val/loss\n4,0,0.6,0.1,0.1\n"
    )
    assert two.run("compare", "a", "b") == 0, two.err
    assert re.search(r"val/accuracy % +70\.0 \* +60\.0\s*\n", two.out)
    assert re.search(r"val/calibration error +0\.300 +0\.100 \*", two.out)
    # With other terms or weights it is another loss.
    assert re.search(r"val/loss +0\.200 +0\.100\s*\n", two.out)


def test_page(two: Project, tmp_path: Path) -> None:
    assert two.run("compare", "a", "b", "--out", "c.html") == 0, two.err
    assert "Wrote c.html" in two.out
    html = Path("c.html").read_text()
    found = Page(html)
    assert found.headings == ["Metrics", "Training", "Size and time", "Settings that differ", "Made with"]
    assert found.row("model.optimizer.lr") == ["0.01", "0.5"]
    assert found.row("optimizer steps")[1] == "15"
    assert "b: from 0.5 to 0.625, lowest 0.5, highest 0.75" in html
    assert found.links == []
    assert not re.search(r"https?:|url\(|<script|hunter2", html)
    (tmp_path / "look").mkdir()
    seen = looked_at({"phone": Look(html, 390, False)}, tmp_path / "look")["phone"]
    assert seen["violations"] == []
    assert seen["scroll"] <= 390


def test_json(two: Project) -> None:
    assert two.run("compare", "a", "b", "--out", "c.json") == 0, two.err
    told = json.loads(Path("c.json").read_text())
    assert [run["name"] for run in told["runs"]] == ["a", "b"]
    assert told["runs"][1]["metrics"] == {
        "val/accuracy": 0.75,
        "test/accuracy": 0.8125,
        "val/loss": 0.4,
        "val/only_b": 1.0,
    }
    assert told["runs"][1]["curves"]["val/loss"] == {"steps": [4, 9, 14], "values": [0.9, 0.4, 0.1]}
    assert told["differences"]["settings"]["model.init_args.optimizer.init_args.lr"] == [0.01, 0.5]
    assert told["differences"]["environment"] == {"torch": [told["runs"][0]["environment"]["torch"], "9.9.9"]}
    assert "hunter2" not in Path("c.json").read_text()


def test_parameters_are_counted_in_the_exported_student(two: Project) -> None:
    from safetensors.numpy import load_file

    count = sum(tensor.size for tensor in load_file("a/student/model.safetensors").values())
    Path("b/student/model.safetensors").write_bytes(b"\xff" * 64)
    assert two.run("compare", "a", "b") == 0, two.err
    assert re.search(rf"parameters and buffers +{count:,} +n/a", two.out)


def test_what_is_no_comparison(two: Project) -> None:
    assert "found one run; expected two different runs" in two.fails("compare", "a")
    assert "found a twice" in two.fails("compare", "a", "b", "a")
    assert "ends in .html or .json" in two.fails("compare", "a", "b", "--out", "c.txt")
    assert "c/config.yaml: found no such file" in two.fails("compare", "a", "c", code=4)
    Path("b/metrics.csv").unlink()
    two.fails("compare", "a", "b", code=4)
    assert not Path("c.html").exists()


def test_it_loads_nothing_heavy(two: Project) -> None:
    code = (
        "import sys; from lightning_distill.__main__ import main; assert main(sys.argv[1:]) == 0; "
        "assert not {'torch', 'lightning', 'matplotlib'} & set(sys.modules)"
    )
    command = [sys.executable, "-c", code, "compare", "a", "b", "--out", "c.html"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
