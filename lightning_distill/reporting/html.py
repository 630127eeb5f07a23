"""The whole story as one HTML file that needs nothing but a browser."""

from __future__ import annotations

from base64 import b64encode
from pathlib import Path
from typing import Final

from lightning_distill.reporting.atomic import write_atomically
from lightning_distill.reporting.formatting import percent
from lightning_distill.reporting.summary import Summary, by_student, clip_lines, corruption
from lightning_distill.reporting.web import page_environment

TEMPLATE: Final = "report.html.j2"


def render_report(summary: Summary, picture: bytes) -> str:
    """Fill the template; every text is escaped.

    Args:
        summary: The facts.
        picture: A PNG, which becomes part of the page.

    Returns:
        HTML.
    """
    template = page_environment().get_template(TEMPLATE)
    return template.render(
        summary=summary,
        students=by_student(summary["rows"]),
        clip_lines=clip_lines(summary["clip"]),
        corruption=corruption(summary["feature_clip"]),
        picture=b64encode(picture).decode("ascii"),
        alt=picture_in_words(summary),
    )


def picture_in_words(summary: Summary) -> str:
    """What the picture shows, for those who do not see it."""
    rows = ", ".join(f"{row['name']} {percent(row['accuracy_mean'])}" for row in summary["rows"])
    return f"Bars of target accuracy. {rows}. Below: accuracies without and with clipping, as in the tables."


def save_report(summary: Summary, picture: Path | str | bytes, path: Path | str) -> Path:
    """Write the page, whole or not at all.

    Args:
        summary: The facts.
        picture: A PNG, or the file that holds it.
        path: Of the HTML file; its folder is made where needed.

    Returns:
        The path of the HTML file.
    """
    png = picture if isinstance(picture, bytes) else Path(picture).read_bytes()
    return write_atomically(path, render_report(summary, png))
