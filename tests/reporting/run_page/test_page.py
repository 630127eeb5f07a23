from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lightning_distill.data import DataSource, MultimodalDataModule
from lightning_distill.data.image import ImageProcessor
from lightning_distill.data.source import SampleTable
from lightning_distill.explanation.agreement import KINDS, Agreement, Example
from lightning_distill.explanation.by_class import ClassAccuracy
from lightning_distill.explanation.curves import Curve
from lightning_distill.explanation.facts import RunFacts
from lightning_distill.explanation.findings import Finding
from lightning_distill.reporting import save_run_report
from lightning_distill.reporting.run_page.page import BUDGET, render_run_report
from tests.reporting.page import Page
from tests.reporting.run_page.example import (
    CHANGE,
    empty_facts,
    example_agreement,
    example_data,
    example_facts,
    example_findings,
)

RERUN = "lightning-distill fit --config runs/a/config.yaml --config runs/a/changes/cold-teacher.yaml"
HOSTILE = "</pre><script>alert(1)</script><img src=x onerror=alert(1)>\u202e\"'&\0\ud800\x1b[31m{{ 7 * 7 }}"
DATA = example_data()


def rendered(
    facts: RunFacts, findings: list[Finding] | None = None, changes: Mapping[str, str] | None = None
) -> str:
    return render_run_report(facts, findings or [], DATA, changes or {})


@pytest.fixture(scope="module")
def html() -> str:
    return rendered(example_facts(DATA), example_findings(), {"cold-teacher": RERUN})


def test_sections_in_order_and_reached_by_links(html: str) -> None:
    found = Page(html)
    assert found.headings == [
        "Was the teacher worth it?",
        "What stands out",
        "Training",
        "What teacher and student agree on",
        "Class by class",
        "What each modality brings",
        "Can its confidence be believed?",
        "How like the teacher's its layers are",
        "What is not here",
        "Config and environment",
    ]
    goals = set(re.findall(r' id="([\w-]+)"', html))
    inside = [link.removeprefix("#") for link in found.links if link.startswith("#")]
    assert len(inside) == 9
    assert set(inside) <= goals


def test_figures_are_those_of_the_facts(html: str) -> None:
    found = Page(html)
    assert found.row("student") == ["94.3", "94.1", "0.023", "image", "18,602"]
    assert found.row("teacher") == ["97.8", "97.7", "0.012", "image, text, audio", "75,530"]
    assert found.row("baseline") == ["76.1", "75.2", "0.094", "image", "18,602"]
    assert found.row("95 % interval, points") == ["+16.1 to +20.3"]
    assert found.row("0") == ["100", "95.0", "98.0", "80.0", "+15.0 ± 2.1", "0"]
    assert found.row("S1 encoders.image.blocks.0")[:2] == ["1.00", "0.77"]
    for text in (
        "The teacher helped: 18.2 points",
        "95.1 % of the samples",
        "student 0.61 ± 0.012",
        CHANGE,
        RERUN,
    ):
        assert text in found.text
    assert "lightning-distill baseline" not in found.text
    assert found.row("command") == ['["lightning-distill", "fit"]']


def test_what_was_lost_comes_first(html: str) -> None:
    names = [cells[0] for cells in Page(html).rows if len(cells) == 7 and cells[1] == "100"]
    assert names == list("9876543210")


def test_the_real_samples_are_there(html: str) -> None:
    found = Page(html)
    rows = [e.row for own in example_agreement(DATA).examples.values() for e in own]
    assert len(found.images) == html.count("<audio controls") == len(rows) == 16
    for row in rows:
        assert DATA.indexed.load("text", row) in found.text
        assert f"row {row}" in found.text
    assert "only the teacher is right: 35 (3.5 %)" in found.text
    first = example_agreement(DATA).examples[KINDS[1]][0]
    assert re.search(rf"label\s*{first.target}\s*student\s*{first.student} ✗ 71.0 %\s*teacher", found.text)
    assert all(image["alt"] for image in found.images)


def test_curves_are_where_they_belong(html: str) -> None:
    titles = re.findall("<figcaption><bdi>(.*?)</bdi>", html)
    for title in (
        "Loss",
        "Learning rate",
        "Terms as they are",
        "Terms times their weights",
        "Share of entries clipped",
    ):
        assert title in titles
    (words,) = re.findall('aria-label="Share of the gradient, before clipping. (.*?)"', html)
    # 2 : 0.5 : 0.05 at every step.
    for told in ("image: from 0.784 to 0.784", "text: from 0.196 to 0.196", "audio: from 0.0196 to 0.0196"):
        assert told in words


def test_nothing_comes_from_elsewhere(html: str) -> None:
    found = Page(html)
    assert not re.search(r"https?:|@import|url\(", html)
    assert all(link.startswith(("data:image/", "data:audio/", "#")) for link in found.links)
    assert not found.tags & {"script", "link", "iframe", "object", "base", "form"}
    assert "content=\"default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'\"" in html
    assert "prefers-color-scheme: dark" in html


def test_a_bare_run_has_a_good_page_too() -> None:
    found = Page(rendered(empty_facts()))
    assert found.headings == [
        "Was the teacher worth it?",
        "What stands out",
        "Training",
        "Config and environment",
    ]
    for text in ("This run has no teacher.", "Nothing does, as far as was looked.", "Nothing was logged."):
        assert text in found.text


def test_without_a_baseline_it_says_how_to_get_one() -> None:
    why = {"worth": None, "worth_unknown": "Nobody knows yet."}
    facts = replace(example_facts(DATA), **why, no_baseline=True, run=Path("runs/a b"))
    text = Page(rendered(facts)).text
    assert "lightning-distill baseline 'runs/a b'" in text
    assert "Nobody knows yet. This trains one" in text
    text = Page(rendered(replace(facts, no_baseline=False, domains=("new",)))).text
    assert "Nobody knows yet." in text
    assert "lightning-distill baseline" not in text
    assert "split, target domain new." in text


def test_foreign_texts_are_harmless() -> None:
    facts = example_facts(DATA)
    long = HOSTILE + "x" * 100_000
    first = facts.classes[0]
    hostile = replace(
        facts,
        run=Path("runs") / HOSTILE.replace("\0", ""),
        task=long,
        split=long,
        modalities={long: (long,)},
        metrics={"student": {long: 0.5}, long: {long: 0.5}},
        curves={f"val/{long}": Curve(f"val/{long}", (1, 2), (0.5, 0.6))},
        classes=(replace(first, name=long, accuracy={long: 0.5, **first.accuracy}),),
        calibration={long: facts.calibration["student"]},
        contributions={long: facts.contributions["teacher"]},
        similarity=replace(facts.similarity, student=(long,) * 5) if facts.similarity else None,
        worth=replace(facts.worth, verdict=long) if facts.worth else None,
        left_out=(long,),
        config=long,
        environment={long: long, "nested": {"password": "hunter2-hunter2"}},
    )
    html = rendered(hostile, [Finding(long, long, long, long, (1,))], {long: long})
    found = Page(html)
    assert not found.tags & {"script"}
    assert len(found.images) == 16
    assert "<img src=x" not in html
    assert "{{ 7 * 7 }}" in html
    assert not re.search("[\0\x1b\ud800]", html)
    assert "hunter2" not in html
    assert len(html.encode()) < 1_000_000


class _Noise(DataSource):
    """Many large images a sample, each of which can hardly be compressed."""

    classes = tuple("ab")

    def __init__(self, modalities: int, rows: int) -> None:
        self.names = [f"view {i}" for i in range(modalities)]
        self.rows = np.arange(rows)
        self.image = np.random.default_rng(0).integers(0, 256, (160, 160, 3), dtype=np.uint8)
        self.loaded = 0

    @property
    def samples(self) -> SampleTable:
        rows = self.rows
        there = {name: np.ones(len(rows), bool) for name in self.names}
        return SampleTable(
            rows, rows % 2, np.full(len(rows), 2, np.int8), np.zeros(len(rows), np.int64), there
        )

    def load(self, modality: str, row: int) -> Any:
        self.loaded += 1
        return self.image


def test_many_large_images_are_fewer_until_the_page_fits() -> None:
    source = _Noise(24, 32)
    data = MultimodalDataModule(source, {name: ImageProcessor(size=8) for name in source.names})
    own = {
        kind: tuple(Example(8 * k + i, 0, 0, 0, 0.9, 0, 0.9) for i in range(8))
        for k, kind in enumerate(KINDS)
    }
    facts = replace(example_facts(DATA), agreement=Agreement(0.5, dict.fromkeys(KINDS, 8), own))
    html = render_run_report(facts, [], data, {})
    assert BUDGET * 0.8 < len(html.encode()) <= BUDGET == 5_000_000
    shown = len(Page(html).images) // 24
    # All kinds have their share, and what has no room is not read.
    assert 4 <= shown < 32
    assert source.loaded <= 24 * (shown + 1)
    each = [int(n) for n in re.findall(r": 8, (\d+) shown", html)]
    assert sum(each) == shown
    assert max(each) - min(each) <= 1


def test_thousands_of_classes_fold() -> None:
    def entry(i: int) -> ClassAccuracy:
        return ClassAccuracy(f"class {i}", i, 10, {"student": 0.5, "baseline": 0.5}, (i - 500) / 1000, 0.1, 0)

    facts = replace(empty_facts(), classes=tuple(entry(i) for i in range(3000)))
    html = rendered(facts)
    names = [cells[0] for cells in Page(html).rows if cells and cells[0].startswith("class ")]
    assert names[:30] == [f"class {i}" for i in range(2970, 3000)]
    assert len(names) == 2000
    assert "1,000 more that changed least are left out" in html
    assert len(html.encode()) < BUDGET / 3


def test_without_a_baseline_the_teacher_is_the_measure() -> None:
    own = [
        ClassAccuracy(n, i, 9, {"student": s, "teacher": 0.8}, None, None, 0)
        for i, (n, s) in enumerate((("up", 0.9), ("down", 0.2)))
    ]
    found = Page(rendered(replace(empty_facts(), classes=tuple(own))))
    assert [cells[0] for cells in found.rows if cells[0] in ("up", "down")] == ["down", "up"]
    assert "gain, points" not in found.text


def test_a_sample_that_cannot_be_read_leaves_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(modality: str, row: int) -> Any:
        raise OSError("the disk is gone")

    data = example_data()
    monkeypatch.setattr(data.indexed, "load", broken)
    html = render_run_report(example_facts(DATA), [], data, {})
    assert html.count("cannot be shown: the disk is gone") == 48


def test_it_is_written_as_a_whole(tmp_path: Path) -> None:
    path = save_run_report(empty_facts(), [], DATA, tmp_path / "out" / "report.html", {})
    assert path.read_text(encoding="utf-8") == rendered(empty_facts())
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]
