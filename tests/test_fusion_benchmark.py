"""The comparison of fusion heads: a few steps on the real data, going on after a cut, table and picture."""

from __future__ import annotations

import json
import os
from pathlib import Path

import cv2
import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
HEADS = ("ConcatFusion", "TokenAttentionFusion")
OPTIONS = ("--seeds", "2", "--workers", "0", "--steps", "3", "--rounds", "1", "--rates", "0.01", "0.03")

pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif(
        "LIGHTNING_DISTILL_DATA" not in os.environ,
        reason="LIGHTNING_DISTILL_DATA does not name the real data",
    ),
]


@pytest.fixture(autouse=True)
def _benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(name, "1")  # the script sets them; they end with the test


def test_every_head_of_the_shelf_takes_part() -> None:
    import fusion_jobs

    from tests.shelves import concrete

    assert {name.split(",")[0] for name in fusion_jobs.HEADS} == {c.__name__ for c in concrete("fusion")}


def test_rows_going_on_and_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import fusion
    import fusion_page

    out = tmp_path / "fusion.json"
    words = [*OPTIONS, "--heads", *HEADS, "--out", str(out)]
    assert fusion.main(words) == 0
    report = json.loads(out.read_text())
    assert set(report["heads"]) == set(HEADS)
    lines = [json.loads(line) for line in (tmp_path / "fusion" / "3_steps.jsonl").read_text().splitlines()]
    assert len(lines) == 2 * 2 * 3 + 2 * 2
    assert all(("test" in line) == line["job"]["tested"] for line in lines)
    for head, row in report["heads"].items():
        tuned = {0.01: 0.0, 0.03: 0.0}
        for x in lines:
            if x["job"]["head"] == head and "test" not in x:
                tuned[x["job"]["rate"]] += x["loss"]
        assert row["rate"] == min(tuned, key=lambda rate: tuned[rate])
        found = [x["test"] for x in lines if x["job"]["head"] == head and "test" in x]
        assert row["accuracy"] == pytest.approx(sum(x["all"] for x in found) / 2)
        assert row["se"] == pytest.approx(abs(found[0]["all"] - found[1]["all"]) / 2)
        assert set(row["absent"]) == {"image", "text", "audio"}
        assert row["absent"]["text"] == pytest.approx(sum(x["text"] for x in found) / 2)
        assert row["params"] > 0
        assert row["ms"] > 0
    kept = tmp_path / "fusion" / "3_steps.jsonl"
    kept.write_text("".join(kept.read_text().splitlines(keepends=True)[:-1]))
    capsys.readouterr()
    assert fusion.main(words) == 0
    assert "trainings: 1 of 1" in capsys.readouterr().out
    page = tmp_path / "page.md"
    page.write_text(f"# Mine\n\n{fusion_page.BEGIN}\nold\n{fusion_page.END}\n\nfindings\n")
    assert fusion.main(["--report", str(out), "--page", str(page)]) == 0
    text = page.read_text()
    assert "old" not in text
    assert text.count("`TokenAttentionFusion`") == 1
    assert text.endswith("findings\n")
    picture = cv2.imread(str(tmp_path / fusion_page.PICTURE))
    assert picture.shape[1] == 1650
    page.write_text("no markers")
    with pytest.raises(SystemExit, match="needs one line"):
        fusion.main(["--report", str(out), "--page", str(page)])
    assert page.read_text() == "no markers"
