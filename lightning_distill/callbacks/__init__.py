"""Callbacks: each also works in a Trainer of your own."""

from lightning_distill.callbacks.best_checkpoint import BestCheckpoint
from lightning_distill.callbacks.configured import ConfiguredHyperparameters
from lightning_distill.callbacks.predictions import PredictionWriter
from lightning_distill.callbacks.student_export import StudentExport

__all__ = ["BestCheckpoint", "ConfiguredHyperparameters", "PredictionWriter", "StudentExport"]
