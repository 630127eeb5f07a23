"""Whether what was written answers as the student does, on real samples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any, Final

import torch
from torch import Tensor

from lightning_distill.batch_rows import only_samples
from lightning_distill.errors import CheckpointError
from lightning_distill.shipping.flat import MASK
from lightning_distill.structures import Batch

LIMIT: Final = 1e-5
"""Largest difference of a logit that rounding may make: 1e-5 of the largest logit, or of 1.

The largest is that of the same output over all answers, by its absolute value: what rounding changes grows
with it. So a price of 400,000 may differ by 4, and a share beside it by no more than 1e-5.
"""
ALLOWED: Final = "a difference of 1e-5 of the largest logit of the same output, or of 1 where all are smaller"
"""The limit in words, for those who read the files."""
_SIZES: Final = (1, 7, 32)

Answer = Callable[[Batch], Tensor]
"""Makes of a batch its logits."""


@dataclass(frozen=True)
class Verification:
    """How a written format compares with the student it was made from.

    Attributes:
        name: Of the format.
        file: What was read again.
        samples: How many different ones of the data.
        comparisons: How many answers; more than `samples`, since modalities are also left out.
        largest_difference: Of any logit, absolute.
        relative_difference: The same, as a share of the largest value of that output, or of 1 where all are
            smaller; this is what `limit` limits.
        largest_value: Of the student's logits, absolute.
        same_top: Share of the answers whose largest logit is the same one.
        bit_equal: Whether no bit of any logit differs.
        limit: Largest `relative_difference` that is allowed; 0 asks for equal bits.
        batch_sizes: Those that were tried.
        tokens: Numbers of tokens that were tried, where there are such.
    """

    name: str
    file: str
    samples: int
    comparisons: int
    largest_difference: float
    relative_difference: float
    largest_value: float
    same_top: float
    bit_equal: bool
    limit: float
    batch_sizes: tuple[int, ...]
    tokens: tuple[int, ...]


def pieces(batches: Iterable[Batch], modalities: Sequence[str], most: int = 256) -> Iterator[Batch]:
    """Real samples in batches of 1, of 7 and of up to 32, each only as long as its longest text.

    Samples that have none of the modalities are left out.

    Args:
        batches: As a DataModule gives them.
        modalities: Those to keep.
        most: Samples, from the start.
    """
    sizes, left = cycle(_SIZES), most
    for batch in batches:
        usable = torch.stack([batch["present"][m] for m in modalities]).any(dim=0).nonzero()[:left, 0]
        left -= len(usable)
        while len(usable):
            size = next(sizes)
            yield _trimmed(only_samples(batch, usable[:size], modalities))
            usable = usable[size:]
        if not left:
            return


def _trimmed(batch: Batch) -> Batch:
    """Without the columns of tokens that no sample has."""
    inputs = {m: _short(x) if isinstance(x, Mapping) and MASK in x else x for m, x in batch["inputs"].items()}
    return {**batch, "inputs": inputs}


def _short(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    mask = inputs[MASK]
    kept = mask.bool().any(dim=0).nonzero()[:, 0]
    return {
        key: x[:, kept[0] : kept[-1] + 1] if x.ndim > 1 and x.shape[1] == mask.shape[1] and len(kept) else x
        for key, x in inputs.items()
    }


def with_absences(batch: Batch) -> Iterator[Batch]:
    """The batch, and the batch without each of its modalities, where something remains of every sample.

    Args:
        batch: Of one modality or more.
    """
    yield batch
    for modality in batch["present"]:
        present = {**batch["present"], modality: torch.zeros_like(batch["present"][modality])}
        if torch.stack(list(present.values())).any(dim=0).all():
            yield {**batch, "present": present}


def verified(
    name: str, file: str, student: Answer, written: Answer, batches: Sequence[Batch], limit: float = LIMIT
) -> Verification:
    """Compare, and refuse what differs by more than is allowed.

    Args:
        name: Of the format.
        file: That was read again.
        student: What answers rightly.
        written: What was read again.
        batches: Of real samples, as `pieces` gives them; some.
        limit: Largest difference, as a share of the largest value of that output, or of 1; 0 asks for equal
            bits.

    Raises:
        CheckpointError: If it differs by more, or cannot answer.
    """
    answers = list(_answers(name, file, student, written, batches, limit))
    right, found = (torch.cat(logits) for logits in zip(*answers, strict=True))
    differences, sizes = (found.double() - right.double()).abs(), right.double().abs().amax(dim=0)
    shares = differences / sizes.clamp(min=1)
    if not float(shares.max()) <= limit:  # NaN is no answer either
        at = int(shares.max(dim=0).values.argmax())
        size = f"where the largest is {float(sizes[at]):.3g}"
        told = f"a logit that differs by {float(differences[:, at].max()):.3g}, {size}"
        raise _differs(name, file, told, limit)
    bits = all(x.dtype == y.dtype and x.numpy().tobytes() == y.numpy().tobytes() for x, y in answers)
    if not limit and not bits:
        raise _differs(name, file, "other bits", limit)
    return Verification(
        name,
        file,
        sum(len(batch["sample_id"]) for batch in batches),
        len(right),
        float(differences.max()),
        float(shares.max()),
        float(sizes.max()),
        float((found.argmax(dim=1) == right.argmax(dim=1)).double().mean()),
        bits,
        limit,
        tuple(sorted({len(batch["sample_id"]) for batch in batches})),
        tuple(sorted({x[MASK].shape[1] for batch in batches for x in _tokens(batch)})),
    )


def _answers(
    name: str, file: str, student: Answer, written: Answer, batches: Sequence[Batch], limit: float
) -> Iterator[tuple[Tensor, Tensor]]:
    """The student's logits and those of the file, of each batch with and without each modality."""
    with torch.no_grad():
        for batch in (each for whole in batches for each in with_absences(whole)):
            right = student(batch)
            try:
                found = written(batch)
            except Exception as error:  # whatever another program raises at its own file
                raise _differs(name, file, f"{type(error).__name__}: {error}", limit) from error
            if found.shape != right.shape:
                raise _differs(name, file, f"logits of shape {tuple(found.shape)}", limit)
            yield right, found


def _tokens(batch: Batch) -> list[dict[str, Any]]:
    return [x for x in batch["inputs"].values() if isinstance(x, dict) and MASK in x]


def _differs(name: str, file: str, found: str, limit: float) -> CheckpointError:
    option = {
        "ONNX": ", or leave it out with --no-onnx",
        "torch.export": ", or leave it out with --no-program",
    }
    return CheckpointError(
        where=f"{file}, read again",
        found=found,
        expected=f"the student's logits, to {limit:g} of the largest logit of that output, or of 1"
        if limit
        else "the student's logits, bit for bit",
        fix=f"nothing was kept; please report this student's config{option.get(name, '')}",
    )
