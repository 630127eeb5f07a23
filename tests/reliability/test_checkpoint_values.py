"""What a checkpoint may hold: rows of the matrix."""

from __future__ import annotations

import enum
import os
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.demos.boring_classes import BoringModel
from torch import nn

from lightning_distill.checkpoints import (
    VerifiedCheckpointIO,
    newest_good,
    plain,
    read_checkpoint,
    write_checkpoint,
)
from lightning_distill.errors import CheckpointError, NonFiniteError
from tests.builders import make_trainer
from tests.reliability.counts import times
from tests.reliability.saved_steps import checkpoint, same, weights_of_step


class Colour(enum.Enum):
    RED = "red"


class Size(enum.IntEnum):
    LARGE = 3


def listed(array: np.ndarray[Any, Any]) -> Any:
    return torch.tensor(array.tolist(), dtype=getattr(torch, array.dtype.name))


LEAVES = st.one_of(
    st.sampled_from([None, True, torch.float16, torch.Size([2]), Colour.RED, Size.LARGE]).map(
        lambda value: (value, value.value if isinstance(value, enum.Enum) else value)
    ),
    st.integers(-(2**200), 2**200).map(lambda value: (value, value)),
    st.floats().map(lambda value: (value, value)),
    st.text(st.characters()).map(lambda value: (value, value)),
    st.binary().map(lambda value: (value, value or bytearray())),
    st.binary().map(bytearray).map(lambda value: (value, value)),
    st.sampled_from(["a", "a/b", "/c"]).map(lambda text: (PurePosixPath(text), text)),
    st.floats(width=32).map(lambda value: (np.float32(value), value)),
    st.integers(0, 255).map(lambda value: (np.uint8(value), value)),
    st.lists(st.integers(-9, 9)).map(lambda values: np.array(values, np.int32)).map(lambda a: (a, listed(a))),
    st.lists(st.floats(width=32)).map(lambda v: np.array(v, ">f4")[::-1]).map(lambda a: (a, listed(a))),
    st.lists(st.floats(width=32)).map(torch.tensor).map(lambda value: (value, value)),
)
"""(value, its plain form)."""


def paired(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    lists = st.lists(inner, max_size=4)
    keys = st.one_of(st.text(max_size=3), st.integers(), st.sampled_from(list(Colour)))
    dicts = st.dictionaries(keys, inner, max_size=4)

    def plain_key(key: Any) -> Any:
        return key.value if isinstance(key, Colour) else key

    return st.one_of(
        lists.map(lambda pairs: ([a for a, _ in pairs], [b for _, b in pairs])),
        lists.map(lambda pairs: (tuple(a for a, _ in pairs), tuple(b for _, b in pairs))),
        dicts.filter(lambda d: len({plain_key(k) for k in d}) == len(d)).map(
            lambda d: ({k: a for k, (a, _) in d.items()}, {plain_key(k): b for k, (_, b) in d.items()})
        ),
    )


@pytest.mark.row("K5")
@given(pair=st.recursive(LEAVES, paired, max_leaves=12))
@settings(max_examples=times(150, 2000), deadline=None)
def test_values_become_plain_and_can_always_be_read(pair: Any, tmp_path_factory: Any) -> None:
    value, expected = pair
    path = tmp_path_factory.getbasetemp() / "values.ckpt"
    write_checkpoint({"hyper_parameters": {"x": value}}, path)
    assert same(read_checkpoint(path)["hyper_parameters"]["x"], expected)


@pytest.mark.row("K5")
@pytest.mark.parametrize("value", [lambda x: x, object(), nn.Linear(1, 1), int, range(3), {...}])
def test_what_has_no_plain_form_is_named_before_anything_is_written(value: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    write_checkpoint(checkpoint(1), path)
    with pytest.raises(CheckpointError, match=r"\['hyper_parameters'\]\['act'\]\[1\].*save_hyperparameters"):
        write_checkpoint({"hyper_parameters": {"act": ["relu", value]}}, path)
    assert os.listdir(tmp_path) == ["a.ckpt"]
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(CheckpointError, match="without end"):
        write_checkpoint({"hyper_parameters": endless}, path)


class Configured(BoringModel):
    def __init__(self, root: Path = Path("a"), colour: Colour = Colour.RED) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.norm = nn.BatchNorm1d(3)


@pytest.mark.row("K5")
def test_a_module_with_a_path_and_an_enum_is_loaded_again(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, plugins=[VerifiedCheckpointIO()], max_steps=1)
    model = Configured()
    trainer.fit(model)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    assert dict(model.hparams) == {"root": Path("a"), "colour": Colour.RED}  # the module keeps its own
    loaded = Configured.load_from_checkpoint(tmp_path / "a.ckpt")
    assert dict(loaded.hparams) == {"root": "a", "colour": "red"}
    state = read_checkpoint(tmp_path / "a.ckpt")["state_dict"]
    assert state._metadata["norm"] == {"version": 2}
    make_trainer(tmp_path, plugins=[VerifiedCheckpointIO()], max_steps=2).fit(
        model, ckpt_path=tmp_path / "a.ckpt", weights_only=False
    )


def test_a_state_dict_keeps_the_versions_of_its_modules() -> None:
    state = nn.BatchNorm1d(3).state_dict()
    state["extra"] = np.float32(0.5)  # type: ignore[assignment]
    made = plain(state)
    assert type(made["extra"]) is float
    assert type(state["extra"]) is np.float32  # what was given is not changed
    assert list(made) == list(state)
    assert made._metadata == {"": {"version": 2}}


NAN = torch.tensor([1.0, float("nan"), float("inf"), -float("inf")])


@pytest.mark.row("K7")
@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64]
)
@pytest.mark.parametrize("place", ["weights", "optimizer"])
def test_nan_is_not_written(dtype: torch.dtype, place: str, tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    write_checkpoint(checkpoint(1), path)
    bad, name = checkpoint(2), "state_dict['layer3.weight']"
    if place == "weights":
        bad["state_dict"]["layer3.weight"] = NAN.to(dtype)
    else:
        bad["optimizer_states"][0]["state"][1]["exp_avg"] = NAN.to(dtype)
        name = "optimizer_states[0]['state'][1]['exp_avg']"
    with pytest.raises(NonFiniteError) as told:
        write_checkpoint(bad, path)
    assert name in told.value.found
    assert os.listdir(tmp_path) == ["last.ckpt"]
    assert same(read_checkpoint(path)["state_dict"], weights_of_step(1))


@pytest.mark.row("K7")
def test_nor_is_it_sent_to_another_machine() -> None:
    """Addresses are Lightning's to write, once their content is known to be good."""
    address = "memory://checkpoints/last.ckpt"
    VerifiedCheckpointIO().save_checkpoint(checkpoint(1), address)
    bad = checkpoint(2)
    bad["state_dict"]["layer3.weight"] = NAN
    with pytest.raises(NonFiniteError):
        VerifiedCheckpointIO().save_checkpoint(bad, address)
    assert VerifiedCheckpointIO().load_checkpoint(address)["global_step"] == 1


@pytest.mark.row("K7")
def test_what_only_looks_like_nan_is_written(tmp_path: Path) -> None:
    fine = checkpoint(1)
    fine["state_dict"] |= {
        "mask": torch.tensor([float("inf"), -float("inf")]),  # their sum is NaN
        "large": torch.full((9,), 3e38),
        "half": torch.full((9,), 6e4, dtype=torch.float16),
        "none": torch.zeros(0),
        "count": torch.tensor(3),
        "clip_rule.norms": torch.full((5,), float("nan")),  # places of AutoClip that are not filled yet
    }
    write_checkpoint(fine, tmp_path / "a.ckpt")
    assert same(read_checkpoint(tmp_path / "a.ckpt"), fine)


class Breaking(BoringModel):
    """Its weights are NaN after the fourth step, once that is saved."""

    def on_train_batch_end(self, *_: Any) -> None:
        if self.global_step == 4:
            self.layer.weight.data[0, 3] = float("nan")


@pytest.mark.row("K7", "K8")
def test_a_run_whose_weights_are_lost_keeps_its_last_good_checkpoint(tmp_path: Path) -> None:
    saving = ModelCheckpoint(tmp_path, every_n_train_steps=1, save_top_k=1, save_last=True, filename="{step}")
    trainer = make_trainer(
        tmp_path,
        plugins=[VerifiedCheckpointIO()],
        callbacks=[saving],
        enable_checkpointing=True,
        max_steps=9,
        limit_val_batches=0,
    )
    with pytest.raises(NonFiniteError, match=r"layer\.weight"):
        trainer.fit(Breaking())
    newest = newest_good(tmp_path)
    assert newest == (tmp_path / "last.ckpt", ())
    found = read_checkpoint(tmp_path / "last.ckpt")
    assert found["global_step"] == 4
    assert all(x.isfinite().all() for x in found["state_dict"].values())
    assert (tmp_path / "step=4.ckpt").exists()
    assert not (tmp_path / "step=5.ckpt").exists()
