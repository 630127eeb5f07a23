"""Answers that were given before: right, or not there."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback
from torch import Tensor

from lightning_distill.caching import AnswerCache, AnswerFormat
from lightning_distill.data import MultimodalDataModule
from lightning_distill.errors import CheckpointError, ConfigError, TeacherError
from lightning_distill.identity import identity_of
from lightning_distill.losses import Hint, LogitKD
from lightning_distill.structures import Batch, ModelOutput
from lightning_distill.teachers import CachedTeacher, EmaTeacher, FrozenTeacher, Teacher
from tests.builders import (
    DIMS,
    VectorProcessor,
    VectorSource,
    make_data,
    make_model,
    make_output,
    make_trainer,
    same_bits,
)
from tests.module.parts import distilling
from tests.processes import needs_fork, run_apart

ASKED: list[int] = []
"""How many samples any `Counted` was asked about."""


class Counted(FrozenTeacher):
    """Says when it is asked."""

    def answer(self, model: Any, batch: Batch) -> ModelOutput:
        ASKED.append(len(batch["sample_id"]))
        return super().answer(model, batch)


def make_teacher(seed: int = 3, **options: Any) -> Counted:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Counted(make_model(**options))


def plain_data(source: VectorSource | None = None, **options: Any) -> MultimodalDataModule:
    """Without augmentation."""
    processors = {m: VectorProcessor(dim, noise=0.0) for m, dim in DIMS.items()}
    for processor in processors.values():
        processor.__class__ = Still
    return MultimodalDataModule(source or VectorSource(), dict(processors), 8, **options)


class Still(VectorProcessor):
    """Never augments."""

    @property
    def augments(self) -> bool:
        return False


@pytest.fixture(autouse=True)
def _fresh_count() -> None:
    ASKED.clear()


def opened(
    folder: Path, data: MultimodalDataModule, make: Callable[[], Teacher] = make_teacher, **options: Any
) -> CachedTeacher:
    teacher = CachedTeacher(make, folder, **options)
    teacher.open(data, ["train", "val"])
    return teacher


def batches(data: MultimodalDataModule, split: str = "train") -> list[Batch]:
    return list(data._loader(split))


def filled(folder: Path, data: MultimodalDataModule, **options: Any) -> CachedTeacher:
    teacher = opened(folder, data, **options)
    for split in ("train", "val"):
        list(teacher.fill(batches(data, split)))
    assert teacher.missing == 0
    ASKED.clear()
    return teacher


def row_of(batch: Batch, sample: int) -> int:
    return batch["sample_id"].tolist().index(sample)


# -- training -----------------------------------------------------------------------------------------


def train(
    tmp_path: Path, teacher: Teacher, data: MultimodalDataModule, epochs: int = 3, **options: Any
) -> Any:
    torch.manual_seed(1)
    module = distilling(teacher, losses={"kd": LogitKD()}, optimizer=partial(torch.optim.SGD, lr=0.1))
    make_trainer(tmp_path, max_epochs=epochs, **options).fit(module, data)
    return module


def test_training_is_the_same_whether_answers_are_found_or_new(tmp_path: Path) -> None:
    new = train(tmp_path, CachedTeacher(make_teacher, tmp_path / "c", "float32"), plain_data())
    assert sum(ASKED) == 41, "each sample once, in three epochs"
    ASKED.clear()
    found = train(tmp_path, CachedTeacher(make_teacher, tmp_path / "c", "float32"), plain_data())
    assert sum(ASKED) == 0
    live = train(tmp_path, make_teacher(), plain_data())
    for mine, its, straight in zip(new.parameters(), found.parameters(), live.parameters(), strict=True):
        torch.testing.assert_close(mine, its, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(mine, straight, atol=1e-5, rtol=1e-4)


def test_a_run_that_was_stopped_goes_on_from_what_is_there(tmp_path: Path) -> None:
    class Stop(Callback):
        def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
            if trainer.global_step == 2:
                raise KeyError("stopped by the test")

    teacher = CachedTeacher(make_teacher, tmp_path / "c")
    with pytest.raises(KeyError, match="stopped by the test"):
        train(tmp_path, teacher, plain_data(), callbacks=[Stop()], num_sanity_val_steps=0)
    del teacher
    gc.collect()
    asked = sum(ASKED)
    assert asked == 16
    again = opened(tmp_path / "c", plain_data())
    assert again.missing == 41 - asked


def test_the_teacher_is_gone_and_what_it_alone_read_is_not_loaded(tmp_path: Path) -> None:
    alive: list[weakref.ref[Any]] = []

    def make() -> Teacher:
        teacher = make_teacher()
        alive.append(weakref.ref(teacher))
        return teacher

    seen: list[set[str]] = []

    class Look(Callback):
        def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, index: int) -> None:
            seen.append(set(batch["inputs"]))
            gc.collect()
            assert alive[-1]() is None

    filled(tmp_path / "c", plain_data())
    torch.manual_seed(1)
    module = distilling(CachedTeacher(make, tmp_path / "c"), losses={"kd": LogitKD()})
    assert module.student.modalities == ("a",)
    trainer = make_trainer(tmp_path, max_epochs=1, callbacks=[Look()])
    trainer.fit(module, plain_data())
    assert seen == [{"a"}] * 4
    assert sum(ASKED) == 0
    trainer.validate(module, plain_data(), verbose=False)
    assert sum(ASKED) == 0


def test_layers_that_terms_read_are_kept_too(tmp_path: Path) -> None:
    def run() -> Any:
        torch.manual_seed(1)
        teacher = CachedTeacher(make_teacher, tmp_path / "c", "float32")
        losses = {"kd": LogitKD(), "hint": Hint("encoders.a.linear", "encoders.a.linear")}
        module = distilling(teacher, losses=losses)
        make_trainer(tmp_path, max_epochs=2).fit(module, plain_data())
        return module

    first, asked = run(), sum(ASKED)
    second = run()
    assert sum(ASKED) == asked
    for mine, its in zip(first.parameters(), second.parameters(), strict=True):
        torch.testing.assert_close(mine, its, atol=1e-6, rtol=1e-5)


class Tell(Callback):
    """Writes what each process saw."""

    def __init__(self, folder: Path, part: str) -> None:
        self.folder, self.part, self.loaded = folder, part, 0

    def on_train_epoch_start(self, trainer: Any, module: Any) -> None:
        self.loaded += bool(module.teacher.requirements)

    def on_fit_end(self, trainer: Any, module: Any) -> None:
        told = {
            "asked": sum(ASKED),
            "epochs with the teacher": self.loaded,
            "weights": torch.cat([p.detach().flatten() for p in module.student.parameters()]).tolist(),
        }
        (self.folder / f"{self.part}{trainer.global_rank}.json").write_text(json.dumps(told))


def _two_ranks(folder: Path) -> None:
    torch.set_num_threads(1)
    for part in ("new", "found"):
        ASKED.clear()
        teacher = CachedTeacher(make_teacher, folder / "c", "float32")
        options: dict[str, Any] = {"devices": 2, "strategy": "ddp_fork", "callbacks": [Tell(folder, part)]}
        train(folder, teacher, plain_data(), **options)


@needs_fork
def test_two_processes_fill_one_cache(tmp_path: Path) -> None:
    run_apart(_two_ranks, tmp_path)
    told = {
        part: [json.loads((tmp_path / f"{part}{rank}.json").read_text()) for rank in (0, 1)]
        for part in ("new", "found")
    }
    asked = [rank["asked"] for rank in told["new"]]
    assert sum(asked) >= 41
    assert max(asked) <= 14 + 13, "what the other has kept is found after the first epoch"
    assert [rank["epochs with the teacher"] for rank in told["new"]] == [1, 1]
    assert [rank["asked"] for rank in told["found"]] == [0, 0]
    for part in told.values():
        assert part[0]["weights"] == part[1]["weights"]
    np.testing.assert_allclose(told["new"][0]["weights"], told["found"][0]["weights"], atol=1e-5)


# -- right rows ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "bound"), [("float32", 0.0), ("float16", 2e-3), ("bfloat16", 2e-2)])
def test_an_answer_is_what_the_teacher_said(tmp_path: Path, dtype: Any, bound: float) -> None:
    data = plain_data()
    also = ("embedding", "features.a", "encoders.b.linear")
    teacher, live = filled(tmp_path, data, dtype=dtype, also=also), make_teacher()
    live.read_layers(also)
    for batch in batches(data):
        said, found = live(batch), teacher(batch)
        for name in ("logits", *also):
            assert found.at(name).dtype == torch.float32
            assert (found.at(name) - said.at(name)).abs().max() <= bound


@pytest.mark.row("C4")
def test_C4_rows_in_another_order_and_new_ones(tmp_path: Path) -> None:
    filled(tmp_path, plain_data())
    teacher, live = opened(tmp_path, plain_data(Shuffled())), make_teacher()
    assert teacher.missing == 9, "only the new ones"
    data = plain_data(Shuffled())
    for batch in batches(data):
        torch.testing.assert_close(teacher(batch).logits, live(batch).logits, atol=2e-3, rtol=0)


class Shuffled(VectorSource):
    """The same samples in another order, and nine more in front of them."""

    def __init__(self) -> None:
        super().__init__()
        old = self._table
        more = VectorSource(train=50, val=0)
        order = np.concatenate([np.arange(41, 50), np.random.default_rng(1).permutation(41)])
        for modality in DIMS:
            mine, new = self.vectors[modality], more.vectors[modality]
            self.vectors[modality] = np.concatenate([mine, new[41:50]])[order]
        ids = np.concatenate([old.sample_id, np.arange(900, 909)])
        split = np.concatenate([old.split, np.zeros(9, np.int8)])
        target = np.concatenate([old.target, np.zeros(9, np.int64)])
        ones = np.ones(50, bool)
        self._table = type(old)(
            ids[order], target[order], split[order], np.zeros(50, np.int64), dict.fromkeys(DIMS, ones)
        )


def test_top_k_keeps_the_largest_and_spreads_the_rest(tmp_path: Path) -> None:
    for k in (1, 3, 6):
        answers = AnswerFormat(("logits",), "float32", 7, k)
        output = make_output(size=5, classes=7)
        tensors = answers.tensors(output)
        found = answers.output(answers.layout(tensors).decode(answers.layout(tensors).encode(tensors))).logits
        said = output.logits.double().softmax(dim=1)
        share = found.double().softmax(dim=1)
        largest = said.topk(k).indices
        torch.testing.assert_close(share.gather(1, largest), said.gather(1, largest), atol=1e-6, rtol=1e-5)
        rest = share.scatter(1, largest, 0.0)
        expected = (1 - said.gather(1, largest).sum(dim=1)) / (7 - k)
        torch.testing.assert_close(rest.max(dim=1).values, expected, atol=1e-6, rtol=1e-4)
        torch.testing.assert_close(share.sum(dim=1), torch.ones(5).double())


def test_top_k_of_a_sure_teacher_stays_finite() -> None:
    answers = AnswerFormat(("logits",), "float16", 4, 2)
    output = ModelOutput(torch.tensor([[0.0, 900.0, -torch.inf, -900.0]]))
    tensors = answers.tensors(output)
    assert answers.output(tensors).logits.isfinite().all()


def test_absent_modalities_are_part_of_the_sample(tmp_path: Path) -> None:
    data = plain_data(VectorSource(absent={"b": [0, 5]}))
    teacher, live = filled(tmp_path, data), make_teacher()
    for batch in batches(data):
        torch.testing.assert_close(teacher(batch).logits, live(batch).logits, atol=2e-3, rtol=0)


# -- a changed key misses -----------------------------------------------------------------------------


def _other_weight() -> Teacher:
    teacher = make_teacher()
    with torch.no_grad():
        next(teacher.model.parameters()).view(-1)[0] += 1e-6
    return teacher


def _other_buffer() -> Teacher:
    teacher = make_teacher()
    teacher.model.encoders["a"].norm.running_mean[0] += 1e-6  # type: ignore[union-attr, operator, index]
    return teacher


def _other_setting() -> Teacher:
    teacher = make_teacher()
    teacher.model.encoders["a"].norm.eps = 2e-5  # type: ignore[union-attr, assignment]
    return teacher


class OtherCode(Counted):
    """Answers in another way."""

    def answer(self, model: Any, batch: Batch) -> ModelOutput:
        output = super().answer(model, batch)
        return ModelOutput(2 * output.logits)


def _other_code() -> Teacher:
    return OtherCode(make_teacher().model)


@pytest.mark.row("C3")
@pytest.mark.parametrize("make", [_other_weight, _other_buffer, _other_setting, _other_code])
def test_C3_another_teacher_misses(tmp_path: Path, make: Callable[[], Teacher]) -> None:
    filled(tmp_path, plain_data())
    assert opened(tmp_path, plain_data()).missing == 0
    assert opened(tmp_path, plain_data(), make).missing == 41


@pytest.mark.row("C3")
@pytest.mark.parametrize("options", [{"dtype": "float32"}, {"top_k": 2}, {"also": ("embedding",)}])
def test_C3_another_form_misses(tmp_path: Path, options: dict[str, Any]) -> None:
    filled(tmp_path, plain_data())
    assert opened(tmp_path, plain_data(), **options).missing == 41


@pytest.mark.row("C3")
def test_C3_another_preprocessing_or_version_misses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(tmp_path, plain_data())
    data = plain_data()
    data.processors["b"].scale = 2.0  # type: ignore[attr-defined]
    assert opened(tmp_path, data).missing == 41
    monkeypatch.setattr("lightning_distill.caching.cache.version", lambda name: "0.0.0")
    assert opened(tmp_path, plain_data()).missing == 41


@pytest.mark.row("C3")
def test_C3_one_changed_sample_misses_alone(tmp_path: Path) -> None:
    filled(tmp_path, plain_data())

    class Changed(VectorSource):
        def contents(self, rows: Any, modalities: Any) -> Any:
            found = super().contents(rows, modalities)
            found[3] += 1
            return found

    source = Changed()
    teacher = CachedTeacher(make_teacher, tmp_path)
    teacher.open(plain_data(source), ["train"])
    assert teacher.missing == 1


@pytest.mark.row("C3")
def test_C3_five_hundred_changes_of_one_field_and_none_is_found(tmp_path: Path) -> None:
    """Every key but the true one, by plain mutation of what it is made from."""
    rng = np.random.default_rng(0)
    told: dict[str, Any] = {
        "teacher": "5" * 32,
        "preprocessing": {"image": "a" * 32, "text": "b" * 32},
        "kept": ["logits", "embedding"],
        "dtype": "float16",
        "top_k": None,
    }
    folders = {AnswerCache(tmp_path, told, AnswerFormat(("logits",), "float16", 3)).folder}
    for _ in range(500):
        changed = {**told, "preprocessing": dict(told["preprocessing"]), "kept": list(told["kept"])}
        field = str(rng.choice(list(told)))
        text = "".join(rng.choice(list("0123456789abcdef"), 32))
        if field == "preprocessing":
            changed["preprocessing"][str(rng.choice(["image", "text", "audio"]))] = text
        else:
            changed[field] = {"kept": ["logits", text], "top_k": int(rng.integers(1, 10**9))}.get(field, text)
        folders.add(AnswerCache(tmp_path, changed, AnswerFormat(("logits",), "float16", 3)).folder)
    assert len(folders) == 501


# -- views --------------------------------------------------------------------------------------------


@pytest.mark.row("C6")
def test_C6_unlimited_views_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"new view of each sample every epoch: a .*set data.views to a number"
    ):
        opened(tmp_path, make_data())
    teacher = CachedTeacher(make_teacher, tmp_path)
    teacher.open(make_data(), ["val"])  # not augmented
    only_b = CachedTeacher(lambda: make_teacher(modalities=("b",)), tmp_path)
    data = make_data()
    data.processors["b"].__class__ = Still
    only_b.open(data, ["train"])
    assert only_b.missing == 28, "what the teacher does not read may be augmented"


def test_each_view_has_its_own_answer(tmp_path: Path) -> None:
    data, live = make_data(views=2), make_teacher()
    teacher = opened(tmp_path, data)
    assert teacher.missing == 2 * 28 + 13
    loader = data._loader("train")
    epochs = []
    for epoch in range(4):
        loader.sampler.set_epoch(epoch)  # type: ignore[union-attr]
        epochs.append(list(loader))
        for batch in epochs[-1]:
            assert batch["view"].unique().tolist() == [epoch % 2]
            torch.testing.assert_close(teacher(batch).logits, live(batch).logits, atol=2e-3, rtol=0)
        teacher.end_epoch(lambda: None)
        assert teacher.missing == [28 + 13, 13, 13, 13][epoch]
    assert _inputs(epochs[0]) == _inputs(epochs[2]) != _inputs(epochs[1])
    other = make_data(views=2)
    other.seed = 5
    assert opened(tmp_path, other).missing == 2 * 28 + 13, "another seed makes other views"
    assert opened(tmp_path, make_data(views=3)).missing == 28 + 13, "the first two are the same"


def _inputs(epoch: list[Batch]) -> dict[int, list[float]]:
    found = {}
    for batch in epoch:
        inputs = batch["inputs"]["a"]
        assert isinstance(inputs, Tensor)
        found |= dict(zip(batch["sample_id"].tolist(), inputs.tolist(), strict=True))
    return dict(sorted(found.items()))


# -- what goes wrong ----------------------------------------------------------------------------------


@pytest.mark.row("C1")
def test_C1_damage_stops_and_repair_asks_again_about_these_alone(tmp_path: Path) -> None:
    data = plain_data()
    filled(tmp_path, data)
    path = next(tmp_path.rglob("*.data"))
    raw = bytearray(path.read_bytes())
    raw[10] ^= 4
    path.write_bytes(raw)
    teacher = opened(tmp_path, data)
    everything = [*batches(data), *batches(data, "val")]
    with pytest.raises(CheckpointError, match=r"other bytes than were written.*cache: repair"):
        [teacher(batch) for batch in everything]
    with pytest.warns(UserWarning, match="damage, computed again"):
        mended = opened(tmp_path, data, on_damage="repair")
    assert 0 < mended.missing < 41
    live = make_teacher()
    for batch in everything:
        torch.testing.assert_close(mended(batch).logits, live(batch).logits, atol=2e-3, rtol=0)
    mended.end_epoch(lambda: None)
    assert opened(tmp_path, data).missing == 0


@pytest.mark.row("C8")
def test_C8_a_full_disk_ends_the_keeping_and_not_the_training(tmp_path: Path) -> None:
    blocked = tmp_path / "blocked"
    blocked.write_text("a file where a folder must go")
    with pytest.warns(UserWarning, match="no longer kept") as caught:
        train(tmp_path, CachedTeacher(make_teacher, blocked / "c"), plain_data())
    assert len([w for w in caught if "no longer kept" in str(w.message)]) == 1
    assert sum(ASKED) > 41


@pytest.mark.row("C2")
def test_C2_a_damaged_description_is_refused(tmp_path: Path) -> None:
    filled(tmp_path, plain_data())
    path = next(tmp_path.rglob("space.json"))
    good = path.read_text()
    for bad in ("", good[:50], good.replace("float16", "float32"), "[]", "{}"):
        path.write_text(bad)
        with pytest.raises(CheckpointError, match="remove that folder"):
            opened(tmp_path, plain_data())


def test_teachers_that_learn_and_data_that_do_not_tell_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TeacherError, match="EmaTeacher, which changes during training"):
        CachedTeacher(EmaTeacher, tmp_path)
    with pytest.raises(ConfigError, match="a function that makes one"):
        CachedTeacher(make_teacher(), tmp_path)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="a NoneType; expected a MultimodalDataModule"):
        CachedTeacher(make_teacher, tmp_path).open(None, ["train"])  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"top_k: found 3; expected between 1 and 2"):
        opened(tmp_path, plain_data(), top_k=3)


def test_a_function_that_makes_another_teacher_each_time_is_refused(tmp_path: Path) -> None:
    seeds = iter(range(9))
    teacher = opened(tmp_path, plain_data(), lambda: make_teacher(next(seeds)))
    list(teacher.fill(batches(plain_data())))
    list(teacher.fill(batches(plain_data(), "val")))
    other = CachedTeacher(lambda: make_teacher(0), tmp_path)
    other.open(plain_data(), ["train", "val"])
    other._make = make_teacher
    with pytest.raises(TeacherError, match="another teacher than the function made before"):
        other.open(plain_data(Shuffled()), ["train"])


def test_before_it_is_opened_it_asks_and_keeps_nothing(tmp_path: Path) -> None:
    batch = batches(plain_data())[0]
    teacher = CachedTeacher(make_teacher, tmp_path / "c", "bfloat16")
    assert same_bits(teacher(batch).logits, make_teacher()(batch).logits)
    teacher.end_epoch(lambda: None)
    teacher.close()
    assert not (tmp_path / "c").exists()


# -- identity -----------------------------------------------------------------------------------------


_OBJECTS = (
    "import torch; from lightning_distill.identity import identity_of;"
    "layer = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2));"
    "torch.nn.init.ones_(layer[0].weight); torch.nn.init.ones_(layer[0].bias);"
    "found = identity_of(layer, {'a', 'b', 'c'}, {'x': 1, 'y': 2.5}, lambda x: x + 1, torch.relu, print);"
)


def test_an_identity_outlives_the_process() -> None:
    hooked = "torch.nn.Linear(1, 1).register_forward_hook(print); layer ="
    said = []
    for seed, program in (("1", _OBJECTS), ("77", _OBJECTS.replace("layer =", hooked))):
        there = subprocess.run(
            [sys.executable, "-c", program + "print(found)"],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        said.append(there.stdout.strip())
    assert said[0] == said[1]
    assert len(said[0]) == 32


def test_an_answer_does_not_change_who_the_teacher_is() -> None:
    teacher = make_teacher()
    before = identity_of(teacher)
    teacher(batches(plain_data())[0])
    teacher.read_layers(["encoders.a.linear"])
    teacher(batches(plain_data())[0])
    assert identity_of(teacher) == before == identity_of(make_teacher())
