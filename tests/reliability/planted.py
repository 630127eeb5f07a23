"""Secrets of all kinds, the places of a run they are put into, and a search for them in all it wrote."""

from __future__ import annotations

import json
import random
import string
from pathlib import Path
from typing import Any
from urllib.parse import quote

PARTS = """
from typing import Any

from lightning_distill.data import ManifestSource
from lightning_distill.module import DistillationModule


class RemoteTable(ManifestSource):
    def __init__(
        self, path: str, modalities: dict[str, str], password: str = "", options: dict[str, Any] | None = None
    ) -> None:
        super().__init__(path, modalities)


class _OwnModule(DistillationModule):
    def __init__(
        self, hub: dict[str, Any] | None = None, notes: list[str] | None = None, fails: bool = False, **more
    ) -> None:
        super().__init__(**more)
        self.save_hyperparameters("hub", "notes")
        self.hub, self.notes, self.fails = hub, notes, fails

    def on_train_batch_start(self, *args: Any) -> None:
        if self.fails:
            raise RuntimeError(f"cannot log in: {self.hub} {self.notes}, " + " ".join(leaves(self.hub)))


def leaves(value):
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [value] if isinstance(value, str) else [leaf for item in inner for leaf in leaves(item)]
"""
"""A module of a user: it takes secrets, keeps them as hyperparameters, and blurts them out when it fails."""

_KEYS = ("api_key", "password", "client_secret", "access_token", "authorization", "private_key", "hf_token")
_LETTERS = string.ascii_letters + string.digits


class Planted:
    """Secrets, and where they are put.

    Args:
        count: How many.
        seed: Of their letters.
    """

    def __init__(self, count: int, seed: int) -> None:
        self._random = random.Random(seed)
        self.all: list[str] = []
        self.environment: dict[str, str] = {}
        self.netrc = ""
        self.options: dict[str, Any] = {}
        self.hub: dict[str, Any] = {}
        self.notes: list[str] = []
        self.words: list[str] = []
        places = (self._deep, self._variable, self._url, self._form, self._word, self._hyper, self._netrc)
        for number in range(count):
            places[number % len(places)](number)

    def new(self, letters: str = _LETTERS + "+/_-!%", length: int = 24) -> str:
        """One more secret."""
        self.all.append("".join(self._random.choices(letters, k=length)))
        return self.all[-1]

    def _deep(self, number: int) -> None:
        """Under a key that names it, at some depth of a config."""
        spec: Any = {_KEYS[number % len(_KEYS)]: self.new()}
        for level in range(number % 5):
            spec = [spec] if level == 3 else {f"level{level}": spec}
        self.options[f"deep{number}"] = spec

    def _variable(self, number: int) -> None:
        """In the environment, and a text of the config quotes it."""
        name = ("SOME{}_API_KEY", "SOME{}_TOKEN", "DB{}_PASSWORD", "MY_SECRET_{}")[number % 4].format(number)
        self.environment[name] = self.new()
        self.options[f"quoted{number}"] = f"see {self.environment[name]} there"

    def _url(self, number: int) -> None:
        """In a URL."""
        password = self.new(_LETTERS)
        kind = ("https://me:{}@example.org/a.git", "postgresql://me:{}@db/b", "see s3+http://{}@c, please")
        self.options[f"mirror{number}"] = self.hub[f"mirror{number}"] = kind[number % 3].format(password)

    def _form(self, number: int) -> None:
        """Under any key, but of a form that is known."""
        made = ("hf_" + "a1", "ghp_", "sk-proj-1", "xoxb-1", "AKIA")[number % 5]
        length = 16 if made == "AKIA" else 36
        secret = made + self.new(string.ascii_uppercase + string.digits, length)
        self.all[-1] = secret
        self.options[f"value{number}"] = secret
        self.notes.append(f"with {secret} in it")

    def _word(self, number: int) -> None:
        """On the command line, as one word or two."""
        name = f"--data.init_args.source.init_args.options.word{number}.{_KEYS[number % len(_KEYS)]}"
        # Later words about the same part replace what came before: the whole is given at once.
        secret = self.new(_LETTERS)
        self.words += [f"{name}={secret}"] if number % 2 else [name, secret]

    def _hyper(self, number: int) -> None:
        """Among hyperparameters that the module saves."""
        self.hub[f"account{number}"] = {"user": "me", _KEYS[number % len(_KEYS)]: self.new()}

    def _netrc(self, number: int) -> None:
        """In ~/.netrc, and a text of the config quotes it."""
        password = self.new(_LETTERS)
        self.netrc += f"machine host{number}.example.org login me password {password}\n"
        self.notes.append(f"as in netrc: {password}")

    def found_in(self, content: bytes) -> list[str]:
        """Those of the secrets that are in it: as they are, in a URL, in JSON, in UTF-16."""
        return [secret for secret in self.all if any(form in content for form in _forms(secret))]

    def found_below(self, folders: list[Path], given: set[Path]) -> dict[str, list[str]]:
        """File -> secrets in it or its name; files that were given do not count."""
        files = [p for folder in folders for p in folder.rglob("*") if p.is_file() and p not in given]
        assert files
        found = {str(p): self.found_in(p.read_bytes() + str(p).encode()) for p in files}
        return {name: secrets for name, secrets in found.items() if secrets}


def _forms(secret: str) -> set[bytes]:
    texts = {secret, quote(secret), quote(secret, safe=""), json.dumps(secret)[1:-1]}
    return {text.encode() for text in texts} | {secret.encode("utf-16-le")}
