"""Which names say that a value is a secret, and which only sound like it: `cls_token`, `key_padding_mask`."""

from __future__ import annotations

import re
from enum import Enum
from typing import Any, Final


class Kind(Enum):
    """What a name says of its value.

    Attributes:
        NONE: Nothing.
        PLACE: It names a class, whatever stands around it.
        TOKEN: A token, which may be one of a text.
        SECRET: A secret.
        PASSWORD: A secret that may be a number.
    """

    NONE = 0
    PLACE = 1
    TOKEN = 2
    SECRET = 3
    PASSWORD = 4


_PASSWORDS: Final = {"password", "passwords", "passwd", "passphrase", "passcode"}
_SECRETS: Final = {
    *("secret", "secrets", "credential", "credentials", "apikey", "accesskey", "auth", "authorization"),
    *("bearer", "jwt", "connstr"),
}
_KEYS: Final = {
    *("api", "access", "secret", "private", "account", "auth", "encryption", "signing", "ssh"),
    *("subscription", "master", "wandb", "hf", "openai", "anthropic", "azure", "aws", "gcp", "google"),
}
"""What stands before `key` where it opens something."""
_OF_TEXTS: Final = {
    *("cls", "class", "pad", "padding", "mask", "eos", "bos", "sep", "unk", "unknown", "sot", "eot", "boi"),
    *("start", "begin", "end", "next", "last", "first", "special", "extra", "additional", "missing", "empty"),
    *("image", "audio", "video", "text", "speech", "vision", "sound", "patch", "modality", "domain", "task"),
    *("query", "register", "distill", "dist", "distillation", "prompt", "prefix", "suffix", "separator"),
    *("boundary", "placeholder", "latent", "fusion", "summary", "blank", "null", "new", "bottleneck"),
    *("decoder", "encoder", "sink", "memory", "label", "max", "min", "num", "per", "by", "use", "with"),
}
"""What stands before `token` where it is one of a text or of a transformer."""
_BRACKETS: Final = re.compile(r"[<\[({|].*[>\])}|]|\W+")
_VARIABLE: Final = re.compile(
    r"PASSWORD|PASSWD|PASSPHRASE|SECRET|CREDENTIAL|APIKEY|ACCESSKEY|PRIVATEKEY|TOKEN(?!I)"
    r"|(?:^|_)(?:KEYS?|AUTH|PWD|PAT)(?:_|$)"
)
_OF_PLACES: Final = re.compile(r"^(?:OLD)?PWD$|_(?:PATH|DIR|FILE|SOCK|NAME|TYPE)$")


def names_secret_variable(name: str, value: str) -> bool:
    """Whether a variable of the environment holds a secret, by its name.

    >>> names_secret_variable("HF_TOKEN", "abcdef"), names_secret_variable("MAX_TOKENS", "131072")
    (True, False)
    """
    name = name.upper()
    if not _VARIABLE.search(name) or _OF_PLACES.search(name):
        return False
    return not ("TOKEN" in name and value.isdigit())


def kind_of(key: str) -> Kind:
    """What a key of a config, or an option, says; of a dotted one its last part counts.

    >>> kind_of("data.init_args.apiKey"), kind_of("num_tokens"), kind_of("key_padding_mask")
    (<Kind.SECRET: 3>, <Kind.NONE: 0>, <Kind.NONE: 0>)
    """
    last = key.rpartition(".")[2]
    if last == "class_path":
        return Kind.PLACE
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", last).lower()
    *before, word = [part for part in re.split(r"[^a-z0-9]+", words) if part] or [""]
    of = before[-1] if before else ""
    if word in _PASSWORDS or (word == "pwd" and before):
        return Kind.PASSWORD
    if (
        word in _SECRETS
        or (word == "key" and of in _KEYS)
        or (before[-2:], word) == (["access", "key"], "id")
    ):
        return Kind.SECRET
    if (of, word) in (("connection", "string"), ("conn", "string"), ("conn", "str")):
        return Kind.SECRET
    if word == "tokens" and of in ("api", "access", "auth", "bearer", "refresh"):
        return Kind.SECRET
    return Kind.TOKEN if word == "token" and not _OF_TEXTS.intersection(before) else Kind.NONE


def holds_secret(kind: Kind, value: Any) -> bool:
    """Whether a value under such a name is a secret.

    >>> holds_secret(Kind.TOKEN, "[CLS]"), holds_secret(Kind.TOKEN, 5), holds_secret(Kind.SECRET, "abc")
    (False, False, True)
    """
    if isinstance(value, bytes):
        return kind in (Kind.SECRET, Kind.PASSWORD)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return kind is Kind.PASSWORD
    if not isinstance(value, str) or value.lower() in ("", "true", "false", "none", "null"):
        return False
    if kind is Kind.TOKEN:
        return len(value) >= 6 and " " not in value and not _BRACKETS.fullmatch(value) and not _number(value)
    return kind in (Kind.SECRET, Kind.PASSWORD)


def _number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
