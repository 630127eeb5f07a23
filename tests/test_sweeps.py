"""Every file under configs/sweeps is one that W&B's agents and `lightning-distill search` can work with."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
import wandb
import yaml
from wandb.sdk.launch.sweeps import utils as wandb_sweeps

from lightning_distill.__main__ import main
from lightning_distill.cli.parsing import parsed
from lightning_distill.commands.search.space import read_space
from tests.cli import wandb_file
from tests.cli.conftest import write_project

ROOT = Path(__file__).parent.parent
SWEEPS = sorted((ROOT / "configs" / "sweeps").glob("*.yaml"))


def words_of_agent(sweep: dict[str, Any], values: dict[str, Any]) -> list[str]:
    """What `wandb agent` would run, made by its own functions."""
    command = wandb_sweeps.create_sweep_command(sweep.get("command"))
    made = wandb_sweeps.create_sweep_command_args({"args": {n: {"value": v} for n, v in values.items()}})
    known = {**made, "program": [sweep["program"]]}
    words: list[str] = []
    for word in command:
        words += known[word[2:-1]] if word.startswith("${") else [word]
    return words


def at(config: dict[str, Any], option: str) -> Any:
    """The value that an option has set; the command line leaves `init_args` out."""
    found: Any = config
    for key in option.split("."):
        found = found["init_args"] if "init_args" in found and key not in found else found
        found = found[key]
    return found


def corners(file: Path) -> list[dict[str, Any]]:
    """Settings in which every parameter has each of its values, or its least and its largest, once."""
    ends = {name: values.ends() for name, values in read_space(file).parameters.items()}
    most = max(map(len, ends.values()))
    return [{name: found[i % len(found)] for name, found in ends.items()} for i in range(most)]


def test_there_are_some() -> None:
    assert {path.stem for path in SWEEPS} >= {"clip_range", "loss_weights"}


@pytest.mark.parametrize("file", SWEEPS, ids=lambda p: p.stem)
def test_every_value_is_accepted_by_the_config_it_names(file: Path) -> None:
    sweep = wandb_sweeps.load_sweep_config(str(file))
    assert sweep is not None
    assert sweep == yaml.safe_load(file.read_text())
    with contextlib.chdir(ROOT):
        for values in corners(file):
            program, *words = words_of_agent(sweep, values)
            assert (program, words[0]) == ("lightning-distill", "fit")
            config = parsed(words)
            assert {name: at(config, name) for name in values} == values


@pytest.mark.parametrize("file", SWEEPS, ids=lambda p: p.stem)
def test_it_names_a_metric_that_is_logged(file: Path) -> None:
    space = read_space(file)
    with contextlib.chdir(ROOT):
        monitor = parsed(["fit", *space.words])["checkpoint"]
    assert (space.metric, space.mode) == (monitor["monitor"], monitor["mode"])


def test_a_run_of_an_agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the agent starts it, but for the server: its id, the values of the sweep, a new folder each."""
    write_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    sweep = {
        "program": "lightning-distill",
        "command": ["${program}", "fit", "--config", "small.yaml", "${args}"],
    }
    values = {"model.optimizer.lr": 0.02, "trainer.max_epochs": 1}
    Path("values.yaml").write_text(
        yaml.safe_dump({"wandb_version": 1, **{n: {"value": v} for n, v in values.items()}})
    )
    told = {
        "SWEEP_ID": "abcdef12",
        "RUN_ID": "xyz98765",
        "SWEEP_PARAM_PATH": "values.yaml",
        "MODE": "offline",
    }
    for name, value in told.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    wandb.teardown()  # an agent starts a process, which reads them
    try:
        assert main(words_of_agent(sweep, values)[1:]) == 0
    finally:
        wandb.teardown()
    (run,) = Path("runs").iterdir()
    (session,) = (run / "wandb").glob("offline-run-*")
    (record,) = wandb_file.records(session, "run")
    assert (record.run_id, record.sweep_id) == ("xyz98765", "abcdef12")
    config = {item.key: item.value_json for item in record.config.update} | wandb_file.config(session)
    assert config["model"]["init_args"]["optimizer"]["init_args"]["lr"] == 0.02
    assert float(config["model.optimizer.lr"]) == 0.02
    assert any("val/accuracy" in row for row in wandb_file.history(session))
