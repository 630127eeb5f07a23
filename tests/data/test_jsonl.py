"""JSON Lines: what a good file means."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_distill.data.tables import TextTable, read_table


def read(folder: Path, content: str, columns: list[str], name: str = "m.jsonl") -> TextTable:
    (folder / name).write_text(content, encoding="utf-8", newline="")
    return read_table(folder / name, columns)


def test_values_become_the_text_they_are_written_as(tmp_path: Path) -> None:
    values = ["7", "-0", "1e5", "0.10", "1E-3", "123456789012345678901234567890", "9" * 5000, "true", "false"]
    table = read(tmp_path, "".join(f'{{"a": {value}}}\n' for value in values), ["a"])
    assert table.columns["a"].to_pylist() == values


def test_missing_keys_null_and_empty_text_are_empty_cells(tmp_path: Path) -> None:
    content = '{"a": "x"}\n{"b": "y", "a": null}\n{"a": "", "b": null}\n{}\n'
    table = read(tmp_path, content, ["a", "b"])
    assert table.columns["a"].to_pylist() == ["x", None, None, None]
    assert table.columns["b"].to_pylist() == [None, "y", None, None]


def test_lists_of_text_are_joined(tmp_path: Path) -> None:
    table = read(tmp_path, '{"a": ["x", "y"]}\n{"a": ["x"]}\n{"a": []}\n{"a": null}\n{"a": "z"}\n', ["a"])
    assert table.columns["a"].to_pylist() == ["x|y", "x", "-", None, "z"]


def test_lines_are_counted_with_blank_ones(tmp_path: Path) -> None:
    table = read(tmp_path, '\ufeff\n{"a": 1}\r\n \t\r\n{"a": 2}\n\n{ "a" : 3 }', ["a"], "m.ndjson")
    assert table.columns["a"].to_pylist() == ["1", "2", "3"]
    assert table.line.tolist() == [2, 4, 6]


def test_a_line_end_of_another_kind_inside_text_is_text(tmp_path: Path) -> None:
    texts = ["a\u2028b", "a\u0085b", "a\x0bb"]
    content = "".join(json.dumps({"a": text}, ensure_ascii=False) + "\n" for text in texts[:2])
    table = read(tmp_path, content + json.dumps({"a": texts[2]}), ["a"])
    assert table.columns["a"].to_pylist() == texts


def test_what_is_in_other_keys_does_not_matter(tmp_path: Path) -> None:
    table = read(tmp_path, '{"a": "x", "box": {"at": [1, 2]}}\n{"a": "y", "box": [[]]}\n', ["a"])
    assert table.columns["a"].to_pylist() == ["x", "y"]


def test_a_key_that_comes_late_is_a_column(tmp_path: Path) -> None:
    count = 1300  # more than one block
    table = read(tmp_path, '{"a": "x"}\n' * count + '{"b": "y", "a": 5}\n', ["a", "b"])
    assert table.columns["b"].null_count == count
    assert (table.columns["a"][count].as_py(), table.columns["b"][count].as_py()) == ("5", "y")


texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)


@pytest.mark.parametrize("ascii_only", [True, False])
@given(st.lists(st.fixed_dictionaries({}, optional={"a": texts, "b": texts}), min_size=1, max_size=8))
def test_any_text_comes_back_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, ascii_only: bool, rows: list[dict[str, str]]
) -> None:
    lines = [json.dumps({"c": "z", **row}, ensure_ascii=ascii_only) for row in rows]
    path = tmp_path_factory.mktemp("round_trip") / "m.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8", newline="")
    table = read_table(path, ["c"], ["a", "b"])
    for name in set().union(*rows):
        assert table.columns[name].to_pylist() == [row.get(name) or None for row in rows]
