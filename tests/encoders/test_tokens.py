"""What the tokens of an encoder are: the parts of its input, before anything is pooled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lightning_distill.encoders import (
    ByteTextCNN,
    Encoder,
    ImageCNN,
    LogMelCNN,
    TransformersTextEncoder,
)
from tests.builders import make_inputs
from tests.encoders.pretrained import save_bert


def double(x: Any) -> NDArray[np.float64]:
    return x.detach().double().numpy()


def seen_by(layer: nn.Module, encoder: Encoder, inputs: Tensor) -> tuple[NDArray[np.float64], Any]:
    """What a layer of the encoder reads, and the encoder's tokens."""
    seen: list[Tensor] = []
    hook = layer.register_forward_hook(lambda _, args, __: seen.append(args[0]))
    tokens = encoder(inputs)
    hook.remove()
    return double(seen[0]), tokens


def test_image_cells_row_by_row() -> None:
    """Means of 2 x 2 pixels of a 6 x 6 map; then token = W cell + b + p, in float64."""
    encoder = ImageCNN(width=4, embedding_dim=5, tokens=True)
    feature_map, tokens = seen_by(encoder.layers[-1], encoder, torch.randint(0, 256, (2, 1, 24, 24)))
    assert feature_map.shape == (2, 8, 6, 6)
    weight, bias = double(encoder.project.weight), double(encoder.project.bias)
    for row in range(3):
        for column in range(3):
            cell = feature_map[:, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].mean(axis=(2, 3))
            expected = cell @ weight.T + bias + double(encoder.positions)[3 * row + column]
            np.testing.assert_allclose(double(tokens.values[:, 3 * row + column]), expected, atol=1e-5)
    assert tokens.values.shape[1] == 9


def test_sound_moments_in_the_order_of_time() -> None:
    """40 frames and 16 bands leave a map of 10 x 2, so a moment is 2.5 frames: it shares those it cuts."""
    encoder = LogMelCNN(mels=16, width=4, embedding_dim=5, tokens=True)
    feature_map, tokens = seen_by(encoder.layers[-1], encoder, torch.randn(2, 40, 16))
    assert feature_map.shape == (2, 8, 10, 2)
    weight, bias = double(encoder.project.weight), double(encoder.project.bias)
    for i, (begin, end) in enumerate(((0, 3), (2, 5), (5, 8), (7, 10))):
        bands = feature_map[:, :, begin:end].mean(axis=2)
        expected = bands.reshape(2, -1) @ weight.T + bias + double(encoder.positions)[i]
        np.testing.assert_allclose(double(tokens.values[:, i]), expected, atol=1e-5)
    assert tokens.values.shape[1] == 4


@pytest.mark.parametrize("cls", [ImageCNN, LogMelCNN])
def test_positions_start_small(cls: Any) -> None:
    positions = cls(embedding_dim=4096, tokens=True).positions
    assert positions.std().item() == pytest.approx(0.02, rel=0.05)
    assert abs(positions.mean().item()) < 0.001


def test_a_byte_is_seen_by_its_neighbours_only() -> None:
    """Two convolutions over three bytes each: a change reaches two tokens to either side."""
    encoder = ByteTextCNN(tokens=True)
    ids = torch.randint(3, 250, (1, 12))
    other = ids.clone()
    other[0, 5] = 251
    mask = torch.ones_like(ids)
    values, moved = (encoder({"input_ids": x, "attention_mask": mask}).values[0] for x in (ids, other))
    changed = (values - moved).abs().amax(dim=1) > 1e-6
    assert changed.nonzero().flatten().tolist() == [3, 4, 5, 6, 7]


def test_the_vector_is_the_linear_layer_of_the_largest_byte() -> None:
    """Without a linear layer between, the maximum over the tokens is what the vector encoder projects."""
    vector, tokens = ByteTextCNN(width=8, embedding_dim=8), ByteTextCNN(width=8, embedding_dim=8, tokens=True)
    tokens.load_state_dict(vector.state_dict())
    with torch.no_grad():
        for encoder in (vector, tokens):
            encoder.project.weight.copy_(torch.eye(8))
            encoder.project.bias.zero_()
    inputs = make_inputs("text", 4)
    found = tokens(inputs)
    largest = found.values.masked_fill(~found.mask[:, :, None], -torch.inf).amax(dim=1)
    torch.testing.assert_close(largest, vector(inputs))


def text_encoders(folder: Path) -> list[Encoder]:
    return [
        ByteTextCNN(tokens=True).eval(),
        TransformersTextEncoder(str(save_bert(folder / "bert")), tokens=True).eval(),
    ]


def test_padding_does_not_matter_to_real_tokens(tmp_path: Path) -> None:
    """Neither how much of it there is nor which bytes it holds, whatever the weights."""
    ids, none = torch.randint(3, 250, (4, 9)), torch.zeros(4, 5, dtype=torch.int64)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    for encoder in text_encoders(tmp_path):
        for name, parameter in encoder.named_parameters():
            parameter.data += "bias" in name
        expected = encoder(inputs).values
        for padding in (none, none + 77):
            longer = {
                "input_ids": torch.cat([ids, padding], dim=1),
                "attention_mask": torch.cat([torch.ones_like(ids), none], dim=1),
            }
            values, mask = encoder(longer)
            assert mask.sum(dim=1).tolist() == [9] * 4
            torch.testing.assert_close(values[:, :9], expected)


def test_the_mean_of_the_hidden_states_is_the_vector(tmp_path: Path) -> None:
    folder = str(save_bert(tmp_path / "bert"))
    vector = TransformersTextEncoder(folder).eval()
    tokens = TransformersTextEncoder(folder, tokens=True).eval()
    inputs = make_inputs("text", 4)
    torch.testing.assert_close(tokens(inputs).mean(), vector(inputs))
