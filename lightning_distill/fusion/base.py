"""The contract of a fusion head: features of M modalities in, one fused feature x out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lightning_distill.errors import ConfigError, nearest


class FusionHead(nn.Module, ABC):
    """Fuses x = f1(image) + f2(text) + f3(audio), where "+" is what the subclass makes of it.

    A subclass implements `fuse`. The base class zeroes absent features first (value and gradient), so
    that what an absent modality's tensor holds, NaN included, cannot change the output of any head.

    Args:
        feature_dims: modality -> width of its feature.
        output_dim: Width of the fused feature x.

    Raises:
        ConfigError: If there is no modality.
    """

    def __init__(self, feature_dims: Mapping[str, int], output_dim: int) -> None:
        super().__init__()
        if not feature_dims or output_dim < 1:
            raise ConfigError(
                where=type(self).__name__,
                found=f"feature_dims={dict(feature_dims)}, output_dim={output_dim}",
                expected="at least one modality and a positive width",
                fix="give the model at least one encoder",
            )
        self.feature_dims = dict(feature_dims)
        self.output_dim = output_dim

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names of the fused modalities, in order."""
        return tuple(self.feature_dims)

    def forward(self, features: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
        """Fuse.

        Args:
            features: modality -> "batch dim_m".
            present: modality -> bool "batch".

        Returns:
            x, "batch output_dim".

        Raises:
            ConfigError: If a modality's feature or presence is not given.
            RuntimeError: If a sample has no modality at all.
        """
        for given, what in ((features, "feature"), (present, "presence mask")):
            for modality in self.modalities:
                if modality not in given:
                    raise ConfigError(
                        where=f"{type(self).__name__}, modality {modality!r}",
                        found=f"a {what} for {sorted(given)} only",
                        expected=f"a {what} for each of {list(self.modalities)}",
                        fix="pass every modality; mark one a sample lacks by present = False"
                        + nearest(modality, given),
                    )
        mask = torch.stack([present[m] for m in self.modalities], dim=1)
        # An assertion on the device: it costs a GPU no synchronisation.
        torch._assert_async(mask.any(dim=1).all(), "a sample in the batch has no modality at all")
        clean = {m: features[m].masked_fill(~present[m][:, None], 0.0) for m in self.modalities}
        return self.fuse(clean, mask)

    @abstractmethod
    def fuse(self, features: Mapping[str, Tensor], mask: Tensor) -> Tensor:
        """Fuse features that are zero where absent.

        Args:
            features: modality -> "batch dim_m", in the order of `modalities`.
            mask: bool "batch modality"; every row has at least one True.

        Returns:
            x, "batch output_dim".
        """
