"""How a Trainer writes and reads its checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from lightning_distill.checkpoints.file import read_checkpoint, write_checkpoint
from lightning_distill.checkpoints.not_a_number import refuse_nan
from lightning_distill.checkpoints.plain import plain
from lightning_distill.checkpoints.replacing import PREVIOUS
from lightning_distill.security.secrets import redacted_values

_HYPER: Final = ("hyper_parameters", "datamodule_hyper_parameters")


class VerifiedCheckpointIO(TorchCheckpointIO):
    """Checkpoints on a local disk that no crash leaves half-written and no flipped bit goes unnoticed in.

    What a file replaces is kept beside it, as `NAME.ckpt.previous`. Addresses ("s3://...") and the folders of
    split models are left to Lightning.

    Trainer(plugins=[VerifiedCheckpointIO()])
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write it, or leave what is there as it is.

        Args:
            checkpoint: As Lightning makes it; secrets among hyperparameters are left out.
            path: Folders on the way to it are made.
            storage_options: For addresses only.

        Raises:
            CheckpointError: If something in it cannot be read back without running code.
            DiskError: If the disk refuses.
            NonFiniteError: If weights or optimizer states are NaN.
        """
        hyper: dict[str, Any] = {
            key: redacted_values(plain(checkpoint[key], f"checkpoint, {key}"))
            for key in _HYPER
            if key in checkpoint
        }
        checkpoint = {**checkpoint, **hyper}
        if "://" in str(path) or storage_options is not None:
            checkpoint = plain(checkpoint)
            refuse_nan(checkpoint, path)
            super().save_checkpoint(checkpoint, path, storage_options)
        else:
            write_checkpoint(checkpoint, Path(path))

    def load_checkpoint(
        self,
        path: Any,
        map_location: Callable[..., Any] | str | None = "cpu",
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        """Read it, always with `weights_only=True`.

        Args:
            path: Of the file.
            map_location: As of `torch.load`.
            weights_only: Not looked at.

        Raises:
            CheckpointError: If it is missing, damaged, or something else than a checkpoint.
        """
        if "://" in str(path):
            return super().load_checkpoint(path, map_location, weights_only=True)  # type: ignore[arg-type]
        return read_checkpoint(Path(path), map_location)

    def remove_checkpoint(self, path: Any) -> None:
        """Remove it, and what it has replaced.

        Args:
            path: May be missing.
        """
        local = Path(str(path))
        if "://" in str(path) or local.is_dir():
            super().remove_checkpoint(path)
            return
        for name in (local.with_name(local.name + PREVIOUS), local):
            name.unlink(missing_ok=True)
