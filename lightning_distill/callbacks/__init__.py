"""Callbacks: each also works in a Trainer of your own."""

from lightning_distill.callbacks.batch_norm_adaptation import BatchNormAdaptation
from lightning_distill.callbacks.best_checkpoint import BestCheckpoint
from lightning_distill.callbacks.clip_gradients import ClipGradients
from lightning_distill.callbacks.configured import ConfiguredHyperparameters
from lightning_distill.callbacks.distill import Distill
from lightning_distill.callbacks.predictions import PredictionWriter
from lightning_distill.callbacks.rank_watch import RankWatch
from lightning_distill.callbacks.sample_table import SampleTable
from lightning_distill.callbacks.save_on_signal import SaveOnSignal
from lightning_distill.callbacks.student_export import StudentExport
from lightning_distill.callbacks.unfreezing import GradualUnfreezing
from lightning_distill.callbacks.wandb_artifacts import WandbArtifacts

__all__ = [
    "BatchNormAdaptation",
    "BestCheckpoint",
    "ClipGradients",
    "ConfiguredHyperparameters",
    "Distill",
    "GradualUnfreezing",
    "PredictionWriter",
    "RankWatch",
    "SampleTable",
    "SaveOnSignal",
    "StudentExport",
    "WandbArtifacts",
]
