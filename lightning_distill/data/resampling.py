"""Sounds at another sample rate."""

from __future__ import annotations

from math import gcd
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_distill.errors import ConfigError


def resampled(samples: NDArray[np.float32], rate: int, wanted: int) -> Any:
    """The sound with the filter of `scipy.signal.resample_poly`.

    Args:
        samples: "time".
        rate: Hz.
        wanted: Hz.

    Returns:
        "time".

    Raises:
        ConfigError: If scipy is not installed.
    """
    try:
        from scipy.signal import resample_poly
    except ImportError as error:
        raise ConfigError(
            where="reading sounds",
            found=f"a sound at {rate} Hz, and no package scipy, which resamples it",
            expected=f"scipy, or sounds at {wanted} Hz",
            fix="pip install scipy",
        ) from error
    common = gcd(rate, wanted)
    return resample_poly(samples, wanted // common, rate // common)
