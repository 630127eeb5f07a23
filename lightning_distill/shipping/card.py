"""README.md of a shipped student: a Hugging Face model card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import yaml  # type: ignore[import-untyped]

from lightning_distill import __version__
from lightning_distill.errors import printable
from lightning_distill.shipping.card_facts import Facts
from lightning_distill.shipping.card_use import limitations, use
from lightning_distill.shipping.verification import ALLOWED
from lightning_distill.structures import Outputs

_PIPELINES: Final = {
    ("image",): "image-classification",
    ("text",): "text-classification",
    ("audio",): "audio-classification",
}
_METRICS: Final = {"macro_f1": "f1"}
"""Our name of a metric -> the hub's, where it has another one."""


def card(facts: Facts) -> str:
    """The whole file.

    Args:
        facts: What is known.
    """
    files = {found.file for found in facts.verifications}
    front = yaml.safe_dump(front_matter(facts), sort_keys=False, allow_unicode=True)
    parts = [
        f"---\n{front}---\n",
        f"# {said(facts.name)}\n",
        _what(facts),
        "## How to use it\n",
        use(facts.description, files, facts.outputs),
        "## Where it comes from\n",
        _lineage(facts),
        "## Data\n",
        _table(["what", "which"], [[name, said(value)] for name, value in facts.data.items()]),
        f"## Metrics on the {facts.split} split\n",
        _metrics(facts),
        "## Preprocessing\n",
        _preprocessing(facts.description),
        "## Limitations\n",
        "".join(f"- {line}\n" for line in limitations(facts.description, facts.split, facts.outputs, files)),
        "## Verification\n",
        _verification(facts),
    ]
    return "\n".join(parts)


def front_matter(facts: Facts) -> dict[str, Any]:
    """Metadata for the hub; the licence is the author's to say.

    Args:
        facts: What is known.
    """
    modalities = facts.description["modalities"]
    kinds = [name for name in ("model.onnx",) if name in {found.file for found in facts.verifications}]
    pipeline = _PIPELINES.get(tuple(modalities)) if facts.outputs is Outputs.CLASSES else None
    tags = [
        "lightning-distill",
        *(["knowledge-distillation"] if facts.ancestry.teachers or facts.ancestry.peers else []),
        *(["multimodal"] if len(modalities) > 1 else []),
        *modalities,
        *(["onnx"] if kinds else []),
    ]
    front: dict[str, Any] = {"library_name": "lightning_distill"}
    front |= {"pipeline_tag": pipeline} if pipeline else {}
    front |= {**facts.licence, "tags": list(dict.fromkeys(map(str, tags)))}
    front |= {"base_model": list(facts.ancestry.hub)} if facts.ancestry.hub else {}
    whole = next((result for result in facts.results if result.samples), None)
    if whole is None or not whole.metrics:
        return front
    dataset = {"type": "own", "name": facts.data["source"].partition(" (")[0], "split": facts.split}
    metrics = [{"type": _METRICS.get(n, n), "name": n, "value": v} for n, v in whole.metrics.items()]
    result = {"task": {"type": pipeline or "other"}, "dataset": dataset, "metrics": metrics}
    return {**front, "model-index": [{"name": facts.name, "results": [result]}]}


def said(text: object) -> str:
    r"""A text of the user's, so that it can neither end a line of Markdown nor mark anything up.

    >>> said("a|b\n<c>")
    'a\\|b\\\\n\\<c\\>'
    """
    shown = printable(text, 600)
    return "".join(f"\\{c}" if c in "\\`*_[]<>|#!" else c for c in shown)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _what(facts: Facts) -> str:
    classes = facts.description["classes"] or []
    named = ", ".join(map(said, classes[:30])) + (
        f" and {len(classes) - 30} more" if len(classes) > 30 else ""
    )
    encoders = ", ".join(
        f"{said(m)} by {type(encoder).__name__}" for m, encoder in facts.model.encoders.items()
    )
    size = sum(x.numel() for x in facts.model.parameters())
    count = facts.description["outputs"][0]["shape"][1]
    kind = "classes" if facts.outputs is not Outputs.NUMBERS else "numbers"
    taught = "distilled from a teacher" if facts.ancestry.teachers else "trained without a teacher"
    if facts.ancestry.peers:
        taught = f"trained together with {_peers(facts)}"
    licence = "No licence is set: add `license:` to the lines above before you publish it.\n"
    return (
        f"A model {taught} with lightning_distill {__version__}. It reads {encoders}, has "
        f"{size:,} parameters and gives {count} {kind}{f': {named}' if named else ''}.\n"
        + ("" if facts.licence else f"\n{licence}")
    )


def _peers(facts: Facts) -> str:
    count = len(facts.ancestry.peers)
    return f"{count} peer{'s' if count > 1 else ''}"


def _lineage(facts: Facts) -> str:
    if facts.ancestry.peers:
        named = ", ".join(map(said, facts.ancestry.peers))
        return f"It and {_peers(facts)} ({named}) have taught each other while all of them were trained.\n"
    if not facts.ancestry.teachers:
        return "No teacher: it has learned from labels alone.\n"
    lines = [f"{'  ' * level}- {said(text)}\n" for level, text in facts.ancestry.teachers]
    return (
        "Its teacher, and what that was made from, one step further in each line that is set in:\n\n"
        + "".join(lines)
    )


def _metrics(facts: Facts) -> str:
    names = list(dict.fromkeys(name for result in facts.results for name in result.metrics))
    if not names:
        return "None: no sample of the split has a label.\n"
    rows = [
        [
            said(" + ".join(result.modalities)),
            f"{result.samples:,}",
            *(f"{result.metrics[name]:.4f}" if name in result.metrics else "" for name in names),
        ]
        for result in facts.results
    ]
    text = _table(["modalities", "samples", *names], rows)
    if "domains" in facts.data:
        text += f"\nOver all domains together: {said(facts.data['domains'])}.\n"
    if len(facts.results) < 2:
        return text
    return (
        text + "\nEach line is over the labelled samples that have all of its modalities; "
        "the others are left out.\n"
    )


def _preprocessing(description: Mapping[str, Any]) -> str:
    parts = []
    for modality, told in description["preprocessing"].items():
        settings = ", ".join(f"{key} {value}" for key, value in told["settings"].items())
        parts.append(f"**{said(modality)}**: `{told['class']}` ({said(settings)})\n")
        steps = told["steps"] or ["Steps are those of that class; this card does not know them."]
        parts.append("".join(f"{at}. {said(step)}\n" for at, step in enumerate(steps, 1)))
    names = ["name", "type", "shape", "from", "to"]
    rows = [
        [
            f"`{x['name']}`",
            x["type"],
            said(" ".join(map(str, x["shape"]))),
            *(map(str, x["range"]) if x["range"] else ["", ""]),
        ]
        for x in description["inputs"]
    ]
    return "\n".join([*parts, "What comes out of it, as flat inputs in their order:\n", _table(names, rows)])


def _verification(facts: Facts) -> str:
    rows = [
        [
            found.name,
            f"`{found.file}`",
            f"{found.samples:,}",
            "0, equal bits" if found.bit_equal else f"{found.largest_difference:.2g}",
            f"{100 * found.same_top:.1f} %" if facts.outputs is not Outputs.NUMBERS else "",
        ]
        for found in facts.verifications
    ]
    first = facts.verifications[0]
    tokens = f", texts of {first.tokens[0]} to {first.tokens[-1]} tokens" if first.tokens else ""
    return (
        _table(["format", "file", "samples", "largest difference of a logit", "same largest logit"], rows)
        + "\nEach file was read again and compared with the trained student, on the CPU, on real samples "
        f"of the {facts.split} split, in batches of {', '.join(map(str, first.batch_sizes))}{tokens}, "
        "and with each modality left out where others remain. "
        f"Allowed is {ALLOWED}. Details: verification.json.\n"
    )
