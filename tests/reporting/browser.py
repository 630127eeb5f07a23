"""Pages in a real browser: what axe finds, what overflows, what is loaded, what can be played."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

_ASK = """
const sounds = [...document.querySelectorAll('audio')].map(a => new Promise(done => {
  a.onloadedmetadata = () => done(a.duration); a.onerror = () => done(0); a.load();
}));
addEventListener('load', async () => {
  const found = await axe.run();
  const say = v => `${v.id} (${v.impact}): ${v.nodes.map(n => n.html.slice(0, 200)).join(' ; ')}`;
  parent.postMessage({
    name: NAME, width: innerWidth, scroll: document.documentElement.scrollWidth,
    violations: found.violations.map(say), passes: found.passes.length,
    paper: getComputedStyle(document.body).backgroundColor,
    loaded: performance.getEntriesByType('resource').map(e => e.name).filter(n => !n.startsWith('data:')),
    images: [...document.images].map(i => i.naturalWidth), sounds: await Promise.all(sounds),
  }, '*');
});
"""
_GATHER = """
const all = [];
addEventListener('message', e => {
  all.push(e.data);
  if (all.length == COUNT) {
    const told = document.createElement('pre');
    told.textContent = JSON.stringify(all);
    document.body.appendChild(told);
  }
});
"""


class Look(NamedTuple):
    """How a page is looked at.

    Attributes:
        page: HTML.
        width: Pixels.
        dark: Whether in the dark.
    """

    page: str
    width: int
    dark: bool


def looked_at(looks: Mapping[str, Look], folder: Path) -> dict[str, dict[str, Any]]:
    """What the browser says of each, all in one process.

    Args:
        looks: Name -> how.
        folder: For copies of the pages, without what forbids scripts.
    """
    if BROWSER is None:
        pytest.skip("no Chromium on this machine")
    axe_core = pytest.importorskip("axe_core_python", reason="axe is not installed")
    (folder / "axe.js").write_text((Path(axe_core.__file__).parent / "axe.min.js").read_text())
    frames = []
    for i, (name, look) in enumerate(looks.items()):
        scripts = f"<script src='axe.js'></script><script>{_ASK.replace('NAME', json.dumps(name))}</script>"
        page = re.sub('<meta http-equiv="Content-Security-Policy"[^>]*>', "", look.page)
        page = page.replace("<details>", "<details open>")
        if look.dark:
            page = page.replace("@media screen and (prefers-color-scheme: dark)", "@media screen")
            page = page.replace('content="light dark"', 'content="dark"')
        (folder / f"{i}.html").write_text(page.replace("</body>", scripts + "</body>"))
        frames.append(f"<iframe src='{i}.html' style='width:{look.width}px;height:900px;border:0'></iframe>")
    gather = f"<script>{_GATHER.replace('COUNT', str(len(looks)))}</script>"
    (folder / "all.html").write_text(f"<!doctype html><body>{gather}{''.join(frames)}</body>")
    command = [
        BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=60000",
        f"--user-data-dir={folder / 'profile'}", "--dump-dom", (folder / "all.html").as_uri(),
    ]  # fmt: skip
    told = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    found = re.search("<pre>(.*?)</pre>", told.stdout, re.DOTALL)
    assert found, told.stderr[-2000:]
    return {one["name"]: one for one in json.loads(html.unescape(found[1]))}
