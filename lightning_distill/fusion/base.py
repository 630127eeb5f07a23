"""The contract of a fusion head: features of M modalities in, one fused feature x out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from functools import reduce
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from lightning_distill.absence import all_there, anything_there, filled, zeroed
from lightning_distill.errors import ConfigError, nearest
from lightning_distill.sizes import check_sizes
from lightning_distill.structures import Feature, Tokens

_SQRT_DELTA: Final = 1e-6
_NORM_FLOOR: Final = 1e-3


class FusionHead(nn.Module, ABC):
    """Fuses x = f1(image) + f2(text) + f3(audio), where "+" is what the subclass makes of it.

    A subclass implements `fuse`, for one modality or more. Two things are taken care of here:

    - Absent features are zeroed first, value and gradient, so that what an absent modality's tensor holds,
      NaN included, cannot change the output of any head. In `fuse` an absent modality is the neutral element
      of what the head does: it adds 0, multiplies by 1, is masked out of a softmax.
    - Modalities come in alphabetical order, so that the same names make the same head in whatever order a
      config has them.

    Args:
        feature_dims: modality -> width of its feature.
        output_dim: Width of the fused feature x.

    Raises:
        ConfigError: If there is no modality, or a width below 1.
    """

    reads_tokens: bool = False
    """Whether it fuses `Tokens`, rather than one vector for each modality of a sample."""
    logit_additive: bool = False
    """Whether it only is what it is called with a linear task head behind it."""

    def __init__(self, feature_dims: Mapping[str, int], output_dim: int) -> None:
        super().__init__()
        name = type(self).__name__
        if not feature_dims:
            raise ConfigError(
                where=f"{name}.feature_dims",
                found="no modality",
                expected="at least one",
                fix="give the model at least one encoder",
            )
        check_sizes(name, {f"feature_dims[{m!r}]": dim for m, dim in feature_dims.items()})
        check_sizes(name, {"output_dim": output_dim})
        self.feature_dims = dict(sorted(feature_dims.items()))
        self.output_dim = output_dim

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names of the fused modalities, in alphabetical order."""
        return tuple(self.feature_dims)

    def forward(self, features: Mapping[str, Feature], present: Mapping[str, Tensor]) -> Tensor:
        """Fuse.

        Args:
            features: modality -> "batch dim_m", or `Tokens` of that width where the head reads tokens.
            present: modality -> bool "batch". A modality without a single token counts as absent.

        Returns:
            x, "batch output_dim".

        Raises:
            ConfigError: If a modality's feature or presence is not given, or a feature is of the other kind.
            RuntimeError: If a sample has no modality at all.
        """
        self._check(features, present)
        mask = torch.stack([anything_there(features[m], present[m]) for m in self.modalities], dim=1)
        if all_there(mask) and not self.reads_tokens:
            return self.fuse({m: features[m] for m in self.modalities}, mask)
        # An assertion on the device: it costs a GPU no synchronisation.
        torch._assert_async(mask.any(dim=1).all(), "a sample in the batch has no modality at all")
        return self.fuse({m: zeroed(features[m], present[m]) for m in self.modalities}, mask)

    @abstractmethod
    def fuse(self, features: Mapping[str, Any], mask: Tensor) -> Tensor:
        """Fuse features that are zero where absent.

        Args:
            features: modality -> "batch dim_m", or `Tokens` whose mask is False where the modality is absent;
                in the order of `modalities`.
            mask: bool "batch modality"; every row has at least one True.

        Returns:
            x, "batch output_dim".
        """

    def _check(self, features: Mapping[str, Feature], present: Mapping[str, Tensor]) -> None:
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
        for modality in self.modalities:
            if isinstance(features[modality], Tokens) != self.reads_tokens:
                raise ConfigError(
                    where=f"{type(self).__name__}, modality {modality!r}",
                    found="one vector a sample" if self.reads_tokens else "tokens",
                    expected="tokens" if self.reads_tokens else "one vector a sample",
                    fix=f"set `tokens: {str(self.reads_tokens).lower()}` on its encoder",
                )


def product(factors: Iterable[Tensor], mask: Tensor) -> Tensor:
    """Product over the modalities that are present, entry by entry: an absent one's factor is 1.

    Args:
        factors: One a modality, in the order of the mask: "batch ...".
        mask: bool "batch modality".

    >>> mask = torch.tensor([[True, True], [True, False]])
    >>> product([torch.tensor([2.0, 3.0]), torch.tensor([5.0, 0.0])], mask)
    tensor([10.,  3.])
    """
    # Asked once for all: with small features, to ask for each is a good part of the head's time.
    if not all_there(mask):
        factors = [filled(factor, mask[:, i], 1.0) for i, factor in enumerate(factors)]
    return reduce(torch.mul, factors)


def signed_sqrt(z: Tensor) -> Tensor:
    """Square root that keeps the sign: z / sqrt(|z| + 1e-6).

    It stays within 3.1e-4 of sign(z) sqrt(|z|). The slope of that one is infinite at 0; here it is 1000
    there and nowhere larger.

    Args:
        z: Any shape.

    >>> signed_sqrt(torch.tensor([4.0, 0.0, -9.0])).round(decimals=4)
    tensor([ 2.,  0., -3.])
    """
    wide = z.to(torch.promote_types(z.dtype, torch.float32))  # float16 has no such small numbers
    return (wide / (wide.abs() + _SQRT_DELTA).sqrt()).to(z.dtype)


def power_normalize(z: Tensor) -> Tensor:
    """Signed square root, then L2 norm over the last dimension: s / max(|s|_2, 1e-3), s = `signed_sqrt(z)`.

    The floor under the norm limits the gradient at a row of zeros to 1e6 times what comes in; with PyTorch's
    floor of 1e-12 it would be 1e15 times that.

    Args:
        z: "... dim".
    """
    return normalize(signed_sqrt(z), dim=-1, eps=_NORM_FLOOR)
