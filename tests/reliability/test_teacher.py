"""A teacher stays as it is and out of all that is trained, saved and averaged, whatever the user calls."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor, nn

from lightning_distill import save_student
from lightning_distill.errors import CheckpointError, ConfigError, TeacherError
from lightning_distill.identity import identity_of
from lightning_distill.losses import Hint, LogitKD
from lightning_distill.model import MultimodalModel
from lightning_distill.module import DistillationModule
from lightning_distill.teachers import (
    AveragedTeacher,
    CachedTeacher,
    FrozenTeacher,
    HalfPrecisionTeacher,
    Teacher,
)
from tests.builders import (
    VectorEncoder,
    VectorSource,
    make_batch,
    make_data,
    make_model,
    make_trainer,
    same_bits,
)
from tests.module.parts import ADAM, Each, Spy, distilling, make_module
from tests.processes import needs_fork, run_apart
from tests.reliability.counts import times

ENCODER = {"class_path": "tests.builders.VectorEncoder", "init_args": {"dim": 6}}
CONFIG = {
    "class_path": "lightning_distill.MultimodalModel",
    "init_args": {"num_classes": 3, "encoders": {"a": ENCODER}},
}


def tensors_in(thing: Any) -> Iterator[Tensor]:
    """Every tensor anywhere in nested containers."""
    if isinstance(thing, Tensor):
        yield thing
    elif isinstance(thing, dict):
        for value in thing.values():
            yield from tensors_in(value)
    elif isinstance(thing, list | tuple):
        for value in thing:
            yield from tensors_in(value)


def one_step_data(**options: Any) -> Any:
    return make_data(VectorSource(train=8, val=8, **options), batch_size=8)


# -- S3 -----------------------------------------------------------------------------------------------


class AnyOrder(RuleBasedStateMachine):
    """Calls what a user can reach, in any order, and looks at the teacher after each call."""

    @initialize(group=st.booleans(), compiles=st.sampled_from([False, False, False, True]))
    def begin(self, group: bool, compiles: bool) -> None:
        """A student, a teacher of one model or of two, and a rule that notes what it is given."""
        self.folder, self.compiles = TemporaryDirectory(), compiles
        self.models = [make_model(), make_model()][: 1 + group]
        teachers: list[Teacher] = [FrozenTeacher(model) for model in self.models]
        self.module = distilling(
            AveragedTeacher(teachers) if group else teachers[0], clip_rule=Spy(), optimizer=ADAM
        )
        self.modes: list[bool] = []
        for model in self.models:
            model.encoders["a"].norm.register_forward_pre_hook(self._note)
        self.hash = self._hash()
        self.trainer: Trainer | None = None
        self.saved: Path | None = None

    def _note(self, part: nn.Module, inputs: Any) -> None:
        self.modes.append(part.training)

    def _hash(self) -> str:
        assert self.module.teacher is not None
        return identity_of(list(self.module.teacher.tensors()))

    def _trainer(self) -> Trainer:
        def careless() -> None:
            self.models[0].train().requires_grad_(True)

        return make_trainer(Path(self.folder.name), callbacks=[Each(careless)])

    # -- calls

    @rule(whole=st.booleans(), on=st.booleans())
    def set_mode(self, whole: bool, on: bool) -> None:
        (self.models[0] if whole else self.models[0].encoders["a"].norm).train(on)
        self.module.train(on)

    @rule(on=st.booleans())
    def requires_grad(self, on: bool) -> None:
        self.models[-1].requires_grad_(on)
        self.module.requires_grad_(True)

    @rule()
    def fit(self) -> None:
        self.trainer = self._trainer()
        self.trainer.fit(self.module, one_step_data())
        held = {p.data_ptr() for o in self.trainer.optimizers for g in o.param_groups for p in g["params"]}
        assert not held & self._theirs()

    @rule(stage=st.sampled_from(["validate", "test", "predict"]))
    def evaluate(self, stage: str) -> None:
        options = {} if stage == "predict" else {"verbose": False}
        loader = one_step_data()
        loader.setup("fit")
        getattr(self._trainer(), stage)(self.module, loader.val_dataloader(), **options)

    @rule()
    def save(self) -> None:
        if self.trainer is None:
            return
        self.saved = Path(self.folder.name, "c.ckpt")
        self.trainer.save_checkpoint(self.saved)
        content = torch.load(self.saved, weights_only=True)
        assert not any("teacher" in name for name in content["state_dict"])
        wanted = [t for m in self.models for t in m.parameters() if t.numel() > 1 and t.std() > 0]
        for found in tensors_in(content):
            assert not any(found.shape == t.shape and torch.equal(found, t) for t in wanted)

    @rule()
    def resume(self) -> None:
        if self.saved is not None:
            self.trainer = make_trainer(Path(self.folder.name), max_epochs=2)
            self.trainer.fit(self.module, one_step_data(), ckpt_path=self.saved, weights_only=True)

    @rule()
    def reload(self) -> None:
        state = self.module.state_dict()
        assert not any("teacher" in name for name in state)
        self.module.load_state_dict(state, strict=True)

    @rule()
    def move(self) -> None:
        self.module.to(torch.float64).to("cpu").to(torch.float32)
        self.module.half().float()
        self.module.move_teacher()

    @rule()
    def compile(self) -> None:
        if not self.compiles:
            return  # takes a second
        self.module.student.compile(backend="eager")
        self.models[0].compile(backend="eager")
        torch.compile(self.module, backend="eager")

    @rule()
    def copied(self) -> None:
        self.module, self.models = copy.deepcopy((self.module, self.models))
        self.trainer = None

    @rule()
    def apply(self) -> None:
        def shrink(part: nn.Module) -> None:
            for parameter in part.parameters(recurse=False):
                parameter.data.mul_(0.99)

        self.module.apply(shrink)
        self.module.zero_grad()

    @rule()
    def optimizers(self) -> None:
        made: Any = self.module.configure_optimizers()
        assert not {p.data_ptr() for group in made.param_groups for p in group["params"]} & self._theirs()

    @rule()
    def export(self) -> None:
        folder = Path(self.folder.name, "student")
        save_student(self.module.student, folder, CONFIG)
        raw = (folder / "model.safetensors").read_bytes()
        weight = self.models[0].encoders["b"].linear.weight  # type: ignore[union-attr]
        assert weight.detach().numpy().tobytes() not in raw  # type: ignore[union-attr]

    # -- what holds

    def _theirs(self) -> set[int]:
        assert self.module.teacher is not None
        return {t.data_ptr() for t in self.module.teacher.tensors()}

    @invariant()
    def as_it_was(self) -> None:
        assert self._hash() == self.hash
        assert not any(self.modes), "a forward pass in train mode"
        assert all(p.grad is None for model in self.models for p in model.parameters())
        assert not set(sum(self.module.clip_rule.calls, ())) & self._theirs()  # type: ignore[union-attr]
        assert not {id(p) for p in self.module.parameters()} & {
            id(p) for m in self.models for p in m.parameters()
        }

    def teardown(self) -> None:
        if self.compiles:
            torch._dynamo.reset()
        self.folder.cleanup()


@pytest.mark.row("S3")
@pytest.mark.timeout(1500)
def test_any_order_of_calls() -> None:
    """Z6."""
    options = settings(
        max_examples=times(60, 500),
        stateful_step_count=8,
        deadline=None,
        derandomize=True,
        phases=[Phase.generate],  # eight calls need no shortening, which takes minutes
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(AnyOrder, settings=options)


@pytest.mark.row("S3")
def test_weights_changed_by_hand_are_named_before_anything_is_saved(tmp_path: Path) -> None:
    """In the middle of an epoch; the same values written again are no change."""
    model = make_model()
    teacher = FrozenTeacher(model)
    module, trainer = distilling(teacher), make_trainer(tmp_path)
    trainer.fit(module, one_step_data())
    with torch.no_grad():
        model.head.weight.add_(0.0)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    with torch.no_grad():
        model.head.weight.view(-1)[0] += 1e-6
    with pytest.raises(TeacherError, match=r"teacher, head\.weight: found other values"):
        trainer.save_checkpoint(tmp_path / "b.ckpt")
    assert not (tmp_path / "b.ckpt").exists()


@pytest.mark.row("S3")
@pytest.mark.parametrize("wrap", [lambda t: t, lambda t: AveragedTeacher([t, t])])
def test_weights_changed_by_hand_end_the_epoch(tmp_path: Path, wrap: Callable[[Teacher], Teacher]) -> None:
    model = make_model()

    def edit() -> None:
        model.encoders["a"].norm.running_mean.add_(1e-6)  # type: ignore[union-attr, operator]

    module = distilling(wrap(FrozenTeacher(model)))
    with pytest.raises(TeacherError, match=r"encoders\.a\.norm\.running_mean: found other values"):
        make_trainer(tmp_path, callbacks=[Each(edit)]).fit(module, make_data())


def test_a_checkpoint_is_little_more_than_student_and_optimizer(tmp_path: Path) -> None:
    """Z6: at most 3.1 times the student's bytes with AdamW, however large the teacher is."""
    module = distilling(FrozenTeacher(_wide()), student=_wide())
    trainer = make_trainer(tmp_path)
    trainer.fit(module, one_step_data())
    trainer.save_checkpoint(tmp_path / "c.ckpt")
    size = sum(t.nbytes for t in module.student.state_dict().values())
    assert size > 200_000
    assert (tmp_path / "c.ckpt").stat().st_size <= 3.1 * size


def _wide() -> MultimodalModel:
    return MultimodalModel({"a": VectorEncoder(6, 4096)}, 3)


# -- S5, S6 -------------------------------------------------------------------------------------------


class Stepping(DistillationModule):
    """Makes its own optimizer, of more than it should."""

    def configure_optimizers(self) -> Any:
        assert isinstance(self.teacher, FrozenTeacher)
        theirs = [self.teacher.model.head.weight, self.teacher.model.encoders["a"].linear.bias]
        return torch.optim.AdamW([*self.parameters(), *theirs])  # type: ignore[list-item]


@pytest.mark.row("S5")
def test_a_teachers_parameter_in_an_optimizer_is_refused_by_name(tmp_path: Path) -> None:
    model = make_model()
    before = identity_of(model)
    module = Stepping(make_model(("a",)), FrozenTeacher(model), {"kd": LogitKD()})
    with pytest.raises(TeacherError, match=r"optimizer: found 2 .*encoders\.a\.linear\.bias, head\.weight"):
        make_trainer(tmp_path).fit(module, one_step_data())
    assert identity_of(model) == before


@pytest.mark.row("S5")
def test_a_teacher_made_part_of_the_module_is_refused(tmp_path: Path) -> None:
    """As a submodule it would reach optimizer, average, clip rule and checkpoint; before or during a fit."""
    module = make_module()
    assert isinstance(module.teacher, FrozenTeacher)
    module.extra = module.teacher.model
    with pytest.raises(TeacherError, match="shared tensors, such as 'extra"):
        make_trainer(tmp_path).fit(module, one_step_data())
    del module.extra
    theirs = module.teacher.model
    trainer = make_trainer(tmp_path, callbacks=[Each(lambda: setattr(module, "extra", theirs))])
    trainer.fit(module, one_step_data())
    with pytest.raises(TeacherError, match="shared tensors, such as 'extra"):
        trainer.save_checkpoint(tmp_path / "c.ckpt")


class Average(WeightAveraging):
    """Lightning's running mean, from the first step."""

    def __init__(self) -> None:
        super().__init__(use_buffers=True)

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        return step_idx is not None


@pytest.mark.row("S5")
def test_an_average_of_weights_is_of_the_students_alone(tmp_path: Path) -> None:
    model = make_model()
    before, module, average = identity_of(model), make_module(model, clip_rule=Spy()), Average()
    trainer = make_trainer(tmp_path, callbacks=[average])
    trainer.fit(module, make_data())
    averaged = average._average_model
    assert averaged is not None
    assert not {t.data_ptr() for t in averaged.parameters()} & {t.data_ptr() for t in model.parameters()}
    assert not any("teacher" in name for name, _ in averaged.named_parameters())
    assert identity_of(model) == before
    decayed = {id(p) for o in trainer.optimizers for g in o.param_groups for p in g["params"]}
    assert decayed == {id(p) for p in module.parameters()}


@pytest.mark.row("S6")
def test_memory_that_is_shared_only_in_part_is_refused(tmp_path: Path) -> None:
    """Another object, another shape, another place in it: what one writes the other reads."""
    student, model = make_model(("a",)), make_model()
    memory = torch.randn(200)
    student.head.bias = nn.Parameter(memory[100:103])
    fine = model.head.bias
    model.head.bias = nn.Parameter(memory[101:104])
    with pytest.raises(TeacherError, match=r"1 shared tensors, such as 'student\.head\.bias'"):
        make_trainer(tmp_path).fit(make_module(model, student=student), one_step_data())
    model.head.bias = fine
    make_trainer(tmp_path).fit(make_module(model, student=student), one_step_data())


# -- S8 -----------------------------------------------------------------------------------------------


@pytest.mark.row("S8")
@pytest.mark.parametrize("cached", [False, True])
def test_another_teacher_than_the_checkpoints_is_refused_with_both_hashes(
    tmp_path: Path, cached: bool
) -> None:
    """One bit of one weight; a cached teacher is told from what it was, not from what is in memory."""
    torch.manual_seed(4)
    model = make_model()

    def teacher(changed: bool = False) -> Teacher:
        mine = copy.deepcopy(model)
        if changed:
            mine.head.weight.detach().view(torch.int32)[0, 0] ^= 1
        return CachedTeacher(lambda: FrozenTeacher(mine), tmp_path / "c") if cached else FrozenTeacher(mine)

    def run(teacher: Teacher, resume: Path | None = None) -> Trainer:
        trainer = make_trainer(tmp_path, max_epochs=1 if resume is None else 2)
        trainer.fit(distilling(teacher), make_data(views=1), ckpt_path=resume, weights_only=True)
        return trainer

    path = tmp_path / "c.ckpt"
    run(teacher()).save_checkpoint(path)
    said = torch.load(path, weights_only=True)["teacher_identity"]
    run(teacher(), path)
    with pytest.raises(CheckpointError, match=rf"hash [0-9a-f]{{32}}; expected {said}") as caught:
        run(teacher(changed=True), path)
    assert said not in caught.value.found


@pytest.mark.row("S8")
def test_a_teachers_file_with_one_bit_flipped_is_refused(tmp_path: Path) -> None:
    """Before any answer of it can be kept: with the hash it should have, and the one it has."""
    from lightning_distill import load_student

    save_student(make_model(("a",)), tmp_path / "t", CONFIG)
    path = tmp_path / "t" / "model.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-3] ^= 16
    path.write_bytes(raw)
    with pytest.raises(CheckpointError, match=r"XXH3-128 [0-9a-f]{32}; expected [0-9a-f]{32}"):
        CachedTeacher(lambda: FrozenTeacher(load_student(tmp_path / "t", packages=["tests"])), tmp_path / "c")
    assert not (tmp_path / "c").exists()


# -- S1, S4, S11 --------------------------------------------------------------------------------------


@pytest.mark.row("S1")
def test_sizes_that_differ_are_fitted_or_refused_at_setup_with_both(tmp_path: Path) -> None:
    """Classes must agree; widths need not, for an adaptor is made; kinds of layers must."""
    rng = np.random.default_rng(2)
    for _ in range(times(6, 20)):
        ours, theirs = rng.choice(np.arange(4, 30), 2, replace=False).tolist()
        wide = MultimodalModel({"a": VectorEncoder(6, theirs)}, 3)
        student = MultimodalModel({"a": VectorEncoder(6, ours)}, 3)
        module = distilling(FrozenTeacher(wide), student=student, losses={"hint": Hint()})
        make_trainer(tmp_path).fit(module, one_step_data())
        assert module.terms.losses["hint"].regressor.weight.shape == (theirs, ours)
        with pytest.raises(
            TeacherError, match=f"teacher with {theirs} classes and a student with 3.*`classes`"
        ):
            make_trainer(tmp_path).fit(make_module(make_model(classes=theirs)), one_step_data())
        image, vector = (ours, 8, theirs), (theirs,)
        with pytest.raises(ConfigError, match=r"of shape .*of shape .*name other layers") as caught:
            Hint().adapt((image,), (vector,))
        assert str(image) in caught.value.found
        assert str(vector) in caught.value.found


class Compare(Callback):
    """Notes on each rank what the teacher says about one batch, and its buffers, before and after."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.said = folder, list[Any]()

    def _note(self, module: Any) -> None:
        torch.manual_seed(1)
        batch = make_batch()
        model = module.teacher.model
        self.said.append([module.teacher(batch).logits.tolist(), identity_of(dict(model.named_buffers()))])

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self._note(pl_module)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self._note(pl_module)
        (self.folder / f"said{trainer.global_rank}.json").write_text(json.dumps(self.said))


def _on_two_ranks(folder: Path, strategy: str) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = make_model()

    def careless() -> None:
        model.train()

    options: dict[str, Any] = {
        "devices": 2,
        "strategy": "ddp_fork",
        "callbacks": [Compare(folder), Each(careless)],
    }
    module = make_module(model)
    if strategy == "ddp of ddp":
        make_trainer(folder, **options).fit(module, make_data())  # the second time DDP wraps it once more
        options["callbacks"] = [Compare(folder), Each(careless)]
    make_trainer(folder, **options).fit(module, make_data())


@pytest.mark.row("S4")
@needs_fork
def test_a_teacher_is_not_touched_by_two_processes(tmp_path: Path) -> None:
    """Batch statistics and dropout are those of the one process, on both ranks, before and after."""
    run_apart(_on_two_ranks, tmp_path, "ddp of ddp")
    first, second = (json.loads((tmp_path / f"said{rank}.json").read_text()) for rank in (0, 1))
    assert first == second
    assert first[0] == first[1]
    torch.manual_seed(0)
    model = make_model()
    torch.manual_seed(1)
    batch = make_batch()
    assert FrozenTeacher(model)(batch).logits.tolist() == first[0][0]
    assert identity_of(dict(model.named_buffers())) == first[0][1]


def _split_teacher(folder: Path) -> None:
    from torch.distributed import destroy_process_group, init_process_group

    torch.set_num_threads(1)
    init_process_group("gloo", init_method=f"file://{folder / 'meet'}", rank=0, world_size=1)
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    torch.manual_seed(0)
    model, batch = make_model(), make_batch()
    teacher = FrozenTeacher(model)
    wanted, buffers = teacher(batch).logits, identity_of(dict(model.named_buffers()))
    fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
    for _ in range(3):
        model.train()
        assert same_bits(teacher(batch).logits, wanted)
    assert identity_of(dict(model.named_buffers())) == buffers
    destroy_process_group()


@pytest.mark.row("S4")
@needs_fork
def test_a_teacher_that_fsdp_has_wrapped_says_the_same(tmp_path: Path) -> None:
    """Two ranks: tests/scale/test_two_ranks.py, and its answers there."""
    run_apart(_split_teacher, tmp_path)


@pytest.mark.row("S11")
def test_precision_is_part_of_the_key_and_the_bound_is_kept(tmp_path: Path) -> None:
    """In bfloat16 another teacher than in float32; what is kept differs by less than its precision."""
    model, data = make_model(), make_data(views=1)
    data.setup("fit")
    bounds = {"float32": 0.0, "float16": 2**-11, "bfloat16": 2**-8}
    makers: list[Callable[[], Teacher]] = [
        lambda: FrozenTeacher(model),
        lambda: HalfPrecisionTeacher(FrozenTeacher(model), agreement=0.0),
    ]
    for dtype, bound in bounds.items():
        for make in makers:
            teacher = CachedTeacher(make, tmp_path, dtype)  # type: ignore[arg-type]
            teacher.open(data, ["val"])
            assert teacher.missing == 13, "nothing of another precision is found"
            batches, live = list(data.val_dataloader()), make()
            list(teacher.fill(batches))
            for batch in batches:
                said, found = live(batch).logits, teacher(batch).logits
                assert ((found - said).abs() <= bound * said.abs()).all()
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 6
