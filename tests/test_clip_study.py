"""The clip study: its faults are what they say, its choices see no test data, and a cut run goes on."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"

needs_data = pytest.mark.skipif(
    "LIGHTNING_DISTILL_DATA" not in os.environ, reason="LIGHTNING_DISTILL_DATA does not name the real data"
)


@pytest.fixture(autouse=True)
def _benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(name, "1")  # the script sets them; they end with the test


def some_rows(count: int = 1000, width: int = 40) -> Any:
    from clip_study_data import MODALITIES, Rows

    draw = torch.Generator().manual_seed(3)
    x = {m: torch.randn(count, width, generator=draw) for m in MODALITIES}
    return Rows(x, torch.arange(count) % 10)


def pools(width: int = 12) -> dict[str, Any]:
    from clip_study_data import MODALITIES, Pool

    rng = np.random.default_rng(0)
    digit = np.arange(600) % 10
    x = torch.from_numpy(rng.standard_normal((600, width)) + digit[:, None] / 3).float()
    return {m: Pool(x, digit, np.arange(600) // 10 % 3) for m in MODALITIES}


# -- faults ----------------------------------------------------------------------------------------------


def test_one_per_cent_is_broken_in_audio_and_label_only() -> None:
    from clip_study_faults import broken

    rows = some_rows()
    found = broken(rows, 5)
    changed = (found.x["audio"] != rows.x["audio"]).any(1)
    assert int(changed.sum()) == 10
    torch.testing.assert_close(found.x["audio"][changed], 100 * rows.x["audio"][changed])
    assert torch.equal(found.target[~changed], rows.target[~changed])
    assert not torch.equal(found.target[changed], rows.target[changed])
    assert found.x["image"] is rows.x["image"]
    assert torch.equal(broken(rows, 5).x["audio"], found.x["audio"])
    assert not torch.equal(broken(rows, 6).x["audio"], found.x["audio"])


@pytest.mark.parametrize("modality", ["image", "text", "audio"])
def test_spikes_hit_five_per_cent_of_the_entries_of_one_modality(modality: str) -> None:
    from clip_study_faults import spiked

    rows = some_rows()
    found = spiked(rows, modality, 0)
    hit = found.x[modality] != rows.x[modality]
    assert float(hit.float().mean()) == pytest.approx(0.05, abs=5 * (0.05 * 0.95 / hit.numel()) ** 0.5)
    values = found.x[modality][hit]
    assert set(values.unique().tolist()) == {-1000.0, 1000.0}
    assert abs(float(values.mean())) < 100
    assert all(found.x[m] is rows.x[m] for m in rows.x if m != modality)


def test_conditions_are_one_fault_at_a_time() -> None:
    from clip_study_faults import conditions

    rows = some_rows(20)
    found = conditions(rows, 0)
    assert next(iter(found)) == "clean"
    assert len(found) == 7
    assert not found["zeroed text"].x["text"].any()
    for name, faulty in found.items():
        assert sum(not torch.equal(faulty.x[m], rows.x[m]) for m in rows.x) == (name != "clean")


# -- trainings -------------------------------------------------------------------------------------------


def trained(parts: Any, rate: float = 0.01, optimizer: str = "adamw") -> Any:
    import clip_study_models as models
    from clip_study_data import MODALITIES, pair

    found = pools()
    recipe = models.Recipe(optimizer, rate, 30, 0)
    return models.train(pair(found, 0, "train", 600), pair(found, 0, "val", 200), MODALITIES, recipe, parts)


def weights(run: Any) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in run.model.parameters()])


@pytest.mark.parametrize("part", ["rules", "features", "joint"])
def test_every_row_there_is_trains_and_moves_finite_weights(part: str) -> None:
    from clip_study_rows import BY_PART

    start = None
    for row in BY_PART[part]:
        if row.missing:
            continue
        run = trained(row.make(row.values[-1]))
        assert run.finite(), row.name
        if row.name == "none":
            start = weights(run)
    assert part == "joint" or start is not None


def test_the_same_training_twice_gives_the_same_weights_and_a_tight_rule_others() -> None:
    from clip_study_models import Parts

    from lightning_distill.clipping import ValueClip

    plain, again, clipped = (trained(Parts(rule=r)) for r in (None, None, ValueClip(1e-9)))
    assert torch.equal(weights(plain), weights(again))
    assert not torch.equal(weights(plain), weights(clipped))


def test_a_training_stops_where_its_weights_are_no_longer_finite() -> None:
    from clip_study_models import Parts

    run = trained(Parts(), rate=1e20, optimizer="sgd")
    assert not run.finite()


# -- the study -------------------------------------------------------------------------------------------


class Remembering:
    """A runner that keeps the jobs, and finds the more the larger the rate."""

    def __init__(self) -> None:
        self.jobs: list[Any] = []

    def all(self, jobs: Any, what: str) -> list[dict[str, Any]]:
        self.jobs += jobs
        return [{"val": {"clean": j.rate}, "test": {"clean": j.rate}, "loss": 0.0} for j in jobs]


def test_trials_see_no_test_data_and_the_screen_seed_is_not_reported() -> None:
    from clip_study_parts import SCREEN_SEED, Plan, Study

    runner = Remembering()
    study = Study(runner, Plan(range(2)))
    study.rules(), study.sweep(), study.features(), study.joint()
    assert {job.seed for job in runner.jobs if job.tested} == {0, 1}
    assert {job.seed for job in runner.jobs if not job.tested} == {SCREEN_SEED}
    rates = {job.rate for job in runner.jobs if job.tested and job.part == "features"}
    assert rates == {0.01}  # the largest tried is the best found


def test_rows_with_and_without_a_range_get_the_same_number_of_trials() -> None:
    from clip_study_parts import RATES, Plan
    from clip_study_rows import BY_PART

    plan = Plan([0])
    for rows in BY_PART.values():
        for optimizer, rates in RATES.items():
            trials = [plan.trials(row, optimizer, rates) for row in rows]
            assert {len(set(found)) for found in trials} == {4 * len(rates)}


@needs_data
@pytest.mark.data
def test_a_quick_run_goes_on_after_a_cut_and_writes_its_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import clip_study

    out, page = tmp_path / "study.json", tmp_path / "page.md"
    options = ["--quick", "--steps", "2", "--seeds", "1", "--workers", "0", "--out", str(out)]
    assert clip_study.main(options) == 0
    report = json.loads(out.read_text())
    kept = tmp_path / "study" / "2_steps.jsonl"
    lines = kept.read_text().splitlines()
    kept.write_text("\n".join(lines[:-1]) + "\n" + lines[-1][:20])
    capsys.readouterr()
    assert clip_study.main(options) == 0
    assert capsys.readouterr().out.startswith("1 trainings")
    again = json.loads(out.read_text())
    for part in ("rules", "sweep", "features", "joint"):
        assert again[part] == report[part]
    page.write_text(
        f"# Mine\n\n{clip_study.tables.BEGIN}\nbefore this\n{clip_study.tables.END}\n\nfindings\n"
    )
    assert clip_study.main(["--report", str(out), "--page", str(page)]) == 0
    text = page.read_text()
    assert text.startswith("# Mine")
    assert text.endswith("findings\n")
    assert "before this" not in text
    assert text.count("\n## ") == 7
    assert {row["test"]["n"] for row in report["rules"]} == {1}


@needs_data
@pytest.mark.data
def test_speakers_and_languages_of_the_test_set_are_in_no_other() -> None:
    from clip_study_data import SPLITS, read_pools

    from lightning_distill.data.datasets import read_fsdd

    folder = Path(os.environ["LIGHTNING_DISTILL_DATA"], "digits")
    found = read_pools(folder)
    speaker = read_fsdd(folder).speaker
    assert set(speaker[found["audio"].split == SPLITS.index("test")]) == {"nicolas", "theo"}
    lines = (folder / "number_words_78lang.csv").read_text().splitlines()[1:]
    language = np.array([line.split(",")[1] for line in lines])
    of_test = found["text"].split == SPLITS.index("test")
    assert not set(language[of_test]) & set(language[~of_test])
    for pool in found.values():
        known = pool.x[torch.from_numpy(pool.split == 0)]
        assert float(known.mean()) == pytest.approx(0, abs=1e-4)
        assert float(known.std()) == pytest.approx(1, abs=1e-4)
