"""Distillation dropped into a module that knows nothing of it."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div
from torch.utils.data import DataLoader

from lightning_distill.callbacks import Distill
from lightning_distill.data import as_batch
from lightning_distill.errors import ConfigError, TeacherError
from lightning_distill.losses import LogitKD
from lightning_distill.teachers import FrozenTeacher
from tests.builders import make_data, make_model, make_trainer, same_bits, weights_of
from tests.callbacks.distill_two_ranks import main
from tests.callbacks.distilled import Following, make_distill, make_teacher
from tests.callbacks.foreign import Plain, loader, vectors
from tests.callbacks.without_library import sum_of_the_head
from tests.module.parts import Told
from tests.processes import needs_fork, run_apart


def fit(folder: Path, module: LightningModule, *callbacks: Callback, data: Any = None, **options: Any) -> Any:
    trainer = make_trainer(folder, callbacks=list(callbacks), **options)
    trainer.fit(module, loader() if data is None else data, ckpt_path=options.pop("ckpt_path", None))
    return trainer


def by_hand(module: Plain, batch_size: int) -> dict[str, Tensor]:
    """One step of plain torch on the first 8 samples: 0.5 CE + 2 KD, the mean of the batches."""
    teacher = make_teacher().eval()
    x, y = (t[:8] for t in vectors())
    optimizer = module.configure_optimizers()["optimizer"]
    for part, labels in zip(x.split(batch_size), y.split(batch_size), strict=True):
        logits = module(part)
        with torch.no_grad():
            soft = (teacher(part) / 4).softmax(dim=1)
        kd = 16 * kl_div((logits / 4).log_softmax(dim=1), soft, reduction="batchmean")
        loss = 0.5 * cross_entropy(logits, labels) + 2 * kd
        (loss * batch_size / 8).backward()
    optimizer.step()
    return weights_of(module)


@pytest.mark.parametrize(
    ("batch_size", "manual", "as_dict"), [(8, False, False), (4, False, True), (8, True, False)]
)
def test_one_step_is_that_of_the_weighted_sum(
    tmp_path: Path, batch_size: int, manual: bool, as_dict: bool
) -> None:
    module = Plain(manual, as_dict)
    expected = by_hand(copy.deepcopy(module), batch_size)
    distill = Distill(make_teacher(), {"kd": LogitKD(4.0)}, {"task": 0.5, "kd": 2.0}, logits="head")
    accumulate = {} if manual else {"accumulate_grad_batches": 8 // batch_size}
    fit(tmp_path, module, distill, data=loader(8, batch_size), **accumulate)
    for name, value in weights_of(module).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("manual", [False, True])
def test_terms_are_told_the_optimizer_step(tmp_path: Path, manual: bool) -> None:
    term = Told()
    accumulate = 1 if manual else 2  # of four batches an epoch
    options = {} if manual else {"accumulate_grad_batches": accumulate}
    fit(
        tmp_path, Plain(manual), Distill(make_teacher(), {"kd": term}, logits="head"), max_epochs=2, **options
    )
    assert term.seen == [(batch // accumulate, batch // 4) for batch in range(8)]


@pytest.mark.parametrize("manual", [False, True])
def test_what_the_module_logs_stays_its_own(tmp_path: Path, manual: bool) -> None:
    module = Plain(manual)
    with torch.no_grad():
        x, y = vectors()
        expected = cross_entropy(copy.deepcopy(module)(x), y)
    logged = fit(tmp_path, module, make_distill(), data=loader(16, 16)).callback_metrics
    assert logged["train/own"].item() == pytest.approx(expected.item(), abs=1e-6)
    assert {"train/kd", "train/hint"} <= set(logged)


def test_the_module_is_left_as_it_was(tmp_path: Path) -> None:
    module, teacher = Plain(), make_teacher()
    before = weights_of(teacher)
    fit(tmp_path, module, make_distill(teacher))
    assert not {"training_step", "manual_backward"} & set(vars(module))
    assert not any(part._forward_hooks for part in module.modules())
    assert all(same_bits(value, before[name]) for name, value in weights_of(teacher).items())
    assert not any(part.training for part in teacher.modules())


def test_adaptors_are_trained_and_follow_the_schedule(tmp_path: Path) -> None:
    distill, module = make_distill(), Plain()
    first = fit(tmp_path, module, distill, max_steps=1)
    adaptor = distill.terms.losses["hint"].project
    assert adaptor.weight.shape == (12, 8)
    groups = first.optimizers[0].param_groups
    assert [len(group["params"]) for group in groups] == [4 + 2, 2]
    assert any(p is adaptor.weight for p in groups[0]["params"])
    assert [group["lr"] for group in groups] == [0.05, 0.025]
    before = adaptor.weight.detach().clone()
    fit(tmp_path, module, distill)
    assert not torch.equal(adaptor.weight, before)


class Checkpoints(ModelCheckpoint):
    """Every epoch of four steps."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, filename="{step}", save_top_k=-1, every_n_train_steps=4)


@pytest.mark.parametrize("teacher", [make_teacher, Following])
def test_a_resumed_run_equals_one_that_went_on(tmp_path: Path, teacher: Any) -> None:
    plain = teacher is make_teacher
    torch.manual_seed(1)
    whole, module = make_distill(teacher(), hint=plain), Plain()
    start = copy.deepcopy(module)
    fit(tmp_path, module, whole, Checkpoints(tmp_path), enable_checkpointing=True, max_epochs=2)
    resumed = make_distill(teacher(), hint=plain)
    trainer = make_trainer(tmp_path, callbacks=[resumed], max_epochs=2)
    trainer.fit(start, loader(), ckpt_path=tmp_path / "step=4.ckpt", weights_only=True)
    assert trainer.global_step == 8
    ours, theirs = weights_of(module), weights_of(start)
    assert all(same_bits(value, theirs[name]) for name, value in ours.items())
    if plain:
        ours, theirs = (
            weights_of(whole.terms.losses["hint"].project),
            weights_of(resumed.terms.losses["hint"].project),
        )
        assert all(same_bits(value, theirs[name]) for name, value in ours.items())
    else:
        assert whole.teacher.steps == resumed.teacher.steps == pytest.approx(0.8)


def test_the_checkpoint_loads_without_this_library(tmp_path: Path) -> None:
    module, teacher = Plain(), make_teacher()
    fit(tmp_path, module, make_distill(teacher), Checkpoints(tmp_path), enable_checkpointing=True)
    path = tmp_path / "step=4.ckpt"
    run_apart(sum_of_the_head, path, tmp_path / "sum")
    assert float((tmp_path / "sum").read_text()) == pytest.approx(
        float(module.head.weight.detach().double().sum())
    )
    saved = torch.load(path, weights_only=True)
    assert set(saved["state_dict"]) == set(module.state_dict())
    kept = _tensors(saved["callbacks"]["Distill['kd', 'hint']"])
    assert {tuple(t.shape) for t in kept} == {(12, 8), (12,)}  # the adaptor alone
    assert not any(t.shape == p.shape and torch.equal(t, p) for t in kept for p in teacher.parameters())


def _tensors(state: Any) -> list[Tensor]:
    if isinstance(state, Tensor):
        return [state]
    values = state.values() if isinstance(state, dict) else state if isinstance(state, list) else ()
    return [t for value in values for t in _tensors(value)]


class Keywords(nn.Module):
    """A teacher as of transformers."""

    def __init__(self) -> None:
        super().__init__()
        self.net = make_teacher()

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"logits": self.net(x)}


def test_batches_of_dicts(tmp_path: Path) -> None:
    x, y = vectors()
    data = [{"x": x[:8], "label": y[:8], "name": ["a"] * 8}, {"x": x[8:], "label": y[8:], "name": ["b"] * 8}]
    dicts, tuples = Plain(), Plain()
    tuples.load_state_dict(dicts.state_dict())
    fit(tmp_path, dicts, make_distill(Keywords(), hint=False), data=DataLoader(data, batch_size=None))
    fit(tmp_path, tuples, make_distill(hint=False), data=loader(16, 8))
    ours, theirs = weights_of(dicts), weights_of(tuples)
    assert all(same_bits(value, theirs[name]) for name, value in ours.items())


class ReadsBatch(Plain):
    """Reads one modality of our batches."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return super().training_step((batch["inputs"]["a"], batch["target"]), batch_idx)


def test_our_batches_and_our_teacher(tmp_path: Path) -> None:
    trainer = fit(tmp_path, ReadsBatch(), make_distill(make_model(), hint=False), data=make_data())
    assert "train/kd" in trainer.callback_metrics


def test_a_teacher_of_ours_on_batches_of_others(tmp_path: Path) -> None:
    teacher = FrozenTeacher(make_model(("a",)))
    distill = make_distill(teacher, hint=False, read=lambda b: as_batch({"a": b[0]}, b[1]))
    assert "train/kd" in fit(tmp_path, Plain(), distill).callback_metrics


def test_under_autocast(tmp_path: Path) -> None:
    module, distill = Plain(), make_distill()
    fit(tmp_path, module, distill, precision="bf16-mixed")
    assert all(value.isfinite().all() for value in weights_of(module).values())
    assert distill.terms.losses["hint"].project.weight.dtype == torch.float32


def test_in_double_precision(tmp_path: Path) -> None:
    distill = make_distill(make_teacher().double())
    fit(tmp_path, Plain(), distill, precision="64-true")
    assert distill.terms.losses["hint"].project.weight.dtype == torch.float64


class Skips(Plain):
    """Leaves out every other batch."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return None if batch_idx % 2 else super().training_step(batch, batch_idx)


@pytest.mark.filterwarnings("ignore:.*training_step. returned .None")
def test_a_step_that_is_skipped(tmp_path: Path) -> None:
    distill = make_distill(Following(), hint=False)
    assert fit(tmp_path, Skips(), distill).global_step == 4
    assert distill.teacher.begun == 1


def test_a_path_that_names_nothing(tmp_path: Path) -> None:
    module = Plain()
    with pytest.raises(ConfigError, match=r"layer 'haed' of the Plain.*did you mean 'head'"):
        fit(tmp_path, module, make_distill(logits="haed"))
    with pytest.raises(ConfigError, match="layer '7' of the teacher"):
        fit(
            tmp_path,
            module,
            Distill(
                make_teacher(),
                {"h": type(make_distill().terms.losses["hint"])(["head"], ["7"])},
                logits="head",
            ),
        )


def test_a_layer_that_does_not_run(tmp_path: Path) -> None:
    module = Plain()
    with pytest.raises(ConfigError, match="'unused' of the Plain: found a module that did not run"):
        fit(tmp_path, module, make_distill(logits="unused"))
    assert "training_step" not in vars(module)
    fit(tmp_path, module)


def test_a_teacher_that_is_part_of_the_module(tmp_path: Path) -> None:
    module = Plain()
    module.other = make_teacher()
    with pytest.raises(TeacherError, match="shared"):
        fit(tmp_path, module, make_distill(module.other))


def test_a_teacher_whose_answer_is_not_understood(tmp_path: Path) -> None:
    class Pair(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x, x

    with pytest.raises(TeacherError, match="Pair: found an answer of type tuple"):
        fit(tmp_path, Plain(), make_distill(Pair(), hint=False))
    with pytest.raises(TeacherError, match="a plain module and inputs of"):
        fit(tmp_path, ReadsBatch(), make_distill(hint=False), data=make_data())


@needs_fork
def test_two_processes_are_one_with_the_whole_batch(tmp_path: Path) -> None:
    run_apart(main, tmp_path)
    for accumulate in (1, 2):
        one, first, second = (
            json.loads((tmp_path / f"{accumulate}_{n}_{rank}.json").read_text())
            for n, rank in ((1, 0), (2, 0), (2, 1))
        )
        assert first == second
        for name in ("weights", "adaptor"):
            assert first[name] == pytest.approx(one[name], rel=1e-4, abs=1e-6)
