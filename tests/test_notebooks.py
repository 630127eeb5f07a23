"""The notebooks: what they tell holds, and the executed copies are those of their sources."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
SOURCES = sorted(NOTEBOOKS.glob("*.py"))
MARKDOWN = " [markdown]"
RUN = """
import json, runpy, sys
names = runpy.run_path(sys.argv[1])
told = {name: names[name] for name in sys.argv[3:]}
json.dump(told, open(sys.argv[2], "w"), default=lambda found: found.distance)
"""


def cells_of(source: Path) -> list[tuple[str, str]]:
    """Kind and text of each cell of a percent script."""
    cells = []
    for part in ("\n" + source.read_text(encoding="utf-8")).split("\n# %%")[1:]:
        first, _, text = part.partition("\n")
        assert first in ("", MARKDOWN)
        if first == MARKDOWN:
            lines = text.strip().split("\n")
            assert all(line == "#" or line.startswith("# ") for line in lines)
            text = "\n".join(line[2:] for line in lines)
        cells.append(("markdown" if first else "code", text.strip()))
    return cells


def executed(source: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(source.with_suffix(".ipynb").read_text(encoding="utf-8"))
    return found


@pytest.fixture(scope="module")
def story() -> dict[str, Any]:
    """What the notebook of domains has found, run as a script by a process of its own."""
    names = ("accuracy", "alone", "a_distance", "right", "chosen", "scores")
    with TemporaryDirectory() as place:
        offline = {"HF_HUB_OFFLINE": "1", "MPLBACKEND": "Agg", "OMP_NUM_THREADS": "1"}
        words = [sys.executable, "-c", RUN, str(NOTEBOOKS / "cross_domain.py"), "told.json", *names]
        done = subprocess.run(
            words, cwd=place, env={**os.environ, **offline}, capture_output=True, text=True, timeout=280
        )
        assert done.returncode == 0, done.stderr[-3000:]
        assert os.listdir(place) == ["told.json"]
        found: dict[str, Any] = json.loads(Path(place, "told.json").read_text())
    return {**found, "stderr": done.stderr, "stdout": done.stdout}


def test_there_is_a_notebook() -> None:
    assert SOURCES


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_executed_copy_is_that_of_the_source(source: Path) -> None:
    cells = executed(source)["cells"]
    assert [(c["cell_type"], "".join(c["source"]).strip()) for c in cells] == cells_of(source)


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_executed_copy_has_clean_outputs(source: Path) -> None:
    code = [cell for cell in executed(source)["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))  # run once, in order
    outputs = [output for cell in code for output in cell["outputs"]]
    assert all(o["output_type"] in ("stream", "display_data") for o in outputs)
    assert all(o["name"] == "stdout" for o in outputs if o["output_type"] == "stream")
    assert any(o["output_type"] == "stream" for o in outputs)
    assert any("image/png" in o.get("data", {}) for o in outputs)
    texts = ["".join(o["text"]) for o in outputs if o["output_type"] == "stream"]
    assert not [text for text in texts if any(p in text for p in ("/home", "/root", "/tmp", "site-packages"))]


@pytest.mark.slow
@pytest.mark.parametrize(
    "source", [s for s in SOURCES if s.stem != "cross_domain"], ids=lambda path: path.stem
)
def test_it_runs_quietly_and_leaves_nothing(source: Path, tmp_path: Path) -> None:
    """As a script, which is the same cells in the same order; that of domains has tests of its own below."""
    done = subprocess.run(
        [sys.executable, str(source)],
        cwd=tmp_path,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "MPLBACKEND": "Agg", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr == ""
    assert done.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_it_is_quiet(story: dict[str, Any]) -> None:
    said = story["stdout"] + story["stderr"]
    assert not [line for line in said.split("\n") if "INFO" in line or "warning" in line.lower()]


@pytest.mark.slow
def test_knowledge_of_the_target_is_worth_more_than_alignment_and_both_more_than_nothing(
    story: dict[str, Any],
) -> None:
    target = {name: domains["target"] for name, domains in story["accuracy"].items()}
    source_only = target["source only"]
    assert story["accuracy"]["source only"]["source"] > source_only + 0.1
    for name in ("teacher: image, text and audio", "distilled", "fused, distilled", "fused, distilled, MCC"):
        assert target[name] > max(source_only + 0.1, target["MCC"], target["MMD"])
    assert target["MCC"] > source_only + 0.02
    assert target["MMD"] > source_only
    assert target["entropy"] < source_only
    assert target["ceiling: target labels"] == max(target.values())


@pytest.mark.slow
def test_fusion_corrects_what_was_extracted(story: dict[str, Any]) -> None:
    assert story["right"]["fused"] > story["right"]["extracted"] + 0.01


@pytest.mark.slow
def test_distance_does_not_tell_where_the_teacher_fails(story: dict[str, Any]) -> None:
    alone, distance = story["alone"], story["a_distance"]
    assert min(distance, key=distance.__getitem__) == "text" == min(alone, key=alone.__getitem__)
    assert alone["audio"] > alone["image"] + 0.05


@pytest.mark.slow
def test_validators_choose_as_it_is_told(story: dict[str, Any]) -> None:
    chosen, scores = story["chosen"], story["scores"]
    assert [chosen[name] for name in ("negative_entropy", "soft_neighbourhood_density")] == ["entropy"] * 2
    for name in ("mutual_information", "batch_nuclear_norm"):
        assert chosen[name] != "entropy"
        assert scores[name]["distilled"] > scores[name]["fused, distilled"]
    assert "distilled" in chosen["teacher_agreement"]
