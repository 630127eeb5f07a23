"""`lightning-distill find-clip`: the config is parsed as for `fit`, the rest is in `commands.find_clip`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from lightning_distill.errors import ConfigError


def main(argv: Sequence[str]) -> int:
    """Choose the range of a config's clip in a handful of trainings.

    Args:
        argv: Words after `find-clip`.

    Returns:
        Exit code: 0, or 5 where no training ended well, or better than the untrained model.
    """
    options, rest = _parser().parse_known_args(list(argv))
    if options.trials < 1 or (options.steps is not None and options.steps < 1):
        raise ConfigError(
            where="command line",
            found=f"--trials {options.trials} --steps {options.steps}",
            expected="1 or more of each",
            fix="leave them out",
        )

    from rich.console import Console

    from lightning_distill.cli.parsing import parsed
    from lightning_distill.commands.find_clip import Options, find

    words = [*(word for file in options.config for word in ("--config", file)), *rest]
    config = parsed(["fit", *words])
    asked = Options(
        options.steps,
        options.trials,
        options.learning_rates,
        options.feature,
        options.out,
        options.sweep,
        options.optuna,
    )
    return find(config, words, asked, Console())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lightning-distill find-clip",
        description="Choose the range of a clip: train once without it, see how large gradients are, and try "
        "a few ranges from the same start. Settings can follow, as for fit.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "-c", "--config", action="append", required=True, metavar="FILE", help="config of `fit`"
    )
    parser.add_argument(
        "--steps", type=int, metavar="N", help="length of each training; default: that of the config"
    )
    parser.add_argument(
        "--trials", type=int, default=5, metavar="N", help="trainings after the first; default: 5"
    )
    parser.add_argument("--learning-rates", action="store_true", help="choose the learning rate too")
    parser.add_argument("--feature", action="store_true", help="the range of the fused feature instead")
    parser.add_argument("--out", type=Path, help="folder for find_clip.json, find_clip.png, config.yaml")
    parser.add_argument("--sweep", type=Path, metavar="FILE", help="write the search as a W&B sweep")
    parser.add_argument("--optuna", type=Path, metavar="FILE", help="search with Optuna; the file keeps it")
    return parser
