"""`lightning-distill`, also `python -m lightning_distill`. Imports nothing heavy before it must."""

from __future__ import annotations

import errno
import signal
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Final

from lightning_distill import __version__
from lightning_distill.cli.allowed import take_allowed
from lightning_distill.errors import ConfigError, DiskError, DistillError, nearest, printable
from lightning_distill.security.allowed import kept

_DISK: Final = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS)

_TRAINER: Final = {
    "fit": "train a teacher or distil a student",
    "validate": "evaluate on the validation data",
    "test": "evaluate on the test data",
    "predict": "write predictions as Parquet",
}
_OTHERS: Final = {
    "list": "what a config may name, and what it takes",
    "init": "look at your data and write a config for them",
    "doctor": "check a config and its data before training",
    "evaluate": "metrics for every subset of a student's modalities",
    "contribution": "what each modality adds to a student's answers",
    "robustness": "metrics as one modality at a time gets worse",
    "report": "a page on why a student is as it is, and what to change",
    "compare": "runs side by side, and in what their configs differ",
    "baseline": "the student of a run without its teacher, to compare",
    "export": "a student alone: safetensors, ONNX, torch.export, model card",
    "cache": "let a teacher answer before training, once for all runs",
    "knowledge": "keep what a teacher knows about a data set",
    "fuse": "fuse such knowledge with the data of a new domain",
    "assess": "will this teacher help, before training",
    "find-clip": "choose the range of a clip, and the learning rate",
    "search": "the best settings of a search space, with Optuna",
    "born-again": "rounds in which a model is its own teacher",
    "demo": "a complete example on data that come with the package",
}
_MODULES: Final = {
    "list": "lightning_distill.commands.listing",
    "init": "lightning_distill.commands.init",
    "doctor": "lightning_distill.cli.doctor",
    "evaluate": "lightning_distill.commands.evaluate",
    "contribution": "lightning_distill.commands.contribution",
    "robustness": "lightning_distill.commands.robustness",
    "report": "lightning_distill.commands.report",
    "compare": "lightning_distill.commands.compare",
    "baseline": "lightning_distill.cli.baseline",
    "export": "lightning_distill.commands.export",
    "cache": "lightning_distill.cli.cache",
    "knowledge": "lightning_distill.commands.knowledge",
    "fuse": "lightning_distill.commands.fuse",
    "assess": "lightning_distill.commands.assess",
    "find-clip": "lightning_distill.cli.find_clip",
    "search": "lightning_distill.cli.search",
    "born-again": "lightning_distill.cli.born_again",
    "demo": "lightning_distill.commands.demo",
}
"""Where the `main(argv)` of each other command is."""
_COMMANDS: Final = {**_TRAINER, **_OTHERS}
_CONFIGURED: Final = (
    *_TRAINER,
    "doctor",
    "cache",
    "knowledge",
    "fuse",
    "assess",
    "find-clip",
    "search",
    "born-again",
)
"""Commands that read a config of `fit`."""

_HELP: Final = "\n".join(
    [
        "usage: lightning-distill COMMAND [options]",
        "",
        *(f"  {name:14}{text}" for name, text in _COMMANDS.items()),
        "",
        "lightning-distill fit --config FILE trains into a new folder runs/DATE-NAME, or into --run DIR.",
        "lightning-distill test --run DIR tests its best checkpoint.",
        "Any setting can follow, for example --trainer.max_epochs 5 --model.optimizer.lr 0.01.",
        "",
        "  --version   --debug (show where an error comes from)   COMMAND --help",
        "  --allow PACKAGE (let configs name its classes too; they are imported and run)",
    ]
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: Words after the program's name; default `sys.argv[1:]`.

    Returns:
        The exit code: 0, the error's own, 1 for an unknown error, 130 after an interrupt.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    if argv is None:
        # Until training takes over: 143 instead of a death that leaves folders half-made.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        with kept():
            return _dispatch(take_allowed(words))
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        from lightning_distill.cli.told import without_secrets

        if debug:
            print(without_secrets(traceback.format_exc(), words), end="", file=sys.stderr)
        error = _of_lightning(error) or _of_the_disk(error) or error
        print(f"error: {_paragraph(error, debug, words)}", file=sys.stderr)
        return error.exit_code if isinstance(error, DistillError) else 1


def _dispatch(words: list[str]) -> int:
    command = words[0] if words else "--help"
    if command in ("-h", "--help"):
        print(_HELP)
        return 0
    if command in ("-V", "--version"):
        print(f"lightning-distill {__version__}")
        return 0
    if command in _CONFIGURED and "torch" not in sys.modules:
        # Where torch is loaded there is nothing to save, and a program may have classes of its own.
        from lightning_distill.cli.early import check_names

        check_names(words)
    if command in _MODULES:
        return int(import_module(_MODULES[command]).main(words[1:]) or 0)
    if command not in _TRAINER:
        raise ConfigError(
            where="command line",
            found=command,
            expected=f"first of all a command: {', '.join(_COMMANDS)}",
            fix=f"see lightning-distill --help{nearest(command, _COMMANDS)}",
        )
    from lightning_distill.cli import run

    run(command, words)
    return 0


def _of_lightning(error: Exception) -> ConfigError | None:
    """What Lightning says of settings that it does not take, as one of our errors."""
    if type(error).__name__ != "MisconfigurationException":
        return None
    return ConfigError(
        where="trainer",
        found=" ".join(str(error).split()),
        expected="settings that Lightning accepts",
        fix="correct the setting that the message names",
    )


def _of_the_disk(error: Exception) -> DiskError | None:
    """What the system says of a disk that refuses, as one of our errors."""
    if not isinstance(error, OSError) or error.errno not in _DISK:
        return None
    if error.filename:
        from lightning_distill.writing.disk import disk_error

        return disk_error(Path(str(error.filename)), error)
    return DiskError(
        where="writing a file",
        found=error.strerror,
        expected="a disk that takes what is written",
        fix="make room, or name a folder on another disk",
    )


def _paragraph(error: Exception, debug: bool, words: Sequence[str]) -> str:
    from lightning_distill.cli.told import without_secrets

    if isinstance(error, DistillError):
        return without_secrets(str(error), words)
    # Before it is cut short: half of a secret would not be found.
    text = printable(" ".join(without_secrets(str(error), words).split()), 600)
    return f"{type(error).__name__}: {text}" + ("" if debug else " (--debug shows where)")


if __name__ == "__main__":
    sys.exit(main())
