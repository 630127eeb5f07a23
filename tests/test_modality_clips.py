"""Clips of single modalities, between encoder and fusion."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_distill.encoders import Encoder, ImageCNN, LogMelCNN
from lightning_distill.errors import ConfigError
from lightning_distill.export import load_student, save_student
from lightning_distill.feature_clipping import (
    BoundaryClip,
    FeatureClip,
    FeatureClipChain,
    HardClip,
    NormBallClip,
)
from lightning_distill.model import MultimodalModel
from lightning_distill.units import Quantile, StandardDeviation
from tests.builders import make_batch, make_model, weights_of
from tests.shelves import build, concrete
from tests.test_model import assert_same_answer, spoiled

SIZE = 4


def twins(**options: Any) -> tuple[MultimodalModel, MultimodalModel]:
    """With and without clips, with the same weights, without dropout."""
    clipped, free = make_model(**options).eval(), make_model().eval()
    free.load_state_dict(
        {n: x for n, x in clipped.state_dict().items() if not n.startswith("modality_clips")}
    )
    return clipped, free


def test_features_are_those_after_the_clip_and_fusion_reads_them() -> None:
    clipped, free = twins(modality_clips={"a": HardClip(0.2)})
    batch = make_batch(size=SIZE)
    output, plain = clipped(batch), free(batch)
    assert torch.equal(output.features["a"], plain.features["a"].clamp(-0.2, 0.2))
    assert torch.equal(output.features["b"], plain.features["b"])
    assert torch.equal(output.embedding, torch.cat([output.features["a"], output.features["b"]], dim=1))
    assert torch.equal(output.logits, clipped.head(output.embedding))


def test_saturation_is_told_by_modality_over_the_rows_that_are_there() -> None:
    clipped, free = twins(
        modality_clips={"a": HardClip(0.2), "b": HardClip(0.4)}, feature_clip=NormBallClip(9.0)
    )
    batch = make_batch(size=SIZE, absent={"a": [1, 2, 3], "b": [0]})
    output, plain = clipped(batch), free(batch)
    assert set(output.extras) == {"saturated_share", "saturated_share/a", "saturated_share/b"}
    for modality, epsilon, rows in (("a", 0.2, [0]), ("b", 0.4, [1, 2, 3])):
        share = (plain.features[modality][rows].abs() > epsilon).double().mean().item()
        assert 0 < share < 1
        assert output.extras[f"saturated_share/{modality}"].item() == pytest.approx(share)
        assert not output.extras[f"saturated_share/{modality}"].requires_grad


def test_saturation_is_told_only_of_clips_that_bound_the_feature() -> None:
    chain = FeatureClipChain([BoundaryClip(0.1), HardClip(0.2)])
    model = make_model(modality_clips={"a": chain, "b": BoundaryClip(0.1)}, feature_clip=BoundaryClip(0.1))
    assert set(model(make_batch(size=SIZE)).extras) == {"saturated_share/a"}


@pytest.mark.parametrize("cls", concrete("feature_clipping"))
def test_what_is_absent_stays_zero_and_cannot_matter(cls: type[FeatureClip]) -> None:
    model = make_model(modality_clips={"a": build(cls), "b": build(cls)}).train()
    batch = make_batch(size=SIZE, absent={"a": [0], "b": [1, 2]})
    assert_same_answer(model, batch, spoiled(batch))
    features = model(spoiled(batch)).features
    assert (features["a"][0] == 0).all()
    assert (features["b"][[1, 2]] == 0).all()


def test_what_is_absent_cannot_move_a_unit() -> None:
    batch = make_batch(size=SIZE, absent={"a": [0, 2]})
    histories = []
    for seen in (batch, spoiled(batch)):
        torch.manual_seed(3)
        chain = FeatureClipChain([HardClip(1.0, StandardDeviation()), BoundaryClip(1.0, Quantile())])
        model = make_model(modality_clips={"a": chain}).train()
        model(seen).logits.square().sum().backward()
        histories.append(weights_of(model.modality_clips))
    assert all(torch.equal(histories[0][name], tensor) for name, tensor in histories[1].items())
    assert all(tensor != 0 for tensor in histories[0].values())


def test_only_rows_that_are_there_are_measured() -> None:
    """2 of 4 are there, so each counts twice, and the root mean square is that of the two."""
    unit = StandardDeviation(0.0)
    model = make_model(modality_clips={"a": HardClip(1e6, unit)}).train()
    features = model(make_batch(size=SIZE, absent={"a": [0, 3]})).features["a"]
    root = features[[1, 2]].square().mean().sqrt()
    torch.testing.assert_close(unit([torch.zeros(1)], fresh=False), root.detach())


def test_a_clip_for_a_modality_without_encoder_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"modality_clips: found modality 'imgae'.*did you mean 'image'"):
        MultimodalModel({"image": ImageCNN(width=4)}, 3, modality_clips={"imgae": HardClip(1.0)})


def test_the_whole_model_compiles_as_one_graph() -> None:
    torch._dynamo.reset()
    chain = FeatureClipChain([HardClip(2.0, StandardDeviation()), BoundaryClip(1.0, Quantile())])
    model, batch = make_model(modality_clips={"a": chain}).eval(), make_batch(absent={"a": [1]})
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(batch).logits, model(batch).logits)


def test_clips_and_their_histories_are_in_a_saved_student(tmp_path: Path) -> None:
    shelf = "lightning_distill.feature_clipping"
    unit = {"class_path": "lightning_distill.units.StandardDeviation", "init_args": {"decay": 0.5}}
    config = {
        "class_path": "lightning_distill.MultimodalModel",
        "init_args": {
            "num_classes": 3,
            "encoders": {
                "image": {"class_path": "lightning_distill.encoders.ImageCNN", "init_args": {"width": 4}},
                "audio": {"class_path": "lightning_distill.encoders.LogMelCNN", "init_args": {"width": 4}},
            },
            "modality_clips": {
                "image": {
                    "class_path": f"{shelf}.FeatureClipChain",
                    "init_args": {
                        "clips": [
                            {"class_path": f"{shelf}.HardClip", "init_args": {"epsilon": 0.5, "unit": unit}},
                            {"class_path": f"{shelf}.BoundaryClip", "init_args": {"epsilon": 2.0}},
                        ]
                    },
                }
            },
        },
    }
    chain = FeatureClipChain([HardClip(0.5, StandardDeviation(0.5)), BoundaryClip(2.0)])
    encoders: dict[str, Encoder] = {"image": ImageCNN(width=4), "audio": LogMelCNN(width=4)}
    model = MultimodalModel(encoders, 3, modality_clips={"image": chain})
    batch = make_batch(("image", "audio"), SIZE)
    model.train()(batch)
    save_student(model, tmp_path / "student", config)
    loaded = load_student(tmp_path / "student")
    assert torch.equal(loaded(batch).logits, model.eval()(batch).logits)
    assert weights_of(loaded).keys() == weights_of(model).keys()
    hard, boundary = loaded.modality_clips["image"].clips  # type: ignore[union-attr, misc]
    assert isinstance(hard, HardClip)
    assert isinstance(boundary, BoundaryClip)
    assert (hard.epsilon, boundary.epsilon) == (0.5, 2.0)
    assert "modality_clips.image.clips.0.unit.root" in weights_of(loaded)


class Scaled(Encoder):
    """x, times a number."""

    def __init__(self, dim: int, factor: float) -> None:
        super().__init__(dim)
        self.factor = nn.Parameter(torch.tensor(factor))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.factor * inputs


def accuracy(clips: dict[str, FeatureClip]) -> float:
    """Two classes, told by `b` alone; `a` is noise a thousand times as large. 100 steps on the head."""
    torch.manual_seed(1)
    model = MultimodalModel({"a": Scaled(6, 1000.0), "b": Scaled(5, 1.0)}, 2, modality_clips=clips)
    model.encoders.requires_grad_(False)
    optimizer = torch.optim.SGD(model.head.parameters(), 0.1)
    batch = make_batch(size=400)
    batch["target"] = (batch["inputs"]["b"][:, 0] > 0).long()  # type: ignore[index, call-overload, union-attr]
    train, test = (rows(batch, half) for half in (slice(200), slice(200, 400)))
    for _ in range(100):
        loss = nn.functional.cross_entropy(model(train).logits, train["target"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    answers: Tensor = model.eval()(test).logits.argmax(dim=1)
    return (answers == test["target"]).float().mean().item()


def rows(batch: Any, some: slice) -> Any:
    parts = {"target": batch["target"][some]}
    return parts | {k: {m: x[some] for m, x in batch[k].items()} for k in ("inputs", "present")}


def test_a_clip_keeps_a_modality_from_drowning_the_other() -> None:
    assert accuracy({}) < 0.65
    assert accuracy({"a": HardClip(1.0)}) > 0.9
    assert accuracy({"a": NormBallClip(2.0)}) > 0.9


def test_a_boundary_clip_keeps_a_steep_modality_in_bounds() -> None:
    """Encoder `a` is reached through a head a thousand times as steep; that of `b` is as before."""
    norms = {}
    for name, clips in {"free": {}, "clipped": {"a": BoundaryClip(0.1)}}.items():
        torch.manual_seed(0)
        model: MultimodalModel = make_model(modality_clips=clips).eval()  # type: ignore[arg-type]
        with torch.no_grad():
            model.head.weight[:, :8] *= 1000
        batch = make_batch(size=SIZE)
        nn.functional.cross_entropy(model(batch).logits, batch["target"]).backward()
        norms[name] = {
            m: torch.cat([p.grad.flatten() for p in model.encoders[m].parameters() if p.grad is not None])
            for m in ("a", "b")
        }
    assert norms["free"]["a"].norm() > 100 * norms["clipped"]["a"].norm() > 0
    torch.testing.assert_close(norms["free"]["b"], norms["clipped"]["b"])
