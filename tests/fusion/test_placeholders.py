"""A learned vector in the place of what is absent, around heads of both kinds."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from lightning_distill import MultimodalModel, load_student, save_student
from lightning_distill.encoders import ByteTextCNN, ImageCNN
from lightning_distill.fusion import ConcatFusion, FusionHead, GatedFusion, LearnedPlaceholders
from lightning_distill.structures import Feature, Tokens
from tests.builders import make_batch
from tests.fusion.reference import BATCH, COUNTS, HOLES, run, sample, token_sample, values
from tests.verification import FORMULA, compared

Gated = partial(GatedFusion, output_dim=6)
SEVERAL = pytest.mark.parametrize("count", [2, 3])


class TokenConcat(FusionHead):
    """For each modality the sum of its tokens, weighted by their places, side by side."""

    reads_tokens = True
    logit_additive = True

    def __init__(self, feature_dims: Mapping[str, int]) -> None:
        super().__init__(feature_dims, sum(feature_dims.values()))

    def fuse(self, features: Mapping[str, Tokens], mask: Tensor) -> Tensor:
        torch._assert_async(mask.all())
        return torch.cat([_by_place(features[m]) for m in self.modalities], dim=1)


def _by_place(tokens: Tokens) -> Tensor:
    places = torch.arange(tokens.mask.shape[1]) + 1
    return ((places * tokens.mask)[:, :, None] * tokens.values).sum(dim=1)


@COUNTS
@HOLES
def test_around_concatenation(count: int, holes: bool) -> None:
    """x = [y_1; ...; y_M]: each is the feature, or the placeholder."""
    widths, features, present = sample(count, holes)
    head = LearnedPlaceholders(widths, ConcatFusion)
    w = values(head)
    nothing = np.full((), np.nan)  # of a sole modality, which is never absent
    parts = [np.where(present[m][:, None], features[m], w.get(f"placeholders.{m}", nothing)) for m in widths]
    compared(LearnedPlaceholders, run(head, features, present), np.concatenate(parts, axis=1), by=FORMULA)


@COUNTS
@HOLES
@pytest.mark.parametrize("training", [True, False])
def test_it_is_the_other_head_with_everyone_there(count: int, holes: bool, training: bool) -> None:
    widths, features, present = sample(count, holes)
    head = LearnedPlaceholders(widths, Gated).train(training)
    w = values(head)
    complete = {
        m: np.where(present[m][:, None], x, w.get(f"placeholders.{m}", 0)) for m, x in features.items()
    }
    everyone = {m: np.ones(BATCH, bool) for m in widths}
    expected = run(head.fusion, complete, everyone)
    np.testing.assert_array_equal(run(head, features, present), expected)


@COUNTS
@HOLES
def test_of_tokens_it_is_one_in_the_first_place(count: int, holes: bool) -> None:
    widths, sequences, present = token_sample(count, holes)
    if count > 1:
        sequences[list(widths)[-1]][1][5] = False  # no token is as good as absent
    head = LearnedPlaceholders(widths, TokenConcat)
    w = values(head)
    rows = np.zeros((BATCH, sum(widths.values())))
    for i in range(BATCH):
        parts = []
        for m, (tokens, mask) in sequences.items():
            there = mask[i] & present[m][i]
            weighted = [(place + 1) * tokens[i, place] for place in np.flatnonzero(there)]
            parts.append(np.sum(weighted, axis=0) if weighted else w[f"placeholders.{m}"])
        rows[i] = np.concatenate(parts)
    compared(LearnedPlaceholders, run(head, sequences, present), rows, rtol=1e-12, by=FORMULA)


def test_the_attributes_are_those_of_the_other_head() -> None:
    widths, _, _ = token_sample(2, holes=False)
    for fusion in (ConcatFusion, Gated, TokenConcat):
        head, other = LearnedPlaceholders(widths, fusion), fusion(widths)
        assert head.output_dim == other.output_dim
        assert head.reads_tokens == other.reads_tokens
        assert head.logit_additive == other.logit_additive
    assert not LearnedPlaceholders.reads_tokens, "one head of tokens does not make all read them"


def backward(head: FusionHead, absent: list[int]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Gradients of features and placeholders after a step in which some rows lack text."""
    features: dict[str, Feature] = {}
    leaves = {m: torch.randn(4, 3, d, requires_grad=True) for m, d in head.feature_dims.items()}
    for m, leaf in leaves.items():
        tokens = Tokens(leaf, torch.ones(4, 3, dtype=torch.bool))
        features[m] = tokens if head.reads_tokens else leaf[:, 0]
    present = {m: torch.ones(4, dtype=torch.bool) for m in leaves}
    present["text"][absent] = False
    x = head(features, present)
    (x * torch.randn_like(x)).sum().backward()
    found = {m: leaf.grad for m, leaf in leaves.items()}
    learned = {m: p.grad for m, p in head.placeholders.items()}
    assert not [m for m, g in (found | learned).items() if g is None]
    return found, learned


@pytest.mark.parametrize("fusion", [ConcatFusion, Gated, TokenConcat])
def test_a_placeholder_learns_from_the_samples_that_lack_its_modality(fusion: type[FusionHead]) -> None:
    head = LearnedPlaceholders({"image": 5, "text": 3}, fusion)
    features, learned = backward(head, absent=[1, 3])
    assert not features["text"][[1, 3]].any()
    assert features["text"][[0, 2]].any(dim=(1, 2)).all()
    assert features["image"].any(dim=(1, 2)).all()
    assert learned["text"].all()
    assert not learned["image"].any(), "no sample lacks an image"


@pytest.mark.parametrize("fusion", [ConcatFusion, Gated, TokenConcat])
def test_where_nothing_is_absent_its_gradient_is_zero_not_none(fusion: type[FusionHead]) -> None:
    """DistributedDataParallel waits for every parameter."""
    head = LearnedPlaceholders({"image": 5, "text": 3}, fusion)
    _, learned = backward(head, absent=[])
    assert set(learned) == {"image", "text"}
    assert not any(gradient.any() for gradient in learned.values())


def test_they_start_at_zero() -> None:
    head = LearnedPlaceholders({"image": 5, "text": 3}, Gated)
    assert {m: p.tolist() for m, p in head.placeholders.items()} == {"image": [0.0] * 5, "text": [0.0] * 3}


def test_a_sole_modality_has_none() -> None:
    head = LearnedPlaceholders({"image": 5}, Gated)
    assert {name.partition(".")[0] for name, _ in head.named_parameters()} == {"fusion"}


def test_exported_it_puts_a_token_in_the_first_place() -> None:
    widths, _, present = token_sample(3, holes=True)
    head = LearnedPlaceholders(widths, TokenConcat).eval()
    values(head)
    features = {m: Tokens(torch.randn(BATCH, 4, d), torch.rand(BATCH, 4) > 0.3) for m, d in widths.items()}
    for tokens in features.values():
        tokens.mask[:, 1] = True
    everyone = {m: torch.ones(BATCH, dtype=torch.bool) for m in widths}
    program = torch.export.export(head, (features, everyone), strict=False).module()
    masks = {m: torch.from_numpy(p) for m, p in present.items()}
    torch.testing.assert_close(program(features, masks), head(features, masks))


def test_a_saved_student_keeps_them(tmp_path: Path) -> None:
    """Made, saved and loaded by the nested `class_path`s of a run's config."""
    name = "lightning_distill.fusion"
    inner = {"class_path": f"{name}.GatedFusion", "init_args": {"output_dim": 6}}
    config = {
        "class_path": "lightning_distill.MultimodalModel",
        "init_args": {
            "num_classes": 3,
            "encoders": {
                "image": {"class_path": "lightning_distill.encoders.ImageCNN", "init_args": {"width": 8}},
                "text": {"class_path": "lightning_distill.encoders.ByteTextCNN"},
            },
            "fusion": {"class_path": f"{name}.LearnedPlaceholders", "init_args": {"fusion": inner}},
        },
    }
    encoders = {"image": ImageCNN(width=8), "text": ByteTextCNN()}
    model = MultimodalModel(encoders, 3, partial(LearnedPlaceholders, fusion=Gated)).eval()
    values(model.fusion)
    save_student(model, tmp_path / "student", config)
    loaded = load_student(tmp_path / "student").eval()
    assert isinstance(loaded.fusion, LearnedPlaceholders)
    batch = make_batch(("image", "text"), absent={"text": [0, 2], "image": [1]})
    assert torch.equal(loaded(batch).logits, model(batch).logits)
    for m, placeholder in model.fusion.placeholders.items():
        assert torch.equal(loaded.fusion.placeholders[m], placeholder)
