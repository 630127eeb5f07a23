"""What others may rely on: every public name with its signature, and every command with its own options.

    python -m tests.api_surface --write

accepts the names as they are now, into `tests/api_surface.json`; `tests/test_api_surface.py` tells what
differs. What may change, and how, is in `docs/stability.md`.
"""

from __future__ import annotations

import argparse
import inspect
import io
import json
import re
from contextlib import redirect_stdout
from enum import EnumMeta
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

SURFACE = Path(__file__).with_suffix(".json")
ROOT = "lightning_distill"


def surface() -> dict[str, str]:
    """Dotted name -> signature, or what it is; "command NAME" -> its own options."""
    found = {}
    for package in packages():
        module = import_module(package)
        for name in module.__all__:
            found[f"{package}.{name}"] = described(getattr(module, name))
    return dict(sorted({**found, **_commands()}.items()))


def packages() -> list[str]:
    """The package and those in it that name what is public."""
    root = import_module(ROOT)
    names = [ROOT, *(f"{ROOT}.{info.name}" for info in iter_modules(root.__path__) if info.ispkg)]
    names.append(f"{ROOT}.data.datasets")
    return [name for name in names if hasattr(import_module(name), "__all__")]


def described(thing: Any) -> str:
    """A signature with its defaults, free of places in memory."""
    if isinstance(thing, EnumMeta):
        return f"one of {', '.join(thing.__members__)}"
    if not callable(thing):
        return type(thing).__name__
    kind = "class" if inspect.isclass(thing) else "function"
    try:
        told = str(inspect.signature(thing))
    except (TypeError, ValueError):  # a type alias, or made in C
        return kind
    return f"{kind} {re.sub(r' at 0x[0-9a-f]+', '', told)}"


def _commands() -> dict[str, str]:
    """Options with a dot in their name set what the config holds, and are no command's own."""
    from lightning_distill.__main__ import _COMMANDS, main

    found = {}
    for name in _COMMANDS:
        said = io.StringIO()
        with redirect_stdout(said):
            main([name, "--help"])
        options = re.findall(r"^\s+(?:-\w, )?(--[\w-]+)(?![\w.-])", said.getvalue(), re.MULTILINE)
        found[f"command {name}"] = " ".join(sorted({*options} - {"--help"}))
    return found


def differences(before: dict[str, str], now: dict[str, str]) -> list[str]:
    """A line for each name that came, went or changed."""
    lines = [f"added    {name}: {now[name]}" for name in now if name not in before]
    lines += [f"removed  {name}: {before[name]}" for name in before if name not in now]
    changed = [name for name in now if name in before and now[name] != before[name]]
    lines += [f"changed  {name}:\n  was {before[name]}\n  is  {now[name]}" for name in changed]
    return lines


def read() -> dict[str, str]:
    """What was accepted."""
    found: dict[str, str] = json.loads(SURFACE.read_text(encoding="utf-8"))
    return found


def main() -> None:
    """Tell the differences; with `--write` accept them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help="accept the public names as they are now")
    wanted, now = parser.parse_args().write, surface()
    print("\n".join(differences(read() if SURFACE.exists() else {}, now)) or "nothing has changed")
    if wanted:
        SURFACE.write_text(json.dumps(now, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
