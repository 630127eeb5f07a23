"""A clip rule of its own for each modality."""

from __future__ import annotations

from torch import nn

from lightning_distill.clipping.base import ClipReport, ClipRule, joined
from lightning_distill.errors import ConfigError, nearest
from lightning_distill.gradients import Gradients


class PerModality(ClipRule):
    """Each modality's encoder under a rule of its own: g_m <- r_m(g_m), the others g <- r(g).

    An encoder's parameters are those whose names begin with "encoders.<modality>.". A modality without
    gradients in some step is passed over in that step.

    Args:
        rules: Modality -> r_m, such as {"image": NormClip(1.0), "text": ValueClip(0.01)}.
        rest: r, for all that belongs to none of these modalities: fusion, head and other encoders. Without
            it they are not clipped.

    Raises:
        ConfigError: If there is no rule; at the first step, if a modality has no parameter.

    Source: composition; no formula of its own.

    >>> import torch
    >>> from lightning_distill.clipping import ValueClip
    >>> names = ["encoders.image.weight", "encoders.text.weight", "head.bias"]
    >>> model = {name: nn.Parameter(torch.zeros(1)) for name in names}
    >>> for parameter in model.values():
    ...     parameter.grad = torch.ones(1)
    >>> report = PerModality({"image": ValueClip(0.25), "text": ValueClip(0.5)}).clip(model)
    >>> [parameter.grad.item() for parameter in model.values()]
    [0.25, 0.5, 1.0]
    """

    def __init__(self, rules: dict[str, ClipRule], rest: ClipRule | None = None) -> None:
        super().__init__()
        if not rules:
            raise ConfigError(
                where="PerModality.rules",
                found="none",
                expected="one or more",
                fix="give a rule for one modality or more, or `rest` by itself as the clip rule",
            )
        self.rules, self.rest = nn.ModuleDict(rules), rest
        self._checked = False

    def edit(self, gradients: Gradients) -> ClipReport:
        """Apply each rule to its part; reports `<modality>/<name>` and `rest/<name>`."""
        if not self._checked:
            self._check(gradients)
        parts: dict[str, tuple[nn.Module, Gradients]] = {
            modality: (rule, gradients.under(f"encoders.{modality}")) for modality, rule in self.rules.items()
        }
        if self.rest is not None:
            prefixes = tuple(f"encoders.{modality}." for modality in self.rules)
            parts["rest"] = self.rest, gradients.select(lambda name: not name.startswith(prefixes))
        there = [(label, *at) for label, at in parts.items() if len(at[1])]
        return joined({label: rule.edit(part) for label, rule, part in there if isinstance(rule, ClipRule)})

    def _check(self, gradients: Gradients) -> None:
        names = [*gradients.names, *gradients.without]
        there = {name.split(".")[1] for name in names if name.startswith("encoders.") and name.count(".") > 1}
        for modality in self.rules:
            if modality not in there:
                raise ConfigError(
                    where=f"PerModality.rules[{modality!r}]",
                    found="no parameter of this modality among those the optimizer steps"
                    + nearest(modality, there),
                    expected=f"one of {sorted(there)}",
                    fix="name a modality of the model, or leave one out whose encoder is frozen",
                )
        self._checked = True
