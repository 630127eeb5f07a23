"""optax in a process of its own: the threads that jax starts forbid the copies other tests make of theirs."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from numpy.typing import NDArray

Arrays = dict[str, NDArray[np.float32]]

_PROGRAM = """
import sys
import numpy as np, optax
grads, weights = (dict(np.load(path)) for path in sys.argv[1:3])
rule = eval(sys.argv[4])
np.savez(sys.argv[3], **rule.update(grads, rule.init(weights), weights)[0])
"""


def optax_edit(rule: str, grads: Arrays, weights: Arrays | None = None) -> Arrays:
    """What one of optax's rules makes of gradients.

    Args:
        rule: Such as "optax.clip(1.0)".
        grads: By name.
        weights: By name; the gradients where they do not matter.
    """
    if find_spec("optax") is None:
        pytest.skip("needs optax")
    with TemporaryDirectory() as folder:
        paths = [str(Path(folder, f"{name}.npz")) for name in ("grads", "weights", "edited")]
        np.savez(paths[0], **grads)  # type: ignore[arg-type]
        np.savez(paths[1], **(grads if weights is None else weights))  # type: ignore[arg-type]
        command = [sys.executable, "-c", _PROGRAM, *paths, rule]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        with np.load(paths[2]) as edited:
            return dict(edited)
