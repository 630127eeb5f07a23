"""Statistics of the target domain in evaluation, and of nothing else anywhere else."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn

from lightning_distill.callbacks import BatchNormAdaptation
from lightning_distill.data import CrossDomainDataModule
from lightning_distill.errors import ConfigError
from lightning_distill.losses import LogitKD
from lightning_distill.module import DistillationModule
from lightning_distill.teachers import EmaTeacher
from tests.builders import make_data, make_model, make_trainer, same_bits, weights_of
from tests.callbacks.adapted_two_ranks import BATCHES, Elsewhere, data, first_norm, main
from tests.module.parts import supervised
from tests.processes import needs_fork, run_apart

NORM = "student.encoders.{}.norm.running_{}"


def statistics(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: x for name, x in weights.items() if "running_" in name or "num_batches" in name}


class Watch(Callback):
    """Keeps all weights after each training step and in each validation, and a random number of each."""

    def __init__(self) -> None:
        self.trained: list[dict[str, Tensor]] = []
        self.validated: list[dict[str, Tensor]] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *args: Any) -> None:
        drawn = torch.default_generator.get_state()
        self.trained.append(weights_of(pl_module) | {"random": drawn} | teacher_of(pl_module))
        self.modes = {name: part.training for name, part in pl_module.named_modules()}
        self.momenta = [part.momentum for part in pl_module.modules() if isinstance(part, nn.BatchNorm1d)]

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        assert not any(part.training for part in pl_module.student.modules())
        self.validated.append(weights_of(pl_module))


def teacher_of(module: Any) -> dict[str, Tensor]:
    return (
        {}
        if module.teacher is None
        else {f"teacher.{k}": x for k, x in weights_of(module.teacher.model).items()}
    )


def fit(tmp_path: Path, module: Any = None, adapt: bool = True, **options: Any) -> tuple[Any, Watch, Trainer]:
    seed_everything(3, verbose=False)
    watch, module = Watch(), module or supervised()
    callbacks = [*([BatchNormAdaptation(BATCHES)] if adapt else []), watch, *options.pop("callbacks", [])]
    trainer = make_trainer(tmp_path, **({"max_epochs": 2, "callbacks": callbacks} | options))
    trainer.fit(module, data())
    return module, watch, trainer


def by_hand(module: Any, trainer: Trainer, modality: str = "a") -> tuple[Tensor, Tensor]:
    batches = list(islice(trainer.datamodule.train_dataloader(), BATCHES))  # type: ignore[attr-defined]
    with torch.no_grad():
        return first_norm(module.student, batches, modality)


class ByHand(Callback):
    """Compares in each validation, from the batches themselves."""

    def __init__(self) -> None:
        self.times = 0

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        self.times += 1
        there = weights_of(pl_module)
        for modality in ("a", "b"):
            mean, var = by_hand(pl_module, trainer, modality)
            np.testing.assert_allclose(there[NORM.format(modality, "mean")], mean, rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(there[NORM.format(modality, "var")], var, rtol=1e-4)


def test_statistics_are_those_of_the_target(tmp_path: Path) -> None:
    seen = ByHand()
    _, watch, _ = fit(tmp_path, callbacks=[seen])
    assert seen.times == 2
    for trained, validated in zip(watch.trained[4::5], watch.validated, strict=True):
        gap = validated[NORM.format("a", "var")] / trained[NORM.format("a", "var")]
        assert gap.median() > 1.2  # the target is three times as wide, and training sees both


@pytest.mark.parametrize("interval", [1.0, 0.4])
def test_training_is_the_same_to_the_last_bit(interval: float, tmp_path: Path) -> None:
    """Amid an epoch too, with dropout, a mean teacher that copies statistics, a layer always in eval mode."""

    def module() -> DistillationModule:
        seed_everything(3, verbose=False)
        built = supervised(teacher=EmaTeacher(0.9), losses={"kd": LogitKD()})
        frozen = built.student.encoders["b"].norm
        frozen.train = lambda mode=True: nn.Module.train(frozen, False)  # type: ignore[method-assign]
        return built

    (_, a, _), (_, b, _) = (fit(tmp_path, module(), x, val_check_interval=interval) for x in (True, False))
    assert len(a.trained) == len(b.trained) == 10
    for with_it, without in zip(a.trained, b.trained, strict=True):
        assert with_it.keys() == without.keys()
        assert all(same_bits(x, without[name]) for name, x in with_it.items())
    assert (a.modes, a.momenta) == (b.modes, b.momenta)
    assert not same_bits(a.validated[0][NORM.format("a", "mean")], b.validated[0][NORM.format("a", "mean")])


def test_what_is_saved_is_adapted_and_a_resumed_run_goes_on_as_if_nothing_had_been(tmp_path: Path) -> None:
    saver = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1)
    module, whole, _ = fit(tmp_path, enable_checkpointing=True, callbacks=[saver])
    file = tmp_path / "epoch=0.ckpt"
    saved = torch.load(file, weights_only=True)["state_dict"]
    assert all(same_bits(x, saved[name]) for name, x in whole.validated[0].items())
    end = weights_of(module)
    assert all(same_bits(x, end[name]) for name, x in whole.validated[1].items())

    seed_everything(3, verbose=False)
    resumed, watch = supervised(), Watch()
    trainer = make_trainer(tmp_path, max_epochs=2, callbacks=[BatchNormAdaptation(BATCHES), watch])
    trainer.fit(resumed, data(), ckpt_path=file, weights_only=True)
    assert len(watch.trained) == 5
    for again, before in zip(watch.trained, whole.trained[5:], strict=True):
        assert all(same_bits(x, before[name]) for name, x in again.items())
    assert all(same_bits(x, end[name]) for name, x in weights_of(resumed).items())


def test_an_epoch_without_validation_ends_adapted(tmp_path: Path) -> None:
    with_it, watch, _ = fit(tmp_path, limit_val_batches=0)
    assert not watch.validated
    without, _, _ = fit(tmp_path, adapt=False, limit_val_batches=0)
    after, plain = weights_of(with_it), weights_of(without)
    for name, x in after.items():
        moved = "running_" in name and name.startswith("student.")
        assert same_bits(x, plain[name]) != moved, name


def test_validate_and_test_take_what_there_is(tmp_path: Path) -> None:
    module, _, _ = fit(tmp_path)
    before = weights_of(module)
    trainer = make_trainer(tmp_path, callbacks=[BatchNormAdaptation(BATCHES)])
    trainer.validate(module, data(), verbose=False)
    assert all(same_bits(x, before[name]) for name, x in statistics(weights_of(module)).items())


def test_a_modality_the_target_lacks_keeps_its_statistics(tmp_path: Path) -> None:
    def run(adapt: bool) -> dict[str, Tensor]:
        seed_everything(3, verbose=False)
        module = supervised()
        callbacks = [BatchNormAdaptation(BATCHES)] if adapt else []
        make_trainer(tmp_path, callbacks=callbacks).fit(module, data(absent={"b": range(41)}))
        return weights_of(module)

    with_it, without = run(True), run(False)
    assert same_bits(with_it[NORM.format("b", "var")], without[NORM.format("b", "var")])
    assert not same_bits(with_it[NORM.format("a", "var")], without[NORM.format("a", "var")])


def test_the_sanity_check_reads_nothing(tmp_path: Path) -> None:
    _, watch, _ = fit(tmp_path, num_sanity_val_steps=1, max_epochs=1)
    assert len(watch.validated) == 2
    first = statistics(watch.validated[0])
    assert all(not x.any() for name, x in first.items() if name.endswith("mean"))


def test_a_student_without_batch_norm_is_refused(tmp_path: Path) -> None:
    student = make_model()
    for encoder in student.encoders.values():
        encoder.norm = nn.GroupNorm(2, 8)
    with pytest.raises(ConfigError, match="a student without a BatchNorm layer"):
        fit(tmp_path, supervised(student=student))


def test_data_without_domains_are_refused(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, callbacks=[BatchNormAdaptation()])
    with pytest.raises(ConfigError, match="do not tell which rows are of the target domain"):
        trainer.fit(supervised(), make_data())


def test_one_target_row_a_batch_is_not_enough(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, callbacks=[BatchNormAdaptation(3)])
    single = CrossDomainDataModule(make_data(), make_data(Elsewhere(), batch_size=1))
    module = supervised()
    with pytest.raises(ConfigError, match="no two rows of a target domain in any of the first 3"):
        trainer.fit(module, single)
    assert module.student.encoders["a"].norm.running_mean.any()  # what an error has broken off leaves its own


def test_needs_a_batch() -> None:
    with pytest.raises(ConfigError, match=r"BatchNormAdaptation\.batches: found 0"):
        BatchNormAdaptation(0)


@needs_fork
def test_two_processes_share_the_mean_of_both(tmp_path: Path) -> None:
    run_apart(main, tmp_path)
    ranks = [json.loads((tmp_path / f"rank{r}.json").read_text()) for r in (0, 1)]
    assert len(ranks[0]) == 2
    for one, two in zip(*ranks, strict=True):
        assert one["mean"] == two["mean"]
        assert one["var"] == two["var"]
        assert one["m"] != two["m"]
        for there, own in (("mean", "m"), ("var", "v")):
            expected = (np.array(one[own]) + np.array(two[own])) / 2
            np.testing.assert_allclose(one[there], expected, rtol=1e-4, atol=1e-5)
