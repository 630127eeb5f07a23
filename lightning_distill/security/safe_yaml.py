"""YAML that can be read without harm: nothing is made but plain values, and little text stays little."""

from __future__ import annotations

from typing import Any, Final

import yaml  # type: ignore[import-untyped]

MAX_CHARACTERS: Final = 4_000_000
"""Of the text."""
MAX_VALUES: Final = 200_000
"""Of what the text becomes, each alias counted as often as it is used."""
MAX_DEPTH: Final = 100
"""Of values in values."""

_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_CORE: Final = "tag:yaml.org,2002:"
_TAGS: Final = {"!", *(_CORE + name for name in ("str", "int", "float", "bool", "null", "map", "seq"))}


def load_yaml(text: str) -> Any:
    """The plain values of one document.

    Args:
        text: YAML, or JSON.

    Raises:
        yaml.YAMLError: If it is neither, or one of the things that `check_yaml` refuses.

    >>> load_yaml("{lr: 0.1, steps: [1, 2]}")
    {'lr': 0.1, 'steps': [1, 2]}
    """
    check_yaml(text)
    return _LOADER(text).get_single_data()


def check_yaml(text: str) -> None:
    r"""Refuse what makes more of a text than is written there, or less. Nothing of it is built.

    That is: tags that make objects, keys that a mapping has twice, aliases that multiply or contain
    themselves, and very large or deep values.

    Args:
        text: YAML, or JSON.

    Raises:
        yaml.YAMLError: Names the line where it can.

    >>> check_yaml("a: 1\na: 2")
    Traceback (most recent call last):
        ...
    yaml.error.MarkedYAMLError: the key 'a' for the second time
      in "<unicode string>", line 2, column 1
    """
    if len(text) > MAX_CHARACTERS:
        raise yaml.YAMLError(f"{len(text):,} characters; at most {MAX_CHARACTERS:,} are read")
    reading = _Reading()
    for event in yaml.parse(text, Loader=_LOADER):
        reading.take(event)


class _Open:
    """A list or mapping that has begun.

    Args:
        anchor: Its name for aliases, where it has one.
        is_mapping: Whether every other value is a key.
    """

    def __init__(self, anchor: str | None, is_mapping: bool) -> None:
        self.anchor, self.is_mapping = anchor, is_mapping
        self.values = 1
        self.keys: set[str] = set()
        self.at_key = is_mapping


class _Reading:
    """Follows the events of a text, and counts what they would become."""

    def __init__(self) -> None:
        self._open: list[_Open] = []
        self._anchored: dict[str, int] = {}

    def take(self, event: Any) -> None:
        """Count one event."""
        if getattr(event, "tag", None) is not None and event.tag not in _TAGS:
            raise _refused(f"the tag {event.tag.replace(_CORE, '!!')!r}, which makes an object", event)
        if isinstance(event, yaml.CollectionStartEvent):
            self._begin(event)
        elif isinstance(event, yaml.CollectionEndEvent):
            done = self._open.pop()
            if done.anchor is not None:
                self._anchored[done.anchor] = done.values
            self._add(done.values, None, event)
        elif isinstance(event, yaml.ScalarEvent):
            if event.anchor is not None:
                self._anchored[event.anchor] = 1
            self._add(1, event.value, event)
        elif isinstance(event, yaml.AliasEvent):
            if any(event.anchor == around.anchor for around in self._open):
                raise _refused(f"the alias {event.anchor!r} inside of itself", event)
            self._add(self._anchored.get(event.anchor, 1), None, event)

    def _begin(self, event: Any) -> None:
        self._open.append(_Open(event.anchor, isinstance(event, yaml.MappingStartEvent)))
        if len(self._open) > MAX_DEPTH:
            raise _refused(f"more than {MAX_DEPTH} values in values", event)

    def _add(self, values: int, key: str | None, event: Any) -> None:
        if not self._open:
            return
        around = self._open[-1]
        around.values += values
        if around.values > MAX_VALUES:
            raise _refused(f"more than {MAX_VALUES:,} values, with what aliases repeat", event)
        if around.at_key and key is not None:
            if key in around.keys:
                raise _refused(f"the key {key!r} for the second time", event)
            around.keys.add(key)
        around.at_key = around.is_mapping and not around.at_key


def _refused(problem: str, event: Any) -> yaml.YAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)
