"""`lightning-distill cache`: the config is parsed as `fit` parses it, the rest is in `commands.cache`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from lightning_distill.errors import ConfigError


def main(argv: Sequence[str]) -> int:
    """Let the teacher of a config answer what it was not asked yet.

    Args:
        argv: Words after `cache`.

    Returns:
        Exit code: 0, or 3 where --verify finds damage.
    """
    options, rest = _parser().parse_known_args(list(argv))
    part = _part(options.part)

    from lightning_distill.cli.parsing import parsed
    from lightning_distill.commands.cache import fill, verify

    how = "repair" if options.repair else "auto"
    configs = [word for config in options.config for word in ("--config", config)]
    config = parsed(["fit", *configs, *rest, "--cache", how])
    splits = options.split.split(",")
    return verify(config, splits) if options.verify else fill(config, splits, part)


def _part(words: str) -> tuple[int, int]:
    """Place of the first sample, and the step.

    >>> _part("2/8")
    (1, 8)
    """
    number, _, of = words.partition("/")
    if not (number.isdigit() and of.isdigit() and 1 <= int(number) <= int(of)):
        raise ConfigError(
            where="command line, --part",
            found=words,
            expected="N/M, with N from 1 to M",
            fix="for example --part 1/4 on the first of four machines",
        )
    return int(number) - 1, int(of)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lightning-distill cache",
        description="Let the teacher of a config answer before training, and keep its answers on disk. "
        "Settings can follow, as for fit. It goes on where it was stopped.",
        allow_abbrev=False,
    )
    parser.add_argument("-c", "--config", action="append", required=True, metavar="FILE", help="as for fit")
    parser.add_argument("--split", default="train,val", help="of train, val, test; default: train,val")
    parser.add_argument(
        "--part", default="1/1", metavar="N/M", help="every M-th sample, for several machines"
    )
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--verify", action="store_true", help="ask nothing; compare all with the checksums")
    only.add_argument("--repair", action="store_true", help="check all first, and replace what is damaged")
    return parser
