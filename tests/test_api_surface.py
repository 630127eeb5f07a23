"""What others rely on does not change by accident."""

from __future__ import annotations

import enum
from importlib.resources import files

import lightning_distill
from tests.api_surface import described, differences, read, surface


def test_nothing_public_has_changed() -> None:
    found = differences(read(), surface())
    assert not found, (
        "the public surface is another one now:\n"
        + "\n".join(found)
        + "\nIf that is meant: `python -m tests.api_surface --write`, and a line in CHANGELOG.md. "
        "A name that is removed or changed needs a deprecation first (docs/stability.md)."
    )


def test_it_holds_what_a_user_meets() -> None:
    names = read()
    for name in (*lightning_distill.__all__, "losses.LogitKD", "clipping.ValueClip", "callbacks.Distill"):
        assert f"lightning_distill.{name}" in names
    assert "--resume" in names["command fit"].split()
    assert "temperature: 'float'" in names["lightning_distill.losses.LogitKD"]
    assert not [told for told in names.values() if " at 0x" in told or "/" in told.replace(" /", "")]


def test_differences_are_told() -> None:
    before = {"gone": "class ()", "same": "class ()", "other": "class (a)"}
    now = {"same": "class ()", "other": "class (b)", "new": "function ()"}
    assert differences(before, now) == [
        "added    new: function ()",
        "removed  gone: class ()",
        "changed  other:\n  was class (a)\n  is  class (b)",
    ]
    assert differences(now, now) == []


def test_things_are_described_by_what_one_calls_them_with() -> None:
    def function(a: int, *, b: object = object()) -> str:
        return f"{a}{b}"

    class _Kind(enum.Enum):
        ONE = 1
        TWO = 2

    assert described(function) == "function (a: 'int', *, b: 'object' = <object object>) -> 'str'"
    assert described(_Kind) == "one of ONE, TWO"
    assert described(-100) == "int"


def test_type_checkers_of_others_read_the_annotations() -> None:
    assert files("lightning_distill").joinpath("py.typed").is_file()  # PEP 561
