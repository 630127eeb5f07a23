"""The demo's settings, all in one place and free of heavy imports."""

from __future__ import annotations

from typing import Final

SEEDS: Final = (0, 1, 2)
STEPS: Final = 250
"""Optimizer steps, the same for every training."""
MODALITIES: Final = ("image", "text", "audio")
STUDENTS: Final = ("image", "audio")
BATCH_SIZE: Final = 64
LEARNING_RATE: Final = 4e-3
"""Highest of the one-cycle schedule, AdamW."""

LABELS: Final = 50
"""Labelled samples of the target domain."""
LABELLED_PER_BATCH: Final = 16
TEMPERATURE: Final = 2.0
ALPHA: Final = 0.9
"""Weight of distillation; the labels have 1 - alpha."""
MODALITY_DROPOUT: Final = 0.5
"""Of the teacher, so that each of its encoders learns on its own."""

EPSILON: Final = 0.01
"""Range of the gradient clip."""
FEATURE_EPSILON: Final = 1.0
"""Range of the fused-feature clip."""
CLIP_STEPS: Final = 120
"""Optimizer steps of a training of the second table."""
CLIP_GRID: Final = (
    ("AdamW", LEARNING_RATE, (False, True)),
    ("SGD", 0.1, (False, True)),
    ("SGD", 1.0, (False,)),
)
"""Optimizers and learning rates of the second table, on clean (False) and broken (True) data."""

BROKEN_MODALITY: Final = "audio"
BROKEN_SHARE: Final = 0.01
BROKEN_FACTOR: Final = 100.0
CORRUPTED_SHARE: Final = 0.05
CORRUPTED_VALUE: Final = 1000.0
