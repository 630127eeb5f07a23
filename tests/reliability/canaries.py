"""Artefacts that leave a trace where they run, and the watch that sees what they do."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MODULE = "canary_module"
TRACE = "canary_ran"
"""File that a canary leaves in the current folder."""

_ALARMS = (
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "os.system",
    "pickle.find_class",
    "socket.connect",
    "socket.getaddrinfo",
    "socket.gethostbyname",
    "socket.sendto",
    "subprocess.Popen",
    "webbrowser.open",
)
_NEWNET = 0x40000000


class Canary:
    """Runs a command where it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {TRACE}",)


def write_modules(folder: Path) -> None:
    """A package with side effects: a fusion head that would fit, an encoder, a callback."""
    package = folder / MODULE
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(
        "import os\n"
        f"open(os.path.join(os.getcwd(), {TRACE!r}), 'w').close()\n"
        "from lightning.pytorch import Callback\n"
        "from lightning_distill.fusion import ConcatFusion\n"
        "class Head(ConcatFusion):\n    pass\n"
        "class Own(Callback):\n    pass\n"
        "def make(*args, **kwargs):\n    return Head(*args, **kwargs)\n"
    )


class Watch:
    """Hears of imports, calls and connections of the whole process, from now on; notes those in a block."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self._on = False
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._on:
            return
        about = repr(arguments[:2])[:200] if arguments else ""
        named = event == "import" and str(arguments[0]).partition(".")[0] == MODULE
        run = event in ("compile", "exec") and TRACE in _source(arguments[0])
        if named or run or event in _ALARMS:
            self.heard.append(f"{event} {about}")

    @contextlib.contextmanager
    def on(self) -> Iterator[list[str]]:
        """What is heard in the block."""
        self.heard, self._on = [], True
        try:
            yield self.heard
        finally:
            self._on = False


def _source(what: Any) -> str:
    if isinstance(what, bytes):
        return what.decode(errors="replace")
    return what if isinstance(what, str) else repr(getattr(what, "co_consts", ""))


def leave_the_network() -> bool:
    """Let this process have no network, where it may; whether it has none now."""
    return ctypes.CDLL(None, use_errno=True).unshare(_NEWNET) == 0
