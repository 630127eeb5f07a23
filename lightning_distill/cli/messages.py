"""What jsonargparse says about a mistake, taken apart."""

from __future__ import annotations

import re
from collections.abc import Iterator

_LOOP = re.compile(r"Config file loop detected: .* -> (.+)")


class Message:
    """One message, which nests keys and classes by indentation.

    Args:
        text: As the parser raised it.
    """

    def __init__(self, text: str) -> None:
        parts = [line.split(". Got value: ") for line in text.splitlines()]
        said = "\n".join(first for first, *_ in parts)
        # What was read, then what it stands in, and so on outwards. A union says it of each of its members.
        self.values: list[str] = next((values for _, *values in parts if values), [])
        self.given = re.findall(r"Given value: (.*)", said)
        self.text = re.sub(r"(Given value( type)?|Subtypes): .*", "", said)
        self.path = re.findall(r'Parser key "(.+?)"', self.text)

    @property
    def classes(self) -> list[str]:
        """Import paths of the classes that lead to the mistake, the outermost first."""
        named = re.findall(r"Problem with given class_path '(.+?)'", self.text)
        # A class that is made later, from arguments known late, is told by its value only.
        late = [path for value in reversed(self.values) if (path := _class_path(value))]
        named = list(dict.fromkeys(named))
        return [*named, *late[late[:1] == named[-1:] :]]

    @property
    def file(self) -> str:
        """The part of a config that has a file of its own, where the mistake is in one."""
        paths = [
            match[1] for value in self.values if (match := re.search(r"__path__=\w+\((.+?), cwd=", value))
        ]
        return paths[0] if paths else ""

    def lines(self, noise: tuple[str, ...]) -> list[str]:
        """Those that do not begin with any of these words."""
        lines = [line.strip(" -") for line in self.text.splitlines()]
        return [line for line in lines if line and not line.startswith(noise)]


def behind_a_loop(error: BaseException) -> tuple[str, str]:
    """What was wrong in a part of a config that has a file of its own.

    What fails inside such a file, jsonargparse tries again, finds the file open, and calls that a loop. The
    first failure then is the context of the error about the loop.

    Args:
        error: What the parser raised.

    Returns:
        The message with the first failure in it, and the file; the message as it is, and nothing, where no
        loop or a real one was told.
    """
    text = str(error)
    for cause in _causes(error):
        loop, first = _LOOP.fullmatch(str(cause)), cause.__context__
        if loop is not None and isinstance(first, ValueError):
            indented = re.search(rf"^( *){re.escape(loop[0])}", text, re.MULTILINE)
            margin = indented[1] if indented else ""
            return text.replace(loop[0], str(first).replace("\n", f"\n{margin}")), loop[1]
    return text, ""


def keys_of(shown: str) -> list[str]:
    """The keys of a dict or a Namespace that is shown, not those inside its values.

    >>> keys_of("Namespace(class_path='A', init_args=Namespace(b=3), c={'d': 3})")
    ['class_path', 'init_args', 'c']
    """
    depth, found = 0, []
    for token in re.finditer(r"([({\[])|([)}\]])|'(\w+)':|\b(\w+)=", shown):
        depth += bool(token[1]) - bool(token[2])
        found += [token[3] or token[4]] if depth == 1 and (token[3] or token[4]) else []
    return found


def count_types(shown: str) -> int:
    """How many types a list of them names.

    >>> count_types("int, dict[str, int]")
    2
    """
    while "[" in shown:
        shown, before = re.sub(r"\[[^\[\]]*\]", "", shown), shown
        if shown == before:
            break
    return shown.count(",") + 1


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def _class_path(shown: str) -> str:
    """Of a Namespace or dict that is shown; empty where it has none."""
    if "class_path" not in keys_of(shown):
        return ""
    inner = re.sub(r"init_args=Namespace\(.*?\), (?=class_path=)", "", shown)
    match = re.search(r"class_path'?[=:] ?'(.+?)'", inner)
    return match[1] if match else ""
