"""A teacher that answers faster, in bfloat16."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import cast

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info  # type: ignore[attr-defined]
from torch import Tensor, nn

from lightning_distill.errors import ConfigError, TeacherError
from lightning_distill.structures import Batch, Inputs, ModelOutput
from lightning_distill.teachers.base import Teacher, TeacherWrapper


class HalfPrecisionTeacher(TeacherWrapper):
    """Runs a teacher under bfloat16 autocast, with convolutions in the channels-last layout.

    Its weights stay float32, and so do its answers. The first batch of each run is answered in float32 too:
    how often both name the same class, and by how much the logits differ, is said in one line. The precision
    of the Trainer plays no part. On a CPU without bfloat16 instructions it is slower than float32.

    Args:
        teacher: Runs torch models; its convolutions are laid out anew, in place.
        agreement: Share of the first batch's samples for which both must name the same class.

    Raises:
        ConfigError: If the share is outside [0, 1].
        TeacherError: If the teacher has no weights, such as one that answers from disk; in training, if the
            answers of the first batch agree less often.

    In a config, around a model saved by an earlier run:

        teacher:
          class_path: lightning_distill.teachers.HalfPrecisionTeacher
          init_args:
            teacher:
              class_path: lightning_distill.teachers.FrozenTeacher
              init_args:
                model: {class_path: lightning_distill.export.load_student, init_args: {folder: RUN/student}}
    """

    def __init__(self, teacher: Teacher, agreement: float = 0.99) -> None:
        super().__init__(teacher)
        if not 0 <= agreement <= 1:
            raise ConfigError(
                where="HalfPrecisionTeacher.agreement",
                found=agreement,
                expected="a share between 0 and 1",
                fix="try 0.99",
            )
        self.agreement = agreement
        self._compared = False

    @property
    def identity(self) -> object:
        """The teacher's, and the precision."""
        return {"teacher": self.teacher, "precision": "bfloat16"}

    def begin(self, student: nn.Module) -> None:
        """Tell the teacher; a new run compares anew."""
        super().begin(student)
        self._compared = False

    def __call__(self, batch: Batch) -> ModelOutput:
        """The teacher's answer in float32, computed in bfloat16 where autocast does so."""
        device, batch = self._device_type(), _prepared(batch)
        with torch.no_grad(), _float32_by_default():
            if not self._compared:
                self._lay_out()
            with torch.autocast(device, dtype=torch.bfloat16):
                output = _float32(self.teacher(batch))
            if not self._compared:
                with torch.autocast(device, enabled=False):
                    self._compare(output.logits, self.teacher(batch).logits)
                self._compared = True
        return output

    def _device_type(self) -> str:
        first = next(iter(self.teacher.tensors()), None)
        if first is None:
            raise TeacherError(
                where="HalfPrecisionTeacher",
                found=f"a {type(self.teacher).__name__}, which has no weights",
                expected="a teacher that runs a model",
                fix=f"use the {type(self.teacher).__name__} as it is",
            )
        return first.device.type

    def _lay_out(self) -> None:
        for tensor in self.teacher.tensors():
            if tensor.ndim == 4:
                tensor.data = tensor.data.contiguous(memory_format=torch.channels_last)

    def _compare(self, half: Tensor, full: Tensor) -> None:
        same = (half.argmax(dim=1) == full.argmax(dim=1)) & half.isfinite().all(dim=1)
        share = float(same.float().mean())
        difference = float((half - full).abs().max())
        said = f"the same class for {share:.1%} of {len(half)} samples, logits at most {difference:.2g} apart"
        if not share >= self.agreement:
            raise TeacherError(
                where="HalfPrecisionTeacher, first batch",
                found=f"in bfloat16 and in float32 {said}",
                expected=f"the same class for {self.agreement:.1%}",
                fix="take the teacher without HalfPrecisionTeacher, or lower its `agreement` where such a "
                "difference does not matter",
            )
        rank_zero_info(f"teacher in bfloat16 and in float32: {said}")


@contextmanager
def _float32_by_default() -> Iterator[None]:
    """The Trainer's precision may have set another type for what a model makes by itself."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _prepared(batch: Batch) -> Batch:
    """The batch with float32 inputs, images in the channels-last layout."""
    return cast(Batch, {**batch, "inputs": {m: _input(x) for m, x in batch["inputs"].items()}})


def _input(x: Inputs) -> Inputs:
    if isinstance(x, dict):
        return {name: _one_input(value) for name, value in x.items()}
    return _one_input(x)


def _one_input(x: Tensor) -> Tensor:
    x = x.float() if x.is_floating_point() else x
    return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x


def _float32(output: ModelOutput) -> ModelOutput:
    """The answer as the teacher alone would give it: float32, and in the usual layout."""
    return replace(
        output,
        logits=_plain(output.logits),
        embedding=None if output.embedding is None else _plain(output.embedding),
        features=_all_plain(output.features),
        layers=_all_plain(output.layers),
        tokens={},
        unimodal=_all_plain(output.unimodal),
    )


def _all_plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: _plain(x) for name, x in tensors.items()}


def _plain(x: Tensor) -> Tensor:
    return (x.float() if x.is_floating_point() else x).contiguous()
