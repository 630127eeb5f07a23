"""`lightning-distill doctor`: the config is parsed as `fit` parses it, the rest is in `commands.doctor`."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from lightning_distill.errors import ConfigError


def main(argv: Sequence[str]) -> int:
    """Check everything that can be checked before the first step.

    Args:
        argv: Words after `doctor`.

    Returns:
        Exit code: 0 without errors (warnings or not), 2 for a wrong setting, 3 for bad data.
    """
    options, rest = _parser().parse_known_args(list(argv))
    configs = [*options.config, *([str(options.run / "config.yaml")] if options.run else [])]
    if not configs:
        raise ConfigError(
            where="command line",
            found="no config",
            expected="the config to check",
            fix="add --config FILE, or --run RUN for the config of a run",
        )
    if options.samples < 1 or options.workers < 0:
        raise ConfigError(
            where="command line",
            found=f"--samples {options.samples} --workers {options.workers}",
            expected="1 sample or more, and 0 workers or more",
            fix="leave them out",
        )

    from rich.console import Console

    from lightning_distill.cli.parsing import parsed
    from lightning_distill.commands.doctor import Options, examine, hushed

    words = ["fit", *(word for config in configs for word in ("--config", config)), *rest]
    samples = None if options.all else options.samples
    with hushed():
        return examine(parsed(words), Options(samples, options.workers), Console())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lightning-distill doctor",
        description="Check a config and its data before training. Settings can follow, as for fit.",
        allow_abbrev=False,
    )
    parser.add_argument("-c", "--config", action="append", default=[], metavar="FILE", help="config of `fit`")
    parser.add_argument("--run", type=Path, help="check the config of this run")
    parser.add_argument("--all", action="store_true", help="decode every sample, not some")
    parser.add_argument(
        "--samples", type=int, default=200, metavar="N", help="how many to decode; default: 200"
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=min(4, os.cpu_count() or 1),
        metavar="N",
        help="processes that decode; default: one a core, at most 4",
    )
    return parser
