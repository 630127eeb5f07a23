"""Terms: what a student takes over from its teacher, and what is to be alike in two domains."""

from lightning_distill.losses.adversarial_base import AdversarialLoss, domain_cross_entropy
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
from lightning_distill.losses.class_confusion import MinimumClassConfusion, class_confusion
from lightning_distill.losses.conditional_adversarial import (
    ConditionalAdversarial,
    entropy_weight,
    multilinear_map,
)
from lightning_distill.losses.consistency import Consistency, consistency
from lightning_distill.losses.contrastive_representation import (
    ContrastiveRepresentation,
    contrastive_representation,
)
from lightning_distill.losses.coral import CORAL, coral
from lightning_distill.losses.cross_modal_contrastive import CrossModalContrastive, contrastive_alignment
from lightning_distill.losses.decoupled_kd import DecoupledKD, decoupled_kd
from lightning_distill.losses.dist import DIST, dist
from lightning_distill.losses.domain_adversarial import DomainAdversarial
from lightning_distill.losses.entropy import (
    EntropyMinimisation,
    InformationMaximisation,
    entropy,
    information_maximisation,
)
from lightning_distill.losses.excluding import Excluding
from lightning_distill.losses.hint import Hint, hint
from lightning_distill.losses.jensen_shannon import JensenShannon, jensen_shannon
from lightning_distill.losses.logit_kd import LogitKD, logit_kd
from lightning_distill.losses.maximum_mean_discrepancy import MaximumMeanDiscrepancy, maximum_mean_discrepancy
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
from lightning_distill.losses.pseudo_labels import PseudoLabels, pseudo_label_loss, pseudo_labels
from lightning_distill.losses.regression_kd import RegressionKD, regression_kd
from lightning_distill.losses.relational import RKD, rkd_angle, rkd_distance
from lightning_distill.losses.review import Review, ReviewBlock, hierarchical_context
from lightning_distill.losses.rows_base import RowsLoss
from lightning_distill.losses.similarity_preserving import SimilarityPreserving, similarity_preserving
from lightning_distill.losses.standardized import StandardizedLogits, standardize
from lightning_distill.losses.target_base import TargetLoss
from lightning_distill.losses.variational import VariationalInformation, variational_information

__all__ = [
    "CKA",
    "CORAL",
    "DIST",
    "RKD",
    "Adapted",
    "AdaptedLoss",
    "AdversarialLoss",
    "AlignmentLoss",
    "AttentionTransfer",
    "ConditionalAdversarial",
    "Consistency",
    "ContrastiveRepresentation",
    "CrossModalContrastive",
    "DecoupledKD",
    "DistillationLoss",
    "DomainAdversarial",
    "EntropyMinimisation",
    "Excluding",
    "Hint",
    "InformationMaximisation",
    "JensenShannon",
    "LayerLoss",
    "LogitKD",
    "MapLoss",
    "MaximumMeanDiscrepancy",
    "MinimumClassConfusion",
    "ModalityGeneralHint",
    "MultilabelKD",
    "NeuronSelectivity",
    "OnTarget",
    "OneForAll",
    "Overhaul",
    "ProbabilisticTransfer",
    "ProjectedLoss",
    "ProxyKD",
    "PseudoLabels",
    "RegressionKD",
    "Review",
    "ReviewBlock",
    "RowsLoss",
    "SimilarityPreserving",
    "StandardizedLogits",
    "TargetLoss",
    "VariationalInformation",
    "attention_transfer",
    "class_confusion",
    "consistency",
    "contrastive_alignment",
    "contrastive_representation",
    "coral",
    "decoupled_kd",
    "dist",
    "domain_cross_entropy",
    "entropy",
    "entropy_weight",
    "gather_rows",
    "hierarchical_context",
    "hint",
    "information_maximisation",
    "jensen_shannon",
    "kendall_tau",
    "linear_cka",
    "logit_kd",
    "masked_hint",
    "maximum_mean_discrepancy",
    "modality_general_saliency",
    "multilabel_kd",
    "multilinear_map",
    "negative_mean",
    "neuron_selectivity",
    "one_for_all",
    "overhaul",
    "probabilistic_transfer",
    "proxy_kd",
    "pseudo_label_loss",
    "pseudo_labels",
    "regression_kd",
    "rkd_angle",
    "rkd_distance",
    "rows_there",
    "similarity_preserving",
    "standardize",
    "variational_information",
]
