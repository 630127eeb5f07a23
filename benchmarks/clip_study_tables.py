"""The tables of `clip_study.py` as Markdown, from its JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

BEGIN: Final = "<!-- tables: python benchmarks/clip_study.py --report FILE -->"
END: Final = "<!-- end of tables -->"
TITLE: Final = "# Which clip helps, which does nothing, which hurts\n"
SIGNIFICANT: Final = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78}
"""Seeds -> standard errors beyond which a paired difference is told from 0 (Student's t, 95 %, two sides)."""
NAMES: Final = {"sgd": "SGD", "adamw": "AdamW"}

Found = Mapping[str, Any]


def write(page_at: Path, report: Found) -> None:
    """Put the tables between the two markers of a page, or make the page."""
    text = page_at.read_text() if page_at.exists() else f"{TITLE}\n{BEGIN}\n{END}\n"
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    page_at.parent.mkdir(parents=True, exist_ok=True)
    page_at.write_text(f"{before}{BEGIN}\n{page(report)}\n{END}{after}")


def page(report: Found) -> str:
    """All tables."""
    blocks = [about(report)]
    blocks += [rules(report, optimizer) for optimizer in ("sgd", "adamw")]
    blocks += [sweep(report, condition) for condition in ("clean", "broken")]
    blocks += [features(report), joint(report)]
    return "\n\n".join(blocks)


def about(report: Found) -> str:
    """What was run, in one paragraph."""
    sizes = ", ".join(f"{n:,} {split}" for split, n in report["rows_of_data"].items())
    seeds = ", ".join(map(str, report["seeds"]))
    lines = [
        f"Seeds {seeds}, chosen on seed {report['screen_seed']}; {report['steps']} steps a training; "
        f"triples: {sizes}. Test accuracy in %, mean ± standard error; differences are paired by seed. "
        "**Bold**: told from 0 by Student's t at 95 %, one test at a time: of twenty rows "
        "that do nothing one is bold."
    ]
    if report["missing"]:
        lines.append(f"Left out, not in this version: {', '.join(report['missing'])}.")
    return "\n".join(lines)


def rules(report: Found, optimizer: str) -> str:
    """Rule | clean, difference, chosen | broken, difference, chosen."""
    head = ["rule", "clean", "over none", "rate, range", "1 % broken", "over none", "rate, range"]
    mine = [row for row in report["rules"] if row["optimizer"] == optimizer]
    lines = []
    for name in dict.fromkeys(row["row"] for row in mine):
        cells = [name]
        for condition in ("clean", "broken"):
            row = next(r for r in mine if (r["row"], r["condition"]) == (name, condition))
            cells += [value(row["test"]), difference(row["gain"]), chosen(row)]
        lines.append(cells)
    return f"## Rules, {NAMES[optimizer]}\n\n{table(head, lines)}"


def sweep(report: Found, condition: str) -> str:
    """Rule | accuracy at each learning rate."""
    mine = [row for row in report["sweep"] if row["condition"] == condition]
    rates = [cell["rate"] for cell in mine[0]["cells"]]
    lines = []
    for row in mine:
        values = [cell["value"] for cell in row["cells"]]
        ranges = "-" if not row["what"] else ", ".join(f"{v:g}" for v in dict.fromkeys(values))
        least = min(cell["test"]["mean"] for cell in row["cells"])
        cells = [value(cell["test"]) for cell in row["cells"]]
        lines.append([row["row"], row["range"] if row["what"] else "-", ranges, *cells, f"{least:.1f}"])
    head = ["rule", "range chosen", "range", *(f"rate {rate:g}" for rate in rates), "least"]
    words = "clean data" if condition == "clean" else "1 % broken samples"
    return f"## SGD at every learning rate, {words}\n\n{table(head, lines)}"


def features(report: Found) -> str:
    """Clip | modality dropout | chosen | accuracy under each fault | mean and its difference."""
    rows = report["features"]
    cases = [case for case in rows[0]["test"] if case != "mean"]
    lines = [
        [row["row"], f"{row['dropout']:g}", chosen(row)]
        + [value(row["test"][case]) for case in [*cases, "mean"]]
        + [difference(row["gain"]["clean"]), difference(row["gain"]["mean"])]
        for row in rows
    ]
    head = ["clip", "dropout", "rate, range", *cases, "mean", "clean over none", "mean over none"]
    return (
        "## Feature clips, AdamW, faults at test time\n\n"
        "`none` of the differences is without a clip and without modality dropout.\n\n" + table(head, lines)
    )


def joint(report: Found) -> str:
    """Training | accuracy | over late fusion | over plain joint training, for both optimizers."""
    blocks = []
    for optimizer in ("sgd", "adamw"):
        rows = [row for row in report["joint"] if row["optimizer"] == optimizer]
        late = rows[0]["test"]["values"]
        lines = []
        for row in rows:
            name = "joint, plain" if row["row"] == "none" else row["row"]
            how = ", ".join(f"{r:g}" for r in row["rates"]) if "rates" in row else chosen(row)
            over = difference(row["gain"]) if "gain" in row else ""
            lines.append([name, value(row["test"]), difference(row["over_late"]), over, how])
        for row in report["rules"]:
            if row["row"] != "none" and (row["optimizer"], row["condition"]) == (optimizer, "clean"):
                over_late = paired(row["test"]["values"], late)
                cells = [value(row["test"]), difference(over_late), difference(row["gain"]), chosen(row)]
                lines.append([f"rule: {row['row']}", *cells])
        head = ["training", "accuracy", "over late fusion", "over joint, plain", "rate, range"]
        blocks.append(f"## Joint training and late fusion, {NAMES[optimizer]}\n\n{table(head, lines)}")
    return "\n\n".join(blocks)


# -- cells -----------------------------------------------------------------------------------------------


def table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Markdown."""
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in rows)


def paired(values: Sequence[float], base: Sequence[float]) -> dict[str, Any]:
    """Mean and standard error of the differences."""
    x = [a - b for a, b in zip(values, base, strict=True)]
    mean = sum(x) / len(x)
    if len(x) < 2:
        return {"mean": mean, "se": None, "n": len(x)}
    variance = sum((v - mean) ** 2 for v in x) / (len(x) - 1)
    return {"mean": mean, "se": (variance / len(x)) ** 0.5, "n": len(x)}


def value(found: Found) -> str:
    """Mean ± standard error."""
    error = "" if found["se"] is None else f" ± {found['se']:.1f}"
    return f"{found['mean']:.1f}{error}"


def difference(found: Found) -> str:
    """With its sign; bold where it is told from 0."""
    if found["se"] is None:
        return f"{found['mean']:+.1f}"
    text = f"{found['mean']:+.1f} ± {found['se']:.1f}"
    told = abs(found["mean"]) > SIGNIFICANT.get(found["n"], 2.78) * found["se"]
    return f"**{text}**" if told else text


def chosen(row: Found) -> str:
    """Learning rate, and range where there is one."""
    return f"{row['rate']:g}" + (f", {row['what']} {row['value']:g}" if row["what"] else "")
