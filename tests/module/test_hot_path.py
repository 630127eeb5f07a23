"""What a step and an evaluation cost beside their computation, and that nothing is lost by it."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_distill.balancing import UncertaintyBalancer
from lightning_distill.clipping import ValueClip
from lightning_distill.epoch_means import EpochMeans
from lightning_distill.errors import NonFiniteError
from lightning_distill.guards.finite import FiniteCheck
from lightning_distill.losses import LogitKD
from lightning_distill.randomness import seed_step
from lightning_distill.schedules import LinearWarmup
from lightning_distill.terms import WeightedTerms
from tests.builders import Notebook, VectorSource, make_batch, make_data, make_trainer, same_bits
from tests.module.parts import Steps, make_module


def several(count: int) -> dict[str, Any]:
    return {f"kd{i}": LogitKD(1.0 + i) for i in range(count)}


# -- the weighted sum -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_total_and_gradient_are_those_of_a_sum_by_hand(dtype: torch.dtype) -> None:
    weights = {"task": 0.3, "a": 2.0, "off": 0.0, "b": 0.7}
    terms = WeightedTerms({name: LogitKD() for name in ("a", "off", "b")}, weights)
    x = torch.tensor([1.5, -2.0, 3.0], dtype=dtype, requires_grad=True)
    values = {"task": x[0] ** 2, "a": x[1] * x[2], "off": x[0] * torch.nan, "b": x[2].exp()}
    total = terms.total(values, weights)
    (gradient,) = torch.autograd.grad(total, [x])
    expected = 0.3 * 1.5**2 + 2.0 * -6.0 + 0.7 * float(x[2].exp())
    assert total.item() == pytest.approx(expected, rel=1e-6)
    by_hand = [0.3 * 3.0, 2.0 * 3.0, 2.0 * -2.0 + 0.7 * float(x[2].exp())]
    assert gradient.tolist() == pytest.approx(by_hand, rel=1e-6 if dtype != torch.bfloat16 else 1e-2)


def test_weights_become_a_tensor_only_when_they_change() -> None:
    terms = WeightedTerms({"kd": LogitKD()}, {"kd": LinearWarmup(1.0, 4)})
    values = {"task": torch.tensor(1.0), "kd": torch.tensor(10.0)}
    made = []
    for epoch in (0, 1, 1, 2, 9):
        total = terms.total(values, terms.weights_at(0, epoch))
        by_hand = sum(w * float(values[name]) for name, w in terms.weights_at(0, epoch).items())
        assert total.item() == pytest.approx(by_hand)
        assert terms._made is not None
        made.append(id(terms._made[1]))
    assert made[1] == made[2]
    assert len(set(made)) >= 2


def test_training_after_evaluation_in_inference_mode(tmp_path: Path) -> None:
    module = make_module(weights={"task": 0.5, "kd": 2.0})
    trainer = make_trainer(tmp_path)
    trainer.validate(module, make_data(), verbose=False)
    trainer.fit(module, make_data())
    assert trainer.global_step == 4


# -- what a step calls ------------------------------------------------------------------------------------


class Calls(Callback):
    """Counts calls of functions in the middle of training, by their names."""

    def __init__(self, first: int, last: int) -> None:
        self.first, self.last, self.count = first, last, Counter[str]()

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == self.first:
            sys.setprofile(self._seen)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx == self.last:
            sys.setprofile(None)

    def _seen(self, frame: Any, event: str, argument: Any) -> None:
        if event == "call":
            file = frame.f_code.co_filename.replace("\\", "/")
            self.count[f"{file.rpartition('site-packages/')[2]}:{frame.f_code.co_name}"] += 1

    def of(self, words: str) -> int:
        return sum(count for name, count in self.count.items() if words in name)


def calls(tmp_path: Path, terms: int, every: int, first: int = 3, last: int = 5) -> Calls:
    seen = Calls(first, last)
    module = make_module(losses=several(terms), clip_rule=ValueClip(0.1))
    trainer = make_trainer(tmp_path, callbacks=[seen], logger=Notebook(), log_every_n_steps=every)
    trainer.fit(module, make_data(VectorSource(train=120)))
    return seen


@pytest.mark.parametrize("every", [50, 2])
def test_training_calls_no_log_and_formats_no_stack(tmp_path: Path, every: int) -> None:
    seen = calls(tmp_path, 3, every)
    assert seen.of("module.py:training_step") == 3
    assert seen.of("core/module.py:log") == 0
    assert seen.of("result.py:log") == 0
    assert seen.of("traceback.py") == 0


def test_another_term_costs_its_own_computation(tmp_path: Path) -> None:
    """In calls of the library's functions, which, unlike time, are the same on every machine."""
    few, many = (calls(tmp_path, n, 50) for n in (2, 8))
    for seen in (few, many):
        assert seen.of("lightning_distill/losses") > 0
    ours = [
        sum(n for name, n in seen.count.items() if "lightning_distill/" in name and "losses" not in name)
        for seen in (few, many)
    ]
    listed = [seen.of("terms.py:<genexpr>") for seen in (few, many)]
    assert ours[1] - listed[1] == ours[0] - listed[0]


def test_seeding_a_step_seeds_what_torch_seeds() -> None:
    seed_step(3, 5, 0)
    number, drawn = torch.initial_seed(), torch.rand(4)
    torch.manual_seed(number)
    assert same_bits(torch.rand(4), drawn)
    queued = len(torch.xpu._queued_calls) if hasattr(torch.xpu, "_queued_calls") else 0
    for step in range(5):
        seed_step(3, step, 0)
    assert (len(torch.xpu._queued_calls) if hasattr(torch.xpu, "_queued_calls") else 0) == queued


# -- what is logged ---------------------------------------------------------------------------------------


def test_a_step_is_one_row_and_callbacks_see_it(tmp_path: Path) -> None:
    monitored: list[dict[str, float]] = []

    class Watch(Callback):
        def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
            monitored.append({n: float(v) for n, v in trainer.callback_metrics.items()})

    notebook = Notebook()
    module = make_module(clip_rule=ValueClip(0.1), balancer=UncertaintyBalancer)
    trainer = make_trainer(
        tmp_path, logger=notebook, log_every_n_steps=2, callbacks=[Watch()], limit_val_batches=0
    )
    trainer.fit(module, make_data())
    rows = [(step, row) for step, row in notebook.rows if "train/loss" in row]
    assert [step for step, _ in rows] == [1, 3]
    names = {"train/loss", "train/kd", "train/kd_weighted", "clip/clipped_share/a", "balance/kd", "epoch"}
    for at, (_, row) in zip((1, 3), rows, strict=True):
        assert names <= set(row)
        assert {n: monitored[at][n] for n in names - {"epoch"}} == pytest.approx(
            {n: row[n] for n in names - {"epoch"}}
        )
    assert "train/loss" not in monitored[0]
    assert float(trainer.logged_metrics["train/kd"]) == rows[-1][1]["train/kd"]


def test_a_checkpoint_can_monitor_a_term_of_training(tmp_path: Path) -> None:
    keep = ModelCheckpoint(tmp_path, monitor="train/kd", every_n_train_steps=2, save_top_k=1)
    notebook = Notebook()
    trainer = make_trainer(
        tmp_path, logger=notebook, log_every_n_steps=2, callbacks=[keep], enable_checkpointing=True
    )
    trainer.fit(make_module(), make_data())
    assert keep.best_model_score is not None
    assert float(keep.best_model_score) == pytest.approx(min(notebook.series("train/kd")))


# -- evaluation -------------------------------------------------------------------------------------------


def test_evaluation_logs_once_an_epoch(tmp_path: Path) -> None:
    module, logged = make_module(losses=several(3)), Counter[str]()
    log = module.log

    def counting(name: str, *args: Any, **kwargs: Any) -> None:
        logged[name] += 1
        log(name, *args, **kwargs)

    module.log = counting  # type: ignore[method-assign, assignment]
    make_trainer(tmp_path).validate(module, make_data(batch_size=2), verbose=False)
    assert {"val/loss", "val/task", "val/kd0", "val/accuracy", "val/agreement"} <= set(logged)
    assert set(logged.values()) == {1}


def test_an_evaluation_that_was_broken_off_leaves_nothing(tmp_path: Path) -> None:
    module, data, trainer = make_module(), make_data(), make_trainer(tmp_path)
    trainer.validate(module, data, verbose=False)
    expected = {name: float(value) for name, value in trainer.callback_metrics.items()}
    module.metrics._means.add({name: torch.tensor(99.0) for name in expected}, dict.fromkeys(expected, 5.0))
    trainer.validate(module, data, verbose=False)
    assert {n: float(v) for n, v in trainer.callback_metrics.items()} == pytest.approx(expected)


def test_what_counts_nothing_cannot_spoil_a_mean() -> None:
    means = EpochMeans()
    means.add({"a": torch.tensor(torch.nan), "b": torch.tensor(2.0)}, {"a": 0, "b": 3})
    means.add({"a": torch.tensor(4.0), "b": torch.tensor(5.0)}, {"a": 2, "b": 1})
    found = {name: (mean.item(), weight) for name, (mean, weight) in means.take().items()}
    assert found == {"a": (4.0, 2.0), "b": (2.75, 4.0)}
    assert means.take() == {}


# -- losses that are not finite, read late ----------------------------------------------------------------


class Late(Callback):
    """Has losses read as on an accelerator."""

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        pl_module._finite = FiniteCheck(deferred=True)


def broken_in(step: int, source: VectorSource) -> None:
    """Spoil a sample that is first seen in that step."""
    data = make_data(source)
    data.setup("fit")
    for number, batch in enumerate(data.train_dataloader()):
        if number == step:
            row = int(batch["sample_id"][0]) - 5000
            source.vectors["a"][row] = torch.nan


def test_a_late_reading_names_the_step_it_happened_in(tmp_path: Path) -> None:
    source, steps = VectorSource(), Steps()
    broken_in(1, source)
    trainer = make_trainer(tmp_path, callbacks=[steps, Late()], log_every_n_steps=50, logger=Notebook())
    with pytest.raises(NonFiniteError, match="last checkpoint") as caught:
        trainer.fit(make_module(), make_data(source))
    assert caught.value.where == "epoch 0, step 1"
    assert trainer.global_step == 2  # one step later: the update of step 1 was made
    assert caught.value.found.startswith("loss nan from terms {'task': nan")


@pytest.mark.parametrize("every", [1, 2])
def test_a_step_that_logs_waits(tmp_path: Path, every: int) -> None:
    source = VectorSource()
    broken_in(1, source)
    trainer = make_trainer(tmp_path, callbacks=[Late()], log_every_n_steps=every, logger=Notebook())
    with pytest.raises(NonFiniteError, match="step 1"):
        trainer.fit(make_module(), make_data(source))
    assert trainer.global_step == 1


@pytest.mark.parametrize("when", ["checkpoint", "validation", "end"])
def test_nothing_is_saved_or_evaluated_before_it_was_read(tmp_path: Path, when: str) -> None:
    source, validated = VectorSource(), []
    broken_in(3, source)  # the last step of the epoch
    keep = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)

    class Watch(Callback):
        def on_validation_epoch_start(self, trainer: Trainer, *args: Any) -> None:
            validated.append(trainer.global_step)

    options: dict[str, Any] = {
        "checkpoint": {"callbacks": [Late(), keep], "enable_checkpointing": True, "limit_val_batches": 0},
        "validation": {"callbacks": [Late(), Watch()]},
        "end": {"callbacks": [Late()], "limit_val_batches": 0},
    }[when]
    with pytest.raises(NonFiniteError, match="epoch 0, step 3"):
        make_trainer(tmp_path, **options).fit(make_module(), make_data(source))
    assert validated == []
    assert sorted(p.name for p in tmp_path.glob("*.ckpt")) == (
        [f"step={n}.ckpt" for n in (1, 2, 3)] if when == "checkpoint" else []
    )


def test_a_check_is_over_after_its_error() -> None:
    check, trainer = FiniteCheck(deferred=True), Trainer(logger=False, barebones=True)
    batch, terms = make_batch(), {"task": torch.tensor(torch.inf)}
    check(torch.tensor(torch.inf), terms, batch, trainer)
    with pytest.raises(NonFiniteError, match="'task': inf"):
        check.settle()
    check.settle()
    check(torch.tensor(1.0), {"task": torch.tensor(1.0)}, batch, trainer)
    check.settle()


def test_a_mean_over_many_steps_keeps_no_graph(tmp_path: Path) -> None:
    module = make_module()
    make_trainer(tmp_path, logger=Notebook(), log_every_n_steps=50).fit(module, make_data())
    assert len(module._log._pending) == 4
    assert not any(x.requires_grad for x in module._log._pending)
