"""A term that leaves out classes or samples: its value, its gradient, and what it reads from a file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lightning_distill.errors import ConfigError
from lightning_distill.losses import CKA, DistillationLoss, Excluding, Hint, LogitKD, OnTarget, logit_kd
from lightning_distill.structures import UNLABELLED, Batch, ModelOutput, Outputs
from lightning_distill.teachers import CachedTeacher, FrozenTeacher
from tests.builders import make_batch, make_data, make_model, make_output, make_trainer, weights_of

BIG = 2**63 - 5
TARGET = torch.tensor([0, 1, 2, 3, 1, UNLABELLED])


def case(target: torch.Tensor = TARGET) -> tuple[ModelOutput, ModelOutput, Batch]:
    student, teacher = make_output(6, 4), make_output(6, 4)
    student = replace(student, logits=student.logits.requires_grad_())
    logits = teacher.logits.clone()
    logits[5] = torch.tensor([0.0, 9.0, 0.0, 0.0])  # what it says of the row without a label
    batch = make_batch(("image", "text"), 6)
    batch["target"] = target
    batch["sample_id"] = torch.tensor([7, -3, 2**31 + 9, BIG, 11, 12])
    return student, replace(teacher, logits=logits), batch


def ids(folder: Path, text: str) -> Path:
    path = folder / "ids.txt"
    path.write_text(text, encoding="utf-8")
    return path


def test_classes_by_label_and_else_by_the_teacher() -> None:
    student, teacher, batch = case()
    found = Excluding(LogitKD(temperature=3.0), classes=[1])(student, teacher, batch)
    kept = [0, 2, 3]  # rows 1 and 4 have the label, row 5 has none and the teacher says 1
    assert found > 0
    assert torch.equal(found, logit_kd(student.logits[kept], teacher.logits[kept], 3.0))


def test_without_a_teacher_a_row_without_a_label_stays() -> None:
    class _Sum(DistillationLoss):
        needs_teacher = False

        def forward(self, student: ModelOutput, teacher: ModelOutput | None, batch: Batch) -> torch.Tensor:
            return batch["sample_id"].double().sum() + 0 * student.logits.sum()

    student, _, batch = case()
    batch["sample_id"] = torch.tensor([1, 10, 100, 1000, 10000, 100000])
    assert Excluding(_Sum(), classes=[0, 1])(student, None, batch) == 101100


def test_samples_of_a_file(tmp_path: Path) -> None:
    student, teacher, batch = case()
    path = ids(tmp_path, f"{2**31 + 9}\n\n{BIG}\r\n-3\n{BIG}\n 4 \n")
    term = Excluding(LogitKD(), samples=path)
    path.unlink()  # read once
    kept = [0, 4, 5]
    expected = logit_kd(student.logits[kept], teacher.logits[kept], LogitKD().temperature)
    assert torch.equal(term(student, teacher, batch), expected)
    both = Excluding(LogitKD(), [0], ids(tmp_path, "11"))(student, teacher, batch)
    kept = [1, 2, 3, 5]
    assert torch.equal(both, logit_kd(student.logits[kept], teacher.logits[kept], LogitKD().temperature))


def test_nothing_excluded_is_the_term() -> None:
    student, teacher, batch = case()
    assert torch.equal(Excluding(LogitKD())(student, teacher, batch), LogitKD()(student, teacher, batch))


def test_all_rows_excluded_is_0_with_a_gradient_of_0_for_everything() -> None:
    """DDP and FSDP wait for every parameter."""
    student, teacher, batch = case()
    term = Excluding(Hint(), classes=[0, 1, 2, 3])
    term.adapt(((8,), (4,)), ((8,),))
    value = term(replace(student, logits=student.logits * torch.inf), teacher, batch)
    value.backward()
    assert value == 0
    trained = list(term.parameters())
    assert trained
    for p in [*trained, student.logits]:
        assert p.grad is not None
        assert not p.grad.nan_to_num(nan=0.0).any()
    assert not any(p.grad.isnan().any() for p in trained if p.grad is not None)


def test_wraps_and_is_wrapped() -> None:
    student, teacher, batch = case()
    batch["in_target_domain"] = torch.tensor([True, True, True, False, False, True])
    inner = OnTarget(Excluding(LogitKD(), classes=[1]))(student, teacher, batch)
    outer = Excluding(OnTarget(LogitKD()), classes=[1])
    assert outer.reads_domains
    assert not Excluding(LogitKD()).reads_domains
    kept = [0, 2]
    expected = logit_kd(student.logits[kept], teacher.logits[kept], LogitKD().temperature)
    assert torch.equal(inner, expected)
    assert torch.equal(outer(student, teacher, batch), expected)
    assert OnTarget(Excluding(CKA(gather=True))).gather, "the other processes wait for its rows"
    assert Excluding(LogitKD(), classes=[1]).suits == {Outputs.CLASSES}


@pytest.mark.parametrize(
    ("text", "line"),
    [("12\nabc\n", 2), ("1\n\n3.5\n", 3), (f"{2**63}\n", 1), ("1 2\n", 1), ("1\n٣\n", 2), ("9" * 5000, 1)],
)
def test_names_the_line_that_is_no_id(tmp_path: Path, text: str, line: int) -> None:
    with pytest.raises(ConfigError, match=rf"ids\.txt, line {line}: found"):
        Excluding(LogitKD(), samples=ids(tmp_path, text))


def test_a_file_that_is_missing_empty_or_no_text(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        Excluding(LogitKD(), samples=tmp_path / "none.txt")
    with pytest.raises(ConfigError, match="no id in it"):
        Excluding(LogitKD(), samples=ids(tmp_path, "\n\n"))
    (tmp_path / "ids.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="utf-8"):
        Excluding(LogitKD(), samples=tmp_path / "ids.txt")


def test_classes_out_of_range(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"found \[0, -1\]"):
        Excluding(LogitKD(), classes=[0, -1])
    data, module = make_data(), distilled(Excluding(LogitKD(), classes=[3]))
    with pytest.raises(ConfigError, match=r"term 'kd', Excluding.classes: found the class 3"):
        make_trainer(tmp_path, limit_train_batches=0).fit(module, datamodule=data)
    student, teacher, batch = case()
    with pytest.raises(ConfigError, match="the class 4 and a student of 4"):
        Excluding(LogitKD(), classes=[4])(student, teacher, batch)


def distilled(term: DistillationLoss, cache: Path | None = None):  # type: ignore[no-untyped-def]
    from lightning_distill.module import DistillationModule

    torch.manual_seed(0)
    model = make_model()
    torch.manual_seed(1)
    teacher = FrozenTeacher(model) if cache is None else CachedTeacher(lambda: FrozenTeacher(model), cache)
    return DistillationModule(make_model(), teacher, {"kd": term})


def test_resumes_and_reads_a_cache(tmp_path: Path) -> None:
    """A broken-off training with cached answers ends as the one in one piece, to the last bit."""
    path = ids(tmp_path, "5000\n5003\n")

    def train(folder: str, epochs: int, ckpt: Path | None = None) -> tuple[dict[str, torch.Tensor], Path]:
        term = Excluding(LogitKD(), [1], path)
        module = distilled(term, tmp_path / "cache")
        trainer = make_trainer(tmp_path / folder, max_epochs=epochs)
        trainer.fit(module, datamodule=make_data(views=2), ckpt_path=ckpt)
        saved = tmp_path / folder / "end.ckpt"
        trainer.save_checkpoint(saved)
        return weights_of(module), saved

    whole, _ = train("whole", 2)
    _, half = train("half", 1)
    resumed, _ = train("resumed", 2, half)
    assert whole.keys() == resumed.keys()
    assert not [name for name in whole if "_ids" in name or "_classes" in name]
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
