"""Where a range may stand: the clip of the gradients, or that of the fused feature."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Final

from torch import Tensor, nn

from lightning_distill.clipping import ClipReport, ClipRule, NonFiniteGuard, ValueClip
from lightning_distill.errors import ConfigError
from lightning_distill.feature_clipping import HardClip
from lightning_distill.gradients import Gradients
from lightning_distill.model import MultimodalModel
from lightning_distill.module import DistillationModule
from lightning_distill.range_finding.quantiles import QuantileRecorder, Quantiles
from lightning_distill.range_finding.search import Ladder
from lightning_distill.structures import ModelOutput

ALL = "all"
"""Name of everything together among the groups."""
APART = 10.0
"""From how different medians of modalities on, a range for each is suggested."""
NEVER: Final = 1.0e30
"""A range that nothing finite reaches stands for no clip where there must be a clip."""


class Place(ABC):
    """A range of a module that can be set and watched."""

    keys: tuple[str, ...]
    """Where the clip stands in a config."""
    letter: str
    """What is clipped, for axes and tables."""

    @abstractmethod
    def own(self, module: DistillationModule) -> float | None:
        """The range that a module comes with; None without one, or where it is not a fixed number.

        Args:
            module: As the user made it.
        """

    @abstractmethod
    def set(self, module: DistillationModule, epsilon: float | None) -> None:
        """Give a module that has not been trained this range.

        Args:
            module: To change.
            epsilon: None takes the clip away.
        """

    @abstractmethod
    def watch(self, module: DistillationModule, recorder: QuantileRecorder) -> None:
        """Take the clip away and record, from now on, what it would see.

        Args:
            module: To change.
            recorder: Gets a group `ALL` and one of each modality.
        """

    @abstractmethod
    def ladder(self, quantiles: Quantiles, optimizer: Mapping[str, Any]) -> Ladder:
        """The ranges that are worth a trial.

        Args:
            quantiles: Of all that was recorded.
            optimizer: Defaults of the optimizer, as torch's keep them.
        """

    @abstractmethod
    def spec(self, epsilon: float | None) -> dict[str, Any] | None:
        """The clip as a config names it."""

    def apart(self, epsilon: float | None, quantiles: Mapping[str, Quantiles]) -> dict[str, Any] | None:
        """A clip with a range for each modality, where one range means different things to them.

        Args:
            epsilon: The range of all.
            quantiles: Group -> what was recorded.

        Returns:
            As a config names it, each range at the same quantile; None where the medians are alike.
        """
        return None


class GradientRange(Place):
    """eps of `ValueClip` on the gradients; a guard around the clip rule stays, without a clip too."""

    keys = ("model", "init_args", "clip_rule")
    letter = "|g|"

    def own(self, module: DistillationModule) -> float | None:
        """That of a `ValueClip` without a schedule or a unit, in a guard or not."""
        rule = module.clip_rule
        while isinstance(rule, NonFiniteGuard):
            rule = rule.rule
        if type(rule) is ValueClip and rule.unit is None and isinstance(rule.epsilon, int | float):
            return float(rule.epsilon)
        return None

    def set(self, module: DistillationModule, epsilon: float | None) -> None:
        """Replace the clip rule, inside of its guards."""
        if isinstance(module.clip_rule, NonFiniteGuard):
            _put(module, ValueClip(NEVER if epsilon is None else epsilon))
        else:
            module.clip_rule = None if epsilon is None else ValueClip(epsilon)

    def watch(self, module: DistillationModule, recorder: QuantileRecorder) -> None:
        """Put a rule there that only looks; a guard keeps it from steps that are skipped."""
        _put(module, _Look(student_of(module), recorder))

    def ladder(self, quantiles: Quantiles, optimizer: Mapping[str, Any]) -> Ladder:
        """See `Ladder.of_gradients`."""
        return Ladder.of_gradients(quantiles, optimizer)

    def spec(self, epsilon: float | None) -> dict[str, Any] | None:
        """A `ValueClip`."""
        return None if epsilon is None else _value_clip(epsilon)

    def apart(self, epsilon: float | None, quantiles: Mapping[str, Quantiles]) -> dict[str, Any] | None:
        """A `PerModality` of them."""
        each = {name: q for name, q in quantiles.items() if name not in (ALL, "rest")}
        medians = [q.at(0.5) for q in each.values()]
        if epsilon is None or len(each) < 2 or max(medians) <= APART * min(medians):
            return None
        level = quantiles[ALL].level_of(epsilon)
        rules = {name: _value_clip(q.at(level)) for name, q in each.items()}
        return {
            "class_path": "lightning_distill.clipping.PerModality",
            "init_args": {"rules": rules, "rest": _value_clip(epsilon)},
        }


class FeatureRange(Place):
    """eps of `HardClip` on the fused feature."""

    keys = ("model", "init_args", "student", "init_args", "feature_clip")
    letter = "|x|"

    def own(self, module: DistillationModule) -> float | None:
        """That of a `HardClip` without a unit."""
        clip = student_of(module).feature_clip
        return float(clip.epsilon) if type(clip) is HardClip and clip.unit is None else None

    def set(self, module: DistillationModule, epsilon: float | None) -> None:
        """Replace the feature clip."""
        student_of(module).feature_clip = None if epsilon is None else HardClip(epsilon)

    def watch(self, module: DistillationModule, recorder: QuantileRecorder) -> None:
        """Look at what each forward pass in training fuses, not at what a balancer asks beside it."""
        student = student_of(module)
        student.feature_clip = None

        def look(model: nn.Module, _: Any, output: ModelOutput) -> None:
            if model.training and output.embedding is not None:
                recorder.add({ALL: [output.embedding], **{m: [x] for m, x in output.features.items()}})

        student.register_forward_hook(look)

    def ladder(self, quantiles: Quantiles, optimizer: Mapping[str, Any]) -> Ladder:
        """See `Ladder.of_features`."""
        return Ladder.of_features(quantiles)

    def spec(self, epsilon: float | None) -> dict[str, Any] | None:
        """A `HardClip`."""
        if epsilon is None:
            return None
        return {
            "class_path": "lightning_distill.feature_clipping.HardClip",
            "init_args": {"epsilon": rounded(epsilon)},
        }


class _Look(ClipRule):
    """Records |g| and changes nothing."""

    def __init__(self, student: MultimodalModel, recorder: QuantileRecorder) -> None:
        super().__init__()
        self._recorder = recorder
        self._modality = {
            id(p): modality for modality, encoder in student.encoders.items() for p in encoder.parameters()
        }

    def edit(self, gradients: Gradients) -> ClipReport:
        """Look, once a step."""
        if gradients.fresh:
            groups: dict[str, list[Tensor]] = {ALL: list(gradients.local)}
            for parameter, grad in zip(gradients.parameters, gradients.local, strict=True):
                groups.setdefault(self._modality.get(id(parameter), "rest"), []).append(grad)
            self._recorder.add(groups)
        return ClipReport()


def _put(module: DistillationModule, rule: ClipRule) -> None:
    """Inside of the guards, where there are some."""
    guard = module.clip_rule
    if not isinstance(guard, NonFiniteGuard):
        module.clip_rule = rule
        return
    while isinstance(guard.rule, NonFiniteGuard):
        guard = guard.rule
    guard.rule = rule


def student_of(module: DistillationModule) -> MultimodalModel:
    """The student of a module.

    Raises:
        ConfigError: If it has several, or another kind.
    """
    student = getattr(module, "student", None)
    if not isinstance(student, MultimodalModel):
        raise ConfigError(
            where="ClipRangeFinder",
            found=f"a {type(module).__name__} whose student is a {type(student).__name__}",
            expected="a DistillationModule with one MultimodalModel as student",
            fix="find the range with one of the students alone",
        )
    return student


def _value_clip(epsilon: float) -> dict[str, Any]:
    return {
        "class_path": "lightning_distill.clipping.ValueClip",
        "init_args": {"epsilon": rounded(epsilon)},
    }


def rounded(number: float) -> float:
    """To four digits, as the number would be written by hand.

    >>> rounded(0.000123456)
    0.0001235
    """
    return float(f"{number:.4g}")
