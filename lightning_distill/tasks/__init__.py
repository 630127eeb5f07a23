"""Tasks: loss and metrics of what the student is for."""

from lightning_distill.tasks.base import Task
from lightning_distill.tasks.classification import Classification, labelled_cross_entropy

__all__ = ["Classification", "Task", "labelled_cross_entropy"]
