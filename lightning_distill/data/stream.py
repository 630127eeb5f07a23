"""The contract of a stream: data that can only be walked from the beginning."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from lightning_distill.data.orders import Sampling, Shuffle
from lightning_distill.errors import ConfigError


@dataclass(frozen=True)
class StreamSample:
    """One sample of a stream, before it is decoded.

    Attributes:
        raw: modality -> what `StreamSource.load` makes a raw sample of; modalities it lacks are left out.
        target: Its entry of `SampleTable.target`.
        sample_id: A stable content id.
        place: Where it comes from, for errors.
        domain: Index into the source's domains.
        weight: In the task's loss; None, in all samples of a source, where each weighs 1.
    """

    raw: Mapping[str, Any]
    target: NDArray[Any]
    sample_id: int
    place: str
    domain: int = 0
    weight: float | None = None


class StreamSource(ABC):
    """Samples that come one after the other. What can be indexed is better off as a `DataSource`."""

    classes: tuple[str, ...]
    """Names of the classes, in the order of the class indices; of the columns where targets are numbers."""
    domains: tuple[str, ...] = ("default",)
    """Names of the domains."""
    modalities: tuple[str, ...]
    """Names of the modalities it can load."""
    splits: tuple[str, ...]
    """Those of `SPLITS` it has."""
    buffer: int = 1000
    """Samples among which training draws the next one; every worker holds as many, not decoded."""
    fingerprint: str = ""
    """Changes when the samples change; empty if that is not known."""

    @abstractmethod
    def stream(self, split: str, epoch: int) -> Iterator[StreamSample]:
        """Walk the samples of a split: the same ones in the same order for an epoch, whoever asks.

        Raises:
            DistillError: If they cannot be read; names file and row.
        """

    @abstractmethod
    def load(self, sample: StreamSample, modality: str) -> Any:
        """Make of a modality it has what a `DataSource` would load.

        Raises:
            SampleError: If it cannot be read.
        """

    def describe(self, position: int) -> str:
        """What a worker was reading that has died."""
        return f"sample {position} of the stream"


def check_stream_settings(where: str, in_memory: bool, sampling: Sampling, on_bad_sample: str) -> None:
    """Refuse what needs to know all samples in advance.

    Raises:
        ConfigError: Names the setting.
    """
    plain = type(sampling) is Shuffle and sampling.unlabelled and not sampling.labelled_per_batch
    for setting, value, expected, fine in (
        ("in_memory", in_memory, "false", not in_memory),
        ("sampling", type(sampling).__name__, "Shuffle(), every sample once", plain),
        ("on_bad_sample", on_bad_sample, "stop", on_bad_sample == "stop"),
    ):
        if not fine:
            raise ConfigError(
                where=f"{where}.{setting}",
                found=f"{value}, with a stream",
                expected=expected,
                fix="use a source that can be indexed, such as HuggingFaceSource, or leave the setting out",
            )
