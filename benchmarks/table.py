"""The table of what things cost, in docs/costs.md, from the JSON files that the benchmarks have written.

    python benchmarks/table.py

rewrites what stands between its two markers. A figure is the median with the least and the
largest of the rounds. A benchmark whose file is not there has no row, and is named; a key that is missing is
an error.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- figures: python benchmarks/table.py -->", "<!-- end of figures -->"


@dataclass(frozen=True)
class Row:
    """One figure.

    Attributes:
        what: Is measured.
        benchmark: Name of the script and of its file.
        path: Keys that lead to the figure: to `median`, `min` and `max`, or to a number beside which `_min`
            and `_max` may stand.
        aim: In words; empty where there is none.
        form: How the number is written.
    """

    what: str
    benchmark: str
    path: tuple[str, ...]
    aim: str = ""
    form: str = "{:.2f}"


ROWS = (
    Row("online step over Lightning alone", "step", ("compared", "online_over_bare"), "1.02"),
    Row(
        "with a bfloat16 teacher over torchdistill",
        "step",
        ("compared", "bf16_online_over_torchdistill"),
        "0.72",
    ),
    Row("answers from disk over the online step", "step", ("compared", "cached_over_online"), "0.17"),
    Row("answers from disk over the student alone", "step", ("compared", "cached_over_student_only"), "1.08"),
    Row("microseconds a step that the library adds", "step", ("ratios", "extra_us_per_step"), "40", "{:.0f}"),
    Row(
        "gathering 256 answers over `index_select` in memory",
        "cache",
        ("gather", "over_memory", "ours"),
        "1.10",
    ),
    Row(
        "speed of writing answers over plain writing", "cache", ("write", "speed_over_plain"), "at least 0.80"
    ),
    Row(
        "opening a million answers of 2 kB, ms",
        "cache",
        ("open", "2048 bytes a record", "open_ms"),
        "50",
        "{:.0f}",
    ),
    Row(
        "MB a cached training holds beyond the student alone",
        "memory",
        ("cached_minus_student_alone_mb",),
        "",
        "{:.1f}",
    ),
    Row(
        "MB a cached training grows from epoch 2 to 10",
        "memory",
        ("growth_from_epoch_2_to_10_mb", "cached"),
        "0",
        "{:.1f}",
    ),
    Row("training image at 224 over `cv2.imdecode` alone", "images", ("ratios", "ours"), "1.45"),
    Row("ImageFolder + v2 over `cv2.imdecode` alone", "images", ("ratios", "ImageFolder + v2")),
    Row(
        "tokenising over batched calls of transformers",
        "texts",
        ("time", "ours, first epoch", "over_transformers"),
        "0.45",
    ),
    Row("a text in later epochs, us", "texts", ("time", "ours, later epochs", "us_a_text"), "1"),
    Row("log-mel over one batched `torch.stft`", "sounds", ("ratios", "ours"), "1.02"),
    Row("Whisper's extractor over `torch.stft`", "sounds", ("ratios", "WhisperFeatureExtractor")),
    Row("AST's extractor over `torch.stft`", "sounds", ("ratios", "ASTFeatureExtractor"), "", "{:.1f}"),
    Row(
        "opening a manifest of a million rows, ms of CPU",
        "manifest",
        ("opening_cpu_milliseconds",),
        "50",
        "{:.0f}",
    ),
    Row("the same by the clock, ms", "manifest", ("opening_wall_milliseconds",), "50", "{:.0f}"),
    Row("bytes a row that a worker adds", "manifest", ("worker_bytes_a_row",), "4", "{:.1f}"),
    Row("`fit --help` over a stock LightningCLI's", "startup", ("ratios", "fit_help_over_stock"), "1.05"),
    Row(
        "decoupled KD over plain KD, 512 rows", "losses", ("ratios", "DecoupledKD against plain KD, 512 rows")
    ),
    Row("RKD's angles over the direct way, 512 rows", "losses", ("ratios", "RKD angle, 512 rows")),
    Row("value clip over a copy of the gradients", "clipping", ("spread", "value"), "0.68"),
    Row("one pass over the same bytes in place, the least there is", "clipping", ("spread", "in_place")),
    Row("value clip with telemetry of every group", "clipping", ("spread", "value_with_telemetry"), "0.80"),
    Row("value clip, guarded: every entry is looked at", "clipping", ("spread", "value_guarded"), "1.20"),
    Row("torch's `clip_grad_value_` over a copy", "clipping", ("spread", "torch_value")),
    Row("norm clip over `clip_grad_norm_`", "clipping", ("spread", "norm_over_torch"), "1.00"),
    Row("adaptive clip over a copy of the gradients", "clipping", ("spread", "agc"), "1.90"),
    Row("timm's `adaptive_clip_grad` over a copy", "clipping", ("spread", "timm_agc")),
    Row("us a boundary clip adds, 8 x 512", "clipping", ("spread", "boundary_us"), "10", "{:.0f}"),
    Row("step of `ConcatFusion` over hand-written", "fusion_cost", ("ratios", "ConcatFusion"), "1.10"),
    Row("step of `GatedFusion` over hand-written", "fusion_cost", ("ratios", "GatedFusion"), "1.10"),
    Row("step of `AttentionFusion` over hand-written", "fusion_cost", ("ratios", "AttentionFusion"), "1.10"),
    Row("step of `LowRankFusion` over hand-written", "fusion_cost", ("ratios", "LowRankFusion"), "1.10"),
    Row("step of `BottleneckFusion` over the same", "fusion_cost", ("ratios", "BottleneckFusion"), "1.10"),
    Row("the same `GatedFusion`, 30 % of modalities absent", "fusion_cost", ("absent", "GatedFusion")),
)


def figure(found: dict[str, Any], row: Row) -> str:
    """The figure with its spread.

    Raises:
        SystemExit: If a key is missing; names it.
    """
    at: Any = found
    for depth, key in enumerate(row.path):
        if not isinstance(at, dict) or key not in at:
            raise SystemExit(
                f"{row.benchmark}.json has no {'/'.join(row.path[: depth + 1])}, which {row.what!r} reads: "
                f"run python benchmarks/{row.benchmark}.py again with --out, or correct ROWS in this script"
            )
        beside, at = at, at[key]
    low, high = beside.get(f"{key}_min"), beside.get(f"{key}_max")
    if isinstance(at, dict):
        at, low, high = at["median"], at["min"], at["max"]
    told = row.form.format(at)
    return told if low is None else f"{told} [{row.form.format(low)} .. {row.form.format(high)}]"


def table(results: Path) -> tuple[str, list[str]]:
    """The table in Markdown, and the benchmarks whose files are not there."""
    lines, missing = (
        ["| | figure [least .. largest] | aim | `python benchmarks/...` |", "|---|---|---|---|"],
        [],
    )
    for row in ROWS:
        path = results / f"{row.benchmark}.json"
        if not path.exists():
            missing.append(row.benchmark)
            continue
        told = figure(json.loads(path.read_text(encoding="utf-8")), row)
        lines.append(f"| {row.what} | {told} | {row.aim} | `{row.benchmark}.py` |")
    return "\n".join(lines), sorted(set(missing))


def replaced(page: str, body: str) -> str:
    """The page with another table between the markers.

    Raises:
        SystemExit: If a marker is missing, or there twice.
    """
    if page.count(BEGIN) != 1 or page.count(END) != 1:
        raise SystemExit(f"the page needs one line {BEGIN!r} and, below, one line {END!r}")
    before, rest = page.split(BEGIN)
    return f"{before}{BEGIN}\n{body}\n{END}{rest.split(END)[1]}"


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "costs.md")
    options = parser.parse_args(words)
    body, missing = table(options.results)
    options.page.write_text(replaced(options.page.read_text(encoding="utf-8"), body), encoding="utf-8")
    for name in missing:
        print(f"no row: {name}.json is missing, run python benchmarks/{name}.py", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
