"""What the parts of a model must have in common, each as one function that raises a clear error."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence

from lightning_distill.encoders import Encoder
from lightning_distill.errors import ConfigError, nearest
from lightning_distill.fusion import FusionHead
from lightning_distill.heads import LinearHead, TaskHead
from lightning_distill.structures import Inputs


def numbers_fit(num_classes: int, modality_dropout: float) -> None:
    """There is an output, and the dropout is a probability that leaves something."""
    if num_classes < 1:
        raise ConfigError(
            where="MultimodalModel.num_classes", found=num_classes, expected="1 or more", fix="count them"
        )
    if not 0 <= modality_dropout < 1:
        raise ConfigError(
            where="MultimodalModel.modality_dropout",
            found=modality_dropout,
            expected="a probability of 0 or more and below 1",
            fix="try 0.3",
        )


def tokens_fit(encoders: Mapping[str, Encoder], fusion: FusionHead) -> None:
    """Encoders give what the fusion head reads: tokens, or one vector a sample."""
    kinds = {True: "a feature for each token", False: "one vector a sample"}
    for modality, encoder in encoders.items():
        if encoder.tokens == fusion.reads_tokens:
            continue
        wanted = str(fusion.reads_tokens).lower()
        has_option = "tokens" in inspect.signature(type(encoder)).parameters
        fix = f"set `tokens: {wanted}` in the init_args of encoders.{modality}"
        if not has_option:
            fix = f"take an encoder that gives {kinds[fusion.reads_tokens]}: those of the package do by "
            fix += f"`tokens: {wanted}`, your own by super().__init__(dim, tokens={fusion.reads_tokens})"
        other = "GatedFusion" if encoder.tokens is False else "BottleneckFusion"
        raise ConfigError(
            where=f"MultimodalModel.encoders[{modality!r}], {type(encoder).__name__}",
            found=kinds[encoder.tokens],
            expected=f"{kinds[fusion.reads_tokens]}, which {type(fusion).__name__} reads",
            fix=f"{fix}; or choose a fusion head that reads {kinds[encoder.tokens]}, such as {other}",
        )


def head_fits(fusion: FusionHead, head: TaskHead) -> None:
    """Late fusion adds up logits, which a task head with a hidden layer would undo."""
    if fusion.logit_additive and not isinstance(head, LinearHead):
        name = type(fusion).__name__
        raise ConfigError(
            where="MultimodalModel.head",
            found=f"{type(head).__name__} behind {name}",
            expected=f"LinearHead: only with it is {name} the mean of what each modality says",
            fix="leave `head` out, or fuse by MeanFusion",
        )


def inputs_fit(inputs: Mapping[str, Inputs], encoders: Iterable[str]) -> None:
    """The batch has every modality that there is an encoder for."""
    for modality in encoders:
        if modality not in inputs:
            raise ConfigError(
                where=f"MultimodalModel, encoder {modality!r}",
                found=f"a batch with {sorted(inputs)}",
                expected=f"an input for each of {list(encoders)}",
                fix="add the modality to the DataModule's inputs, or drop its encoder"
                + nearest(modality, inputs),
            )


def some_known(modalities: Sequence[str], encoders: Iterable[str], where: str) -> None:
    """One modality or more is named, each with an encoder."""
    known(modalities, encoders, where)
    if not modalities:
        raise ConfigError(
            where=where,
            found="no modality",
            expected=f"one or more of {list(encoders)}",
            fix="name at least one",
        )


def known(modalities: Iterable[str], encoders: Iterable[str], where: str) -> None:
    """Each of these modalities has an encoder."""
    for modality in modalities:
        if modality not in encoders:
            raise ConfigError(
                where=where,
                found=f"modality {modality!r}",
                expected=f"modalities with an encoder, {list(encoders)}",
                fix="name one of these, or add the encoder" + nearest(modality, encoders),
            )
