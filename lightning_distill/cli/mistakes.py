"""From an exception to one short paragraph: which key, what was found, the nearest right one."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from lightning_distill.cli import names
from lightning_distill.cli.messages import Message, behind_a_loop, count_types, keys_of
from lightning_distill.cli.paragraphs import Paragraphs
from lightning_distill.cli.plain import SPEC, beside_class_paths, content, strange_keys
from lightning_distill.cli.words import config_files
from lightning_distill.errors import ConfigError, DistillError, nearest
from lightning_distill.security.allowed import allowed

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
    if type(error).__name__ == "ArgumentError" or str(error).startswith("Does not validate"):
        text, file = behind_a_loop(error)
        return Complaint(text, keys, [*words[:1], file] if file else words).as_error()
    return None


class Complaint:
    """One message of jsonargparse, and the paragraph about it.

    Args:
        text: The message.
        keys: All keys of the command, dotted.
        words: The command line; only its command and a file, where the mistake is in that file.
    """

    def __init__(self, text: str, keys: Sequence[str], words: Sequence[str]) -> None:
        self.message = Message(text)
        self.text, self.path = self.message.text, self.message.path
        self.classes, self.values = self.message.classes, self.message.values
        self.keys, self.words = keys, words

    def as_error(self) -> ConfigError:
        """The first reading that fits."""
        readings: tuple[Callable[[], ConfigError | None], ...] = (
            self._misplaced_key,
            self._unknown_option,
            self._unknown_key,
            self._broken_file,
            self._missing_file,
            self._not_allowed,
            self._unknown_class,
            self._missing,
            self._wrong_type,
            self._no_class,
        )
        for reading in readings:
            error = reading()
            if error is not None:
                return error
        noise = ("Does not validate against", "Errors:", "Parser key", "Problem with given class_path")
        found = "; ".join(self.message.lines(noise))
        return self._told.error("", found, "a valid configuration", "see --help, or the example configs")

    def _misplaced_key(self) -> ConfigError | None:
        """A key beside class_path and init_args."""
        dict_in_callable = re.search(r"Dict must include a class_path .*, but got (.*)", self.text)
        if dict_in_callable:
            shown = dict_in_callable[1]
        elif "Option 'class_path' is not accepted" in self.text:
            # Taken for arguments of the default.
            shown = "".join(self.values[:1]).partition("init_args=")[2]
        else:
            shown = "".join(self.message.given[:1]) if "Not a valid subclass" in self.text else ""
        strange = strange_keys(keys_of(shown))
        if not strange and "Expected an instantiatable class" in self.text:  # it shows what is around only
            contents = (content(file, self.words) for file in config_files(self.words))
            strange = [key for config in contents for key in beside_class_paths(config)]
        if not strange:
            return None
        return self._told.error(
            strange[0],
            f"the key {strange[0]!r} beside class_path",
            "only class_path and init_args there",
            f"put arguments of the class under init_args{nearest(strange[0], SPEC)}",
        )

    def _unknown_option(self) -> ConfigError | None:
        """A key that a class does not take."""
        late = r"Callable\[\[(.*)\], [\w.]+\] expects a function or a callable class: "
        match = re.search(rf"(?:{late})?Option '(.+?)' is not accepted", self.text)
        match = match or re.search(r"()^\s+unrecognized arguments: --([^=\s.]+)", self.text, re.MULTILINE)
        if match is None:
            return None
        option = match[2].partition(".")[0]
        owner = self.classes[-1] if self.classes else ""
        known = names.parameters(owner)[count_types(match[1]) if match[1] else 0 :]
        return self._told.no_argument(option, owner.rpartition(".")[2], known)

    def _unknown_key(self) -> ConfigError | None:
        """A key that the command does not have."""
        match = re.search(r"unrecognized arguments: (?:--)?([^=\s]+)", self.text)
        match = match or re.search(r"does not accept option '(.+?)'", self.text)
        if match is None:
            return None
        return self._told.no_key(match[1], self.keys)

    def _broken_file(self) -> ConfigError | None:
        """A config that is no YAML, or no mapping."""
        at = re.findall(r"line (\d+), column \d+", self.text)
        part = re.search(r"Invalid content in sub-config file (.+?): ", self.text)
        if part is not None and at:
            found = re.findall(r'(\S.*)\n *in ".+", line', self.text)[-1:] or ["a mistake"]
            told = found[0].partition(f"{part[1]}: ")[2] or found[0]
            return Paragraphs([*self.words[:1], part[1]], self.path).no_yaml(told, at[-1])
        if "Problems parsing config" in self.text and at:
            found = re.findall(r"Problems parsing config: *(\S.*)\n *in ", self.text)
            found = self.message.lines(("in ", "Problems"))[-1:] or found or ["a mistake"]
            return self._told.no_yaml(found[0], at[-1])
        if "Unexpected config" in self.text:
            wanted = "YAML with keys such as model and data"
            return self._told.error("", "no keys", wanted, "look at the file")
        return None

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

    def _not_allowed(self) -> ConfigError | None:
        """A class of a package that a config may not name."""
        match = re.search(r"Importing '(.+?)' is not allowed", self.text)
        return None if match is None else self._told.not_allowed(match[1], allowed())

    def _unknown_class(self) -> ConfigError | None:
        """A class that does not exist."""
        texts = re.finditer(r"Expected a dot import path string: ([A-Z]\w*)", self.text)
        match = (
            next((text for text in texts if text[1] not in self._there), None)
            or re.search(r"module '\S+' has no attribute '(\w+)'", self.text)
            or re.search(r"No module named '(\S+)'", self.text)
        )
        if match is None:
            return None
        name, owners = match[1], list(self.classes)
        while owners and name in (owners[-1].split(".")[0], owners[-1].rpartition(".")[2]):
            name = owners.pop()
        kinds = names.kinds(owners[-1] if owners else "", self.path[-1] if self.path else "")
        wanted = [kind.__name__ for kind in kinds]
        known = sorted({cls.__name__ for kind in kinds for cls in names.subclasses(kind)} - set(wanted))
        return self._told.no_class(name, wanted, known)

    def _missing(self) -> ConfigError | None:
        """Required keys that were not given."""
        match = re.search(r"following arguments are required: (.+)", self.text)
        if match is None:
            return None
        missing = [word.rpartition(".")[2] for word in reversed(match[1].strip().split(", "))]
        found = f"no {' and no '.join(missing)}"
        if self.classes:
            owner = self.classes[-1].rpartition(".")[2]
            kinds = [kind.__name__ for name in missing for kind in names.kinds(self.classes[-1], name)]
            wanted = f"a {' and a '.join(kinds)}" if len(kinds) == len(missing) else "a value"
            fix = "add it under init_args"
            return self._told.error(owner, f"{found} for {owner}", wanted, fix, is_key=False)
        fix = "add --config FILE, for example --config configs/experiment/digits_teacher.yaml"
        if self.words[:1] != ["fit"]:
            fix = "add --run RUN, the folder of a run, or --config FILE"
        return self._told.error("", found, "both, usually from a config file", fix)

    def _wrong_type(self) -> ConfigError | None:
        """A value of another type."""
        types = [t for t in re.findall(r"Expected an? <class '(\w+)'>", self.text) if t != "NoneType"]
        wanted = [_TYPES.get(t, f"a {t}") for t in types]
        wanted += re.findall(r"Expected an? typing\.Literal\[(.+?)\]", self.text)
        if not wanted:
            return None
        got = [value for value in self.values if not value.startswith("Namespace(")]
        value = "".join(got[:1] or self.message.given[:1])
        key = self.path[-1].rpartition(".")[2] if self.path else ""
        fix = "correct the value"
        if value in ("True", "False") and "str" in types:
            fix = "put it in quotes: YAML takes no, yes, on and off for false and true"
        return self._told.error(key, repr(value), " or ".join(dict.fromkeys(wanted)), fix)

    def _no_class(self) -> ConfigError | None:
        """Something else where a class is taken."""
        wanted = "a dot import path string:|an import path or a subclass spec, but got"
        texts = re.finditer(rf"Expected (?:{wanted}) (.*)", self.text)
        match = next((text for text in texts if text[1] not in self._there), None)
        if match is None:
            return None
        found = "nothing" if match[1] == "None" else repr(match[1])
        return self._told.error("", found, "a class: its name, or class_path and init_args", "name one")

    @property
    def _there(self) -> set[str]:
        """Short names that are right; of several kinds that may stand there, only one knows them."""
        return {path.rpartition(".")[2] for path in self.classes}

    @property
    def _told(self) -> Paragraphs:
        file = self.message.file
        named = any(file in word for word in self.words)
        return Paragraphs(self.words if named else [*self.words, file], self.path)
