"""Encoders that give tokens inside the model: checks, clips, absence, answers from parts, configs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lightning_distill.cli.parsing import parsed
from lightning_distill.encoders import ByteTextCNN, Encoder, ImageCNN, LogMelCNN
from lightning_distill.errors import ConfigError
from lightning_distill.feature_clipping import FeatureClip, HardClip, NormBallClip
from lightning_distill.fusion import FusionHead, GatedFusion
from lightning_distill.model import MultimodalModel
from lightning_distill.structures import ModelOutput, Tokens
from tests.builders import DIMS, TokenEncoder, VectorEncoder, make_batch, make_model
from tests.cli.conftest import Config, Project, module, project
from tests.shelves import build, concrete
from tests.test_model import assert_same_answer, spoiled

__all__ = ["project"]

SIZE = 6


class MeanTokens(FusionHead):
    """x = sum_m W_m mean_t x_mt, over the modalities and tokens that are there."""

    reads_tokens = True

    def __init__(self, feature_dims: Mapping[str, int], output_dim: int = 8) -> None:
        super().__init__(feature_dims, output_dim)
        self.project = nn.ModuleDict(
            {m: nn.Linear(dim, output_dim, bias=False) for m, dim in self.feature_dims.items()}
        )

    def fuse(self, features: Mapping[str, Tokens], mask: Tensor) -> Tensor:
        return sum(self.project[m](features[m].mean()) for m in self.modalities)  # type: ignore[return-value]


def token_model(**options: Any) -> MultimodalModel:
    torch.manual_seed(0)
    return make_model(fusion=MeanTokens, **options)


def masked_means(tokens: Tokens) -> NDArray[np.float64]:
    """Row by row, in float64; 0 where there is no token."""
    values, mask = tokens.values.detach().double().numpy(), tokens.mask.numpy()
    rows = [v[m].mean(axis=0) if m.any() else np.zeros(v.shape[1]) for v, m in zip(values, mask, strict=True)]
    return np.stack(rows)


def with_both_lengths() -> Any:
    """A batch in which modality a has two tokens in the first rows and three in the others."""
    batch = make_batch(size=SIZE)
    for inputs in batch["inputs"].values():
        inputs[:, 0] = torch.tensor([1.0, 1, 1, -1, -1, -1])  # type: ignore[index, call-overload]
    return batch


@pytest.mark.parametrize("modality", ["audio", "image", "text"])
def test_a_vector_encoder_before_a_token_head_is_refused(modality: str) -> None:
    """The error names the encoder, the option, and a head that reads what the encoder gives."""
    encoders: dict[str, Encoder] = {
        "image": ImageCNN(width=4, tokens=modality != "image"),
        "text": ByteTextCNN(width=4, tokens=modality != "text"),
        "audio": LogMelCNN(width=4, tokens=modality != "audio"),
    }
    with pytest.raises(ConfigError) as caught:
        MultimodalModel(encoders, 3, MeanTokens)
    told = str(caught.value)
    assert f"encoders[{modality!r}], {type(encoders[modality]).__name__}: found one vector a sample" in told
    assert "expected a feature for each token, which MeanTokens reads" in told
    assert f"set `tokens: true` in the init_args of encoders.{modality}" in told
    assert "such as GatedFusion" in told
    MultimodalModel({modality: encoders[modality]}, 3, GatedFusion)


def test_a_token_encoder_before_a_vector_head_is_refused() -> None:
    encoders: dict[str, Encoder] = {"image": ImageCNN(width=4), "audio": LogMelCNN(width=4, tokens=True)}
    with pytest.raises(ConfigError) as caught:
        MultimodalModel(encoders, 3, GatedFusion)
    told = str(caught.value)
    assert "encoders['audio'], LogMelCNN: found a feature for each token" in told
    assert "expected one vector a sample, which GatedFusion reads" in told
    assert "set `tokens: false` in the init_args of encoders.audio" in told
    named = told.rpartition("such as ")[2]
    (head,) = [cls for cls in concrete("fusion") if cls.__name__ == named]
    MultimodalModel({"audio": encoders["audio"]}, 3, head)


@pytest.mark.parametrize(
    ("encoder", "head", "told"),
    [
        (VectorEncoder, MeanTokens, r"by `tokens: true`, your own by super\(\).__init__\(dim, tokens=True\)"),
        (
            TokenEncoder,
            GatedFusion,
            r"by `tokens: false`, your own by super\(\).__init__\(dim, tokens=False\)",
        ),
    ],
)
def test_of_an_encoder_without_the_option_none_is_told_to_set_it(encoder: Any, head: Any, told: str) -> None:
    with pytest.raises(ConfigError, match=told) as caught:
        MultimodalModel({"a": encoder(DIMS["a"])}, 3, head)
    assert "init_args" not in str(caught.value)


def test_features_are_the_masked_means_and_tokens_what_was_fused() -> None:
    model, batch = token_model().eval(), with_both_lengths()
    output = model(batch)
    assert output.tokens["a"].mask.sum(dim=1).tolist() == [2, 2, 2, 3, 3, 3]
    for modality, tokens in output.tokens.items():
        np.testing.assert_allclose(
            output.features[modality].detach().numpy(), masked_means(tokens), rtol=1e-5, atol=1e-6
        )
        assert torch.equal(output.at(f"features.{modality}"), output.features[modality])
        there = tokens.mask[:, :, None]
        given = model.encoders[modality](batch["inputs"][modality])
        assert torch.equal(tokens.values, torch.where(there, given.values, 0.0))
    assert output.fused == output.tokens
    assert torch.equal(model.fusion(output.tokens, output.present), output.embedding)


def test_vector_encoders_give_no_tokens() -> None:
    output = make_model().eval()(make_batch())
    assert output.tokens == {}
    assert output.fused == output.features


def clipped_and_free(clip: FeatureClip) -> tuple[ModelOutput, ModelOutput]:
    """Outputs of two models of the same weights, of which one clips modality a."""
    clipped, free, batch = token_model(modality_clips={"a": clip}), token_model(), with_both_lengths()
    return clipped.eval()(batch), free.eval()(batch)


def test_a_hard_clip_bounds_each_number_of_each_token() -> None:
    output, plain = clipped_and_free(HardClip(0.2))
    assert torch.equal(output.tokens["a"].values, plain.tokens["a"].values.clamp(-0.2, 0.2))
    assert torch.equal(output.tokens["a"].mask, plain.tokens["a"].mask)
    assert torch.equal(output.tokens["b"].values, plain.tokens["b"].values)
    np.testing.assert_allclose(
        output.features["a"].detach().numpy(), masked_means(output.tokens["a"]), rtol=1e-5, atol=1e-6
    )
    there = plain.tokens["a"].values[plain.tokens["a"].mask]
    share = (there.abs() > 0.2).double().mean().item()
    assert 0 < share < 1
    assert output.extras["saturated_share/a"].item() == pytest.approx(share)


def test_a_norm_ball_bounds_each_token_by_itself() -> None:
    """A radius at the median of the norms: half of the tokens are shortened, the others stay."""
    plain = token_model().eval()(with_both_lengths())
    values, mask = plain.tokens["a"]
    norms = values.norm(dim=2)
    radius = norms[mask].median().item() * 1.0001
    output, _ = clipped_and_free(NormBallClip(radius))
    expected = values * (radius / norms.clamp(min=radius))[:, :, None]
    torch.testing.assert_close(output.tokens["a"].values, expected)
    assert (norms > radius).any(dim=1).logical_and((norms[:, :2] < radius).any(dim=1)).any()
    share = (norms[mask] > radius).double().mean().item()
    assert 0 < share < 1
    assert output.extras["saturated_share/a"].item() == pytest.approx(share)


@pytest.mark.parametrize("cls", concrete("feature_clipping"))
def test_clips_leave_absent_tokens_and_padding_at_zero(cls: Any) -> None:
    model = token_model(modality_clips={"a": build(cls), "b": build(cls)}).train()
    batch = {**with_both_lengths(), "present": make_batch(size=SIZE, absent={"a": [0], "b": [4]})["present"]}
    output = model(spoiled(batch))  # type: ignore[arg-type]
    for tokens in output.tokens.values():
        assert tokens.values.isfinite().all()
        assert (tokens.values[~tokens.mask] == 0).all()
        assert (tokens.values[tokens.mask] != 0).any()


@pytest.mark.parametrize("training", [True, False])
def test_absent_tokens_are_zero_and_masked_and_cannot_matter(training: bool) -> None:
    model, batch = token_model().train(training), make_batch(size=SIZE, absent={"a": [0, 3], "b": [1]})
    assert_same_answer(model, batch, spoiled(batch))
    output = model(spoiled(batch))
    for modality, rows in (("a", [0, 3]), ("b", [1])):
        values, mask = output.tokens[modality]
        assert not mask[rows].any()
        assert (values[rows] == 0).all()
        assert (output.features[modality][rows] == 0).all()
        others = [i for i in range(SIZE) if i not in rows]
        assert mask[others].any(dim=1).all()


def test_modality_dropout_takes_all_tokens_of_a_modality() -> None:
    model, batch = token_model(modality_dropout=0.7).train(), make_batch(size=64)
    output = model(batch)
    dropped = ~output.present["a"]
    assert 0 < dropped.sum() < 64
    assert torch.equal(output.tokens["a"].mask.any(dim=1), output.present["a"])
    assert (output.tokens["a"].values[dropped] == 0).all()
    assert (output.tokens["a"].mask.any(dim=1) | output.tokens["b"].mask.any(dim=1)).all()
    assert model.eval()(batch).tokens["a"].mask.any(dim=1).all()


def test_answer_from_equals_the_answer_to_a_batch_without_the_others() -> None:
    model, batch = token_model(feature_clip=HardClip(0.2)).eval(), with_both_lengths()
    output = model(batch)
    alone = {"a": batch["present"]["a"], "b": torch.zeros(SIZE, dtype=torch.bool)}
    assert torch.equal(model.answer_from(output, ("a",)), model({**batch, "present": alone}).logits)
    assert torch.equal(model.answer_from(output, ("a", "b")), output.logits)
    model.answer_from(output, ("b",)).sum().backward()
    assert all(p.grad is None for p in model.encoders["a"].parameters())
    assert all(p.grad is not None for p in model.encoders["b"].parameters())


def test_answer_from_is_finite_in_rows_that_have_none_of_them() -> None:
    """And leaves the other rows as they are."""
    model, batch = token_model().eval(), make_batch(size=SIZE, absent={"a": [1, 2]})
    output = model(batch)
    logits = model.answer_from(output, ("a",))
    rows = [0, 3, 4, 5]
    some = {m: Tokens(x.values[rows], x.mask[rows]) for m, x in output.tokens.items()}
    present = {"a": torch.ones(4, dtype=torch.bool), "b": torch.zeros(4, dtype=torch.bool)}
    assert logits.isfinite().all()
    torch.testing.assert_close(logits[rows], model.answer(some, present).logits)
    assert not output.tokens["a"].mask[[1, 2]].any()


def test_a_text_without_a_single_token_counts_as_absent() -> None:
    """An empty attention mask: the other modality answers, and where there is none it is an error."""
    encoders: dict[str, Encoder] = {
        "text": ByteTextCNN(width=8, tokens=True),
        "audio": LogMelCNN(width=4, tokens=True),
    }
    model, batch = MultimodalModel(encoders, 3, MeanTokens).eval(), make_batch(("text", "audio"), SIZE)
    batch["inputs"]["text"]["attention_mask"][2] = 0  # type: ignore[index, call-overload]
    absent = {**batch, "present": make_batch(("text", "audio"), SIZE, {"text": [2]})["present"]}
    found, expected = model(batch), model(absent)  # type: ignore[arg-type]
    assert torch.equal(found.logits, expected.logits)
    assert (found.features["text"][2] == 0).all()
    batch["present"]["audio"][2] = False
    with pytest.raises(RuntimeError, match="no modality"):
        model(batch)


def test_unimodal_heads_read_the_masked_means() -> None:
    model = token_model(unimodal_heads=True)
    output = model(with_both_lengths())
    for modality in DIMS:
        head = model.unimodal_heads[modality]
        weight, bias = (p.detach().double().numpy() for p in (head.weight, head.bias))
        expected = masked_means(output.tokens[modality]) @ weight.T + bias
        np.testing.assert_allclose(output.unimodal[modality].detach().numpy(), expected, rtol=1e-4, atol=1e-5)
    output.unimodal["a"].square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in model.encoders["a"].parameters())
    assert all(p.grad is None for p in model.encoders["b"].parameters())


def test_tokens_of_three_real_encoders_are_fused() -> None:
    """9 cells, 9 bytes at most, 4 moments; every parameter learns."""
    encoders: dict[str, Encoder] = {
        "image": ImageCNN(width=4, tokens=True),
        "text": ByteTextCNN(width=8, tokens=True),
        "audio": LogMelCNN(width=4, tokens=True),
    }
    model = MultimodalModel(encoders, 3, MeanTokens, unimodal_heads=True)
    output = model(make_batch(("image", "text", "audio"), SIZE, {"image": [0], "text": [1]}))
    assert {m: x.mask.shape[1] for m, x in output.tokens.items()} == {"image": 9, "text": 9, "audio": 4}
    (output.logits.square().sum() + sum(x.square().sum() for x in output.unimodal.values())).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_the_model_compiles_as_one_graph() -> None:
    torch._dynamo.reset()
    model = token_model(modality_clips={"a": HardClip(0.2)}).eval()
    batch = make_batch(size=SIZE, absent={"a": [1]})
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(batch).logits, model(batch).logits)


def read_tokens(config: Config) -> None:
    init_args = module(config)["student"]["init_args"]
    init_args["encoders"]["text"]["init_args"]["tokens"] = True
    init_args["fusion"] = {"class_path": f"{__name__}.MeanTokens", "init_args": {"output_dim": 4}}


def forget_the_head(config: Config) -> None:
    read_tokens(config)
    del module(config)["student"]["init_args"]["fusion"]


def test_a_config_says_tokens_true(project: Project) -> None:
    """It is parsed, the doctor finds nothing against it, and it trains; without a fitting head it is told."""
    file = project.change("tokens.yaml", read_tokens)
    encoder = module(parsed(["fit", "--config", file]))["student"]["init_args"]["encoders"]["text"]
    assert encoder["init_args"]["tokens"] is True
    assert project.run("doctor", "-c", file) == 0, project.out + project.err
    assert project.fit("--run", "a", config=file) == 0, project.err
    paragraph = project.fails("fit", "--config", project.change("wrong.yaml", forget_the_head))
    assert "set `tokens: false` in the init_args of encoders.text" in paragraph
