"""CONTRIBUTING.md, done: its files are added to a copy of the project, whose own tests then judge them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.verification import FOLDER as VERIFICATION

ROOT = Path(__file__).parents[1]
FILES = dict(
    re.findall(r"```python\n# (\S+\.py)\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), flags=re.DOTALL)
)
NAMES = ("MaxFusion", "HuberKD", "LargestEntryClip", "TwoMoons")
CONTRACTS = ("tests/test_shelves.py", "tests/fusion/test_contract.py", "tests/losses/test_contract.py")
RULES = ("tests/clipping/test_contract.py", "tests/clipping/test_laws.py")
USE = """
from lightning.pytorch import Trainer
from lightning_distill import DistillationModule, FrozenTeacher, MultimodalModel
from lightning_distill.clipping import LargestEntryClip
from lightning_distill.data import MultimodalDataModule
from lightning_distill.data.datasets import TwoMoons
from lightning_distill.fusion import MaxFusion
from lightning_distill.losses import HuberKD
from tests.builders import VectorEncoder, VectorProcessor

def model():
    return MultimodalModel({"point": VectorEncoder(2, 8)}, 2, MaxFusion)

data = MultimodalDataModule(TwoMoons(200), {"point": VectorProcessor(2)}, batch_size=16)
module = DistillationModule(
    model(), FrozenTeacher(model()), losses={"huber": HuberKD()}, clip_rule=LargestEntryClip(0.1)
)
trainer = Trainer(max_epochs=1, logger=False, enable_checkpointing=False, use_distributed_sampler=False)
trainer.fit(module, data)
assert trainer.global_step == 10, trainer.global_step
assert "val/huber" in trainer.callback_metrics, sorted(trainer.callback_metrics)
assert data.source.fingerprint == TwoMoons(200).fingerprint != TwoMoons(198).fingerprint
"""


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project with the four files, each exported by one line."""
    folder = tmp_path_factory.mktemp("copy")
    for name in ("lightning_distill", "tests", "configs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    for (path, code), name in zip(FILES.items(), NAMES, strict=True):
        file = folder / path
        file.write_text(code)
        init = file.with_name("__init__.py")
        line = f"from {path.removesuffix('.py').replace('/', '.')} import {name}\n"
        init.write_text(init.read_text() + f'{line}\n__all__ = sorted([*__all__, "{name}"])\n')
    return folder


def _python(folder: Path, *words: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name != VERIFICATION}
    done = subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env=environment,  # what is compared here is of no class of ours
        capture_output=True,
        text=True,
        check=False,
        timeout=250,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_the_contract_tests_find_and_pass_them(copy: Path) -> None:
    words = ("-p", "no:cacheprovider", "-k", " or ".join(NAMES), *CONTRACTS, *RULES)
    said = _python(copy, "-m", "pytest", *words)
    passed = re.search(r"(\d+) passed", said)
    assert passed is not None, said
    # Each head, loss and rule alone has more than ten tests waiting for it.
    assert int(passed[1]) > 30, said
    assert " failed" not in said


def test_they_train(copy: Path) -> None:
    (copy / "use.py").write_text(USE)
    _python(copy, "use.py")
