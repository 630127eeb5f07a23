"""Comparisons with independent references that are remembered, for `docs/verification.md`.

`compared` and `gradchecked` assert, as a test does anyway, and note what they found; `guards` names the
defect of another library that a test would find in ours. Notes are lines of JSON in the folder that the
environment variable `LIGHTNING_DISTILL_VERIFICATION` names, a file per process; without it nothing is
written. `docs/make_verification.py` makes the page from them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

FOLDER = "LIGHTNING_DISTILL_VERIFICATION"
PAPER = "float64 NumPy from the paper"
FORMULA = "float64 NumPy from the formula"
SLOPES = "differences of the float64 NumPy reference"
_SINGLE = (torch.float32, torch.bfloat16, torch.float16)


def compared(
    subject: type | str,
    found: Any,
    reference: Any,
    *,
    rtol: float = 0.0,
    atol: float = 0.0,
    by: str = PAPER,
    dtype: torch.dtype | None = None,
) -> None:
    """Every number is within `max(atol, rtol * abs(reference))`; NaN and infinity equal only themselves.

    Args:
        subject: The public class (or the name of a function) whose numbers these are.
        found: Numbers of ours.
        reference: Numbers of somebody else, of the same shape.
        rtol: Relative tolerance, of the single number.
        atol: Absolute tolerance, in the unit of the numbers.
        by: What made the reference.
        dtype: Precision in which ours were computed, where `found` no longer tells.
    """
    ours, theirs = _array(found), _array(reference)
    assert ours.shape == theirs.shape, f"shapes {ours.shape} and {theirs.shape}"
    finite = np.isfinite(theirs)
    np.testing.assert_array_equal(ours[~finite], theirs[~finite])
    error, size = np.abs(ours[finite] - theirs[finite]), np.abs(theirs[finite])
    wrong = ~(error <= np.maximum(atol, rtol * size))  # NaN is wrong
    assert not wrong.any(), (
        f"{int(wrong.sum())} of {wrong.size} numbers differ from {by}, by up to {error.max()} "
        f"(rtol {rtol}, atol {atol}): {ours[finite][wrong][:3]} instead of {theirs[finite][wrong][:3]}"
    )
    if dtype is None:
        dtype = found.dtype if isinstance(found, Tensor) else torch.float64
    _note(
        kind="comparison",
        subject=_name(subject),
        by=by,
        single=dtype in _SINGLE,
        absolute=float(error.max(initial=0.0)),
        size=float(size.max(initial=0.0)),
    )


def gradchecked(subject: type | str, function: Callable[..., Any], inputs: Any, **settings: Any) -> None:
    """`torch.autograd.gradcheck`: derivatives equal differences of values in double precision."""
    assert torch.autograd.gradcheck(function, inputs, **settings)
    gradient_is_checked(subject)


def gradient_is_checked(subject: type | str) -> None:
    """The lines before have compared derivatives of `subject` with differences of its values."""
    _note(kind="gradcheck", subject=_name(subject))


def guards(subject: type | str, defect: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorates the test that fails where `subject` has the defect which another library has."""

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        @wraps(test)
        def guarded(*args: Any, **kwargs: Any) -> None:
            test(*args, **kwargs)
            _note(kind="guard", subject=_name(subject), defect=defect)

        return guarded

    return decorate


def _name(subject: type | str) -> str:
    return subject if isinstance(subject, str) else subject.__name__


def _array(x: Any) -> NDArray[np.float64]:
    if isinstance(x, Tensor):
        x = x.detach().cpu().double().numpy()
    return np.asarray(x, dtype=np.float64)


def _note(**facts: Any) -> None:
    folder = os.environ.get(FOLDER)
    if folder:
        test = os.environ["PYTEST_CURRENT_TEST"].split(" (")[0].split("[")[0]
        Path(folder).mkdir(parents=True, exist_ok=True)
        with Path(folder, f"{os.getpid()}.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({**facts, "test": test}) + "\n")
