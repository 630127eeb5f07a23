"""Which plain head stands beside which of the package, and how it gets the other's weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import fusion_minimal as minimal
import fusion_minimal_products as products
import fusion_minimal_tokens as tokens
from torch import Tensor, nn

from lightning_distill.fusion import FusionHead

State = dict[str, Tensor]


def as_it_is(state: State) -> State:
    """Names and shapes are the same."""
    return state


def biases_to(layer: str) -> Callable[[State], State]:
    """Where ours has the biases of all modalities in one matrix: each to its layer."""

    def convert(state: State) -> State:
        biases = state.pop("bias")
        return state | {f"{layer}.{i}.bias": bias for i, bias in enumerate(biases)}

    return convert


def film(state: State) -> State:
    """The bias of the modulation belongs to its layer."""
    return {_swapped(key, "modulation_bias.", "modulation.", ".bias"): x for key, x in state.items()}


def experts(state: State) -> State:
    """Where all are present, what the gate reads of their presence is a bias."""
    weight, width = state["gate.weight"], state["hidden.weight"].shape[1]
    return state | {"gate.weight": weight[:, :width], "gate.bias": weight[:, width:].sum(dim=1)}


def placeholders(state: State) -> State:
    """Where all are present, only the head inside does anything."""
    return {key.removeprefix("fusion."): x for key, x in state.items() if key.startswith("fusion.")}


def cross(state: State) -> State:
    """Keys and values of a source for each layer that reads them, and numbers among the others only."""
    found = {}
    for key, x in state.items():
        words = key.split(".")
        if words[0] == "keys_values":
            beta, parameter = int(words[1]), words[2]
            modalities = sum(key.startswith("project.") for key in state)
            targets = [i for i in range(modalities) if i != beta]
            parts = x.chunk(2 * len(targets))
            for i, part in enumerate(parts):
                alpha = targets[i // 2]
                at = f"targets.{alpha}.crossmodal.{_among_others(beta, alpha)}.key_value.{i % 2}"
                found[f"{at}.{parameter}"] = part
            continue
        if "crossmodal" in words:
            words[3] = str(_among_others(int(words[3]), int(words[1])))
        found[".".join(words)] = x
    return found


def _among_others(modality: int, left_out: int) -> int:
    return modality - (modality > left_out)


def _swapped(key: str, before: str, after: str, end: str) -> str:
    return after + key.removeprefix(before) + end if key.startswith(before) else key


@dataclass(frozen=True)
class Pair:
    """A head of the package and the plain one.

    Attributes:
        name: Class of the package.
        cls: Class of the plain one, made from the widths in alphabetical order of the modalities.
        convert: Weights of the one to those of the other, with numbers in the place of modalities.
    """

    name: str
    cls: Callable[[Sequence[int]], nn.Module]
    convert: Callable[[State], State] = as_it_is

    def plain(self, head: FusionHead) -> nn.Module:
        """The plain one with the same weights."""
        numbers = {m: str(i) for i, m in enumerate(head.modalities)}
        found = self.cls(list(head.feature_dims.values()))
        state = {
            ".".join(numbers.get(word, word) for word in key.split(".")): x
            for key, x in head.state_dict().items()
        }
        found.load_state_dict(self.convert(state))
        return found


PAIRS = (
    Pair("AttentionFusion", tokens.Attention),
    Pair("BLOCKFusion", products.BLOCK),
    Pair("BottleneckFusion", tokens.Bottleneck),
    Pair("ConcatFusion", minimal.Concat),
    Pair("ConcatMLPFusion", minimal.ConcatMLP),
    Pair("CrossAttentionFusion", tokens.Cross, cross),
    Pair("DeepSetsFusion", minimal.DeepSets),
    Pair("FiLMFusion", minimal.FiLM, film),
    Pair("GatedFusion", minimal.Gated),
    Pair("LateFusion", minimal.Late, biases_to("output")),
    Pair("LearnedPlaceholders", minimal.Gated, placeholders),
    Pair("LowRankFusion", products.LowRank),
    Pair("MCBFusion", products.MCB),
    Pair("MFBFusion", products.MFB),
    Pair("MLBFusion", products.MLB),
    Pair("MUTANFusion", products.MUTAN),
    Pair("MeanFusion", minimal.Mean, biases_to("project")),
    Pair("MixtureOfExpertsFusion", minimal.Experts, experts),
    Pair("SumFusion", minimal.Sum, biases_to("project")),
    Pair("TensorFusion", products.TensorProduct),
    Pair("TokenAttentionFusion", tokens.TokenAttention),
    Pair("WeightedFusion", minimal.Weighted, biases_to("project")),
)
