"""Every file under configs/ is run by the real command line; a new file is picked up by itself.

A file in `experiment/` is a whole run; one in `sweeps/` is a search space (`test_sweeps.py`). A file
elsewhere is a part: its folder says where it goes.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import transformers
import yaml

import lightning_distill.cli.command  # noqa: F401 - Lightning's log handler keeps its stream
from lightning_distill import fusion, load_student, losses
from lightning_distill.__main__ import main
from lightning_distill.cli.names import SHELVES
from tests.encoders.pretrained import save_bert, save_timm

CONFIGS = Path(__file__).parent.parent / "configs"
EXPERIMENTS = sorted((CONFIGS / "experiment").glob("*.yaml"))
PARTS = sorted(p for p in CONFIGS.rglob("*.yaml") if p.parent.name not in ("experiment", "sweeps"))

PLACES = {
    "fusion": "--model.student.fusion",
    "heads": "--model.student.head",
    "feature_clipping": "--model.student.feature_clip",
    "clipping": "--model.clip_rule",
    "losses": "--model.losses",
    "balancing": "--model.balancer",
    "gradient_balancing": "--model.gradient_balancer",
    "schedules": "--model.weights",
    "validators": "--trainer.callbacks",
}
"""Folder -> the option that takes its files."""

QUICK = (
    "--trainer.max_epochs=1",
    "--trainer.limit_train_batches=1",
    "--trainer.limit_val_batches=1",
    "--trainer.num_sanity_val_steps=0",
    "--trainer.accelerator=cpu",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
)
SIZES = {"train": 60, "val": 20, "test": 20}
BASES = {
    "losses": "digits_distill_image.yaml",
    "validators": "digits_cross_domain.yaml",
    "balancing": "digits_distill_image.yaml",
    "schedules": "digits_distill_image.yaml",
}
"""Folder -> the experiment its files are put into; any other goes into the teacher's, of three modalities."""
BETWEEN_DOMAINS = (losses.AlignmentLoss, losses.TargetLoss, losses.OnTarget)
"""Terms that need the batches of another experiment, which takes longer to read."""


def small_digits(config: Path) -> list[str]:
    """What makes the digits few, in every domain."""
    several = "CrossDomainDataModule" in config.read_text()
    sources = ("data.source.source", "data.target.source") if several else ("data.source",)
    return [f"--{source}.{split}={size}" for source in sources for split, size in SIZES.items()]


def run(*words: str | Path) -> None:
    assert main([str(word) for word in words]) == 0


@pytest.fixture(scope="module")
def teacher_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the teacher the distilling configs name."""
    run_folder = tmp_path_factory.mktemp("teacher") / "digits_teacher"
    config = CONFIGS / "experiment" / "digits_teacher.yaml"
    run("fit", "--config", config, "--run", run_folder, *QUICK, *small_digits(config))
    return run_folder


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, teacher_run: Path) -> Path:
    """A folder with the teacher in the place where the configs expect it."""
    shutil.copytree(teacher_run, tmp_path / "runs" / "digits_teacher")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def image_text_table(folder: Path) -> Path:
    """Real PNG files, and texts that go with them."""
    rng, rows = np.random.default_rng(0), ["image,text,label,split"]
    (folder / "images").mkdir(parents=True)
    for i in range(60):
        name = f"images/{i}.png"
        picture = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / name), picture)
        split = ("train", "train", "val", "test")[i // 10 % 4]
        rows.append(f"{name},digit {i % 10},{i % 10},{split}")
    table = folder / "table.csv"
    table.write_text("\n".join(rows) + "\n")
    return table


def save_tokenizer(folder: Path) -> Path:
    """A word-piece tokenizer of BERT's kind."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "digit", *"0123456789"]
    transformers.BertTokenizer(vocab={word: i for i, word in enumerate(words)}).save_pretrained(folder)
    return folder


def overrides(config: Path, folder: Path) -> list[str]:
    """What makes a config small; for the worked example, paths to local folders and nothing else."""
    if config.name.startswith("digits"):
        return small_digits(config)
    if config.name == "image_text_resnet_bert.yaml":
        bert = save_tokenizer(save_bert(folder / "bert"))
        return [
            f"--data.source.path={image_text_table(folder / 'data')}",
            f"--data.processors.text.tokenizer={bert}",
            f"--model.student.encoders.text.model={bert}",
            f"--model.student.encoders.image.weights={save_timm(folder / 'resnet')}",
        ]
    return []


@pytest.mark.parametrize("config", EXPERIMENTS, ids=lambda p: p.stem)
def test_experiment_runs(config: Path, workplace: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = overrides(config, workplace)
    run("fit", "--config", config, "--run", workplace / "out", *QUICK, *words)
    assert "next: lightning-distill test --run out" in capfd.readouterr().out
    saved = yaml.safe_load((workplace / "out" / "config.yaml").read_text())
    init_args = saved["model"]["init_args"]["student"]["init_args"]
    run("predict", "--run", workplace / "out", "--trainer.limit_predict_batches=1")
    assert (workplace / "out" / "predictions.parquet").is_file()
    for pretrained in ("bert", "resnet"):
        shutil.rmtree(workplace / pretrained, ignore_errors=True)
    student = load_student(workplace / "out" / "student")
    assert student.modalities == tuple(init_args["encoders"])
    assert student.classes == tuple("0123456789")


def test_the_worked_example_is_pretrained_unless_it_is_told_otherwise() -> None:
    config = yaml.safe_load((CONFIGS / "experiment" / "image_text_resnet_bert.yaml").read_text())
    encoders = config["model"]["init_args"]["student"]["init_args"]["encoders"]
    assert [e["init_args"]["pretrained"] for e in encoders.values()] == [True, True]


@pytest.mark.parametrize("part", PARTS, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_part_can_be_put_into_an_experiment(part: Path, workplace: Path) -> None:
    option = PLACES[part.parent.name]
    content = yaml.safe_load(part.read_text())
    base = BASES.get(part.parent.name, "digits_teacher.yaml")
    if part.parent.name == "losses":
        terms = [getattr(losses, spec["class_path"].rpartition(".")[2]) for spec in content.values()]
        base = "digits_cross_domain.yaml" if any(issubclass(t, BETWEEN_DOMAINS) for t in terms) else base
    config = CONFIGS / "experiment" / base
    reads_tokens = getattr(getattr(fusion, content.get("class_path", ""), None), "reads_tokens", False)
    tokens = [f"--model.student.encoders.{m}.tokens=true" for m in ("image", "text", "audio") if reads_tokens]
    words = [*QUICK, *small_digits(config), f"{option}={part}", *tokens]
    if part.parent.name == "losses":  # weights of the experiment's own terms would have no term
        words.append(f"--model.weights={json.dumps(dict.fromkeys(['task', *content], 0.5))}")
    run("fit", "--config", config, "--run", "out", *words)
    run_config = yaml.safe_load(Path("out/config.yaml").read_text())
    saved = json.dumps([run_config["model"], run_config["trainer"]])
    for spec in [content] if "class_path" in content else content.values():
        check_saved(spec, saved)


def check_saved(spec: Any, saved: str) -> None:
    """Every class and every plain setting is in the run's config."""
    assert f'.{spec["class_path"].rpartition(".")[2]}"' in saved
    for name, value in spec.get("init_args", {}).items():
        inner = [v for v in (value if isinstance(value, list) else [value]) if isinstance(v, dict)]
        inner += [v for d in inner for v in d.values() if isinstance(v, dict) and "class_path" not in d]
        for made in (d for d in inner if "class_path" in d):
            check_saved(made, saved)
        if not inner:
            assert f'"{name}": {json.dumps(value)}' in saved


def test_folders_are_named_as_the_shelves() -> None:
    assert {p.parent.name for p in PARTS} <= set(SHELVES)
    assert {p.parent.name for p in CONFIGS.rglob("*.yaml")} == {p.name for p in CONFIGS.iterdir()}
