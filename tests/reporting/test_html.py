from __future__ import annotations

import re
from base64 import b64decode
from pathlib import Path

import pytest

from lightning_distill.reporting import Summary, save_report
from lightning_distill.reporting.html import render_report
from tests.reporting.example import example
from tests.reporting.page import Page

PNG = b"\x89PNG\r\n\x1a\n and so on"


def page(summary: Summary) -> Page:
    return Page(render_report(summary, PNG))


def test_every_model_has_its_row() -> None:
    summary = example()
    found = page(summary)
    for row in summary["rows"]:
        cells = found.row(row["name"])
        assert cells[0] == f"{100 * row['accuracy_mean']:.1f} % ± {100 * (row['accuracy_se'] or 0):.1f}"
        assert cells[1:3] == [f"{100 * row['agreement']:.1f} %", f"{row['ece']:.3f}"]
        assert cells[3:] == [
            ", ".join(row["modalities"]),
            f"{row['params']:,}",
            f"{row['ms_per_sample']:.3f}",
        ]
    assert found.row("image gap closed")[0] == "88.1 % ± 3.0"


def test_the_other_tables_too() -> None:
    summary = example()
    found = page(summary)
    assert found.row("AdamW 0.004") == ["98.4 %", "98.3 %", "82.9 %", "97.5 %"]
    assert found.row("SGD 1") == ["9.8 % stopped at step 43", "96.2 %", "11.3 % stopped at step 8", "94.7 %"]
    assert found.row("5 % of audio features at ±1000") == ["21.4 %", "87.1 %"]
    for domain in summary["data"]:
        assert found.row(domain["modality"]) == [domain["source"], domain["target"]]
    assert found.row("batch size") == ["64"]
    assert found.row("temperature") == ["2"]
    for text in [*summary["notes"], summary["command"], summary["next"], "2 min 43 s", "3 seeds (0, 1, 2)"]:
        assert text in found.text


def test_sections() -> None:
    assert page(example()).headings == [
        "What this shows",
        "The two domains",
        "From many modalities to one, from source to target",
        "What the numbers say",
        "What the clip rule is for",
        "What the feature clip is for",
        "Settings",
        "Next",
    ]


def test_the_page_needs_nothing_else() -> None:
    html = render_report(example(), PNG)
    found = Page(html)
    assert not re.search(r"https?:|//[a-z]|@import|url\(", html)
    (image,) = found.images
    assert found.links == [image["src"]]
    kind, _, data = image["src"].partition(",")
    assert (kind, b64decode(data)) == ("data:image/png;base64", PNG)
    assert "image distilled 94.4 %" in image["alt"]
    assert not found.tags & {"script", "link", "iframe", "object", "base", "form"}
    assert 'name="viewport" content="width=device-width' in html
    assert "prefers-color-scheme: dark" in html


def test_texts_are_escaped() -> None:
    summary = example()
    hostile = "<b>x</b><script>\"&'"
    summary["title"] = summary["command"] = summary["next"] = hostile
    summary["rows"][1]["name"] = hostile
    summary["rows"][1]["modalities"] = [hostile]
    summary["notes"] = [hostile]
    summary["settings"] = {hostile: hostile}
    summary["data"][0]["target"] = hostile
    summary["clip"]["rule"] = summary["feature_clip"]["modality"] = hostile
    summary["clip"]["cells"][0]["optimizer"] = hostile
    summary["gap_closed"] = {hostile: {"mean": 0.5, "se": None, "values": []}}
    found = page(summary)
    assert not found.tags & {"script"}
    assert "<b>x" not in render_report(summary, PNG)
    shown = [cells for cells in found.rows if cells[0] == hostile]
    assert [cells[1] for cells in shown] == ["62.9 % ± 1.6", hostile]
    assert shown[0][4] == hostile
    assert found.row(f"5 % of {hostile} features at ±1000")


@pytest.mark.parametrize("error", [None, float("nan")])
def test_one_seed_has_no_error(error: float | None) -> None:
    summary = example()
    summary["seeds"] = [4]
    for row in summary["rows"]:
        row["accuracy_se"] = error
    for closed in summary["gap_closed"].values():
        closed["se"] = error
    found = page(summary)
    assert "±" not in found.text.replace("±1000", "")
    assert "one seed (4)" in found.text
    assert found.row("audio gap closed")[0] == "72.4 %"


def test_what_was_not_run_is_said() -> None:
    summary = example()
    del summary["clip"]["cells"][1]
    for cell in summary["clip"]["cells"]:
        cell.pop("stopped_at_step")
    found = page(summary)
    assert found.row("AdamW 0.004") == ["98.4 %", "n/a", "82.9 %", "97.5 %"]
    assert "stopped at" not in found.text


def test_the_picture_may_be_a_file(tmp_path: Path) -> None:
    picture = tmp_path / "summary.png"
    picture.write_bytes(PNG)
    path = save_report(example(), picture, tmp_path / "out" / "report.html")
    assert path.read_text(encoding="utf-8") == render_report(example(), PNG)
