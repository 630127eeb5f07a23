"""What `lightning-distill find-clip` does, once the config is parsed (`lightning_distill.cli.find_clip`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from lightning.pytorch import LightningDataModule
from rich.console import Console

from lightning_distill.commands.doctor import hushed
from lightning_distill.commands.find_clip.lines import chosen_lines, summary_of, with_choice
from lightning_distill.commands.find_clip.onward import next_line
from lightning_distill.commands.find_clip.own import notes as own_notes
from lightning_distill.commands.find_clip.picture import save_picture
from lightning_distill.commands.find_clip.study import run_study
from lightning_distill.commands.find_clip.sweep import sweep_file
from lightning_distill.commands.find_clip.table import show, trial_line
from lightning_distill.commands.making import make
from lightning_distill.module import DistillationModule
from lightning_distill.range_finding.finder import ClipRangeFinder, ClipRangeResult, Goal
from lightning_distill.range_finding.places import FeatureRange, GradientRange, Place
from lightning_distill.range_finding.trials import Trial
from lightning_distill.reporting.atomic import write_atomically, write_json
from lightning_distill.security.secrets import redacted_values

_KEPT: Final = (
    "accelerator",
    "precision",
    "max_epochs",
    "max_steps",
    "limit_train_batches",
    "limit_val_batches",
    "overfit_batches",
    "val_check_interval",
    "check_val_every_n_epoch",
    "log_every_n_steps",
    "accumulate_grad_batches",
    "deterministic",
    "benchmark",
    "inference_mode",
    "detect_anomaly",
    "use_distributed_sampler",
    "reload_dataloaders_every_n_epochs",
)
"""Settings of the Trainer that change what is learnt, or are needed to learn it on one device."""


@dataclass(frozen=True)
class Options:
    """What to look for, and where to write it.

    Attributes:
        steps: Length of a training; None is that of the config.
        trials: Trainings after the first.
        learning_rates: Look for the learning rate too.
        feature: Look for the range of the fused feature, not for that of the gradients.
        out: Folder for table, picture and config; None writes nothing.
        sweep: W&B sweep file to write.
        optuna: File of an Optuna study to go on with.
    """

    steps: int | None = None
    trials: int = 5
    learning_rates: bool = False
    feature: bool = False
    out: Path | None = None
    sweep: Path | None = None
    optuna: Path | None = None


def find(config: Mapping[str, Any], words: list[str], options: Options, console: Console) -> int:
    """Train a handful of times and say which range to use.

    Args:
        config: All keys of `fit`, with full class paths.
        words: Of the command line, after `fit`, that the config was read from.
        options: What to look for.
        console: Where to print.

    Returns:
        Exit code: 0, or 5 where no training ended well, or better than the untrained model.
    """
    finder = finder_of(config, options)
    for note in left_out(config, finder.place):
        console.print(f"note: {note}", highlight=False, markup=False, soft_wrap=True)
    with hushed():
        result = _searched(finder, options, console)
    show(console, result, finder.place)
    lines = chosen_lines(config, result, finder.place)
    heading = "To use it" if result.learnt else "To use it all the same"
    console.print(f"\n{heading}:\n\n{lines}", highlight=False, markup=False, soft_wrap=True)
    written = []
    if options.out is not None:
        written.append(write_json(options.out / "find_clip.json", summary_of(result, finder.place)))
        written.append(save_picture(result, finder.place, options.out / "find_clip.png"))
        whole = with_choice(redacted_values(config), result, finder.place)
        written.append(write_atomically(options.out / "config.yaml", whole))
    if options.sweep is not None:
        sweep = sweep_file(config, redacted_values(words), result, finder.place, options.steps)
        written.append(write_atomically(options.sweep, sweep))
    for path in written:
        console.print(f"Wrote {path}", highlight=False, markup=False, soft_wrap=True)
    if not result.learnt:
        return 5
    if not options.feature:
        line = next_line(config, redacted_values(words), result, finder.place, options)
        console.print(
            f"\nFor the range of the fused feature, with this choice, next:\n\n    {line}",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
    return 0


def _searched(finder: ClipRangeFinder, options: Options, console: Console) -> ClipRangeResult:
    def report(trial: Trial) -> None:
        trial_line(console, trial, finder.settled_goal().monitor)

    if options.optuna is None:
        return finder.run(report)
    try:
        return run_study(finder, options.optuna, report)
    except KeyboardInterrupt:
        console.print(f"{options.optuna} keeps what is done; the same line goes on", markup=False)
        raise


def finder_of(config: Mapping[str, Any], options: Options) -> ClipRangeFinder:
    """A finder of the config's range.

    Args:
        config: All keys of `fit`.
        options: What to look for.
    """
    given = config.get("trainer") or {}
    trainer = {key: given[key] for key in _KEPT if given.get(key) is not None}
    if options.steps is not None:
        trainer |= {"max_steps": options.steps, "max_epochs": -1}
    checkpoint, seed = config.get("checkpoint") or {}, config.get("seed_everything")
    monitor = checkpoint.get("monitor")
    return ClipRangeFinder(
        lambda: make(DistillationModule, "model", config["model"]),
        make(LightningDataModule, "data", config["data"]),
        {**trainer, "devices": 1},
        FeatureRange() if options.feature else GradientRange(),
        options.learning_rates,
        options.trials,
        Goal(monitor, checkpoint.get("mode") or "min") if monitor else None,
        seed if isinstance(seed, int) and not isinstance(seed, bool) else 0,
    )


def left_out(config: Mapping[str, Any], place: Place) -> list[str]:
    """What of a config the trainings do without, or hold on to at the place of the range.

    Args:
        config: All keys of `fit`.
        place: Of the range.
    """
    trainer, notes = config.get("trainer") or {}, own_notes(config, place)
    if trainer.get("callbacks"):
        notes.append("callbacks of the config take no part")
    if trainer.get("devices") not in (None, 1, "1", "auto") or (trainer.get("num_nodes") or 1) > 1:
        notes.append(
            "trainings run on one device: with several, a step averages more samples, and |g| is smaller"
        )
    if trainer.get("gradient_clip_val"):
        notes.append("trainer.gradient_clip_val is left out; remove it before a clip rule is used")
    return notes
