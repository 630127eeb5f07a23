"""Errors: fields, safe to print, whole after a trip between processes."""

from __future__ import annotations

import copy
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_distill import errors
from lightning_distill.errors import DistillError, SampleError, nearest, printable

KINDS = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, DistillError) and kind is not DistillError
]
FIELDS = ("where", "found", "expected", "fix")


def test_there_are_kinds() -> None:
    assert len(KINDS) >= 6


@pytest.mark.parametrize("kind", KINDS)
def test_says_where_what_expected_and_fix(kind: type[DistillError]) -> None:
    error = kind(where="m.csv, row 3", found=7, expected="a word", fix="write one")
    assert str(error) == "m.csv, row 3: found 7; expected a word. To fix: write one"
    assert kind.__doc__
    assert 1 < kind.exit_code < 64


@pytest.mark.parametrize("kind", KINDS)
def test_fields_are_required_by_name(kind: type[DistillError]) -> None:
    with pytest.raises(TypeError):
        kind("message")  # type: ignore[call-arg, misc]
    with pytest.raises(TypeError):
        kind(where="x", found="y", expected="z")  # type: ignore[call-arg]


TEXT = st.text(max_size=1500) | st.sampled_from(["a\nb", "\x1b[31mred", "\r\x00\u202e", "\udcff", ""])


@given(TEXT, TEXT, st.sampled_from(KINDS))
def test_pickles_whole(where: str, found: str, kind: type[DistillError]) -> None:
    error = kind(where=where, found=found, expected="e", fix="f")
    for twin in (pickle.loads(pickle.dumps(error)), copy.deepcopy(error)):
        assert type(twin) is kind
        assert str(twin) == str(error)
        assert [getattr(twin, f) for f in FIELDS] == [getattr(error, f) for f in FIELDS]


@given(TEXT)
def test_a_message_is_one_printable_line(text: str) -> None:
    error = SampleError(where=text, found=text, expected=text, fix=text)
    assert str(error).isprintable()
    assert len(str(error).splitlines()) == 1
    assert len(error.where) <= 300
    assert len(error.found) <= 1000


@given(TEXT)
def test_printable_changes_only_what_it_must(text: str) -> None:
    shown = printable(text, 10_000)
    assert printable(shown, 10_000) == shown
    if text.isprintable():
        assert shown == text


def test_printable_keeps_letters_of_every_script() -> None:
    assert printable("données/图像 Ω.png") == "données/图像 Ω.png"
    assert printable("a\x1b[2Jb\u2028c") == "a\\x1b[2Jb\\u2028c"
    assert printable("x" * 20, 10) == "xxxxxxx..."


@pytest.mark.parametrize(
    ("word", "words", "ending"),
    [
        ("studnt", ["student", "teacher"], "; did you mean 'student'?"),
        ("Student", ["student"], "; did you mean 'student'?"),
        ("xyz", ["student", "teacher"], ""),
        ("a", [], ""),
    ],
)
def test_nearest(word: str, words: list[str], ending: str) -> None:
    assert nearest(word, words) == ending
