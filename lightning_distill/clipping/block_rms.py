"""The root mean square of each gradient tensor, bounded."""

from __future__ import annotations

from lightning_distill.clipping.base import ClipReport, ClipRule, check_positive, range_at
from lightning_distill.gradients import Gradients
from lightning_distill.schedules.base import Schedule


class BlockRMSClip(ClipRule):
    """g_i <- g_i / max(1, rms(g_i) / t), rms(x) = sqrt(mean x^2), each tensor by itself.

    `TensorNormClip` with a bound that grows with the square root of a tensor's size, so that one number
    suits large and small tensors. A tensor whose rms is not finite is left as it is.

    Args:
        threshold: The bound t, in units of the gradient; positive. May follow a schedule.

    Raises:
        ConfigError: If threshold is not a positive number, from the start or at some step of its schedule.

    Source: Shazeer and Stern, Adafactor (1804.04235), section 6, update clipping. There it bounds the
    optimizer's update, whose entries are about 1; here the gradient.

    >>> import torch
    >>> w = torch.nn.Parameter(torch.zeros(4)); w.grad = torch.tensor([2.0, -2.0, 2.0, 2.0])
    >>> report = BlockRMSClip(0.5).clip([w])
    >>> w.grad.tolist(), report.values["largest_rms"].item()
    ([0.5, -0.5, 0.5, 0.5], 2.0)
    """

    def __init__(self, threshold: float | Schedule = 1.0) -> None:
        super().__init__()
        if not isinstance(threshold, Schedule):
            check_positive(threshold, "BlockRMSClip.threshold", 1.0)
        self.threshold = threshold

    def edit(self, gradients: Gradients) -> ClipReport:
        """Scale each; reports the `largest_rms` before and the `clipped_tensors` of the tensors."""
        bound = range_at(self.threshold, gradients, "BlockRMSClip.threshold", 1.0)
        rms = gradients.norms() / gradients.sizes().clamp(min=1).sqrt()
        factors = (bound / rms).clamp(max=1.0).masked_fill(~rms.isfinite(), 1.0)
        gradients.scale(factors)
        return ClipReport({"largest_rms": rms.max(), "clipped_tensors": (factors < 1).float().mean()})

    def extra_repr(self) -> str:
        """Show the bound."""
        return f"threshold={self.threshold}"
