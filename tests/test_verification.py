"""Comparisons are asserted and remembered, the page is that of the results, and no class is without one."""

from __future__ import annotations

import inspect
import json
import math
import re
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.autograd.gradcheck import GradcheckError

from lightning_distill.clipping import NormClip
from tests.shelves import concrete
from tests.verification import FOLDER, compared, gradchecked, guards

ROOT = Path(__file__).parents[1]


def _script() -> Any:
    spec = spec_from_file_location("make_verification", ROOT / "docs" / "make_verification.py")
    assert spec is not None
    assert spec.loader is not None
    made = module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


SCRIPT = _script()
RESULTS: dict[str, Any] = json.loads(SCRIPT.RESULTS.read_text(encoding="utf-8"))
SUBJECTS: dict[str, dict[str, Any]] = {subject["name"]: subject for subject in RESULTS["subjects"]}
PUBLIC = [
    pytest.param(shelf, cls.__name__, id=f"{shelf}-{cls.__name__}")
    for shelf in SCRIPT.SHELVES
    for cls in concrete(shelf)
]


@pytest.fixture
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Reads what was noted so far."""
    monkeypatch.setenv(FOLDER, str(tmp_path))

    def read() -> list[dict[str, Any]]:
        return SCRIPT._read(tmp_path)

    return read


# -- the page ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("shelf", "name"), PUBLIC)
def test_every_public_class_has_been_compared(shelf: str, name: str) -> None:
    """Where it fails for a new class: call `compared` in its test, then `make verification`."""
    if name in SCRIPT.WITHOUT:
        assert name not in SUBJECTS, "it has a comparison: take it out of WITHOUT"
        return
    assert SUBJECTS[name]["shelf"] == shelf
    assert sum(one["cases"] for one in SUBJECTS[name]["comparisons"]) > 0


def test_there_are_no_others() -> None:
    names = {parameter.values[1] for parameter in PUBLIC}
    assert set(SUBJECTS) <= names
    assert set(SCRIPT.WITHOUT) <= names


def test_the_page_is_that_of_the_results() -> None:
    text = SCRIPT.PAGE.read_text(encoding="utf-8")
    assert text == SCRIPT.page(RESULTS), "run `python docs/make_verification.py`"


def test_every_test_that_is_named_is_there() -> None:
    named = {test for s in SUBJECTS.values() for test in s["gradcheck"]}
    named |= {guard["test"] for s in SUBJECTS.values() for guard in s["guards"]}
    named |= {test for s in SUBJECTS.values() for one in s["comparisons"] for test in one["tests"]}
    assert len(named) > 100
    for test in named:
        file, function = test.split("::")
        assert re.search(rf"^def {function}\(", (ROOT / file).read_text(encoding="utf-8"), re.M), test


# -- what is asserted --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "reference", "rtol", "atol"),
    [
        (1.0, 1.001, 1e-4, 0.0),
        ([1.0, 2.0], [1.0, 2.001], 1e-4, 0.0),
        (1e-9, 0.0, 1e-3, 0.0),
        (0.1, 0.0, 0.0, 0.05),
        (math.nan, 1.0, 1e3, 1e3),
        (1.0, math.nan, 1e3, 1e3),
        (math.inf, 1.0, 1e3, 1e3),
        (math.inf, -math.inf, 1e3, 1e3),
        ([1.0, 1.0], 1.0, 1.0, 1.0),
    ],
)
def test_a_difference_is_an_error_and_no_note(
    notes: Any, found: Any, reference: Any, rtol: float, atol: float
) -> None:
    with pytest.raises(AssertionError):
        compared(NormClip, found, reference, rtol=rtol, atol=atol)
    assert notes() == []


def test_a_wrong_derivative_is_an_error(notes: Any) -> None:
    with pytest.raises(GradcheckError):
        gradchecked(
            NormClip, lambda x: x * x.detach(), torch.ones(2, dtype=torch.float64, requires_grad=True)
        )
    assert notes() == []


def test_without_the_variable_nothing_is_written(
    notes: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv(FOLDER)
    compared(NormClip, 1.0, 1.0)
    assert list(tmp_path.iterdir()) == []


# -- what is remembered ------------------------------------------------------------------------------------


def _noted(notes: Any) -> dict[str, Any]:
    (subject,) = SCRIPT.merged(notes())["subjects"]
    assert subject["name"] == "NormClip"
    return dict(subject)


def test_the_largest_error_of_each_precision(notes: Any) -> None:
    compared(NormClip, [1.0, 4.5], [1.0, 4.0], atol=1.0)
    compared(NormClip, torch.tensor(10.25, dtype=torch.float64), 10.0, atol=1.0)
    compared(NormClip, torch.tensor([8.0, math.inf]), np.array([9.0, math.inf]), atol=1.0)
    compared(NormClip, 1e-6, 2e-6, atol=1.0, dtype=torch.float32)  # too small for a relative error
    compared(NormClip, 3.0, 3.0, by="torch")
    paper, other = _noted(notes)["comparisons"]
    assert (paper["cases"], other["cases"], other["by"]) == (4, 1, "torch")
    assert paper["double"] == {"absolute": 0.5, "relative": 0.125}
    assert paper["single"] == {"absolute": 1.0, "relative": pytest.approx(1 / 9)}
    assert paper["tests"] == ["tests/test_verification.py::test_the_largest_error_of_each_precision"]


def test_derivatives_and_guards(notes: Any) -> None:
    @guards(NormClip, "is wrong")
    def right(value: int) -> None:
        assert value == 1

    with pytest.raises(AssertionError):
        right(2)
    assert notes() == []
    right(1)
    gradchecked(NormClip, torch.sin, torch.ones(2, dtype=torch.float64, requires_grad=True))
    found = _noted(notes)
    here = "tests/test_verification.py::test_derivatives_and_guards"
    assert found["guards"] == [{"defect": "is wrong", "test": here}]
    assert found["gradcheck"] == [here]
    assert list(inspect.signature(right).parameters) == ["value"]  # pytest still finds the fixtures
