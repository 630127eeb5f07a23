"""Several clip rules, one after the other."""

from __future__ import annotations

from collections import Counter

from torch import nn

from lightning_distill.clipping.base import ClipReport, ClipRule, joined
from lightning_distill.errors import ConfigError
from lightning_distill.gradients import Gradients


class ClipChain(ClipRule):
    """g <- r_K(... r_2(r_1(g))): each rule sees what the one before has left.

    The order matters: NormClip after ValueClip bounds the norm of clamped gradients, the other way round it
    is the clamp that has the last word. The step is skipped where any of the rules says so.

    Args:
        rules: The rules r_k, at least one, in order.

    Raises:
        ConfigError: If there is none.

    Source: composition; no formula of its own.

    >>> import torch
    >>> from lightning_distill.clipping import NormClip, ValueClip
    >>> w = nn.Parameter(torch.zeros(2)); w.grad = torch.tensor([3.0, 40.0])
    >>> report = ClipChain([ValueClip(4.0), NormClip(2.5)]).clip([w])
    >>> w.grad.tolist(), sorted(report.values)
    ([1.5, 2.0], ['NormClip/coefficient', 'NormClip/norm'])
    """

    def __init__(self, rules: list[ClipRule]) -> None:
        super().__init__()
        if not rules:
            raise ConfigError(
                where="ClipChain.rules", found="none", expected="one or more", fix="leave the chain out"
            )
        self.rules = nn.ModuleList(rules)

    def edit(self, gradients: Gradients) -> ClipReport:
        """Apply each; reports `<class>/<name>`, and `<class>_2/<name>` for a second rule of one class."""
        reports: dict[str, ClipReport] = {}
        seen = Counter[str]()
        for rule in self.rules:
            assert isinstance(rule, ClipRule)
            kind = type(rule).__name__
            seen[kind] += 1
            reports[kind if seen[kind] == 1 else f"{kind}_{seen[kind]}"] = rule.edit(gradients)
        return joined(reports)
