"""Validators in the real Trainer: what they see, what they log, and who can follow it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from lightning_distill.callbacks import BestCheckpoint
from lightning_distill.data import CrossDomainDataModule
from lightning_distill.errors import ConfigError
from lightning_distill.structures import UNLABELLED, ModelOutput
from lightning_distill.tasks import Regression
from lightning_distill.validators import (
    ImportanceWeightedRisk,
    MutualInformation,
    NegativeEntropy,
    SoftNeighbourhoodDensity,
    TargetValidator,
    TeacherAgreement,
    batch_nuclear_norm,
    density_ratio,
    importance_weighted_risk,
    mutual_information,
    negative_entropy,
    soft_neighbourhood_density,
    teacher_agreement,
)
from tests.builders import VectorSource, make_data, make_trainer, same_bits
from tests.module.parts import make_module, supervised
from tests.processes import needs_fork, run_apart
from tests.validators.parts import ALONE, EVERY, Domains, Seen, Watch, validated
from tests.validators.two_ranks import main


def module_of(seed: int = 0, **options: Any) -> LightningModule:
    torch.manual_seed(seed)
    return make_module(**options)


def answers(module: Any, data: Domains, target: bool) -> tuple[ModelOutput, ModelOutput, torch.Tensor]:
    """Of student and teacher to the validation rows of one side, and the labels, in the order of ids."""
    rows = torch.tensor([row for row in range(18, 43) if bool(data.of_target[row]) == target])
    batch = data.batch(rows[data.ids[rows].argsort()].tolist())
    with torch.no_grad():
        return module.student.eval()(batch), module.teacher(batch), batch["target"]


def test_values_are_those_of_the_functions(tmp_path: Path) -> None:
    module, data = module_of(), Domains()
    found = validated(tmp_path, module, data, [cls() for cls in EVERY])
    student, teacher, _ = answers(module, data, target=True)
    source, _, labels = answers(module, data, target=False)
    assert source.embedding is not None
    assert student.embedding is not None
    weights = density_ratio(source.embedding, student.embedding)
    expected = {
        "batch_nuclear_norm": batch_nuclear_norm(student.logits),
        "importance_weighted_accuracy": 1
        - importance_weighted_risk(source.logits.argmax(dim=1) != labels, weights),
        "mutual_information": mutual_information(student.logits),
        "negative_entropy": negative_entropy(student.logits),
        "soft_neighbourhood_density": soft_neighbourhood_density(student.logits.softmax(dim=1)),
        "teacher_agreement": teacher_agreement(student.logits, teacher.logits),
    }
    assert found == {f"val/validator/{n}": pytest.approx(float(v), rel=1e-5) for n, v in expected.items()}


def test_settings_reach_the_function(tmp_path: Path) -> None:
    module, data = module_of(), Domains()
    risk = ImportanceWeightedRisk("features.a", control_variate=False, l2=0.3)
    found = validated(tmp_path, module, data, [SoftNeighbourhoodDensity(0.7), risk])
    student, *_ = answers(module, data, target=True)
    source, _, labels = answers(module, data, target=False)
    weights = density_ratio(source.features["a"], student.features["a"], l2=0.3)
    by_hand = 1 - importance_weighted_risk(source.logits.argmax(dim=1) != labels, weights, False)
    assert found["val/validator/importance_weighted_accuracy"] == pytest.approx(by_hand.item(), rel=1e-5)
    density = soft_neighbourhood_density(student.logits.softmax(dim=1), 0.7)
    assert found["val/validator/soft_neighbourhood_density"] == pytest.approx(density.item(), rel=1e-5)


@pytest.mark.parametrize("label", [0, 2, UNLABELLED])
def test_no_label_of_the_target_is_read(tmp_path: Path, label: int) -> None:
    poisoned = validated(tmp_path, module_of(), Domains(labels=label), [cls() for cls in EVERY])
    assert poisoned == validated(tmp_path, module_of(), Domains(), [cls() for cls in EVERY])
    assert len(poisoned) == len(EVERY)


def test_what_a_validator_is_given(tmp_path: Path) -> None:
    seen, data = Seen(), Domains()
    validated(tmp_path, module_of(), data, [seen])
    ((source, target),) = seen.calls
    rows = torch.arange(18, 43)
    assert len(source.logits) == int((~data.of_target[rows]).sum())
    assert len(target.logits) == int(data.of_target[rows].sum())
    assert (target.labels == UNLABELLED).all()
    assert (source.labels != UNLABELLED).all()
    assert {x.device.type for x in vars(target).values()} == {"cpu"}
    assert target.logits.dtype == target.features.dtype == torch.float32
    assert target.features.shape[1] == 8
    assert target.teacher.shape[1] == 0  # it has not asked


def test_unlabelled_rows_of_the_source_are_left_out(tmp_path: Path) -> None:
    seen, data = Seen(), Domains()
    data.target[20] = data.target[24] = UNLABELLED
    validated(tmp_path, module_of(), data, [seen])
    assert len(seen.calls[0][0].logits) == int((~data.of_target[18:]).sum()) - 2


def test_rows_without_the_modality_are_left_out(tmp_path: Path) -> None:
    class Lacking(Domains):
        def batch(self, rows: Any) -> Any:
            made = super().batch(rows)
            made["present"]["b"] = torch.tensor([row % 3 != 0 for row in rows])
            return made

    seen = Seen()
    seen.layer = "features.b"
    validated(tmp_path, supervised(), Lacking(), [seen])
    source, target = seen.calls[0]
    assert len(source.logits) == sum(row % 2 == 0 and row % 3 != 0 for row in range(18, 43))
    assert len(target.logits) == sum(row % 2 == 1 and row % 3 != 0 for row in range(18, 43))


def test_the_order_of_the_rows_does_not_matter(tmp_path: Path) -> None:
    forward = validated(tmp_path, module_of(), Domains(), [cls() for cls in EVERY])
    backward = validated(tmp_path, module_of(), Domains(backwards=True), [cls() for cls in EVERY])
    assert forward == {name: pytest.approx(value, rel=1e-4, abs=1e-6) for name, value in backward.items()}


def test_it_is_there_in_time_and_only_in_validation(tmp_path: Path) -> None:
    watch = Watch()
    trainer = make_trainer(
        tmp_path, max_epochs=2, num_sanity_val_steps=-1, callbacks=[watch, *(cls() for cls in ALONE)]
    )
    module = supervised()
    trainer.fit(module, datamodule=Domains())
    assert len(watch.rows) == 3  # the sanity check, two epochs
    assert all(len(row) == len(ALONE) for row in watch.rows)
    assert watch.rows[1] != watch.rows[2]
    assert trainer.test(module, datamodule=Domains(), verbose=False)
    assert not [name for name in trainer.callback_metrics if "validator" in name]


@pytest.mark.parametrize("first", [True, False])
def test_those_who_monitor_can_follow(tmp_path: Path, first: bool) -> None:
    watch, name = Watch(), "val/validator/mutual_information"
    monitors: list[Any] = [
        ModelCheckpoint(tmp_path / "a", "best", monitor=name, mode="max"),
        BestCheckpoint(tmp_path / "b", "best", monitor=name, mode="max"),
        EarlyStopping(name, mode="max", patience=9, strict=True),
    ]
    validator: list[Any] = [MutualInformation(), watch]
    callbacks = validator + monitors if first else monitors + validator
    trainer = make_trainer(tmp_path, max_epochs=4, enable_checkpointing=True, callbacks=callbacks)
    trainer.fit(supervised(), datamodule=Domains())
    values = [row[name] for row in watch.rows]
    assert len(set(values)) == 4
    for folder in ("a", "b"):
        saved = torch.load(tmp_path / folder / "best.ckpt", weights_only=True)
        assert saved["epoch"] == values.index(max(values))
    assert float(monitors[2].best_score) == pytest.approx(max(values))


def test_a_resumed_run_goes_on_comparing(tmp_path: Path) -> None:
    name = "val/validator/mutual_information"

    def fit(folder: str, epochs: int, resume: str | None = None) -> tuple[Watch, ModelCheckpoint, Any]:
        torch.manual_seed(4)
        watch = Watch()
        best = ModelCheckpoint(tmp_path / folder, "best", monitor=name, mode="max", save_last=True)
        module = supervised()
        callbacks = [MutualInformation(), watch, best]
        trainer = make_trainer(tmp_path, max_epochs=epochs, enable_checkpointing=True, callbacks=callbacks)
        trainer.fit(module, datamodule=Domains(), ckpt_path=resume)
        return watch, best, module

    whole, best, module = fit("whole", 4)
    fit("halves", 2)
    rest, resumed, again = fit("halves", 4, str(tmp_path / "halves" / "last.ckpt"))
    assert rest.rows[-2:] == whole.rows[-2:]
    assert resumed.best_model_score == best.best_model_score
    for one, other in zip(module.parameters(), again.parameters(), strict=True):
        assert same_bits(one, other)


def test_a_validation_that_was_broken_off_leaves_nothing(tmp_path: Path) -> None:
    class Breaking(Domains):
        def batch(self, rows: Any) -> Any:
            if 30 in rows:
                raise RuntimeError("broken off")
            return super().batch(rows)

    seen = Seen()
    with pytest.raises(RuntimeError, match="broken off"):
        validated(tmp_path, module_of(), Breaking(), [seen])
    validated(tmp_path, module_of(), Domains(), [seen])
    ((_, target),) = seen.calls
    assert len(target.logits) == 12


def test_batches_of_a_cross_domain_data_module(tmp_path: Path) -> None:
    data = CrossDomainDataModule(make_data(VectorSource()), make_data(VectorSource(val=5)))
    module, seen = module_of(), Seen()
    found = validated(tmp_path, module, data, [NegativeEntropy(), seen])
    source, target = seen.calls[0]
    assert (len(source.logits), len(target.logits)) == (13, 5)
    assert found["val/validator/negative_entropy"] == pytest.approx(negative_entropy(target.logits).item())


def test_batches_that_do_not_tell(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="do not tell which rows are of the target domain"):
        validated(tmp_path, module_of(), Domains(told=False), [NegativeEntropy()])


def test_no_target_row_is_told(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="seen 0 target rows, so val/validator/negative_entropy has no val"):
        assert validated(tmp_path, module_of(), Domains(targets=False), [NegativeEntropy()]) == {}


def test_no_source_label_is_told(tmp_path: Path) -> None:
    data = Domains()
    data.target = torch.full_like(data.target, UNLABELLED)
    with pytest.warns(UserWarning, match="seen 12 target rows, 0 labelled source rows"):
        validated(tmp_path, module_of(), data, [ImportanceWeightedRisk()])


def test_a_teacher_is_needed(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="TeacherAgreement: found a module without a teacher"):
        validated(tmp_path, supervised(), Domains(), [TeacherAgreement()])


def test_a_module_that_says_nothing(tmp_path: Path) -> None:
    class Silent(LightningModule):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            pass

    with pytest.raises(ConfigError, match="NegativeEntropy: found a validation_step that returns NoneType"):
        validated(tmp_path, Silent(), Domains(), [NegativeEntropy()])


def test_a_module_of_your_own(tmp_path: Path) -> None:
    class Own(LightningModule):
        def validation_step(self, batch: Any, batch_idx: int) -> Any:
            return {"student": ModelOutput(batch["inputs"]["a"][:, :3])}

    data = Domains()
    rows = [row for row in range(18, 43) if row % 2]
    found = validated(tmp_path, Own(), data, [NegativeEntropy()])
    by_hand = negative_entropy(data.inputs["a"][rows, :3])
    assert found["val/validator/negative_entropy"] == pytest.approx(by_hand.item(), rel=1e-5)


def test_a_task_without_classes(tmp_path: Path) -> None:
    module = supervised(task=Regression())
    with pytest.raises(ConfigError, match="NegativeEntropy: found the task Regression"):
        validated(tmp_path, module, Domains(), [NegativeEntropy()])


def test_a_layer_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"layer 'embeding'.*did you mean 'embedding'"):
        validated(tmp_path, module_of(), Domains(), [ImportanceWeightedRisk("embeding")])


def test_two_of_one_name(tmp_path: Path) -> None:
    twice: list[Any] = [SoftNeighbourhoodDensity(), SoftNeighbourhoodDensity(0.1)]
    with pytest.raises(ConfigError, match="more than one validator that logs val/validator/soft_neigh"):
        validated(tmp_path, module_of(), Domains(), twice)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_a_temperature_that_cannot_be(temperature: float) -> None:
    with pytest.raises(ConfigError, match=r"SoftNeighbourhoodDensity\.temperature"):
        SoftNeighbourhoodDensity(temperature)


def test_names_are_distinct_and_plain() -> None:
    names = [cls.name for cls in EVERY]
    assert len(set(names)) == len(names)
    assert all(
        name.isidentifier() and issubclass(cls, TargetValidator)
        for name, cls in zip(names, EVERY, strict=True)
    )


@needs_fork
def test_two_processes_say_what_one_says(tmp_path: Path) -> None:
    run_apart(main, tmp_path)
    for name in ("uneven", "one_sided"):
        one, first, second = (
            json.loads((tmp_path / f"{name}_{which}.json").read_text()) for which in ("1_0", "2_0", "2_1")
        )
        assert first == second
        assert len(one) == len(EVERY)
        assert first == {key: pytest.approx(value, rel=1e-4, abs=1e-6) for key, value in one.items()}
