"""Terms: what a student takes over from its teacher, and what is to be alike in two domains."""

from lightning_distill.losses.alignment_base import AlignmentLoss
from lightning_distill.losses.attention_transfer import AttentionTransfer, attention_transfer
from lightning_distill.losses.base import (
    Adapted,
    AdaptedLoss,
    DistillationLoss,
    LayerLoss,
    MapLoss,
    ProjectedLoss,
    gather_rows,
    rows_there,
)
from lightning_distill.losses.cka import CKA, linear_cka
from lightning_distill.losses.contrastive_representation import (
    ContrastiveRepresentation,
    contrastive_representation,
)
from lightning_distill.losses.cross_modal_contrastive import CrossModalContrastive, contrastive_alignment
from lightning_distill.losses.decoupled_kd import DecoupledKD, decoupled_kd
from lightning_distill.losses.dist import DIST, dist
from lightning_distill.losses.hint import Hint, hint
from lightning_distill.losses.jensen_shannon import JensenShannon, jensen_shannon
from lightning_distill.losses.logit_kd import LogitKD, logit_kd
from lightning_distill.losses.modality_general import (
    ModalityGeneralHint,
    masked_hint,
    modality_general_saliency,
)
from lightning_distill.losses.multilabel_kd import MultilabelKD, multilabel_kd
from lightning_distill.losses.neuron_selectivity import NeuronSelectivity, neuron_selectivity
from lightning_distill.losses.on_target import OnTarget
from lightning_distill.losses.one_for_all import OneForAll, one_for_all
from lightning_distill.losses.overhaul import Overhaul, negative_mean, overhaul
from lightning_distill.losses.probabilistic import ProbabilisticTransfer, probabilistic_transfer
from lightning_distill.losses.proxy_kd import ProxyKD, kendall_tau, proxy_kd
from lightning_distill.losses.regression_kd import RegressionKD, regression_kd
from lightning_distill.losses.relational import RKD, rkd_angle, rkd_distance
from lightning_distill.losses.review import Review, ReviewBlock, hierarchical_context
from lightning_distill.losses.similarity_preserving import SimilarityPreserving, similarity_preserving
from lightning_distill.losses.standardized import StandardizedLogits, standardize
from lightning_distill.losses.variational import VariationalInformation, variational_information

__all__ = [
    "CKA",
    "DIST",
    "RKD",
    "Adapted",
    "AdaptedLoss",
    "AlignmentLoss",
    "AttentionTransfer",
    "ContrastiveRepresentation",
    "CrossModalContrastive",
    "DecoupledKD",
    "DistillationLoss",
    "Hint",
    "JensenShannon",
    "LayerLoss",
    "LogitKD",
    "MapLoss",
    "ModalityGeneralHint",
    "MultilabelKD",
    "NeuronSelectivity",
    "OnTarget",
    "OneForAll",
    "Overhaul",
    "ProbabilisticTransfer",
    "ProjectedLoss",
    "ProxyKD",
    "RegressionKD",
    "Review",
    "ReviewBlock",
    "SimilarityPreserving",
    "StandardizedLogits",
    "VariationalInformation",
    "attention_transfer",
    "contrastive_alignment",
    "contrastive_representation",
    "decoupled_kd",
    "dist",
    "gather_rows",
    "hierarchical_context",
    "hint",
    "jensen_shannon",
    "kendall_tau",
    "linear_cka",
    "logit_kd",
    "masked_hint",
    "modality_general_saliency",
    "multilabel_kd",
    "negative_mean",
    "neuron_selectivity",
    "one_for_all",
    "overhaul",
    "probabilistic_transfer",
    "proxy_kd",
    "regression_kd",
    "rkd_angle",
    "rkd_distance",
    "rows_there",
    "similarity_preserving",
    "standardize",
    "variational_information",
]
