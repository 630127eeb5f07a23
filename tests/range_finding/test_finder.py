"""`ClipRangeFinder` on small real trainings."""

from __future__ import annotations

import copy
import functools
import itertools
import logging
import signal
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import seed_everything
from torch import Tensor, nn

from lightning_distill.clipping import (
    ClipReport,
    ClipRule,
    NormClip,
    PropagateNonFinite,
    RaiseNonFinite,
    SkipNonFinite,
    ValueClip,
)
from lightning_distill.errors import ConfigError
from lightning_distill.feature_clipping import HardClip, TanhClip
from lightning_distill.gradient_balancing import OGMGE, GradientBalancer
from lightning_distill.gradients import Gradients
from lightning_distill.module import DistillationModule
from lightning_distill.optimization import GroupedOptimizer, ParameterGroup
from lightning_distill.range_finding.finder import ClipRangeFinder
from lightning_distill.range_finding.places import ALL, NEVER, FeatureRange, GradientRange
from lightning_distill.range_finding.quantiles import QuantileRecorder, Quantiles
from lightning_distill.range_finding.trials import Choice, Goal, Trial
from lightning_distill.schedules import CosineRamp
from lightning_distill.units import StandardDeviation
from tests.builders import VectorSource, make_data, make_model
from tests.range_finding.test_search import reference


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR, "lightning.pytorch")


def make_finder(optimizer: Any = torch.optim.AdamW, place: Any = None, **options: Any) -> ClipRangeFinder:
    trainer = {"max_epochs": 2, "accelerator": "cpu", "log_every_n_steps": 100}
    return ClipRangeFinder(
        lambda: DistillationModule(make_model(), optimizer=optimizer), make_data(), trainer, place, **options
    )


def slow_sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.01)


# -- what is recorded --------------------------------------------------------------------------------------


class _Keep(ClipRule):
    """Copies the gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[np.ndarray] = []

    def edit(self, gradients: Gradients) -> ClipReport:
        self.steps.append(torch.cat([g.flatten() for g in gradients.local]).numpy().copy())
        return ClipReport()


def test_what_is_recorded_are_the_gradients_of_that_training() -> None:
    finder, recorder = make_finder(), QuantileRecorder()
    finder.trial(Choice(), recorder)
    kept = _Keep()
    finder.place.set = lambda module, epsilon: setattr(module, "clip_rule", kept)  # type: ignore[method-assign]
    finder.trial(Choice())
    found = recorder.quantiles()
    assert set(found) == {ALL, "a", "b", "rest"}
    assert found[ALL].steps == len(kept.steps) == 8
    np.testing.assert_allclose(found[ALL].values, reference(kept.steps), rtol=1e-4)


def test_of_features_what_fusion_returns_is_recorded() -> None:
    seen: list[np.ndarray] = []

    def spied() -> DistillationModule:
        model = make_model()
        model.fusion.register_forward_hook(
            lambda fusion, _, x: seen.append(x.detach().numpy().copy()) if fusion.training else None
        )
        return DistillationModule(model)

    recorder = QuantileRecorder()
    finder = make_finder(place=FeatureRange())
    finder.make_module = spied
    finder.trial(Choice(), recorder)
    assert set(recorder.quantiles()) == {ALL, "a", "b"}
    np.testing.assert_allclose(recorder.quantiles()[ALL].values, reference(seen), rtol=1e-4)


def test_what_a_balancer_asks_of_the_fusion_is_not_recorded() -> None:
    found = []
    for balancer in (None, OGMGE(0.5)):
        finder, recorder = make_finder(place=FeatureRange()), QuantileRecorder()
        finder.make_module = functools.partial(_balanced, balancer)
        finder.trial(Choice(), recorder)
        found.append(recorder.quantiles())
    assert {name: q.steps for name, q in found[0].items()} == {name: q.steps for name, q in found[1].items()}
    assert abs(found[0][ALL].zero_share - found[1][ALL].zero_share) < 0.1


def _balanced(balancer: GradientBalancer | None) -> DistillationModule:
    return DistillationModule(make_model(), gradient_balancer=balancer)


# -- whole searches -----------------------------------------------------------------------------------------


def test_two_trainings_with_one_choice_are_the_same() -> None:
    finder = make_finder()
    first = finder.trial(Choice(), QuantileRecorder())
    torch.rand(3)
    second, clipped = finder.trial(Choice()), finder.trial(Choice(1e-3))
    assert (first.value, first.loss) == (second.value, second.loss)
    assert clipped.loss != first.loss


def test_all_trainings_start_from_one_snapshot() -> None:
    starts: list[Tensor] = []

    class Watched(DistillationModule):
        def on_train_start(self) -> None:
            starts.append(nn.utils.parameters_to_vector(self.student.parameters()).detach().clone())

    numbers = itertools.count()

    def careless() -> DistillationModule:
        torch.manual_seed(next(numbers))  # weights of its own each time
        return Watched(make_model())

    finder = make_finder()
    finder.make_module = careless
    finder.run()
    assert len(starts) == 6
    assert all(torch.equal(start, starts[0]) for start in starts)


def untrained_accuracy() -> float:
    seed_everything(0, verbose=False)
    module, data, hits = DistillationModule(make_model()).eval(), make_data(), []
    data.setup("validate")
    with torch.no_grad():
        for batch in data.val_dataloader():
            hits += (module.student(batch).logits.argmax(1) == batch["target"]).tolist()
    return pytest.approx(sum(hits) / len(hits))  # type: ignore[return-value]


def test_a_search_with_rates_finds_a_much_better_rate() -> None:
    told: list[Trial] = []
    result = make_finder(slow_sgd, rates=True).run(told.append)
    assert told == list(result.trials)
    assert len(result.trials) == 6
    assert result.chosen.learning_rate > 0.01
    assert result.untrained == untrained_accuracy()
    assert result.trials[0].learning_rate == pytest.approx(0.01)
    assert result.chosen.value is not None
    assert result.trials[0].value is not None
    assert result.chosen.value >= result.trials[0].value
    again = make_finder(slow_sgd, rates=True).run()
    assert [(t.choice, t.value, t.loss) for t in again.trials] == [
        (t.choice, t.value, t.loss) for t in result.trials
    ]


def test_the_rate_reaches_groups_in_proportion() -> None:
    seen: list[list[float]] = []

    class Watched(DistillationModule):
        def on_train_start(self) -> None:
            seen.append([group["lr"] for group in self.trainer.optimizers[0].param_groups])

    grouped = GroupedOptimizer(torch.optim.AdamW, [ParameterGroup("head", 10.0)])
    finder = make_finder()
    finder.make_module = lambda: Watched(make_model(), optimizer=grouped)
    made = [finder.trial(Choice(rate=rate)) for rate in (1.0, 4.0)]
    assert [t.learning_rate for t in made] == [1e-3, 4e-3]
    assert np.allclose(np.array(seen[1]), 4 * np.array(seen[0]))
    assert max(seen[0]) == pytest.approx(10 * min(seen[0]))


def test_a_training_that_diverges_counts_as_the_worst() -> None:
    def far(parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr=1e38)

    result = make_finder(far).run()
    stopped, clipped = result.trials[0], result.trials[3]
    assert (stopped.value, stopped.loss) == (None, None)
    assert stopped.stopped.startswith("step ")
    assert clipped.choice.epsilon is not None
    assert result.chosen is result.goal.chosen(result.trials)
    slower = make_finder(far, rates=True).run()
    assert min(t.choice.rate for t in slower.trials) < 1


def test_clips_are_set_where_they_belong() -> None:
    module = DistillationModule(make_model(feature_clip=HardClip(2.0)), clip_rule=ValueClip(0.1))
    FeatureRange().set(module, 0.5)
    assert module.student.feature_clip.epsilon == 0.5  # type: ignore[union-attr]
    assert module.clip_rule.epsilon == 0.1  # type: ignore[union-attr]
    GradientRange().set(module, 0.25)
    FeatureRange().set(module, None)
    assert module.student.feature_clip is None
    assert module.clip_rule.epsilon == 0.25  # type: ignore[union-attr]
    GradientRange().set(module, None)
    assert module.clip_rule is None


# -- the module's own clip ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [SkipNonFinite, RaiseNonFinite, PropagateNonFinite])
def test_a_guard_stays_around_every_range(kind: Any) -> None:
    outer = kind(SkipNonFinite(NormClip(1.0)))
    module = DistillationModule(make_model(), clip_rule=outer)
    for epsilon, wanted in ((0.25, 0.25), (None, NEVER), (0.5, 0.5)):
        GradientRange().set(module, epsilon)
        assert module.clip_rule is outer
        assert isinstance(outer.rule, SkipNonFinite)
        assert isinstance(outer.rule.rule, ValueClip)
        assert outer.rule.rule.epsilon == wanted


def test_a_guard_saves_the_training_without_a_clip_from_a_broken_step() -> None:
    class Broken(DistillationModule):
        def on_after_backward(self) -> None:
            if self.trainer.fit_loop.total_batch_idx == 3:
                next(p for p in self.parameters() if p.grad is not None).grad.fill_(torch.nan)  # type: ignore[union-attr]

    recorder, results = QuantileRecorder(), {}
    for guarded in (False, True):
        finder = make_finder()
        finder.make_module = lambda on=guarded: Broken(  # type: ignore[misc]
            make_model(), clip_rule=SkipNonFinite(ValueClip(0.1)) if on else ValueClip(0.1)
        )
        watched = finder.trial(Choice(), recorder if guarded else QuantileRecorder())
        results[guarded] = [watched, finder.trial(Choice()), finder.trial(Choice(0.1))]
    assert [t.value for t in results[False]] == [None] * 3
    assert all(t.value is not None for t in results[True])
    watched, unclipped, clipped = results[True]
    assert (watched.value, watched.loss) == (unclipped.value, unclipped.loss), "looking changes nothing"
    assert clipped.loss != unclipped.loss
    assert recorder.quantiles()[ALL].steps == 7, "all but the one that is skipped"
    assert finder.ladder(recorder.quantiles()).own == Choice(0.1, why="yours")


def _ruled(rule: ClipRule) -> DistillationModule:
    return DistillationModule(make_model(), clip_rule=copy.deepcopy(rule))


def test_a_fixed_range_of_the_module_is_tried_first() -> None:
    finder = make_finder(trials=2)
    finder.make_module = functools.partial(_ruled, ValueClip(0.0321))
    result = finder.run()
    assert [t.choice.why for t in result.trials] == ["off", "yours", "90% quantile"]
    assert result.trials[1].choice.epsilon == 0.0321


@pytest.mark.parametrize(
    ("rule", "own"),
    [
        (None, None),
        (ValueClip(0.1), 0.1),
        (SkipNonFinite(RaiseNonFinite(ValueClip(2))), 2.0),
        (ValueClip(2.0, StandardDeviation()), None),
        (ValueClip(CosineRamp(1.0, 0.1, 0, 5)), None),
        (SkipNonFinite(NormClip(1.0)), None),
    ],
)
def test_the_range_that_a_module_comes_with(rule: ClipRule | None, own: float | None) -> None:
    assert GradientRange().own(DistillationModule(make_model(), clip_rule=rule)) == own


def test_the_range_of_features_that_a_module_comes_with() -> None:
    clips = {HardClip(2.0): 2.0, HardClip(2.0, StandardDeviation()): None, TanhClip(1.0): None, None: None}
    for clip, own in clips.items():
        assert FeatureRange().own(DistillationModule(make_model(feature_clip=clip))) == own


def test_modalities_that_differ_tenfold_get_ranges_of_their_own() -> None:
    low = Quantiles(tuple(10.0 ** (i - 6) for i in range(11)), 0.0, 1)
    high = Quantiles(tuple(30 * x for x in low.values), 0.0, 1)
    groups = {ALL: low, "a": low, "b": high, "rest": low}
    spec = GradientRange().apart(low.at(0.9), groups)
    assert spec is not None
    rules = {m: rule["init_args"]["epsilon"] for m, rule in spec["init_args"]["rules"].items()}
    assert rules == {"a": pytest.approx(1.0), "b": pytest.approx(30.0)}
    alike = Quantiles(tuple(9 * x for x in low.values), 0.0, 1)
    assert GradientRange().apart(1.0, groups | {"b": alike}) is None
    assert GradientRange().apart(None, groups) is None


def test_a_feature_range_can_be_found() -> None:
    result = make_finder(place=FeatureRange(), trials=2).run()
    assert len(result.trials) == 3
    assert set(result.quantiles) == {ALL, "a", "b"}


def test_an_interrupt_is_one_and_not_lightnings_way_out() -> None:
    class Interrupted(DistillationModule):
        def on_train_batch_start(self, *_: Any) -> None:
            raise KeyboardInterrupt

    finder, handler = make_finder(), signal.getsignal(signal.SIGINT)
    finder.make_module = lambda: Interrupted(make_model())
    try:
        with pytest.raises(KeyboardInterrupt):
            finder.trial(Choice())
    finally:
        signal.signal(signal.SIGINT, handler)  # Lightning ignores it from then on


# -- what is refused ----------------------------------------------------------------------------------------


def test_no_trial_and_no_length_are_refused() -> None:
    with pytest.raises(ConfigError, match="trials"):
        make_finder(trials=0)
    with pytest.raises(ConfigError, match="max_epochs"):
        ClipRangeFinder(lambda: DistillationModule(make_model()), make_data(), {})


def test_a_metric_nobody_logs_is_named() -> None:
    with pytest.raises(ConfigError, match=r"val/recall, which nobody logs.*val/accuracy"):
        make_finder(goal=Goal("val/recall", "max")).run()


def test_a_training_without_validation_is_refused() -> None:
    finder = make_finder()
    finder.trainer["limit_val_batches"] = 0
    with pytest.raises(ConfigError, match="a training without validation"):
        finder.run()


def test_a_training_without_a_finite_gradient_is_refused() -> None:
    finder = make_finder()
    finder.data = make_data(VectorSource(broken=range(28)))
    with pytest.raises(ConfigError, match="no step with a finite entry"):
        finder.run()
