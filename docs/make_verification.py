"""The verification page, from what the tests have compared.

    LIGHTNING_DISTILL_VERIFICATION=build/verification python -m pytest tests/losses tests/fusion ...
    python docs/make_verification.py --notes build/verification

The first writes notes (`tests/verification.py`); the second merges them into
`benchmarks/results/verification.json` and makes `docs/verification.md` of it. Without `--notes` the page is
made again from the JSON that is there. `make verification` does both.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Iterable
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "verification.json"
PAGE = ROOT / "docs" / "verification.md"
SHELVES = {
    "losses": "Losses",
    "fusion": "Fusion heads",
    "clipping": "Rules that clip gradients",
    "feature_clipping": "Clips of features",
    "balancing": "Balancing of terms",
    "gradient_balancing": "Balancing of modalities",
    "validators": "Scores without labels",
}
WITHOUT = {
    "ClipChain": "Does what its rules do, in their order; a test compares the bits.",
    "Excluding": "Hands the inner term the rows that are left; tests compare with the term on those rows.",
    "FeatureClipChain": "Does what its clips do, in their order.",
    "OnTarget": "Hands the inner term the target domain's rows; a test compares with the term on those.",
    "PerModality": "Hands each rule its modality's tensors; a test compares the bits.",
    "PerPattern": "Hands each rule the tensors whose names match; a test compares the bits.",
    "PropagateNonFinite": "Leaves gradients alone where one is not finite; else its rule's bits.",
    "RaiseNonFinite": "Stops where a gradient is not finite; else the bits are those of its rule.",
    "SkipNonFinite": "Skips the step where a gradient is not finite; else the bits are those of its rule.",
}
"""What has no formula of its own, with what stands in place of a reference."""

SMALL = 1e-3
"""Smaller references take no part in relative errors."""

INTRO = """\
# Verification

*Made by `make verification` from what the tests compared, with Python {python}, torch {torch}, NumPy
{numpy}. `tests/test_verification.py` checks that this page is that of
`benchmarks/results/verification.json`, and that no public class is missing; figures are as old as that
file, and each test compares anew.*

Every loss, head and rule is compared with a reference that does not share its code: the paper's formula
written a second time in float64 NumPy, mostly in loops, or another library. **Cases** counts comparisons,
each of one or more numbers. **Absolute** is the largest difference of a single number; **relative** is the
largest difference over the largest number of the reference in that case, for references of at least
{small:g}. Float64 itself rounds at 2e-16, float32 at 1e-7. What is computed in float64 stands under
*double*; what is computed in float32, under *single*. **Derivatives**: `torch.autograd.gradcheck` has
compared them with differences of values.
"""


def merged(notes: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """What the page needs, in an order that does not depend on that of the tests."""
    shelf_of = _shelves()
    subjects: dict[str, dict[str, Any]] = {}
    for note in notes:
        name = note["subject"]
        subject = subjects.setdefault(
            name, {"name": name, "shelf": shelf_of[name], "by": {}, "gradcheck": set(), "guards": set()}
        )
        if note["kind"] == "comparison":
            _add(subject["by"].setdefault(note["by"], {"cases": 0, "tests": set()}), note)
        elif note["kind"] == "gradcheck":
            subject["gradcheck"].add(note["test"])
        else:
            subject["guards"].add((note["defect"], note["test"]))
    order = sorted(subjects.values(), key=lambda s: (list(SHELVES).index(s["shelf"]), s["name"].lower()))
    made = {"python": platform.python_version(), "torch": version("torch"), "numpy": version("numpy")}
    return {"made": made, "subjects": [_plain(subject) for subject in order]}


def page(results: dict[str, Any]) -> str:
    """The Markdown."""
    parts = [INTRO.format(**results["made"], small=SMALL)]
    for shelf, title in SHELVES.items():
        subjects = [s for s in results["subjects"] if s["shelf"] == shelf]
        parts.append(f"## {title}\n\n{_table(subjects)}")
        guards = [(s["name"], g) for s in subjects for g in s["guards"]]
        if guards:
            rows = [f"- **{name}**: {g['defect']} (`{g['test']}`)" for name, g in guards]
            parts.append(
                "Defects found in other libraries, each with the test that fails where ours has it:\n\n"
                + "\n".join(rows)
            )
    rows = [f"- **{name}**: {reason}" for name, reason in WITHOUT.items()]
    parts.append("## Without a formula of their own\n\n" + "\n".join(rows))
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _add(found: dict[str, Any], note: dict[str, Any]) -> None:
    found["cases"] += 1
    found["tests"].add(note["test"])
    worst = found.setdefault("single" if note["single"] else "double", {"absolute": 0.0, "relative": None})
    worst["absolute"] = max(worst["absolute"], note["absolute"])
    if note["size"] >= SMALL:
        worst["relative"] = max(worst["relative"] or 0.0, note["absolute"] / note["size"])


def _plain(subject: dict[str, Any]) -> dict[str, Any]:
    by = [{"by": name, **found, "tests": sorted(found["tests"])} for name, found in subject["by"].items()]
    guards = [{"defect": defect, "test": test} for defect, test in sorted(subject["guards"])]
    comparisons = sorted(by, key=lambda one: (-one["cases"], one["by"]))
    return {
        "name": subject["name"],
        "shelf": subject["shelf"],
        "comparisons": comparisons,
        "gradcheck": sorted(subject["gradcheck"]),
        "guards": guards,
    }


def _table(subjects: list[dict[str, Any]]) -> str:
    lines = [
        "| | Reference | Cases | Double: absolute | relative | Single: relative | Derivatives |",
        "|---|---|---:|---:|---:|---:|---|",
    ]
    for subject in subjects:
        name, checked = f"**{subject['name']}**", "checked" if subject["gradcheck"] else ""
        for one in subject["comparisons"]:
            double, single = one.get("double", {}), one.get("single", {})
            figures = [double.get("absolute"), double.get("relative"), single.get("relative")]
            cells = [name, one["by"], str(one["cases"]), *map(_figure, figures), checked]
            lines.append(f"| {' | '.join(cells)} |")
            name = checked = ""
    return "\n".join(lines)


def _figure(value: float | None) -> str:
    if value is None:
        return ""
    return "0" if value == 0 else f"{value:.0e}".replace("e-0", "e-")


def _shelves() -> dict[str, str]:
    found = {}
    for shelf in SHELVES:
        package = import_module(f"lightning_distill.{shelf}")
        found |= dict.fromkeys(package.__all__, shelf)
    return found


def _read(folder: Path) -> list[dict[str, Any]]:
    files = sorted(folder.glob("*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text(encoding="utf-8").splitlines()]


def main() -> None:
    """Merge the notes, where there are any, and make the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--notes", type=Path, help="folder that the tests wrote their notes to")
    folder = parser.parse_args().notes
    if folder is not None:
        notes = _read(folder)
        if not notes:
            parser.error(f"no notes in {folder}: run the tests with LIGHTNING_DISTILL_VERIFICATION={folder}")
        text = json.dumps(merged(notes), indent=1, ensure_ascii=False)
        RESULTS.write_text(text + "\n", encoding="utf-8")
    PAGE.write_text(page(json.loads(RESULTS.read_text(encoding="utf-8"))), encoding="utf-8")


if __name__ == "__main__":
    main()
