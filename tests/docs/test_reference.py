"""The site: it builds without a warning, links included, and the reference leaves nothing out."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lightning_distill import shelves
from lightning_distill.__main__ import _COMMANDS
from tests.docs.blocks import ROOT
from tests.shelves import FORMULAS, SHELVES, concrete, package

CLASSES = [
    (shelf, name)
    for shelf in shelves.SHELVES
    for name in package(shelf).__all__
    if inspect.isclass(getattr(package(shelf), name))
]
FUNCTIONS = [
    (shelf, name)
    for shelf in shelves.SHELVES
    for name in package(shelf).__all__
    if inspect.isfunction(getattr(package(shelf), name))
]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site as `make docs` builds it: a warning, such as of a link that leads nowhere, is an error."""
    folder = tmp_path_factory.mktemp("site")
    words = ["-q", "-b", "html", "-W", "--keep-going", "-d", folder / "read", ROOT / "docs", folder / "html"]
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", *map(str, words)], capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return folder / "html"


def text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def test_every_class_of_every_shelf_has_a_page(site: Path) -> None:
    for shelf, name in CLASSES:
        page = text(site / "reference" / shelf / f"{name}.html")
        assert f'id="lightning_distill.{shelf}.{name}"' in page, name
        assert f'href="{name}.html"' in text(site / "reference" / shelf / "index.html"), name


def test_every_function_of_every_shelf_is_told_of(site: Path) -> None:
    assert FUNCTIONS
    for shelf, name in FUNCTIONS:
        assert f'id="lightning_distill.{shelf}.{name}"' in text(site / "reference" / shelf / "functions.html")


def test_formulas_say_where_they_come_from_how_they_are_listed_and_what_they_take(site: Path) -> None:
    for shelf in FORMULAS:
        for cls in concrete(shelf):
            page = text(site / "reference" / shelf / f"{cls.__name__}.html")
            assert "<strong>Source.</strong>" in page, cls
            assert f"lightning-distill list {cls.__name__}" in page.replace(
                '<span class="w"> </span>', " "
            ), cls
            for name in inspect.signature(cls).parameters:
                assert f'<span class="pre">{name}</span></code></p></td>' in page, (cls, name)


@pytest.mark.parametrize("shelf", [s for s in SHELVES if (ROOT / "configs" / s).is_dir()])
def test_every_config_file_is_shown(site: Path, shelf: str) -> None:
    pages = "".join(text(p) for p in (site / "reference" / shelf).glob("*.html"))
    for file in (ROOT / "configs" / shelf).glob("*.yaml"):
        assert f"configs/{shelf}/{file.name}" in pages, file


def test_every_command_is_told_of(site: Path) -> None:
    page = text(site / "reference" / "commands.html")
    assert not [name for name in _COMMANDS if f'<span class="pre">{name}</span>' not in page]


def test_every_page_can_be_reached(site: Path) -> None:
    written = [p for p in (ROOT / "docs").rglob("*.md") if ROOT / "docs" / "reference" not in p.parents]
    front = text(site / "index.html")
    for page in written:
        name = page.relative_to(ROOT / "docs").with_suffix(".html").as_posix()
        assert name == "index.html" or f'href="{name}"' in front, name


def test_mathematics_and_code_are_drawn(site: Path) -> None:
    pages = "".join(map(text, site.rglob("*.html")))
    formulas = re.findall("<math.*?</math>", pages, re.DOTALL)
    assert len(formulas) > 20
    assert [x for x in formulas if "\\" in x] == []  # a command of TeX that became no symbol
    assert re.findall("<script[^>]*mathjax", pages.lower()) == []
    assert "highlight-yaml" in text(site / "reference" / "losses" / "LogitKD.html")
