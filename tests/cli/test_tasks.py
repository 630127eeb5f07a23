"""Several classes a row, and numbers, by the real command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from tests.cli.conftest import SPLITS, Project, module

ROWS = 64


def config(project: Project, target: dict[str, Any], task: str, outputs: int) -> str:
    rows = [
        f"{'ab'[i % 2] * 3}{i},{('p', 'q|p', '-', '')[i % 4]},{i % 2}.5,{1 + i % 3},{SPLITS[i // 2 % 4]}"
        for i in range(ROWS)
    ]
    Path("table.csv").write_text("\n".join(["text,tags,price,weight,split", *rows]) + "\n")

    def edit(found: dict[str, Any]) -> None:
        module(found)["student"]["init_args"]["num_classes"] = outputs
        module(found)["task"] = {"class_path": task}
        found["data"]["init_args"]["source"]["init_args"]["target"] = target

    return project.change("task.yaml", edit)


@pytest.mark.parametrize(
    ("target", "task", "outputs", "monitor", "column"),
    [
        ({"class_path": "MultiLabel", "init_args": {"column": "tags"}}, "Multilabel", 2, "macro_f1", "list"),
        (
            {"class_path": "RegressionTarget", "init_args": {"columns": ["price"]}},
            "Regression",
            1,
            "mae",
            "float",
        ),
    ],
    ids=["multilabel", "regression"],
)
def test_fit_test_and_predict(
    project: Project, target: dict[str, Any], task: str, outputs: int, monitor: str, column: str
) -> None:
    name = config(project, target, task, outputs)
    assert project.fit("--run", "r", config=name) == 0, project.err
    saved = yaml.safe_load(Path("r/config.yaml").read_text())
    assert saved["checkpoint"]["monitor"] == saved["early_stopping"]["monitor"] == f"val/{monitor}"
    assert project.run("test", "--run", "r") == 0, project.err
    assert f"test/{monitor}" in project.out
    assert project.run("predict", "--run", "r") == 0, project.err
    table = pq.read_table("r/predictions.parquet")
    (predicted,) = [n for n in table.column_names if n.startswith("prediction")]
    assert str(table.schema.field(predicted).type).startswith(column)
    assert json.loads(Path("r/student/config.json").read_text())["preprocessing"]["text"]


def test_the_wrong_task_is_named_with_the_right_one(project: Project) -> None:
    target = {"class_path": "RegressionTarget", "init_args": {"columns": ["price"]}}
    line = project.fails("fit", "--config", config(project, target, "Classification", 2))
    assert "Regression" in line
