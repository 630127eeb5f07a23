"""The CKA map against the paper's formula with Gram matrices, and that looking changes nothing."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lightning_distill.encoders import ByteTextCNN, ImageCNN
from lightning_distill.errors import ConfigError
from lightning_distill.explanation.layers import per_sample
from lightning_distill.explanation.similarity import linear_cka, similarity
from lightning_distill.fusion import TokenAttentionFusion
from lightning_distill.model import MultimodalModel
from lightning_distill.structures import Batch, ModelOutput
from lightning_distill.teachers import (
    CachedTeacher,
    FrozenTeacher,
    HalfPrecisionTeacher,
    ModelTeacher,
    Teacher,
)
from tests.builders import VectorSource, make_batch, make_data, make_model, same_bits, weights_of

Array = NDArray[np.float64]


def hsic(k: Array, m: Array) -> float:
    """tr(K H M H) / (n - 1)^2: equation 3 of 1905.00414."""
    n = len(k)
    h = np.eye(n) - np.ones((n, n)) / n
    return float(np.trace(k @ h @ m @ h)) / (n - 1) ** 2


def cka(x: Array, y: Array) -> float:
    k, m = x @ x.T, y @ y.T
    return hsic(k, m) / np.sqrt(hsic(k, k) * hsic(m, m))


@pytest.mark.parametrize(("n", "p", "q"), [(40, 5, 3), (12, 30, 4), (9, 50, 70), (2, 3, 3)])
def test_is_the_papers_formula(n: int, p: int, q: int) -> None:
    rng = np.random.default_rng(n)
    x, y = 5 + rng.normal(size=(n, p)), rng.normal(size=(n, q))
    y[:, 0] += x[:, 1]
    assert linear_cka(torch.tensor(x), torch.tensor(y)) == pytest.approx(cka(x, y), abs=1e-12)


def test_turning_and_scaling_change_nothing_but_a_stretch_does() -> None:
    x, y = torch.randn(30, 6, dtype=torch.float64), torch.randn(30, 4, dtype=torch.float64)
    turn = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64)).Q
    assert linear_cka(1e6 * x @ turn - 3, y) == pytest.approx(linear_cka(x, y), abs=1e-10)
    assert linear_cka(x * torch.tensor([9.0, 1, 1, 1, 1, 1]), y) != pytest.approx(linear_cka(x, y), abs=1e-3)
    assert linear_cka(x, x @ turn) == pytest.approx(1, abs=1e-12)
    assert linear_cka(torch.ones(5, 3), x[:5]) == 0


def test_a_student_that_is_its_own_teacher() -> None:
    torch.manual_seed(0)
    student = make_model().eval()
    found = similarity(student, FrozenTeacher(copy.deepcopy(student)), make_data(), "val", most=10)
    assert found.student == found.teacher
    assert found.samples == 10
    assert [n for n in found.student if "." in n and n.startswith("encoders")] == [
        f"encoders.{m}.{part}" for m in ("a", "b") for part in ("linear", "norm")
    ]
    assert found.student[4:] == ("features.a", "features.b", "embedding", "logits")
    assert torch.allclose(found.values.diagonal(), torch.ones(8, dtype=torch.float64), atol=1e-12)
    assert torch.allclose(found.values, found.values.T, atol=1e-12)
    assert found.values.min() >= 0
    assert not torch.allclose(found.values, torch.ones(8, 8, dtype=torch.float64), atol=1e-2)


def test_is_about_these_samples_and_layers() -> None:
    """Each entry again, by hand, from the models' own outputs and the reference."""
    torch.manual_seed(1)
    student, teacher = make_model(("a",)).eval(), make_model().eval()
    data = make_data(VectorSource(val=21, absent={"b": [30, 33]}))
    found = similarity(student, FrozenTeacher(teacher), data, "val")
    rows = [r for r in range(28, 49) if r not in (30, 33)]
    assert found.samples == len(rows)
    batch = make_batch(("a", "b"), len(rows))
    source = data.indexed
    batch["inputs"] = {
        m: torch.tensor(np.stack([source.load(m, r) for r in rows])).float() for m in ("a", "b")
    }
    with torch.no_grad():
        mine, theirs = student(batch), teacher(batch)
        hidden = student.encoders["a"].linear(batch["inputs"]["a"])
    pairs = {
        ("encoders.a.linear", "logits"): (hidden, theirs.logits),
        ("features.a", "features.b"): (mine.features["a"], theirs.features["b"]),
        ("logits", "embedding"): (mine.logits, theirs.embedding),
    }
    for (s, t), (x, y) in pairs.items():
        value = found.values[found.student.index(s), found.teacher.index(t)]
        assert float(value) == pytest.approx(cka(x.double().numpy(), y.double().numpy()), abs=1e-6)


class _Answers(Teacher):
    """No model: it only answers."""

    def __init__(self) -> None:
        self.num_classes = 3

    def __call__(self, batch: Batch) -> ModelOutput:
        x = batch["inputs"]["b"]
        assert isinstance(x, Tensor)
        return ModelOutput(x[:, :3])

    def to(self, device: torch.device) -> None:
        pass

    def tensors(self):  # type: ignore[no-untyped-def]
        return iter(())

    def read_layers(self, names: object) -> None:
        raise AssertionError


def test_a_teacher_without_layers_gives_its_answers() -> None:
    found = similarity(make_model(), _Answers(), make_data(), "val")
    assert found.teacher == ("logits",)


def test_a_teacher_that_answers_from_disk(tmp_path: Path) -> None:
    """Also once all its answers are there, and it is let go."""
    torch.manual_seed(0)
    model = make_model()
    teacher = CachedTeacher(lambda: FrozenTeacher(model), tmp_path, dtype="float32", also=["embedding"])
    live = similarity(make_model(), FrozenTeacher(copy.deepcopy(model)), make_data(), "val").teacher
    found = [similarity(student, teacher, make_data(), "val") for student in [make_model()] * 2]
    assert not teacher.missing
    assert found[0].teacher == found[1].teacher == ("embedding", "logits") == live[-2:]
    assert torch.equal(found[0].values, found[1].values)


def test_where_no_sample_has_all() -> None:
    absent = {"a": list(range(0, 41, 2)), "b": list(range(1, 41, 2))}
    found = similarity(make_model(), _Answers(), make_data(VectorSource(absent=absent)), "val")
    assert found.samples == 13
    with pytest.raises(ConfigError, match="1 samples that both"):
        similarity(make_model(), _Answers(), make_data(), "val", most=1)


@pytest.mark.parametrize("half", [False, True])
def test_looking_changes_nothing(half: bool) -> None:
    student, model = make_model(), make_model()
    student.train()
    student.encoders["a"].norm.eval()  # frozen by its user
    frozen = FrozenTeacher(model)
    frozen.read_layers(["encoders.a.linear"])
    teacher: Teacher = HalfPrecisionTeacher(frozen) if half else frozen
    before = [weights_of(student), weights_of(model)]
    modes = [[m.training for m in x.modules()] for x in (student, model)]
    hooks = [[len(m._forward_hooks) for m in x.modules()] for x in (student, model)]
    state = torch.get_rng_state()
    found = similarity(student, teacher, make_data(), "val")
    assert "encoders.a.linear" in found.teacher
    for then, x in zip(before, (student, model), strict=True):
        now = weights_of(x)
        assert all(same_bits(then[name], now[name]) for name in then)
    assert modes == [[m.training for m in x.modules()] for x in (student, model)]
    assert hooks == [[len(m._forward_hooks) for m in x.modules()] for x in (student, model)]
    assert torch.equal(state, torch.get_rng_state())
    output = teacher(make_batch())
    assert "encoders.a.linear" in output.layers, "what training reads is still read"
    assert len(output.layers) == 1


def test_hooks_go_also_when_it_fails() -> None:
    class _Fails(_Answers):
        def __call__(self, batch: Batch) -> ModelOutput:
            raise RuntimeError("gone")

    student = make_model().train()
    with pytest.raises(RuntimeError, match="gone"):
        similarity(student, _Fails(), make_data(), "val")
    assert all(m.training and not m._forward_hooks for m in student.modules())


def layer_names(model: MultimodalModel, batch: Batch) -> tuple[str, ...]:
    from lightning_distill.explanation.layers import chosen_layers

    model.eval()
    with torch.no_grad():
        return chosen_layers(model, lambda: model(batch), [f"encoders.{m}" for m in model.modalities])


def test_opens_containers_and_chooses_evenly() -> None:
    model = MultimodalModel({"image": ImageCNN(), "text": ByteTextCNN()}, 3)
    assert layer_names(model, make_batch(("image", "text"))) == (
        "encoders.image.layers.0",
        "encoders.image.layers.4",
        "encoders.image.layers.5",
        "encoders.image.layers.9",
        "encoders.text.embed",
        "encoders.text.first",
        "encoders.text.second",
    )


class _Timm(ModelTeacher):
    def __init__(self, name: str) -> None:
        super().__init__(timm.create_model(name, num_classes=3, in_chans=1))
        self.num_classes = 3

    def answer(self, model: nn.Module, batch: Batch) -> ModelOutput:
        x = batch["inputs"]["a"]
        assert isinstance(x, Tensor)
        return ModelOutput(model(x[:, :1, None, None].expand(-1, 1, 32, 32).contiguous()))


def test_blocks_of_a_foreign_model() -> None:
    found = similarity(make_model(), _Timm("resnet10t"), make_data(), "val", most=6)
    assert [n for n in found.teacher if n.startswith("layer")] == ["layer1", "layer2", "layer3", "layer4"]
    assert found.teacher[-1] == "logits"
    assert len(found.teacher) <= 9


def test_tokens_of_an_encoder() -> None:
    found = similarity(
        make_model(fusion=TokenAttentionFusion), FrozenTeacher(make_model()), make_data(), "val"
    )
    assert found.student[:2] == ("encoders.a.linear", "encoders.b.linear")


def test_one_vector_a_sample() -> None:
    plain = make_batch(("a",), 4)
    x = torch.randn(4, 6, 3, 5)
    assert torch.allclose(per_sample(x, nn.Conv2d(2, 6, 1), plain), x.mean((2, 3)))
    assert torch.allclose(per_sample(x, nn.Sequential(nn.Linear(2, 5), nn.ReLU()), plain), x.mean((1, 2)))
    block = nn.Sequential(nn.Conv2d(2, 6, 1), nn.Linear(24, 6))  # ConvNeXt's ends with a linear layer
    assert torch.allclose(per_sample(x, block, plain), x.mean((2, 3)))
    text = make_batch(("text",), 4)
    mask = text["inputs"]["text"]["attention_mask"].bool()  # type: ignore[index]
    tokens = torch.randn(4, 9, 7)
    by_hand = torch.stack([x[there].mean(0) for x, there in zip(tokens, mask, strict=True)])
    assert torch.allclose(per_sample(tokens, nn.Linear(3, 7), text), by_hand, atol=1e-6)
    assert torch.allclose(per_sample(tokens.mT, nn.Conv1d(3, 7, 1), text), by_hand, atol=1e-6)
    square = torch.randn(4, 9, 9)
    by_hand = torch.stack([x[:, there].mean(1) for x, there in zip(square, mask, strict=True)])
    assert torch.allclose(per_sample(square, nn.Conv1d(3, 9, 1), text), by_hand, atol=1e-6)
    assert torch.equal(per_sample(x[:, 0, 0], nn.Linear(1, 5), plain), x[:, 0, 0])
