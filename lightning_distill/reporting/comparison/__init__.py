"""Runs side by side: metrics, settings in which they differ, and what they were made with."""

from lightning_distill.reporting.comparison.page import save_comparison
from lightning_distill.reporting.comparison.runs import ComparedRun, compared_run
from lightning_distill.reporting.comparison.table import comparison_tables

__all__ = ["ComparedRun", "compared_run", "comparison_tables", "save_comparison"]
