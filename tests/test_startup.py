"""Help, version, listings and mistyped names load neither torch nor lightning."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.cli.conftest import small_config

HEAVY = ("torch", "lightning", "numpy", "pyarrow", "rich", "transformers", "timm", "jsonargparse")

CONFIGURED = ("fit", "validate", "test", "predict", "doctor", "knowledge")

EACH = """
import contextlib, io, json, sys
from lightning_distill.__main__ import main
told = []
for words in json.loads(sys.argv[1]):
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        code = main(words)
    told.append([code, out.getvalue(), [name for name in json.loads(sys.argv[2]) if name in sys.modules]])
print(json.dumps(told))
"""


def answers(*commands: list[str]) -> list[tuple[int, str, list[str]]]:
    """Exit code, text and heavy modules loaded so far, of commands run in turn in a fresh process."""
    words = [sys.executable, "-c", EACH, json.dumps(commands), json.dumps(HEAVY)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return [(code, text, heavy) for code, text, heavy in json.loads(done.stdout)]


def test_quick_answers_load_nothing_heavy() -> None:
    commands = [
        ["--help"],
        ["--version"],
        [],
        ["list"],
        ["list", "losses"],
        ["list", "LogitKD"],
        ["list", "-h"],
    ]
    for words, (code, text, heavy) in zip(commands, answers(*commands), strict=True):
        assert (code, heavy) == (0, []), words
        assert text


@pytest.mark.row("F1")
def test_mistyped_names_are_told_before_anything_heavy_is_loaded(tmp_path: Path) -> None:
    config = small_config()
    config["model"]["init_args"]["studnt"] = 1
    (tmp_path / "mistake.yaml").write_text(yaml.safe_dump(config))
    file = str(tmp_path / "mistake.yaml")
    commands = [
        *(
            [command, "--config", file]
            for command in ("fit", "validate", "test", "predict", "doctor", "knowledge")
        ),
        ["assess", "-c", file],
        ["born-again", f"--config={file}"],
        ["fti"],
        ["list", "LogitKDD"],
    ]
    found = answers(*commands)
    for words, (code, text, heavy) in zip(commands, found, strict=True):
        assert (code, heavy) == (2, []), words
        assert text.startswith("error: ")
        assert len(text.splitlines()) == 1
    assert all("did you mean 'student'?" in text for _, text, _ in found[:-2])


HELP = """
import sys
import lightning.pytorch.cli
before = set(sys.modules)
from lightning_distill.__main__ import main
main(["fit", "--help"])
print(*sorted({name.partition(".")[0] for name in set(sys.modules) - before}), file=sys.stderr)
"""


def test_help_of_fit_loads_what_it_needs() -> None:
    """Lightning itself loads scipy and transformers where they are installed."""
    done = subprocess.run([sys.executable, "-c", HELP], capture_output=True, text=True, check=True)
    loaded = set(done.stderr.splitlines()[-1].split())
    assert "lightning_distill" in loaded
    assert not loaded & {
        "cv2",
        "pyarrow",
        "timm",
        "soundfile",
        "wandb",
        "matplotlib",
        "transformers",
        "scipy",
    }
    assert "--checkpoint.monitor" in done.stdout


@pytest.mark.parametrize("package", ["lightning_distill.cli", "lightning_distill.commands"])
def test_packages_of_commands_are_light(package: str) -> None:
    code = f"import sys, {package}; sys.exit(any(name in sys.modules for name in {HEAVY}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
