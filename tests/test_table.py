"""The table of figures is what its script makes of the committed files."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"


@pytest.fixture(scope="module")
def table() -> Any:
    spec = importlib.util.spec_from_file_location("table", ROOT / "benchmarks" / "table.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(__import__("sys").modules, "table", module)
        spec.loader.exec_module(module)
    return module


def test_the_page_has_the_figures_of_the_files(table: Any) -> None:
    page = (ROOT / "docs" / "costs.md").read_text(encoding="utf-8")
    assert table.replaced(page, table.table(RESULTS)[0]) == page


def test_every_benchmark_of_a_row_exists(table: Any) -> None:
    for row in table.ROWS:
        assert (ROOT / "benchmarks" / f"{row.benchmark}.py").exists()


def test_a_new_figure_reaches_the_page_and_the_rest_stays(table: Any, tmp_path: Path) -> None:
    spread = {"median": 1.234, "min": 1.0, "max": 1.5}
    found = {"ratios": {row.path[1]: spread for row in table.ROWS if row.benchmark == "images"}}
    (tmp_path / "images.json").write_text(json.dumps(found))
    page = tmp_path / "costs.md"
    page.write_text(f"above\n{table.BEGIN}\nold\n{table.END}\nbelow\n")
    assert table.main(["--results", str(tmp_path), "--page", str(page)]) == 0
    lines = page.read_text().splitlines()
    assert (lines[0], lines[-1]) == ("above", "below")
    assert "old" not in lines
    assert sum("1.23 [1.00 .. 1.50]" in line and "`images.py`" in line for line in lines) == 2


def test_a_missing_key_is_named(table: Any, tmp_path: Path) -> None:
    (tmp_path / "images.json").write_text(json.dumps({"ratios": {}}))
    with pytest.raises(SystemExit, match=r"images\.json has no ratios/ours, .*benchmarks/images\.py"):
        table.table(tmp_path)


def test_a_page_without_markers_is_left_alone(table: Any, tmp_path: Path) -> None:
    shutil.copy(RESULTS / "losses.json", tmp_path)
    page = tmp_path / "costs.md"
    page.write_text("nothing\n")
    with pytest.raises(SystemExit, match="the page needs"):
        table.main(["--results", str(tmp_path), "--page", str(page)])
    assert page.read_text() == "nothing\n"


def test_numbers_with_their_spread_beside_them(table: Any) -> None:
    row = table.Row("w", "texts", ("a", "b"), form="{:.1f}")
    assert table.figure({"a": {"b": 2, "b_min": 1, "b_max": 3}}, row) == "2.0 [1.0 .. 3.0]"
    assert table.figure({"a": {"b": 2}}, row) == "2.0"
