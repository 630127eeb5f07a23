"""What a clip rule did to the gradients, group by group, estimated from a sample of their entries."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import torch
from torch import Tensor

from lightning_distill.gradients import Gradients
from lightning_distill.telemetry.sampled_entries import SampledEntries, Signature, signature

_PARTS: Final = ("fusion", "head")


def group_of(name: str) -> str:
    """Modality of an encoder's parameter, "fusion" or "head"; else "other", such as adaptors, unimodal heads.

    >>> group_of("encoders.image.conv.weight"), group_of("student.head.bias"), group_of("losses.hint.weight")
    ('image', 'head', 'other')
    """
    words = name.removeprefix("student.").split(".")
    if words[0] == "encoders" and len(words) > 2:
        return words[1]
    return words[0] if words[0] in _PARTS else "other"


class GradientTelemetry:
    """Compares gradients before and after any edit of them, from the same sample of entries.

        telemetry.before(gradients)
        rule.edit(gradients)
        values = telemetry.after()

    Tensors of up to 4096 entries are read whole: what is told of them is exact. Of larger ones 1 entry in 512
    is read, but at least 2048, in short blocks which move with the step; a sum over a tensor is its sum over
    the sample times (entries / entries read). A norm is so known to a few percent, less well in a group of
    one or two large tensors, whose rows may differ. For each group, with g before, g' after:

    - `norm_before/<group>`, `norm_after/<group>`: 2-norm, estimated.
    - `clipped_share/<group>`: share of entries with g' != g; a rescaling changes all but zeros.
    - `zero_share/<group>`: share of entries with g = 0, such as rows of tokens that the batch does not hold.
      No rule can change them.
    - `cosine/<group>`: <g, g'> / (|g| |g'|); 1 where both are 0, and 0 where one of them is.
    - `evenness/<group>`: (mean |g'|)^2 / mean g'^2 over a tensor's entries with g != 0; of a group, the mean
      weighted by sums of squares. 0.64 where entries are normal; 1 where they have one size, as where a
      value clip leaves only signs.

    Where a gradient is not finite, neither is what is told of it. Nothing waits for an accelerator. Where
    tensors are split over processes, all of them must call `after`.

    Args:
        group_of: Group of a parameter's name.

    Source: none; the estimate is that of a stratified systematic sample.

    >>> w = torch.nn.Parameter(torch.zeros(2)); w.grad = torch.tensor([3.0, -0.5])
    >>> from lightning_distill.gradients import gradients_of
    >>> telemetry = GradientTelemetry()
    >>> telemetry.before(gradients_of({"head.weight": w})); _ = w.grad.clamp_(-1, 1)
    >>> values = telemetry.after()
    >>> values["clipped_share/head"].item(), round(values["norm_after/head"].item() ** 2, 4)
    (0.5, 1.25)
    """

    def __init__(self, group_of: Callable[[str], str] = group_of) -> None:
        self._group_of = group_of
        self._plan: _Plan | None = None
        self._seen: Gradients | None = None

    @torch.no_grad()
    def before(self, gradients: Gradients) -> None:
        """Look at gradients that are about to be edited in place."""
        self._seen = gradients if len(gradients) else None
        if self._seen is None:
            return
        known = signature(gradients.local)
        if self._plan is None or self._plan.names != gradients.names or self._plan.signature != known:
            self._plan = _Plan(gradients, known, self._group_of)
        self._plan.sample.look(gradients.local, gradients.step)

    @torch.no_grad()
    def after(self) -> dict[str, Tensor]:
        """Look again at the same entries.

        Returns:
            Name -> 0-d float32 tensor on the gradients' device; empty where there was no gradient.
        """
        gradients, plan, self._seen = self._seen, self._plan, None
        if gradients is None or plan is None:
            return {}
        sums = plan.by_tensor(_row_sums(*plan.sample.look_again()))
        return _named(plan.groups, plan.by_group(gradients.total(sums)).float())


class _Plan:
    """Which entries are read, and where their sums belong; made anew where shapes change."""

    def __init__(self, gradients: Gradients, known: Signature, group_of: Callable[[str], str]) -> None:
        self.names, self.signature = gradients.names, known
        self.sample = SampledEntries(gradients.local)
        grouped = [group_of(name) for name in gradients.names]
        self.groups = tuple(dict.fromkeys(grouped))
        device, dtype = gradients.device, self.sample.wide
        self._group = torch.tensor([self.groups.index(group) for group in grouped], device=device)
        self._entries = torch.tensor([[g.numel()] for g in gradients.local], dtype=dtype, device=device)

    def by_tensor(self, rows: Tensor) -> Tensor:
        """Estimated sums over whole tensors, and their number of entries: "tensors k+1"."""
        found = rows.new_zeros(len(self._group), rows.shape[1]).index_add_(0, self.sample.tensor, rows)
        return torch.cat((found * self.sample.weight, self._entries), 1)

    def by_group(self, sums: Tensor) -> Tensor:
        """Sums over groups, "k+2 groups": the last is of (sum |g'|)^2 / (entries with g != 0)."""
        even = sums[:, 4:5].square() / sums[:, 5:6].clamp(min=1)
        columns = torch.cat((sums, even), 1)
        return columns.new_zeros(len(self.groups), columns.shape[1]).index_add_(0, self._group, columns).T


def _row_sums(before: Tensor, after: Tensor) -> Tensor:
    """g^2, g'^2, g g', g' != g, |g'|, g != 0 summed over each row: "rows 6". What is given is used up."""
    norm = torch.linalg.vector_norm
    sums = [norm(before, dim=1).square_(), norm(after, dim=1).square_()]
    spare = torch.mul(before, after)
    sums.append(spare.sum(1))
    sums.append(torch.ne(after, before, out=spare).sum(1))
    return torch.stack([*sums, after.abs_().sum(1), before.ne_(0).sum(1)], 1)


def _named(groups: Sequence[str], sums: Tensor) -> dict[str, Tensor]:
    square, square_after, product, changed, _, alive, entries, even = sums
    entries = entries.clamp(min=1)
    norm, norm_after = square.sqrt(), square_after.sqrt()
    moved = (norm > 0) | (norm_after > 0)
    both = torch.where((norm == 0) | (norm_after == 0), 1.0, norm * norm_after)
    found = {
        "norm_before": norm,
        "norm_after": norm_after,
        "clipped_share": changed / entries,
        "zero_share": 1 - alive / entries,
        "cosine": torch.where(moved | norm.isnan(), (product / both).clamp(-1, 1), 1.0),
        "evenness": even / torch.where(square_after == 0, 1.0, square_after),
    }
    return {
        f"{name}/{group}": value
        for name, values in found.items()
        for group, value in zip(groups, values.unbind(), strict=True)
    }
