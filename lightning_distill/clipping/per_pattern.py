"""Clip rules for parameters by their names."""

from __future__ import annotations

from fnmatch import fnmatchcase

from torch import nn

from lightning_distill.clipping.base import ClipReport, ClipRule, joined
from lightning_distill.errors import ConfigError, nearest
from lightning_distill.gradients import Gradients


class PerPattern(ClipRule):
    """A rule for each pattern of names; a parameter falls under the first pattern that matches.

    All parameters under one pattern are clipped together. What has no gradient in some step is passed over
    in that step.

    Args:
        rules: Pattern -> rule, such as {"*.bias": ValueClip(0.1), "encoders.*": NormClip(1.0)}, in order. In
            a pattern, * stands for any characters, dots too, ? for one, [ab] for one of these.
        rest: For parameters that match none of them. Without it they are not clipped.

    Raises:
        ConfigError: If there is no rule; at the first step, if a pattern matches no parameter.

    Source: composition; no formula of its own.

    >>> import torch
    >>> from lightning_distill.clipping import ValueClip
    >>> model = {name: nn.Parameter(torch.zeros(1)) for name in ["head.weight", "head.bias", "fusion.bias"]}
    >>> for parameter in model.values():
    ...     parameter.grad = torch.ones(1)
    >>> report = PerPattern({"head.*": ValueClip(0.25), "*.bias": ValueClip(0.5)}).clip(model)
    >>> [parameter.grad.item() for parameter in model.values()]
    [0.25, 0.25, 0.5]
    """

    def __init__(self, rules: dict[str, ClipRule], rest: ClipRule | None = None) -> None:
        super().__init__()
        if not rules:
            raise ConfigError(
                where="PerPattern.rules",
                found="none",
                expected="one or more",
                fix="give a rule for one pattern or more, or `rest` by itself as the clip rule",
            )
        # A module's name may hold no dot.
        self.rules = nn.ModuleDict({pattern.replace(".", "/"): rule for pattern, rule in rules.items()})
        self.patterns, self.rest = tuple(rules), rest
        self._checked = False

    def edit(self, gradients: Gradients) -> ClipReport:
        """Apply each rule to its part; reports `<pattern>/<name>` and `rest/<name>`."""
        if not self._checked:
            self._check(gradients)
        reports: dict[str, ClipReport] = {}
        home = {name: self._home(name) for name in gradients.names}
        rules = zip((*self.patterns, None), (*self.rules.values(), self.rest), strict=True)
        for pattern, rule in rules:
            part = gradients.select(lambda name, pattern=pattern: home.get(name, "") == pattern)  # type: ignore[misc]
            if isinstance(rule, ClipRule) and len(part):
                reports[pattern or "rest"] = rule.edit(part)
        return joined(reports)

    def _home(self, name: str) -> str | None:
        return next((pattern for pattern in self.patterns if fnmatchcase(name, pattern)), None)

    def _check(self, gradients: Gradients) -> None:
        names = [*gradients.names, *gradients.without]
        for pattern in self.patterns:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise ConfigError(
                    where=f"PerPattern.rules[{pattern!r}]",
                    found="no parameter of that name among those the optimizer steps"
                    + nearest(pattern, names),
                    expected=f"a pattern of names such as {', '.join(names[:3])}",
                    fix="correct the pattern, or leave it out while that part is frozen",
                )
        self._checked = True
