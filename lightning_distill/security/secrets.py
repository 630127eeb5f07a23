"""Passwords, keys and tokens have no place in what a run writes."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, unquote

from lightning_distill.security.secret_names import Kind, holds_secret, kind_of, names_secret_variable

MASK: Final = "***"
"""Stands where a secret was."""

_SHORTEST: Final = 6
"""Characters of a value of the environment from which on it is looked for: shorter ones are everywhere."""
_URL: Final = re.compile(r"(?P<head>\b[A-Za-z][A-Za-z0-9+.-]{0,40}+://)(?P<user>[^\s/?#'\"<>]+)@")
_FORMS: Final = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)"
    r"|\bhf_[A-Za-z0-9]{30,}"
    r"|\bsk-(?=[A-Za-z_-]{0,100}+\d)[A-Za-z0-9_-]{20,}"
    r"|\bgh[pousr]_[A-Za-z0-9]{30,}|\bgithub_pat_\w{22,}|\bglpat-[\w-]{20,}"
    r"|\b(?:AKIA|ASIA)[0-9A-Z]{16}\b|\bAIza[\w-]{35}"
    r"|\bxox[abeprs]-[A-Za-z0-9-]{10,}"
    r"|\beyJ[\w-]{8,2000}+\.eyJ[\w-]{8,}+\.[\w-]*"
    r"|(?<=[Bb]earer )(?=[^\s'\"]*\d)[\w.~+/=-]{16,}",
    re.DOTALL,
)
"""What secrets of well-known services look like."""
_KEY: Final = r"(?<![A-Za-z_])(?P<key>[A-Za-z_][\w.-]{0,120}+)"
"""Bounded, and tried once a word: else the time grows with the square of the length of a word."""
_SIGNATURE: Final = re.compile(r"(?i)([?&](?:x-(?:amz|goog)-)?sig(?:nature)?=)[^\s&'\"]+")
_PAIRS: Final = (
    rf"{_KEY}(?:\\*['\"])?\s*[:=]\s*(?:found )?(?P<quote>\\*['\"])(?=(?P<value>.*?)(?<!\\)(?P=quote))",
    rf"{_KEY}=(?=(?P<value>[^\s,;&()\[\]{{}}'\"]+))",
    r"--(?P<key>[\w.-]{1,120}+)\s+(?=(?P<value>(?!-)[^\s'\"]+))",
    rf"^[ \t]*(?:- )?['\"]?{_KEY}['\"]?:[ \t]+(?=(?P<value>(?!found )[^\s'\"{{\[].*)$)",
)
"""A key and its value: in quotes, after `=`, as words of a command line, as a line of YAML.

The value is only looked at, for there may be pairs in it.
"""
_PAIR: Final = tuple(re.compile(pair, re.MULTILINE) for pair in _PAIRS)


def redacted(text: str, also: Iterable[str] = ()) -> str:
    """The text without the secrets in it.

    Those are values of secret environment variables and of netrc, passwords in URLs, keys of known forms, and
    what stands after a key such as `password`.

    Args:
        text: Any: a paragraph, a traceback, YAML, a URL.
        also: Other secrets, such as `secrets_in` finds.

    Returns:
        It with `***` in their places.

    >>> redacted("https://user:letmein@example.org/a?access_token=abc123 --api_key=abcdef")
    'https://***@example.org/a?access_token=*** --api_key=***'
    """
    return _redacted(text, _known(also))


def redacted_values(value: Any) -> Any:
    """A config without its secrets: values whose key names one, and what `redacted` finds in texts.

    Args:
        value: Plain: dicts, lists, texts, numbers. Lists may be command lines.

    Returns:
        A copy; what is not plain is the same object.

    >>> redacted_values({"api_key": "abcdef", "cls_token": "first", "token": 5})
    {'api_key': '***', 'cls_token': 'first', 'token': 5}
    >>> redacted_values(["fit", "--data.password", "abc", "--model.dim", "8"])
    ['fit', '--data.password', '***', '--model.dim', '8']
    """
    return _copied(value, _known(), Kind.NONE)


def masked_keys(value: Any, at: str = "") -> Iterator[str]:
    """Dotted keys of a config whose values were secrets when it was written.

    >>> list(masked_keys({"data": {"url": "https://***@example.org", "name": "a"}}))
    ['data.url']
    """
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from masked_keys(item, f"{at}.{key}".lstrip("."))
    elif isinstance(value, list | tuple):
        yield from dict.fromkeys(key for item in value for key in masked_keys(item, at))
    elif isinstance(value, str) and MASK in value:
        yield at


def hidden_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that `redacted_values` changes, by their dotted keys, as they are.

    >>> hidden_settings({"data": {"password": "abc", "size": 3}})
    {'data.password': 'abc'}
    """
    return dict(_changed(config, redacted_values(config), ""))


def secrets_in(value: Any) -> Iterator[str]:
    """Secrets in a config or among the words of a command line: whole texts, and passwords in URLs.

    >>> list(secrets_in({"password": "abc", "names": [{"api_key": "def"}, "--a.token=abcdef"]}))
    ['abc', 'def', 'abcdef']
    """
    return _masked(value, redacted_values(value))


def _masked(old: Any, new: Any) -> Iterator[str]:
    if isinstance(old, Mapping):
        for key, item in old.items():
            yield from _masked(item, new[key])
    elif isinstance(old, list | tuple):
        for item, other in zip(old, new, strict=True):
            yield from _masked(item, other)
    elif isinstance(old, str) and new == MASK:
        yield old
    elif isinstance(old, str) and "://" in old:
        yield from _passwords(old)
    elif isinstance(old, str) and new != old and new.startswith("--") and new.endswith(f"={MASK}"):
        yield old.partition("=")[2]


def _changed(old: Any, new: Any, at: str) -> Iterator[tuple[str, Any]]:
    if isinstance(old, Mapping) and all(isinstance(key, str) for key in old):
        for key, item in old.items():
            yield from _changed(item, new[key], f"{at}.{key}".lstrip("."))
    elif old != new:
        yield at, old


def _known(also: Iterable[str] = ()) -> re.Pattern[str] | None:
    """All secrets that this process can name, as they may be written."""
    found = {
        form
        for secret in (*_of_the_environment(), *_of_netrc(), *also)
        if len(secret) >= _SHORTEST and secret.strip("*")
        for form in (secret, quote(secret, safe=""), repr(secret)[1:-1], secret.replace("\n", "\\n"))
    }
    return re.compile("|".join(map(re.escape, sorted(found, key=len, reverse=True)))) if found else None


def _of_the_environment() -> Iterator[str]:
    for name, value in os.environ.items():
        if names_secret_variable(name, value) and not ("/" in value and os.path.exists(value)):
            yield value.strip()
        yield from _passwords(value)


def _passwords(text: str) -> Iterator[str]:
    for url in _URL.finditer(text):
        password = url["user"].partition(":")[2]
        yield from (password, unquote(password))


def _of_netrc() -> Iterator[str]:
    import netrc

    for name in (os.environ.get("NETRC"), "~/.netrc", "~/_netrc"):
        try:
            path = Path(name or "").expanduser()
            if name and path.is_file():
                yield from (password or "" for _, _, password in netrc.netrc(path).hosts.values())
        except (OSError, RuntimeError, netrc.NetrcParseError):
            continue


def _redacted(text: str, known: re.Pattern[str] | None) -> str:
    if known is not None:
        text = known.sub(MASK, text)
    text = _FORMS.sub(MASK, text)
    text = _URL.sub(_without_user, text)
    text = _SIGNATURE.sub(rf"\g<1>{MASK}", text)
    for pairs in _PAIR:
        text = _without_values(text, pairs)
    return text


def _without_user(match: re.Match[str]) -> str:
    return match[0] if match["user"] == "git" else f"{match['head']}{MASK}@"


def _without_values(text: str, pairs: re.Pattern[str]) -> str:
    parts, done = [], 0
    for match in pairs.finditer(text):
        start, end = match.span("value")
        if start >= done and holds_secret(kind_of(match["key"]), match["value"]):
            parts += [text[done:start], MASK]
            done = end
    return "".join([*parts, text[done:]])


def _copied(value: Any, known: re.Pattern[str] | None, kind: Kind) -> Any:
    if isinstance(value, Mapping):
        inside = Kind.NONE if kind is Kind.TOKEN else kind
        return {
            key: _copied(item, known, _nearer(kind_of(key), inside) if isinstance(key, str) else inside)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        items = [_copied(item, known, kind) for item in _without_options(value)]
        return items if isinstance(value, list) else tuple(items)
    if isinstance(value, set | frozenset):
        return type(value)(_copied(item, known, kind) for item in value)
    if holds_secret(kind, value):
        return MASK
    return _redacted(value, known) if isinstance(value, str) else value


def _nearer(own: Kind, around: Kind) -> Kind:
    """What a key inside another says: a class's path stays, since without it there is no config."""
    return own if own is Kind.PLACE or own.value > around.value else around


def _without_options(words: Sequence[Any]) -> list[Any]:
    """Words of a command line, without the secrets among them that options name."""
    found = list(words)
    for place, word in enumerate(words[:-1]):
        following = words[place + 1]
        named = isinstance(word, str) and word.startswith("--") and "=" not in word
        if named and holds_secret(kind_of(word), following):
            found[place + 1] = MASK
    for place, word in enumerate(found):
        if isinstance(word, str) and word.startswith("--") and "=" in word:
            name, _, value = word.partition("=")
            if holds_secret(kind_of(name), value):
                found[place] = f"{name}={MASK}"
    return found
