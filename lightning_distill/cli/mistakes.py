"""From an exception to one short paragraph: which key, what was found, the nearest right one."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from lightning_distill.cli import names
from lightning_distill.cli.paragraphs import Paragraphs
from lightning_distill.errors import ConfigError, DistillError, nearest

_TYPES: Final = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "a text"}


def explain(error: BaseException, keys: Sequence[str], words: Sequence[str]) -> DistillError | None:
    """Make an error of ours from what parsing or instantiation raised.

    Args:
        error: What was raised.
        keys: All keys of the command, dotted.
        words: The command line.

    Returns:
        The paragraph; None if the error is of another kind.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, DistillError):
            return cause
        cause = cause.__cause__ or cause.__context__
    if type(error).__name__ == "ArgumentError":
        return Complaint(str(error), keys, words).as_error()
    return None


class Complaint:
    """One message of jsonargparse, which nests keys and classes by indentation.

    Args:
        text: The message.
        keys: All keys of the command, dotted.
        words: The command line.
    """

    def __init__(self, text: str, keys: Sequence[str], words: Sequence[str]) -> None:
        self.given = re.findall(r"Given value: (.*)", text)
        self.text = re.sub(r"(Given value( type)?|Subtypes): .*", "", text)
        self.keys, self.words = keys, words
        self.path = re.findall(r'Parser key "(.+?)"', self.text)
        # A union says the same of each of its members.
        self.classes = list(dict.fromkeys(re.findall(r"Problem with given class_path '(.+?)'", self.text)))

    def as_error(self) -> ConfigError:
        """The first reading that fits."""
        readings: tuple[Callable[[], ConfigError | None], ...] = (
            self._unknown_option,
            self._unknown_key,
            self._missing_file,
            self._broken_file,
            self._unknown_class,
            self._misplaced_key,
            self._missing,
            self._wrong_type,
        )
        for reading in readings:
            error = reading()
            if error is not None:
                return error
        noise = ("Does not validate against", "Errors:", "Parser key", "Problem with given class_path")
        found = "; ".join(self._lines(noise))
        return self._told.error("", found, "a valid configuration", "see --help, or the example configs")

    def _unknown_option(self) -> ConfigError | None:
        """A key that a class does not take."""
        match = re.search(r"Option '(.+?)' is not accepted(?:.*class_path='(.+?)')?", self.text)
        match = match or re.search(r"^\s+unrecognized arguments: --([^=\s.]+)()", self.text, re.MULTILINE)
        if match is None:
            return None
        option, made_by = match.groups()
        owner = made_by or (self.classes[-1] if self.classes else "")
        known = names.parameters(owner)[1 if made_by else 0 :]
        return self._told.no_argument(option, owner.rpartition(".")[2], known)

    def _unknown_key(self) -> ConfigError | None:
        """A key that the command does not have."""
        match = re.search(r"unrecognized arguments: (?:--)?([^=\s]+)", self.text)
        match = match or re.search(r"does not accept option '(.+?)'", self.text)
        if match is None:
            return None
        return self._told.no_key(match[1], self.keys)

    def _missing_file(self) -> ConfigError | None:
        """A config that is not there."""
        match = re.search(r"File does not exist: '?([^'\n]+)'?", self.text)
        match = match or re.search(r"Expected a path but (\S+\.(?:ya?ml|json)) either not", self.text)
        if match is None:
            return None
        path = Path(match[1])
        there = sorted(p.name for p in path.parent.glob("*.yaml")) if path.parent.is_dir() else []
        shown = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
        return self._told.error(
            path.name, f"no file {shown}", "a YAML file", f"check the path{nearest(path.name, there)}"
        )

    def _broken_file(self) -> ConfigError | None:
        """A config that is no YAML, or no mapping."""
        at = re.findall(r"line (\d+), column \d+", self.text)
        if "Problems parsing config" in self.text and at:
            found = self._lines(("in ", "Problems"))[-1:] or ["a mistake"]
            return self._told.no_yaml(found[0], at[-1])
        if "Unexpected config" in self.text:
            wanted = "YAML with keys such as model and data"
            return self._told.error("", "no keys", wanted, "look at the file")
        return None

    def _unknown_class(self) -> ConfigError | None:
        """A class that does not exist."""
        match = (
            re.search(r"Expected a dot import path string: ([A-Z]\w*)", self.text)
            or re.search(r"module '\S+' has no attribute '(\w+)'", self.text)
            or re.search(r"No module named '(\S+)'", self.text)
        )
        if match is None:
            return None
        name = match[1]
        if self.classes and name in (self.classes[-1].split(".")[0], self.classes[-1].rpartition(".")[2]):
            name = self.classes.pop()
        kinds = names.kinds(self.classes[-1] if self.classes else "", self.path[-1] if self.path else "")
        wanted = [kind.__name__ for kind in kinds]
        known = sorted({cls.__name__ for kind in kinds for cls in names.subclasses(kind)} - set(wanted))
        return self._told.no_class(name, wanted, known)

    def _misplaced_key(self) -> ConfigError | None:
        """A key beside class_path and init_args."""
        if "Not a valid subclass" not in self.text or not self.given:
            return None
        depth, found = 0, []
        for token in re.finditer(r"[{}]|'(\w+)':", self.given[0]):
            depth += {"{": 1, "}": -1}.get(token[0], 0)
            found += [token[1]] if depth == 1 and token[1] else []
        allowed = ("class_path", "init_args", "dict_kwargs")
        strange = [key for key in found if key not in allowed]
        if "class_path" not in found or not strange:
            return None
        return self._told.error(
            strange[0],
            f"the key {strange[0]!r} beside class_path",
            "only class_path and init_args there",
            f"put arguments of the class under init_args{nearest(strange[0], allowed)}",
        )

    def _missing(self) -> ConfigError | None:
        """Required keys that were not given."""
        match = re.search(r"following arguments are required: (.+)", self.text)
        if match is None:
            return None
        missing = " and no ".join(word.rpartition(".")[2] for word in reversed(match[1].strip().split(", ")))
        if self.classes:
            owner = self.classes[-1].rpartition(".")[2]
            return self._told.error("", f"no {missing} for {owner}", "a value", "add it under init_args")
        fix = "add --config FILE, for example --config configs/experiment/digits_teacher.yaml"
        if self.words[:1] != ["fit"]:
            fix = "add --run RUN, the folder of a run, or --config FILE"
        return self._told.error("", f"no {missing}", "both, usually from a config file", fix)

    def _wrong_type(self) -> ConfigError | None:
        """A value of another type."""
        types = [t for t in re.findall(r"Expected an? <class '(\w+)'>", self.text) if t != "NoneType"]
        wanted = [_TYPES.get(t, f"a {t}") for t in types]
        wanted += re.findall(r"Expected an? typing\.Literal\[(.+?)\]", self.text)
        if not wanted:
            return None
        got = re.search(r"Got value: (?!Namespace)(.*)", self.text)
        value = got[1] if got else "".join(self.given[:1]).partition(". Got value")[0]
        key = self.path[-1].rpartition(".")[2] if self.path else ""
        return self._told.error(key, repr(value), " or ".join(dict.fromkeys(wanted)), "correct the value")

    def _lines(self, noise: tuple[str, ...]) -> list[str]:
        lines = [line.strip(" -") for line in self.text.splitlines()]
        return [line for line in lines if line and not line.startswith(noise)]

    @property
    def _told(self) -> Paragraphs:
        return Paragraphs(self.words, self.path)
