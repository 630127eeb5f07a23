"""Settings of Lightning's own classes that nothing good comes of, found before anything is made."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from lightning_distill.cli.paragraphs import Paragraphs
from lightning_distill.errors import ConfigError


class _Least(NamedTuple):
    """The smallest good value; `above` where it is not good itself."""

    value: float
    above: bool = False

    def holds(self, given: float) -> bool:
        """Whether a value is finite and in the range."""
        return given < math.inf and (given > self.value if self.above else given >= self.value)

    def __str__(self) -> str:
        return f"above {self.value:g}" if self.above else f"{self.value:g} or more"


_LEAST: Final = {
    "seed_everything": _Least(0),
    "trainer.max_epochs": _Least(-1),
    "trainer.min_epochs": _Least(0),
    "trainer.max_steps": _Least(-1),
    "trainer.accumulate_grad_batches": _Least(1),
    "trainer.gradient_clip_val": _Least(0, above=True),
    "trainer.limit_train_batches": _Least(0),
    "trainer.limit_val_batches": _Least(0),
    "trainer.limit_test_batches": _Least(0),
    "trainer.limit_predict_batches": _Least(0),
    "trainer.overfit_batches": _Least(0),
    "trainer.val_check_interval": _Least(0, above=True),
    "trainer.check_val_every_n_epoch": _Least(1),
    "trainer.log_every_n_steps": _Least(0),
    "trainer.num_sanity_val_steps": _Least(-1),
    "early_stopping.patience": _Least(0),
    "checkpoint.save_top_k": _Least(-1),
}


def check_ranges(options: Any, words: Sequence[str]) -> None:
    """Numbers that Lightning would take and fail on later, or silently do nothing with.

    Args:
        options: The parsed config of a command.
        words: The command line.

    Raises:
        ConfigError: Names the first that is out of range, or a request to unpickle.
    """
    for key, least in _LEAST.items():
        given = options.get(key)
        if isinstance(given, int | float) and not isinstance(given, bool) and not least.holds(given):
            *path, last = key.split(".")
            told = Paragraphs(words, path or [key])
            raise told.error(last, given, str(least), "correct the number")
    if options.get("weights_only") is False:
        raise ConfigError(
            where="weights_only",
            found="false, which runs code that a checkpoint holds",
            expected="checkpoints of tensors and plain values",
            fix="leave it out; write an old checkpoint anew where you trust it",
        )
