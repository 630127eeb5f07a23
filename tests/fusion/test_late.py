"""Late fusion: the mean of what each modality says, in the head and in the model."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

from lightning_distill.errors import ConfigError
from lightning_distill.fusion import LateFusion, MeanFusion
from lightning_distill.heads import MLPHead
from tests.builders import make_batch, make_model
from tests.fusion.reference import BATCH, COUNTS, HOLES, WIDTHS, Array, gelu, run, sample, values
from tests.verification import FORMULA, compared


def branch(w: dict[str, Array], x: Array, modality: str, index: int) -> Array:
    """h_m of one sample: one hidden layer with GELU."""
    u = w[f"hidden.{modality}.weight"] @ x + w[f"hidden.{modality}.bias"]
    return np.asarray(w[f"output.{modality}.weight"] @ gelu(u) + w["bias"][index])


@COUNTS
@HOLES
def test_late(count: int, holes: bool) -> None:
    widths, features, present = sample(count, holes)
    head = LateFusion(widths, output_dim=6, hidden_dim=5)
    w, rows = values(head), []
    for i in range(BATCH):
        said = [branch(w, features[m][i], m, k) for k, m in enumerate(widths) if present[m][i]]
        rows.append(np.mean(said, axis=0))
    compared(type(head), run(head, features, present), np.stack(rows), rtol=1e-10, atol=1e-12, by=FORMULA)


@HOLES
def test_it_is_the_mean_of_the_modalities_alone(holes: bool) -> None:
    widths, features, present = sample(3, holes)
    head = LateFusion(widths, output_dim=6, hidden_dim=5)
    values(head)
    everyone = np.ones(BATCH, bool)
    alone = [run(head, features, {m: everyone & (m == one) for m in widths}) for one in widths]
    there = np.stack(list(present.values()))[:, :, None]
    expected = (np.stack(alone) * there).sum(axis=0) / there.sum(axis=0)
    compared(type(head), run(head, features, present), expected, rtol=1e-10, atol=1e-12, by=FORMULA)


@pytest.mark.parametrize("training", [False, True])
def test_the_model_answers_the_mean_of_its_answers_from_each_modality(training: bool) -> None:
    """y = mean over the present modalities of y_m; the row with both, with one, and with the other."""
    torch.manual_seed(0)
    model = make_model(fusion=LateFusion).double().train(training)
    torch.nn.init.normal_(model.fusion.bias)
    batch = make_batch(size=6, absent={"a": [1, 4], "b": [2]})
    batch["inputs"] = {m: x.double() for m, x in batch["inputs"].items()}
    output = model(batch)
    answers = torch.stack([model.answer_from(output, (m,)) for m in model.modalities])
    there = torch.stack([output.present[m] for m in model.modalities])[:, :, None]
    expected = (answers * there).sum(dim=0) / there.sum(dim=0)
    torch.testing.assert_close(output.logits, expected, rtol=1e-12, atol=1e-12)
    assert not torch.allclose(answers[0, 0], answers[1, 0])


def test_a_task_head_with_a_hidden_layer_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"MLPHead behind LateFusion.*expected LinearHead.*MeanFusion"):
        make_model(fusion=LateFusion, head=partial(MLPHead, hidden_dim=4))
    make_model(fusion=MeanFusion, head=partial(MLPHead, hidden_dim=4))


def test_no_width_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"LateFusion\.hidden_dim: found 0"):
        LateFusion(WIDTHS, hidden_dim=0)
