"""Batches of one kind made into another: foreign data for our modules, our data for foreign ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import torch
import xxhash
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor

from lightning_distill.errors import ConfigError
from lightning_distill.structures import Batch, Inputs

_TARGETS: Final = ("target", "targets", "label", "labels")
_AFTER: Final = ("transfer_batch_to_device", "on_after_batch_transfer")


class MappedDataModule(LightningDataModule):
    """The data of another DataModule, each batch changed by a function before it is moved to the device.

    Everything else is the other's own: preparation, loaders, state. Foreign data for our modules, and our
    data for a module that wants (x, y):

        MappedDataModule(theirs, lambda b: as_batch({"image": b[0]}, b[1]))
        MappedDataModule(ours, lambda b: (b["inputs"]["image"], b["target"]))

    Args:
        datamodule: Where the batches come from.
        change: Batch of `datamodule` -> batch as the LightningModule wants it.

    Raises:
        ConfigError: If `datamodule` changes batches on the device, where it would meet the changed ones.
    """

    def __init__(self, datamodule: LightningDataModule, change: Callable[[Any], Any]) -> None:
        self.datamodule, self.change = datamodule, change
        super().__init__()
        later = [name for name in _AFTER if is_overridden(name, datamodule, LightningDataModule)]
        if later:
            raise ConfigError(
                where=f"MappedDataModule.datamodule, {type(datamodule).__name__}",
                found=f"a {later[0]} of its own",
                expected="a DataModule that is done with a batch before it is moved to the device",
                fix=f"do in `change` what {later[0]} does",
            )
        self.prepare_data_per_node = datamodule.prepare_data_per_node

    @property
    def trainer(self) -> Trainer | None:
        """The Trainer, which both see."""
        return self.datamodule.trainer

    @trainer.setter
    def trainer(self, trainer: Trainer | None) -> None:
        self.datamodule.trainer = trainer

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Names of the classes, where the other knows them."""
        return getattr(self.datamodule, "classes", None)

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Change the batch."""
        return self.change(self.datamodule.on_before_batch_transfer(batch, dataloader_idx))

    def prepare_data(self) -> None:
        """As the other does."""
        self.datamodule.prepare_data()

    def setup(self, stage: str) -> None:
        """As the other does."""
        self.datamodule.setup(stage)

    def teardown(self, stage: str) -> None:
        """As the other does."""
        self.datamodule.teardown(stage)

    def train_dataloader(self) -> Any:
        """The other's."""
        return self.datamodule.train_dataloader()

    def val_dataloader(self) -> Any:
        """The other's, if it has one."""
        return self._loader("val_dataloader")

    def test_dataloader(self) -> Any:
        """The other's, if it has one."""
        return self._loader("test_dataloader")

    def predict_dataloader(self) -> Any:
        """The other's, if it has one."""
        return self._loader("predict_dataloader")

    def _loader(self, name: str) -> Any:
        there = is_overridden(name, self.datamodule, LightningDataModule)
        return getattr(self.datamodule, name)() if there else []

    def state_dict(self) -> dict[str, Any]:
        """The other's."""
        return self.datamodule.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Into the other."""
        self.datamodule.load_state_dict(state_dict)


def as_batch(
    inputs: dict[str, Inputs],
    target: Tensor | None = None,
    sample_id: Tensor | None = None,
    present: dict[str, Tensor] | None = None,
) -> Batch:
    """A `Batch` of what another data set gives.

    Args:
        inputs: modality -> tensor or dict of tensors, first dimension "batch".
        target: As in `Batch`; 0 where not given, for teachers and terms that do not look at it.
        sample_id: int64 "batch"; a hash of each sample's inputs where not given. It is stable as long as the
            inputs are: give ids of your own where samples are augmented and knowledge about them is stored.
        present: modality -> bool "batch"; all are there where not given.

    Raises:
        ConfigError: If there is no input, or the sizes differ.

    >>> batch = as_batch({"image": torch.zeros(2, 3)}, torch.tensor([1, 0]))
    >>> batch["present"]["image"].tolist()
    [True, True]
    >>> bool(batch["sample_id"][0] == batch["sample_id"][1])
    True
    """
    tensors = [x for value in inputs.values() for x in _tensors(value)]
    sizes = {len(x) for x in [*tensors, *([] if target is None else [target])]}
    if not tensors or len(sizes) != 1:
        raise ConfigError(
            where="as_batch",
            found=f"inputs {list(inputs)} with {sorted(sizes)} samples",
            expected="tensors of one size of batch",
            fix="the first dimension of every input and of the target is the batch",
        )
    size, device = sizes.pop(), tensors[0].device
    everywhere = {m: torch.ones(size, dtype=torch.bool, device=device) for m in inputs}
    return {
        "inputs": inputs,
        "present": {**everywhere, **(present or {})},
        "target": torch.zeros(size, dtype=torch.int64, device=device) if target is None else target,
        "sample_id": content_ids(inputs) if sample_id is None else sample_id,
        "domain": torch.zeros(size, dtype=torch.int64, device=device),
    }


def read_batch(batch: Any) -> Batch:
    """A `Batch` of the kinds of batches most data sets give; for others, and for names, there is `as_batch`.

    Ours stays as it is. Of a tuple or list the first entry is the input and the second the target, of a dict
    "target", "targets", "label" or "labels" is the target and the rest the input, a tensor is an input. The
    modality is called "input", and sample ids are hashed when somebody asks for them.

    Args:
        batch: What a loader gives.

    Raises:
        ConfigError: If it is none of these.
    """
    if isinstance(batch, Mapping) and {"inputs", "present"} <= set(batch):
        return batch  # type: ignore[return-value]
    inputs, target = _parted(batch)
    if isinstance(inputs, Mapping):
        inputs = {name: x for name, x in inputs.items() if isinstance(x, Tensor)}
    if not isinstance(inputs, Tensor | dict) or len(inputs) == 0:
        raise ConfigError(
            where="read_batch",
            found=f"a batch of type {type(batch).__name__}, input of type {type(inputs).__name__}",
            expected="a tensor, a dict of tensors, or a tuple that begins with one",
            fix="give a function such as lambda batch: as_batch({'image': batch[0]}, batch[1])",
        )
    first = next(_tensors(inputs))
    labels = target if isinstance(target, Tensor) else None
    read = as_batch({"input": inputs}, labels, sample_id=torch.empty(len(first)))
    del read["sample_id"]  # type: ignore[misc]
    return _HashedLate(read)  # type: ignore[return-value]


class _HashedLate(dict[str, Any]):
    """Hashing costs a copy from the device, and few teachers and terms look at ids."""

    def __missing__(self, key: str) -> Tensor:
        if key != "sample_id":
            raise KeyError(key)
        self[key] = content_ids(self["inputs"])
        return self[key]


def _parted(batch: Any) -> tuple[Any, Any]:
    if isinstance(batch, tuple | list) and batch:
        return batch[0], batch[1] if len(batch) > 1 else None
    if isinstance(batch, Mapping):
        target = next((name for name in _TARGETS if name in batch), None)
        rest = {name: x for name, x in batch.items() if name != target}
        return rest, None if target is None else batch[target]
    return batch, None


def content_ids(inputs: Mapping[str, Inputs]) -> Tensor:
    """One int64 a sample, a hash (xxh3) of the bytes, types and shapes of its inputs.

    Args:
        inputs: modality -> tensor or dict of tensors, first dimension "batch".

    Returns:
        int64 "batch", on the CPU or where the inputs are.
    """
    named = [(m, x.detach().cpu().contiguous()) for m in sorted(inputs) for x in _tensors(inputs[m])]
    first = next(_tensors(next(iter(inputs.values()))))
    ids = []
    for row in range(len(first)):
        digest = xxhash.xxh3_64()
        for modality, x in named:
            digest.update(f"{modality} {x.dtype} {tuple(x.shape[1:])} ".encode())
            digest.update(x[row].reshape(-1).view(torch.uint8).numpy().data)
        ids.append(digest.intdigest())
    return torch.tensor([i - 2**64 if i >= 2**63 else i for i in ids], device=first.device)


def _tensors(value: Inputs) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    else:
        yield from (value[name] for name in sorted(value))
