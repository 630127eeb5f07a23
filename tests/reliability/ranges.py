"""Every number that a part of the package takes, tried below its range and as NaN."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

from lightning_distill.errors import DistillError
from tests.shelves import build, concrete

SHELVES = (
    "clipping",
    "encoders",
    "feature_clipping",
    "fusion",
    "gradient_balancing",
    "losses",
    "schedules",
    "validators",
)
FREE = (
    "MCBFusion.seed=-1",  # any whole number
    "ProxyKD.threshold=-1.0",  # of a cosine
    "SigmoidRamp.high=-1.0",  # a ramp may end below 0
)
"""Numbers that may be so."""


def accepted() -> Iterator[str]:
    """Class, argument and value of what is not refused by an error of ours."""
    for shelf in SHELVES:
        for kind in concrete(shelf):
            first: tuple[Any, ...] = ({"a": 4, "b": 5},) if shelf == "fusion" else ()
            for parameter in inspect.signature(kind).parameters.values():
                annotation = str(parameter.annotation)
                numbers = (-1.0, float("nan")) if annotation.startswith("float") else ()
                for value in numbers or ((-1,) if annotation.startswith("int") else ()):
                    try:
                        build(kind, *first, **{parameter.name: value})
                    except DistillError:
                        continue
                    except Exception as error:
                        yield f"{kind.__name__}.{parameter.name}={value}: {type(error).__name__}"
                    else:
                        yield f"{kind.__name__}.{parameter.name}={value}"
