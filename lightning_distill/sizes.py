"""Checks of the numbers that layers are built from."""

from __future__ import annotations

from collections.abc import Mapping

from lightning_distill.errors import ConfigError


def check_sizes(where: str, sizes: Mapping[str, int]) -> None:
    """Widths, ranks and counts are 1 or more.

    Args:
        where: Class that is built of them.
        sizes: Name of the option -> its value.

    Raises:
        ConfigError: Names the first that is not.
    """
    for name, size in sizes.items():
        if size < 1:
            raise ConfigError(
                where=f"{where}.{name}",
                found=size,
                expected="1 or more",
                fix="set a positive number, or leave it out for its default",
            )


def check_dropout(where: str, dropout: float) -> None:
    """It is a probability that leaves something.

    Args:
        where: Class that has the option `dropout`.
        dropout: Its value.

    Raises:
        ConfigError: If it is not in [0, 1).
    """
    if not 0 <= dropout < 1:
        raise ConfigError(
            where=f"{where}.dropout",
            found=dropout,
            expected="a probability of 0 or more and below 1",
            fix="try 0.1, or 0 for none",
        )
