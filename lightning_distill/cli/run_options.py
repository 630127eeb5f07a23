"""Options that `fit`, `validate`, `test` and `predict` have beside Lightning's."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.cli import LightningArgumentParser

from lightning_distill.callbacks import BestCheckpoint
from lightning_distill.cli.settling import MONITOR


def add_run_options(parser: LightningArgumentParser, command: str) -> None:
    """Options of the run folder and of the standing callbacks.

    Args:
        parser: Of the command.
        command: Its name.
    """
    parser.add_argument("--run", type=Path | None, default=None, help="Folder of the run.")
    about = "Keep the teacher's answers on disk, see CachedTeacher; repair: check them all first."
    parser.add_argument("--cache", type=Literal["auto", "repair"] | None, default=None, help=about)
    if command == "fit":
        about = "Go on from the newest good checkpoint of --run; with --config, start it where there is none."
        parser.add_argument("--resume", type=Literal["auto"] | None, default=None, help=about)
        for name, about in (
            ("--overwrite", "Replace --run: all in it goes, its baseline and pairs too."),
            ("--force", "Go on although data, batches or processes are not those of the checkpoint."),
        ):
            parser.add_argument(name, type=bool, default=False, nargs="?", const=True, help=about)
    if command == "predict":
        about = "Parquet file to write; default: predictions.parquet in the run folder."
        parser.add_argument("--output", type=Path | None, default=None, help=about)
    parser.add_class_arguments(EarlyStopping, "early_stopping", fail_untyped=False)
    parser.add_class_arguments(BestCheckpoint, "checkpoint", fail_untyped=False)
    stopping = {**MONITOR, "patience": 10, "strict": False}
    best = {**MONITOR, "filename": "best", "enable_version_counter": False}
    parser.set_defaults({f"early_stopping.{k}": v for k, v in stopping.items()})
    parser.set_defaults({f"checkpoint.{k}": v for k, v in best.items()})
