"""The page as a browser shows it, on a desk and on a phone, by day and by night."""

from __future__ import annotations

from pathlib import Path

from lightning_distill.reporting.run_page.page import render_run_report
from tests.reporting.browser import Look, looked_at
from tests.reporting.run_page.example import empty_facts, example_data, example_facts, example_findings


def test_no_barrier_no_overflow_no_request_and_everything_plays(tmp_path: Path) -> None:
    data = example_data()
    page = render_run_report(
        example_facts(data), example_findings(), data, {"cold-teacher": "lightning-distill fit"}
    )
    bare = render_run_report(empty_facts(), [], data, {})
    looks = {
        "desk, light": Look(page, 1280, False),
        "phone, dark": Look(page, 360, True),
        "bare, phone": Look(bare, 390, False),
    }
    found = looked_at(looks, tmp_path)
    assert set(found) == set(looks)
    for name, look in looks.items():
        seen = found[name]
        assert seen["violations"] == [], name
        assert seen["passes"] > 15
        assert seen["width"] == look.width
        assert seen["scroll"] <= look.width, name
        assert seen["paper"] == ("rgb(21, 24, 28)" if look.dark else "rgb(255, 255, 255)")
        assert [n for n in seen["loaded"] if not n.endswith("axe.js")] == []
        samples = 0 if look.page == bare else 16
        assert len(seen["images"]) == len(seen["sounds"]) == samples
        assert all(width >= 48 for width in seen["images"])
        assert all(0.2 < seconds <= 5.2 for seconds in seen["sounds"])
