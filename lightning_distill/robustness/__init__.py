"""What a model is worth as one modality at a time gets worse."""

from lightning_distill.robustness.absence import Absence
from lightning_distill.robustness.base import Corruption
from lightning_distill.robustness.contradiction import Contradiction
from lightning_distill.robustness.curve import Curve, area, effective
from lightning_distill.robustness.curves import robustness_curves
from lightning_distill.robustness.noise import Noise

__all__ = [
    "Absence",
    "Contradiction",
    "Corruption",
    "Curve",
    "Noise",
    "area",
    "effective",
    "robustness_curves",
]
