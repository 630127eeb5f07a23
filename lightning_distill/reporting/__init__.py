"""What a run leaves for people to read: tables in the terminal, one picture, one HTML page, one JSON file."""

from lightning_distill.reporting.contribution import (
    contribution_sentence,
    contribution_table,
    save_contributions,
    save_sample_contributions,
)
from lightning_distill.reporting.html import save_report
from lightning_distill.reporting.picture import save_picture
from lightning_distill.reporting.robustness import robustness_table, save_robustness
from lightning_distill.reporting.robustness_picture import save_robustness_picture
from lightning_distill.reporting.run_page import save_run_report
from lightning_distill.reporting.subsets import save_subsets, subset_table
from lightning_distill.reporting.summary import (
    ClipCell,
    ClipStudy,
    Domain,
    FeatureClipStudy,
    GapClosed,
    StoryRow,
    Summary,
    WithAndWithout,
    save_summary,
)
from lightning_distill.reporting.tables import clip_table, story_table

__all__ = [
    "ClipCell",
    "ClipStudy",
    "Domain",
    "FeatureClipStudy",
    "GapClosed",
    "StoryRow",
    "Summary",
    "WithAndWithout",
    "clip_table",
    "contribution_sentence",
    "contribution_table",
    "robustness_table",
    "save_contributions",
    "save_picture",
    "save_report",
    "save_robustness",
    "save_robustness_picture",
    "save_run_report",
    "save_sample_contributions",
    "save_subsets",
    "save_summary",
    "story_table",
    "subset_table",
]
