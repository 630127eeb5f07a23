"""What a run leaves for people to read: tables in the terminal, one picture, one HTML page, one JSON file."""

from lightning_distill.reporting.html import save_report
from lightning_distill.reporting.picture import save_picture
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
    "save_picture",
    "save_report",
    "save_subsets",
    "save_summary",
    "story_table",
    "subset_table",
]
