"""LightningCLI with run folders, loggers, and a command line that always wins."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from jsonargparse import ArgumentError, Namespace
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities.rank_zero import rank_zero_warn  # type: ignore[attr-defined]
from torch.multiprocessing.spawn import ProcessExitedException

from lightning_distill.callbacks import (
    ConfiguredHyperparameters,
    PredictionWriter,
    RankWatch,
    SampleTable,
    SaveOnSignal,
    StudentExport,
    WandbArtifacts,
)
from lightning_distill.cli import names
from lightning_distill.cli.allowed import restrict_imports
from lightning_distill.cli.loggers import finish_wandb, loggers_of_run
from lightning_distill.cli.mistakes import explain
from lightning_distill.cli.ranges import check_ranges
from lightning_distill.cli.run_folder import RunFolder
from lightning_distill.cli.run_options import add_run_options
from lightning_distill.cli.run_record import RunRecord
from lightning_distill.cli.run_resume import checkpoint_to_resume
from lightning_distill.cli.run_space import check_room
from lightning_distill.cli.saying import say_differences, say_result
from lightning_distill.cli.settling import follow_task, use_cache, with_verified_checkpoints
from lightning_distill.cli.wandb_sync import sync_line
from lightning_distill.cli.words import (
    check_nothing_masked,
    check_there,
    names_config,
    run_stem,
    with_config_of_run,
)
from lightning_distill.errors import printable
from lightning_distill.module import DistillationModule
from lightning_distill.quiet import silence_tips
from lightning_distill.security.secrets import redacted_values
from lightning_distill.taught import TaughtModule

_LEFT = (130, 143)
"""Exit codes of a training process that a signal has ended, where a launcher has forked it."""
_NOT_KEPT = ("run", "resume", "overwrite", "force", "output", "ckpt_path")
"""Options that say where to run, and have no place in the config of a run."""


class DistillationCLI(LightningCLI):
    """`fit`, `validate`, `test` and `predict` in subclass mode; runs when made.

    Args:
        command: Which of them.
        words: The command line after the program's name.
        callbacks: To be added to those of the config; they are not written down.
    """

    def __init__(self, command: str, words: Sequence[str], callbacks: Sequence[Callback] = ()) -> None:
        names.import_shelves()
        silence_tips()
        restrict_imports()
        self.command, self.words, self._added = command, list(words), list(callbacks)
        self.folder: RunFolder | None = None
        self._signals: SaveOnSignal | None = None
        self._ranks: RankWatch | None = None
        quietly = {"exit_on_error": False, "allow_abbrev": False}
        super().__init__(
            DistillationModule,
            LightningDataModule,
            save_config_callback=None,
            trainer_defaults={"use_distributed_sampler": False},
            seed_everything_default=0,
            parser_kwargs={**quietly, "prog": "lightning-distill", command: dict(quietly)},
            subclass_mode_model=True,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            args=with_config_of_run(command, self.words),
        )

    # -- parsing --------------------------------------------------------------------------------------

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """Only the one that is asked for: each parser takes its time to build."""
        return {self.command: super().subcommands()[self.command]}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Options of the run folder and of the standing callbacks."""
        self._command_parser = parser
        add_run_options(parser, self.command)

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse, and turn what is wrong into one paragraph."""
        try:
            self.config = parser.parse_args(args if isinstance(args, list) else None)
        except ArgumentError as error:
            keys = list(self._command_parser.get_defaults().keys())
            raise explain(error, keys, self.words) or error from error
        check_nothing_masked(self.options.as_dict())
        check_ranges(self.options, self.words)

    def _parse_ckpt_path(self) -> None:
        """Do nothing: Lightning would let the checkpoint's hyperparameters beat the command line."""

    # -- making the objects ---------------------------------------------------------------------------

    @property
    def options(self) -> Namespace:
        """The parsed config of the command."""
        options: Namespace = self.config[self.command]
        return options

    def before_instantiate_classes(self) -> None:
        """Settle the run folder and the checkpoint before anything is made."""
        options = self.options
        check_there(options.ckpt_path)
        follow_task(options)
        if options.cache is not None:
            use_cache(options)
        if self.command == "fit":
            self._settle_fit(options)
            return
        if options.run is not None:
            self.folder = RunFolder(options.run)
            options.ckpt_path = options.ckpt_path or str(self.folder.best_checkpoint())
        elif options.ckpt_path:
            self.folder = RunFolder.of_checkpoint(options.ckpt_path)
        else:
            rank_zero_warn(
                "neither --run nor --ckpt_path: the model is used as the config makes it, untrained"
            )
        if self.command == "predict":
            options.return_predictions = bool(options.return_predictions)
            home = Path(".") if self.folder is None else self.folder.path
            self._predictions = PredictionWriter(options.output or home / "predictions.parquet")

    def _settle_fit(self, options: Namespace) -> None:
        if options.trainer.fast_dev_run:
            return
        resume = options.resume is not None
        folder = RunFolder.for_fit(options.run, resume, options.overwrite, run_stem(self.words))
        if resume:
            found = checkpoint_to_resume(folder, options.ckpt_path, may_start=names_config(self.words))
            options.ckpt_path = None if found is None else str(found)
        self.folder = folder

    def instantiate_classes(self) -> None:
        """Make the objects; jsonargparse wraps our errors, so unwrap them."""
        try:
            super().instantiate_classes()
        except Exception as error:
            known = explain(error, (), self.words)
            if known is None or known is error:
                raise
            raise known from None

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Add the standing callbacks and loggers."""
        given = self.config_init[self.command]
        callbacks = given.trainer.callbacks or []
        callbacks = [*([callbacks] if isinstance(callbacks, Callback) else callbacks), *self._added]
        loggers = given.trainer.logger
        if self.command == "fit" and self.folder is not None:
            loggers = loggers_of_run(loggers, self.folder.path, self.folder.wandb_id())
            callbacks += self._fit_callbacks(given, self.folder, callbacks, loggers)
            callbacks.sort(
                key=lambda c: isinstance(c, WandbArtifacts)
            )  # after the one that saves the student
        elif isinstance(loggers, bool) or loggers is None:
            loggers = False
        if self.command != "fit" and not any(isinstance(c, ModelCheckpoint) for c in callbacks):
            kwargs.setdefault("enable_checkpointing", False)
        if self.command == "predict":
            callbacks.append(self._predictions)
        kwargs["plugins"] = with_verified_checkpoints(given.trainer.plugins)
        if self.folder is not None:
            kwargs.setdefault("default_root_dir", given.trainer.default_root_dir or str(self.folder.path))
        return super().instantiate_trainer(callbacks=callbacks, logger=loggers, **kwargs)

    def _fit_callbacks(
        self, given: Namespace, folder: RunFolder, own: list[Callback], loggers: list[Logger]
    ) -> list[Callback]:
        self._signals, self._ranks = SaveOnSignal(folder.checkpoints), RankWatch({"config": self.config_text})
        added: list[Callback] = [ConfiguredHyperparameters(), self._signals, self._ranks]
        added.append(RunRecord(folder, self.told_config, self.words, loggers))
        if not any(isinstance(callback, EarlyStopping) for callback in own):
            added.append(given.early_stopping)
        plain = self.plain_config.get("model") or {}
        init_args = plain.get("init_args") or {}
        student = init_args.get("student") or next(iter((init_args.get("students") or {}).values()), None)
        if isinstance(student, dict):
            added.append(StudentExport(folder.student, student))
        if any(isinstance(logger, WandbLogger) for logger in loggers):
            standing = (WandbArtifacts(folder.student), SampleTable())
            added += [c for c in standing if not any(isinstance(callback, type(c)) for callback in own)]
        if given.trainer.enable_checkpointing is not False:
            given.checkpoint.dirpath = given.checkpoint.dirpath or str(folder.checkpoints)
            last = ModelCheckpoint(
                folder.checkpoints,
                filename="last",
                save_on_train_epoch_end=True,
                enable_version_counter=False,
            )
            added += [given.checkpoint, last]  # in this order, so that `last` knows of the newest best
        return added

    @property
    def config_text(self) -> str:
        """The full config, without what only concerns this call."""
        return str(yaml.safe_dump(self.plain_config, sort_keys=False, allow_unicode=True))

    @property
    def told_config(self) -> str:
        """The same without secrets, for what is written and printed."""
        plain = redacted_values(self.plain_config)
        return str(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True))

    @cached_property
    def plain_config(self) -> dict[str, Any]:
        """`config_text` as a dict."""
        text = self.parser.dump(self.config, skip_none=False, skip_validation=True, format="yaml")
        found: dict[str, Any] = yaml.safe_load(text)[self.command]
        return {key: value for key, value in found.items() if key not in _NOT_KEPT}

    # -- running --------------------------------------------------------------------------------------

    def fit(self, model: LightningModule, **kwargs: Any) -> None:
        """Train; what fails before the first step leaves no folder behind."""
        if self.folder is None:
            self.trainer.fit(model, **kwargs)
            return
        say_differences(self.options.ckpt_path, self.told_config)
        loggers = [lg for lg in self.trainer.loggers if isinstance(lg, WandbLogger)]
        if isinstance(model, TaughtModule):
            model.forced = bool(self.options.force)
        with self.folder:
            if self.trainer.is_global_zero and self.trainer.checkpoint_callbacks:
                check_room(self.folder.checkpoints, model)
            try:
                self.trainer.fit(model, **kwargs)
                # Only the first process has a run to tell of; the others' is a dummy.
                mine = loggers if self.trainer.is_global_zero else []
                lines = [line for logger in mine if (line := sync_line(logger))]
            except SystemExit as stop:
                raise SystemExit(self._exit_code or _code_of(stop)) from None
            except Exception as error:
                if isinstance(error, ProcessExitedException) and error.exit_code in _LEFT:
                    raise SystemExit(error.exit_code) from None
                failure = None if self._ranks is None else self._ranks.failure()
                if failure is None:
                    raise
                raise failure from error
            finally:
                finish_wandb(loggers)
        if self.trainer.is_global_zero:
            say_result(self.folder, lines)
        if self._exit_code:  # the signal came when there was nothing left to interrupt
            raise SystemExit(self._exit_code)

    @property
    def _exit_code(self) -> int:
        return 0 if self._signals is None else self._signals.exit_code

    def predict(self, model: LightningModule, **kwargs: Any) -> None:
        """Write predictions."""
        self.trainer.predict(model, **kwargs)
        if self.trainer.is_global_zero:
            print(printable(f"predictions of the test split: {self._predictions.path}", 5000))


def _code_of(stop: SystemExit) -> int:
    """The exit code that it stands for; a message is a failure."""
    return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
