"""What teachers know, fused with the data of a new domain; see `fuse`."""

from lightning_distill.knowledge_fusion.base import FusionContext, FusionStep
from lightning_distill.knowledge_fusion.fused import FusedKnowledge, FusionNumbers
from lightning_distill.knowledge_fusion.fusing import fuse
from lightning_distill.knowledge_fusion.means import ArithmeticMean, ConfidentMean, GeometricMean, TeacherMean
from lightning_distill.knowledge_fusion.prior import PriorCorrection, corrected, estimated_prior
from lightning_distill.knowledge_fusion.propagation import LabelPropagation, neighbour_graph, propagated

__all__ = [
    "ArithmeticMean",
    "ConfidentMean",
    "FusedKnowledge",
    "FusionContext",
    "FusionNumbers",
    "FusionStep",
    "GeometricMean",
    "LabelPropagation",
    "PriorCorrection",
    "TeacherMean",
    "corrected",
    "estimated_prior",
    "fuse",
    "neighbour_graph",
    "propagated",
]
