"""Fusion by compact bilinear pooling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce

import torch
from torch import Tensor, nn

from lightning_distill.absence import all_there
from lightning_distill.fusion.base import FusionHead, power_normalize
from lightning_distill.randomness import generator
from lightning_distill.sizes import check_sizes


def count_sketch(x: Tensor, index: Tensor, sign: Tensor, sketch_dim: int) -> Tensor:
    """Project to another width by adding up signed entries: psi(x)_k = sum of sign_i x_i over index_i = k.

    For random index and sign, E[<psi(x), psi(x')>] = <x, x'>.

    Args:
        x: "batch dim".
        index: int64 "dim", in [0, sketch_dim).
        sign: "dim", of +1 and -1.
        sketch_dim: Width of the sketch.

    Returns:
        psi(x), "batch sketch_dim", in float32 at least.

    Source: Charikar et al., Finding Frequent Items in Data Streams (2002), as used by Gao et al., Compact
    Bilinear Pooling (1511.06062), section 3.2.

    >>> index, sign = torch.tensor([2, 0, 2]), torch.tensor([1.0, -1.0, -1.0])
    >>> count_sketch(torch.tensor([[5.0, 1.0, 2.0]]), index, sign, 4)
    tensor([[-1.,  0.,  3.,  0.]])
    """
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return wide.new_zeros(x.shape[0], sketch_dim).index_add_(1, index, wide * sign)


def compact_bilinear(sketches: Sequence[Tensor]) -> Tensor:
    """Circular convolution of count sketches: IFFT(prod_m FFT(psi_m)).

    It is the count sketch of the outer product of what was sketched, with index (sum_m index_m) mod dim and
    sign prod_m sign_m.

    Args:
        sketches: One or more "batch dim", float32 or float64.

    Returns:
        "batch dim".

    Source: Pham and Pagh, Fast and Scalable Polynomial Kernels via Explicit Feature Maps (2013), as used by
    Gao et al., Compact Bilinear Pooling (1511.06062), algorithm 2.

    >>> shift = torch.tensor([[0.0, 1.0, 0.0, 0.0]])
    >>> compact_bilinear([torch.tensor([[1.0, 2.0, 3.0, 4.0]]), shift]).round()
    tensor([[4., 1., 2., 3.]])
    """
    spectrum = reduce(torch.mul, (torch.fft.rfft(sketch) for sketch in sketches))
    return torch.fft.irfft(spectrum, n=sketches[0].shape[-1])


class MCBFusion(FusionHead):
    """Multimodal compact bilinear pooling (MCB): a random sketch of the outer product of all features.

    - psi_m = `count_sketch(x_m)`
    - z = `compact_bilinear` of psi_m over the modalities that are present
    - s = sign(z) sqrt|z|;  u = s / |s|_2, both as in `power_normalize`
    - x = P u + b

    Index and sign of each modality are drawn once, uniformly, from (seed, name of the modality) alone. They
    are fixed and belong to the state dict. Sketch and transforms are computed in float32 at least.

    Args:
        feature_dims: modality -> width of its feature.
        output_dim: Width of x.
        sketch_dim: Width of the sketches; the error of the inner products it keeps falls as one over its
            square root.
        seed: Of index and sign.

    Raises:
        ConfigError: If a width is below 1.

    Source: Fukui et al., Multimodal Compact Bilinear Pooling for Visual Question Answering and Visual
    Grounding (1606.01847), section 3.1, whose sketch_dim is 16000. P brings the sketch to the width of x;
    the authors put their classifier there. Some implementations multiply z by its width; this one does not,
    so that <z, z'> estimates prod_m <x_m, x_m'>.
    """

    def __init__(
        self, feature_dims: Mapping[str, int], output_dim: int = 128, sketch_dim: int = 1024, seed: int = 0
    ) -> None:
        super().__init__(feature_dims, output_dim)
        check_sizes("MCBFusion", {"sketch_dim": sketch_dim})
        self.sketch = nn.ModuleDict(
            {m: _CountSketch(dim, sketch_dim, seed, m) for m, dim in self.feature_dims.items()}
        )
        self.out = nn.Linear(sketch_dim, output_dim)

    def fuse(self, features: Mapping[str, Tensor], mask: Tensor) -> Tensor:
        """Sketch, convolve, normalise and project: "batch output_dim"."""
        sketches = [self.sketch[m](features[m]) for m in self.modalities]
        if not all_there(mask):
            # An absent feature's sketch is all zeros; a one in front makes it convolution's identity.
            for sketch, there in zip(sketches, mask.unbind(dim=1), strict=True):
                sketch[:, 0] += ~there
        unit = power_normalize(compact_bilinear(sketches))
        return self.out(unit.to(features[self.modalities[0]].dtype))  # type: ignore[no-any-return]


class _CountSketch(nn.Module):
    """`count_sketch` with index and sign drawn from a seed and a name."""

    index: Tensor
    sign: Tensor

    def __init__(self, dim: int, sketch_dim: int, seed: int, modality: str) -> None:
        super().__init__()
        rng = generator(seed, "count sketch", modality)
        self.sketch_dim = sketch_dim
        self.register_buffer("index", torch.from_numpy(rng.integers(sketch_dim, size=dim)))
        self.register_buffer("sign", torch.from_numpy(1 - 2 * rng.integers(2, size=dim)).float())

    def forward(self, x: Tensor) -> Tensor:
        return count_sketch(x, self.index, self.sign, self.sketch_dim)
