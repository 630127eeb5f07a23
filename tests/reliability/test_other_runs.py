"""Checkpoints of another run: what differs is listed, and what cannot be exact is refused unless forced."""

from __future__ import annotations

import warnings
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_distill import __version__
from lightning_distill.callbacks import BestCheckpoint
from lightning_distill.checkpoints import read_checkpoint, write_checkpoint
from lightning_distill.data import Shuffle
from lightning_distill.errors import CheckpointError
from tests.builders import VectorSource, make_data, make_model, make_trainer
from tests.module.parts import supervised
from tests.processes import needs_fork
from tests.reliability.rank_runs import pair
from tests.scale.two_ranks import make_plain


def checkpoint_of(folder: Path, step: int, **data: Any) -> Path:
    """A run of two epochs; the checkpoint after a step."""
    keep = BestCheckpoint(folder, "{step}", every_n_train_steps=step, save_top_k=-1)
    trainer = make_trainer(folder, max_epochs=2, enable_checkpointing=True, callbacks=[keep])
    trainer.fit(supervised(), make_data(**data))
    return folder / f"step={step}.ckpt"


def go_on(folder: Path, path: Path, forced: bool = False, **settings: Any) -> Any:
    """Resume with other data, batches or processes; the Trainer."""
    module = supervised()
    module.forced = forced
    given = {k: settings.pop(k) for k in ("accumulate_grad_batches", "strategy") if k in settings}
    trainer = make_trainer(folder, max_epochs=3, **given)
    trainer.fit(module, make_data(**settings), ckpt_path=path)
    return trainer


OTHERS: dict[str, tuple[dict[str, Any], str]] = {
    "batch size": ({"batch_size": 4}, "batch_size 8 then and 4 now"),
    "accumulation": ({"accumulate_grad_batches": 2}, "accumulate_grad_batches 1 then and 2 now"),
    "data": ({"source": VectorSource(train=30)}, "data "),
}


@pytest.mark.row("K6")
@pytest.mark.parametrize("name", OTHERS)
def test_within_an_epoch_other_batches_and_data_are_refused_unless_forced(tmp_path: Path, name: str) -> None:
    settings, told = OTHERS[name]
    path = checkpoint_of(tmp_path, 2)
    with pytest.raises(CheckpointError, match=told) as caught:
        go_on(tmp_path, path, **settings)
    assert "--force" in str(caught.value)
    with pytest.warns(UserWarning, match="the epoch begins anew"):
        trainer = go_on(tmp_path, path, forced=True, **settings)
    batches = len(
        make_data(**{k: v for k, v in settings.items() if k != "accumulate_grad_batches"}).train_dataloader()
    )
    steps = -(-batches // settings.get("accumulate_grad_batches", 1))
    assert trainer.current_epoch == 3
    assert trainer.global_step == 2 + 3 * steps


@pytest.mark.row("K6")
def test_all_that_differs_is_listed(tmp_path: Path) -> None:
    path = checkpoint_of(tmp_path, 2)
    found = read_checkpoint(path)
    found["run"] |= {"processes": 2, "version": "99.0.0"}
    write_checkpoint(found, path)
    with pytest.raises(CheckpointError) as caught:
        go_on(tmp_path, path, batch_size=4)
    for words in ("version 99.0.0 then", f"{__version__} now", "processes 2 then and 1 now", "batch_size 8"):
        assert words in str(caught.value)


def two_ranks(folder: Path, alone: Path) -> None:
    """On two processes: go on from one's checkpoints, then leave the same to one."""
    ranked = {"devices": 2, "strategy": "ddp"}
    for name in ("middle", "end"):
        module, told = supervised(student=make_plain("a", "b")), ""
        trainer = make_trainer(folder, max_epochs=2, **ranked)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            try:
                trainer.fit(module, make_data(), ckpt_path=alone / f"{name}.ckpt")
            except CheckpointError as error:
                told = f"refused: {error}"
        told += " ".join(str(w.message) for w in said)
        if trainer.is_global_zero:
            (folder / f"{name}.txt").write_text(told)
    keep = BestCheckpoint(folder, "middle", every_n_train_steps=1)
    trainer = make_trainer(folder, max_epochs=1, enable_checkpointing=True, callbacks=[keep], **ranked)
    trainer.fit(supervised(student=make_plain("a", "b")), make_data())
    trainer.save_checkpoint(folder / "end.ckpt")


@needs_fork
@pytest.mark.row("D7")
def test_processes_may_change_at_the_end_of_an_epoch_and_it_is_said(tmp_path: Path) -> None:
    alone, both = tmp_path / "alone", tmp_path / "both"
    both.mkdir()
    keep = BestCheckpoint(alone, "middle", every_n_train_steps=3)
    trainer = make_trainer(alone, max_epochs=1, enable_checkpointing=True, callbacks=[keep])
    trainer.fit(supervised(student=make_plain("a", "b")), make_data())
    trainer.save_checkpoint(alone / "end.ckpt")
    ended = pair(both, two_ranks, (both, both), (alone, alone))
    assert ended.codes == (0, 0), ended.said
    more = "processes 1 then and 2 now"
    assert more in (both / "middle.txt").read_text()
    assert (both / "middle.txt").read_text().startswith("refused")
    assert more in (both / "end.txt").read_text()
    assert "refused" not in (both / "end.txt").read_text()
    fewer = "processes 2 then and 1 now"
    plain = partial(supervised, student=make_plain("a", "b"))
    with pytest.raises(CheckpointError, match=fewer):
        make_trainer(alone, max_epochs=2).fit(plain(), make_data(), ckpt_path=both / "middle.ckpt")
    trainer = make_trainer(alone, max_epochs=2)
    with pytest.warns(UserWarning, match=fewer):
        trainer.fit(plain(), make_data(), ckpt_path=both / "end.ckpt")
    assert trainer.global_step == 2 + 4


@pytest.mark.row("K6")
def test_the_checkpoint_of_a_newer_library_is_refused_with_both_versions(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, max_epochs=1)
    trainer.fit(supervised(), make_data())
    path = tmp_path / "c.ckpt"
    trainer.save_checkpoint(path)
    found = read_checkpoint(path)
    for version, refused in (("99.1.0", True), ("0.0.1", False)):
        found["run"]["version"] = version
        write_checkpoint(found, path)
        if refused:
            with pytest.raises(CheckpointError, match=f"99.1.0 then and {__version__} now"):
                go_on(tmp_path, path)
            assert go_on(tmp_path, path, forced=True).current_epoch == 3
        else:
            assert go_on(tmp_path, path).current_epoch == 3


@pytest.mark.row("K6")
@pytest.mark.parametrize("forced", [False, True])
def test_another_student_is_refused_with_the_tensors_that_differ(tmp_path: Path, forced: bool) -> None:
    path = checkpoint_of(tmp_path, 2)
    module = supervised(student=make_model(("a",)))
    module.forced = forced
    with pytest.raises(CheckpointError) as caught:
        make_trainer(tmp_path, max_epochs=3).fit(module, make_data(), ckpt_path=path)
    assert "student.encoders.b.linear.weight is too many" in str(caught.value)
    assert "student.head.weight is 3 x 16, not 3 x 8" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_may_change_does_not_count_as_another_run(tmp_path: Path) -> None:
    path = checkpoint_of(tmp_path, 2, sampling=Shuffle(labelled_per_batch=2))
    module = supervised(weights={"task": 0.5}, optimizer=lambda p: torch.optim.AdamW(p, lr=1e-4))
    trainer = make_trainer(tmp_path, max_epochs=4)
    trainer.fit(module, make_data(sampling=Shuffle(labelled_per_batch=2)), ckpt_path=path)
    assert trainer.current_epoch == 4
