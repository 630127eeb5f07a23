"""`lightning-distill evaluate` through the real command line, on a run of a second."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml

from tests.cli.conftest import SPLITS, Project, module, project, small_config, train_once

__all__ = ["project"]

ROWS = 64


def cells(i: int) -> list[str]:
    """A text and a picture of the class; pictures and labels are missing in some rows."""
    picture = "" if i % 7 == 0 else f"{i}.png"
    return [f"{'ab'[i % 2] * 3}{i}", picture, "" if i % 10 == 5 else "xy"[i % 2], SPLITS[i // 2 % 4]]


def write_table(rows: list[list[str]], folder: Path = Path()) -> None:
    (folder / "table.csv").write_text("\n".join(["text,image,label,split", *map(",".join, rows)]) + "\n")


def with_images() -> dict[str, Any]:
    config = small_config()
    encoder = {"class_path": "ImageCNN", "init_args": {"channels": 3, "width": 4, "embedding_dim": 8}}
    module(config)["student"]["init_args"]["encoders"]["image"] = encoder
    data = config["data"]
    data["class_path"] = "ImageTextDataModule"
    data["init_args"]["processors"]["image"] = {"class_path": "ImageProcessor", "init_args": {"size": 8}}
    data["init_args"]["source"]["init_args"]["modalities"]["image"] = "image"
    return config


@pytest.fixture(scope="module")
def two_modalities(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the run `a`, of text and images, for tests to copy."""
    folder = tmp_path_factory.mktemp("two")
    write_table([cells(i) for i in range(ROWS)], folder)
    for i in range(ROWS):
        picture = np.random.default_rng(i).integers(0, 256, (8, 8, 3)) // (1 + i % 2)
        cv2.imwrite(str(folder / f"{i}.png"), picture.astype(np.uint8))
    (folder / "two.yaml").write_text(yaml.safe_dump(with_images(), sort_keys=False))
    train_once(folder, "two.yaml")
    return folder


@pytest.fixture
def trained(project: Project, two_modalities: Path) -> Project:
    """A project with the run `a`, of text and images."""
    shutil.copytree(two_modalities, ".", dirs_exist_ok=True)
    return project


def expected_samples(split: str) -> list[int]:
    rows = [cells(i) for i in range(ROWS)]
    labelled = [row for row in rows if row[3] == split and row[2]]
    both = sum(bool(row[1]) for row in labelled)
    return [both, len(labelled), both]


def test_table_and_json(trained: Project) -> None:
    assert trained.run("evaluate", "a") == 0, trained.err
    content = json.loads(Path("a/subsets.json").read_text())
    assert content["split"] == "test"
    names = [["text", "image"], ["text"], ["image"]]
    assert [subset["modalities"] for subset in content["subsets"]] == names
    assert [subset["samples"] for subset in content["subsets"]] == expected_samples("test")
    for subset in content["subsets"]:
        assert set(subset["metrics"]) == {"accuracy", "macro_f1", "calibration_error"}
        assert f"{100 * subset['metrics']['accuracy']:.1f}" in trained.out
    assert "Wrote a/subsets.json" in trained.out


def test_all_modalities_give_what_test_gives(trained: Project) -> None:
    """Where every sample has every modality and a label; another path to the same numbers."""
    rows = [row for row in map(cells, range(ROWS)) if row[1] and row[2]]
    write_table(rows)
    assert trained.run("test", "--run", "a") == 0, trained.err
    shown = [line.split("│")[1:3] for line in trained.out.splitlines() if "test/" in line]
    tested = {name.strip().removeprefix("test/"): float(value) for name, value in shown}
    assert trained.run("evaluate", "a") == 0, trained.err
    found = json.loads(Path("a/subsets.json").read_text())["subsets"][0]
    assert found["samples"] == len([row for row in rows if row[3] == "test"])
    assert found["metrics"] == pytest.approx({name: tested[name] for name in found["metrics"]}, rel=1e-4)


def test_another_split_and_file(trained: Project) -> None:
    assert trained.run("evaluate", "a", "--split", "val", "--out", "deep/v.json") == 0, trained.err
    content = json.loads(Path("deep/v.json").read_text())
    assert content["split"] == "val"
    assert [subset["samples"] for subset in content["subsets"]] == expected_samples("val")
    assert not Path("a/subsets.json").exists()


def test_what_is_missing_is_named(trained: Project) -> None:
    assert "no such file" in trained.fails("evaluate", "b", code=4)
    assert "a is a folder" in trained.fails("evaluate", "a", "--out", "a")
    Path("table.csv").rename("moved.csv")
    assert "table.csv" in trained.fails("evaluate", "a", code=3)
    Path("moved.csv").rename("table.csv")
    Path("a/student/model.safetensors").unlink()
    assert "model.safetensors" in trained.fails("evaluate", "a", code=4)
    Path("a/student").rename("elsewhere")
    message = trained.fails("evaluate", "a", code=4)
    assert "has not ended" in message
    assert "fit --config a/config.yaml --run a --resume auto" in message


@pytest.mark.parametrize("content", ["", "[1", "data: 3", "data: {class_path: X}\nmodel: {class_path: [1]}"])
def test_a_config_that_is_none(trained: Project, content: str) -> None:
    Path("a/config.yaml").write_text(content)
    assert "the config of a run" in trained.fails("evaluate", "a", code=4)


def test_a_config_with_an_unknown_class(trained: Project) -> None:
    path = Path("a/config.yaml")
    path.write_text(path.read_text().replace("ManifestSource", "ManifestSauce"))
    assert "ManifestSauce" in trained.fails("evaluate", "a")


def test_help(project: Project) -> None:
    assert project.run("evaluate", "--help") == 0
    assert all(option in project.out for option in ("RUN", "--split", "--out"))
    assert project.run("evaluate") == 2
    assert "required: RUN" in project.err
