"""Validators: how good a model is in the target domain, told without its labels, as metrics to monitor."""

from lightning_distill.validators.agreement import TeacherAgreement, teacher_agreement
from lightning_distill.validators.base import Answers, TargetValidator
from lightning_distill.validators.density import SoftNeighbourhoodDensity, soft_neighbourhood_density
from lightning_distill.validators.entropy import NegativeEntropy, negative_entropy
from lightning_distill.validators.importance import (
    ImportanceWeightedRisk,
    density_ratio,
    importance_weighted_risk,
)
from lightning_distill.validators.information import MutualInformation, mutual_information
from lightning_distill.validators.nuclear_norm import BatchNuclearNorm, batch_nuclear_norm

__all__ = [
    "Answers",
    "BatchNuclearNorm",
    "ImportanceWeightedRisk",
    "MutualInformation",
    "NegativeEntropy",
    "SoftNeighbourhoodDensity",
    "TargetValidator",
    "TeacherAgreement",
    "batch_nuclear_norm",
    "density_ratio",
    "importance_weighted_risk",
    "mutual_information",
    "negative_entropy",
    "soft_neighbourhood_density",
    "teacher_agreement",
]
