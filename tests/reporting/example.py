"""An example summary. Every number in it is invented: it tests how numbers are shown, not what they are."""

from __future__ import annotations

from copy import deepcopy

from lightning_distill.reporting import ClipCell, StoryRow, Summary


def row(
    name: str,
    modalities: list[str],
    params: int,
    ms: float,
    accuracies: list[float],
    agreement: float,
    ece: float,
) -> StoryRow:
    mean = sum(accuracies) / len(accuracies)
    variance = sum((a - mean) ** 2 for a in accuracies) / (len(accuracies) - 1)
    return {
        "name": name,
        "modalities": modalities,
        "params": params,
        "ms_per_sample": ms,
        "accuracy_mean": mean,
        "accuracy_se": (variance / len(accuracies)) ** 0.5,
        "accuracies": accuracies,
        "agreement": agreement,
        "ece": ece,
    }


def cell(
    optimizer: str, rate: float, broken: bool, clipped: bool, accuracy: float, step: int | None = None
) -> ClipCell:
    return {
        "optimizer": optimizer,
        "learning_rate": rate,
        "broken": broken,
        "clipped": clipped,
        "accuracy": accuracy,
        "stopped_at_step": step,
    }


_EXAMPLE: Summary = {
    "title": "EXAMPLE WITH INVENTED NUMBERS: three modalities teach one",
    "version": "0.1.0",
    "command": "lightning-distill demo --out results/demo",
    "seconds": 163.4,
    "seeds": [0, 1, 2],
    "settings": {
        "labelled target samples": 50,
        "optimizer steps a model": 300,
        "batch size": 64,
        "optimizer": "AdamW, one-cycle schedule",
        "learning rate": 0.004,
        "temperature": 2.0,
        "alpha (weight of distillation)": 0.9,
        "clip rule": "ValueClip(epsilon=0.01)",
    },
    "data": [
        {
            "modality": "image",
            "source": "MNIST: US census and high-school handwriting, 28 x 28",
            "target": "optdigits: Turkish and other handwriting from a pressure tablet, 8 x 8",
        },
        {
            "modality": "text",
            "source": "number words of 40 languages",
            "target": "number words of 34 languages that the source does not hold",
        },
        {
            "modality": "audio",
            "source": "synthetic speech, 12 voices, English",
            "target": "synthetic speech, 10 other voices with accents, telephone band, noise at 10 dB",
        },
    ],
    "rows": [
        row("teacher", ["image", "text", "audio"], 75_530, 0.412, [0.951, 0.957, 0.948], 1.0, 0.021),
        row("image source-only", ["image"], 18_602, 0.081, [0.601, 0.655, 0.632], 0.638, 0.187),
        row("image scratch", ["image"], 18_602, 0.081, [0.741, 0.772, 0.756], 0.747, 0.092),
        row("image distilled", ["image"], 18_602, 0.082, [0.942, 0.951, 0.939], 0.957, 0.024),
        row("image distilled + clip", ["image"], 18_602, 0.084, [0.944, 0.949, 0.941], 0.958, 0.023),
        row("image ceiling", ["image"], 18_602, 0.081, [0.968, 0.972, 0.965], 0.949, 0.018),
        row("audio source-only", ["audio"], 21_338, 0.145, [0.312, 0.401, 0.358], 0.361, 0.344),
        row("audio scratch", ["audio"], 21_338, 0.146, [0.433, 0.471, 0.402], 0.437, 0.221),
        row("audio distilled", ["audio"], 21_338, 0.145, [0.771, 0.792, 0.755], 0.781, 0.061),
        row("audio distilled + clip", ["audio"], 21_338, 0.147, [0.768, 0.795, 0.761], 0.783, 0.058),
        row("audio ceiling", ["audio"], 21_338, 0.145, [0.903, 0.911, 0.899], 0.871, 0.033),
    ],
    "gap_closed": {
        "image": {"mean": 0.8812, "se": 0.0301, "values": [0.885, 0.895, 0.866]},
        "audio": {"mean": 0.7243, "se": 0.0188, "values": [0.719, 0.730, 0.724]},
    },
    "clip": {
        "rule": "ValueClip(epsilon=0.01)",
        "cells": [
            cell("AdamW", 0.004, False, False, 0.984),
            cell("AdamW", 0.004, False, True, 0.983),
            cell("AdamW", 0.004, True, False, 0.829),
            cell("AdamW", 0.004, True, True, 0.975),
            cell("SGD", 0.1, False, False, 0.971),
            cell("SGD", 0.1, False, True, 0.966),
            cell("SGD", 0.1, True, False, 0.102, 117),
            cell("SGD", 0.1, True, True, 0.958),
            cell("SGD", 1.0, False, False, 0.098, 43),
            cell("SGD", 1.0, False, True, 0.962),
            cell("SGD", 1.0, True, False, 0.113, 8),
            cell("SGD", 1.0, True, True, 0.947),
        ],
    },
    "feature_clip": {
        "clip": "HardClip(epsilon=1.0)",
        "modality": "audio",
        "share": 0.05,
        "value": 1000.0,
        "clean": {"without": 0.982, "with": 0.979},
        "corrupted": {"without": 0.214, "with": 0.871},
    },
    "notes": [
        "Distillation closes most of the gap for both students, without one more label.",
        "The clip rule adds nothing to distillation with AdamW: the difference is inside the standard error.",
        "On clean data AdamW needs no clip rule; broken samples and large learning rates do.",
        "The speech is synthetic: these figures say nothing about human speakers.",
    ],
    "next": "lightning-distill fit --config configs/experiment/image_text_resnet_bert.yaml",
}


def example() -> Summary:
    """A fresh copy."""
    return deepcopy(_EXAMPLE)
