"""A Sphinx extension: writes the reference into docs/reference/, which git ignores, at each build."""

from __future__ import annotations

import ast
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pages
from entries import Book, is_class
from prose import inline

import lightning_distill
from lightning_distill.__main__ import _COMMANDS
from lightning_distill.catalogue import PACKAGE, Part, tree
from lightning_distill.shelves import SHELVES

if TYPE_CHECKING:
    from sphinx.application import Sphinx

_ROOT: Final = Path(lightning_distill.__file__).parent
_MODULES: Final = (
    "model",
    "module",
    "mutual",
    "structures",
    "errors",
    "optimization",
    "learning_rates",
    "export",
    "shipping",
    "explanation",
    "extraction",
    "gradients",
    "tokens",
    "absence",
    "evaluation",
    "contribution",
    "shapley",
    "robustness",
    "assessment",
    "domain_distance",
    "domain_metrics",
    "knowledge",
    "knowledge_fusion",
    "knowledge_writing",
    "range_finding",
    "caching",
    "checkpoints",
    "telemetry",
    "storage",
    "randomness",
    "identity",
    "history",
)
"""Beside the shelves, what programs import."""


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("builder-inited", lambda app: write(Path(app.srcdir) / "reference"))
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def write(folder: Path) -> None:
    """Write the pages; what has not changed keeps its date, so that Sphinx reads only what has.

    Args:
        folder: Where; pages that no longer are are removed from it.
    """
    made = made_pages()
    for path in sorted(folder.rglob("*.md")):
        if path.relative_to(folder).as_posix() not in made:
            path.unlink()
    for name, text in made.items():
        path = folder / name
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not any(path.rglob("*.md")):
            shutil.rmtree(path)


def made_pages() -> dict[str, str]:
    """Path below docs/reference -> text."""
    shelves = {shelf: pages.offered(f"{PACKAGE}.{shelf}") for shelf in SHELVES}
    modules = {f"{PACKAGE}.{name}": _of_module(name) for name in _MODULES}
    modules = {module: parts for module, parts in modules.items() if parts}
    homes = {
        (part.module, part.name): f"{home}.{part.name}"
        for home, parts in [*((f"{PACKAGE}.{shelf}", shelves[shelf]) for shelf in shelves), *modules.items()]
        for part in parts
    }
    names = {name: home for (_, name), home in reversed(homes.items())}  # a shelf before a module
    functions = {p.name: p for parts in shelves.values() for p in parts if not is_class(p)}
    book = Book(names, homes, functions, _ROOT.parent / "configs")
    found = {"index.md": _index(shelves, list(modules)), "commands.md": _commands()}
    for shelf, parts in shelves.items():
        found |= _of_shelf(shelf, parts, book)
    for module, parts in modules.items():
        name = module.removeprefix(f"{PACKAGE}.")
        found[f"api/{name}.md"] = pages.module_page(module, _about(name), parts, book)
    return found


def _of_module(name: str) -> list[Part]:
    """What a module offers; of a package without names of its own, what its files do."""
    module = f"{PACKAGE}.{name}"
    found = pages.offered(module)
    folder = _ROOT / name
    if found or not folder.is_dir():
        return found
    files = sorted(file.stem for file in folder.glob("*.py") if not file.stem.startswith("_"))
    return [part for file in files for part in pages.offered(f"{module}.{file}")]


def _of_shelf(shelf: str, parts: list[Part], book: Book) -> dict[str, str]:
    functions = [part for part in parts if not is_class(part)]
    found = {f"{shelf}/index.md": pages.shelf_page(shelf, _about(shelf), parts, book)}
    for part in (part for part in parts if is_class(part)):
        found[f"{shelf}/{part.name}.md"] = pages.class_page(shelf, part, book)
    if functions:
        found[f"{shelf}/functions.md"] = pages.functions_page(shelf, functions, book)
    return found


def _about(name: str) -> str:
    return ast.get_docstring(tree(f"{PACKAGE}.{name}")) or ""


def _index(shelves: dict[str, list[Part]], modules: list[str]) -> str:
    lines = ["| shelf | what stands there | classes |", "|---|---|---|"]
    for shelf, parts in shelves.items():
        count = sum(map(is_class, parts))
        lines.append(f"| [{shelf}]({shelf}/index.md) | {inline(_about(shelf), cell=True)} | {count} |")
    top = [f"- `{PACKAGE}.{name}`" for name in sorted(lightning_distill.__all__) if name != "__version__"]
    listed = ["commands", *(f"{shelf}/index" for shelf in shelves)]
    listed += [f"api/{module.removeprefix(f'{PACKAGE}.')}" for module in modules]
    blocks = [
        "# Reference",
        "Made from the code at each build. A shelf holds what a config may name; each class has a page.",
        "\n".join(lines),
        "## Names of the package itself",
        "\n".join(top),
        "\n".join(["```{toctree}", ":hidden:", "", *listed, "```"]),
    ]
    return "\n\n".join(blocks) + "\n"


def _commands() -> str:
    rows = [f"| `{name}` | {inline(text, cell=True)} |" for name, text in _COMMANDS.items()]
    blocks = [
        "# Commands",
        "\n".join(["| `lightning-distill ...` | |", "|---|---|", *rows]),
        "`lightning-distill COMMAND --help` tells what each takes; any setting of a config can follow.",
    ]
    return "\n\n".join(blocks) + "\n"
