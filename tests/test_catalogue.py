"""What is read from the source files is what Python finds when it imports them."""

from __future__ import annotations

import ast
import inspect
from importlib import import_module

import pytest

from lightning_distill.catalogue import Part, find, is_abstract, lineage, public
from lightning_distill.commands.listing import summary
from lightning_distill.shelves import SHELVES
from lightning_distill.signatures import arguments

MODULES = (*SHELVES, "module", "mutual", "model", "optimization", "learning_rates", "export")


@pytest.mark.parametrize("name", MODULES)
def test_files_say_what_an_import_says(name: str) -> None:
    module = import_module(f"lightning_distill.{name}")
    parts = public(module.__name__)
    assert {part.name for part in parts} >= {
        key for key in getattr(module, "__all__", ()) if inspect.isclass(getattr(module, key))
    }
    for part in parts:
        real = getattr(module, part.name)
        assert part.module == real.__module__
        assert (real.__doc__ or "").strip().startswith(summary(part)[:40])
        if isinstance(part.node, ast.ClassDef):
            assert is_abstract(part) == inspect.isabstract(real), part.name
            bases = [step.name for step in lineage(part) if isinstance(step, Part)]
            assert bases == [
                c.__name__ for c in real.__mro__ if c.__module__.startswith("lightning_distill.")
            ]
        taken = arguments(part)
        if taken is not None:
            assert_same_arguments(part, real)


def assert_same_arguments(part: Part, real: object) -> None:
    parameters = inspect.signature(real).parameters  # type: ignore[arg-type]
    taken = arguments(part) or ()
    assert [argument.name.lstrip("*") for argument in taken] == list(parameters), part.name
    for argument in taken:
        default = parameters[argument.name.lstrip("*")].default
        if argument.default is None:
            assert default is inspect.Parameter.empty or argument.name.startswith("*")
        elif isinstance(argument.default, ast.Constant):
            assert argument.default.value == default


def test_hardly_a_constructor_is_of_another_package() -> None:
    parts = [part for name in MODULES for part in public(f"lightning_distill.{name}")]
    unknown = {part.name for part in parts if arguments(part) is None and not is_abstract(part)}
    assert unknown <= {"BatchKey", "BestCheckpoint"}


@pytest.mark.parametrize(
    "dotted",
    [
        "lightning_distill.lossess.LogitKD",
        "lightning_distill.losses.LogitKDD",
        "lightning_distill.losses.logit_kd.Logit",
        "lightning_distill.nothing",
        "lightning_distill.data.datasets.digit",
    ],
)
def test_there_is_no_such_name(dotted: str) -> None:
    assert find(dotted) is None


@pytest.mark.parametrize(
    "dotted",
    [
        "lightning_distill.losses",
        "lightning_distill.losses.hint",
        "lightning_distill.losses.base.nn",
        "lightning_distill.DistillationModule",
        "lightning_distill.data.FolderSource.samples",
        "lightning_distill.shelves.SHELVES",
    ],
)
def test_there_may_be_such_a_name(dotted: str) -> None:
    assert find(dotted) is not None
