"""What backward clips did is logged, at log steps only, with and without a clip rule."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import Tensor
from torch.amp.grad_scaler import GradScaler

from lightning_distill.clipping import ValueClip
from lightning_distill.feature_clipping import BoundaryClip, FeatureClipChain, HardClip
from lightning_distill.gradient_step import _share_name
from lightning_distill.module import DistillationModule
from tests.builders import Notebook, VectorSource, make_data, make_model, make_trainer
from tests.module.parts import SGD, supervised

NAME = "clip/boundary_share/a"


class Listener:
    """Keeps what flows back to a clip, and the share that is clipped, worked out apart."""

    def __init__(self, clip: BoundaryClip) -> None:
        self.shares: list[float] = []
        self.measured: list[bool] = []
        clip.register_forward_hook(self._listen)

    def _listen(self, clip: Any, given: tuple[Any, ...], y: Tensor) -> None:
        if not y.requires_grad:
            return
        present = given[1].numpy()
        bound = clip.epsilon * float(clip.gradient_scale) / len(present)
        self.measured.append(clip.clipped_share is not None)

        def keep(grad: Tensor) -> None:
            g = grad.double().numpy()[present]
            self.shares.append((np.abs(g) > bound)[g != 0].mean())

        y.register_hook(keep)


def fit(tmp_path: Path, clip: BoundaryClip, **options: Any) -> Notebook:
    """Four batches an epoch, absent rows among them, a log step every two."""
    notebook, rule = Notebook(), options.pop("clip_rule", None)
    module = DistillationModule(make_model(modality_clips={"a": clip}), optimizer=SGD, clip_rule=rule)
    settings = {"logger": notebook, "log_every_n_steps": 2, "limit_val_batches": 0, "max_epochs": 2}
    settings |= options
    source = VectorSource(absent={"a": range(0, 28, 7)})
    make_trainer(tmp_path, **settings).fit(module, make_data(source, batch_size=7))
    return notebook


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("rule", [None, ValueClip(0.1)])
def test_the_share_of_the_last_batch_of_each_log_step(tmp_path: Path, rule: Any, accumulate: int) -> None:
    clip = BoundaryClip(0.03)
    listener = Listener(clip)
    notebook = fit(tmp_path, clip, clip_rule=rule, accumulate_grad_batches=accumulate)
    last = listener.shares[2 * accumulate - 1 :: 2 * accumulate]
    assert len(last) == 4 // accumulate
    assert 0 < min(last) <= max(last) < 1
    assert notebook.series(NAME) == pytest.approx(last)
    at_log_steps = [i // accumulate % 2 == 1 for i in range(len(listener.measured))]
    assert listener.measured == at_log_steps


def test_under_a_loss_scale(tmp_path: Path) -> None:
    clip = BoundaryClip(0.03)
    listener = Listener(clip)
    plugin = MixedPrecision("16-mixed", "cpu", GradScaler("cpu", init_scale=256.0))
    notebook = fit(tmp_path, clip, clip_rule=ValueClip(0.1), plugins=[plugin])
    assert float(clip.gradient_scale) == 256.0
    assert notebook.series(NAME) == pytest.approx(listener.shares[1::2])


def test_no_rule_and_no_log_step_costs_nothing(tmp_path: Path) -> None:
    clip = BoundaryClip(0.03)
    listener = Listener(clip)
    notebook = fit(tmp_path, clip, log_every_n_steps=0)
    assert notebook.series(NAME) == []
    assert listener.measured
    assert not any(listener.measured)


def test_saturation_and_boundary_are_told_apart_in_a_chain(tmp_path: Path) -> None:
    notebook = Notebook()
    chain = FeatureClipChain([HardClip(0.5), BoundaryClip(1e-12)])
    student = make_model(modality_clips={"a": chain, "b": BoundaryClip(1e9)}, feature_clip=BoundaryClip(1e-9))
    module = supervised(student=student, clip_rule=ValueClip(0.1))
    make_trainer(tmp_path, logger=notebook, log_every_n_steps=1, max_epochs=1).fit(module, make_data())
    names = {name for _, row in notebook.rows for name in row}
    assert {name for name in names if "saturated" in name} == {"student/saturated_share/a"}
    assert (
        set(notebook.series("clip/boundary_share/a")) == set(notebook.series("clip/boundary_share")) == {1.0}
    )
    assert set(notebook.series("clip/boundary_share/b")) == {0.0}


def test_a_boundary_of_signs_only_is_warned_of_once(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="a: all of what flows back into the encoder") as caught:
        fit(tmp_path, BoundaryClip(1e-9), clip_rule=ValueClip(1e3), max_epochs=60, log_every_n_steps=5)
    assert sum("flows back" in str(warning.message) for warning in caught) == 1


def test_names_are_those_of_the_students_own_modalities() -> None:
    wrapped = "student._fsdp_wrapped_module.modality_clips.audio._orig_mod.clips.0"
    assert _share_name(wrapped) == _share_name("student.modality_clips.audio") == "boundary_share/audio"
    others = ("others.x.modality_clips.audio", "teacher.feature_clip", "student.encoders.a.clip")
    assert [_share_name(path) for path in others] == ["", "", ""]
