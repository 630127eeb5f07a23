"""Predictions as a Parquet file."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from lightning_distill.errors import ConfigError
from lightning_distill.writing.disk import refusals_named

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq


class PredictionWriter(Callback):
    """Writes what `DistillationModule.predict_step` returns, batch by batch, in one row a sample.

    Columns: `sample_id` int64; `domain`, its name, where the data have several; `prediction`, name of the
    most likely class, or list of the names of all that are likely (a class's number where the names are not
    known); `probabilities`, list of float32 in the order of the classes, which the file's metadata names as a
    JSON list under `classes`; `embedding`, list of float32. One list column holds the probabilities because a
    column per class does not scale to thousands of classes, nor to any class name. Numbers, which have no
    probabilities, are float32 columns `prediction_<name>`.

    The file appears, or replaces an older one, only when everything has been predicted. Several processes
    write a part each; the first joins them, rank after rank.

    Args:
        path: Ends in `.parquet`; its folder is made where needed.

    Raises:
        ConfigError: If the path ends otherwise.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path).absolute()
        if self.path.suffix != ".parquet":
            raise ConfigError(
                where="predict --output",
                found=path,
                expected="a file name that ends in .parquet",
                fix=f"for example --output {self.path.stem or 'predictions'}.parquet",
            )
        self._writer: pq.ParquetWriter | None = None

    def part(self, rank: int) -> Path:
        """What one process writes before all is predicted."""
        return self.path.with_name(f".{self.path.name}.{rank}.partial")

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Append a batch."""
        import pyarrow.parquet as pq

        said = outputs["prediction"] if "probabilities" not in outputs else outputs["probabilities"]
        classes = _classes(trainer, pl_module, said.shape[1])
        table = _table(outputs, classes, _domains(trainer, batch))
        with refusals_named(self.path):
            if self._writer is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._writer = pq.ParquetWriter(self.part(trainer.global_rank), table.schema)
            self._writer.write_table(table)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the file in place."""
        with refusals_named(self.path):
            self._close()
        trainer.strategy.barrier("predictions")
        if trainer.is_global_zero:
            parts = [p for p in (self.part(rank) for rank in range(trainer.world_size)) if p.is_file()]
            if not parts:
                return
            with refusals_named(self.path):
                for part in parts[1:]:
                    _append(parts[0], part)
                os.replace(parts[0], self.path)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave nothing behind."""
        with contextlib.suppress(OSError):  # a full disk refuses the end of the file as well
            self._close()
        self.part(trainer.global_rank).unlink(missing_ok=True)

    def _close(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()


def _classes(trainer: Trainer, pl_module: LightningModule, count: int) -> tuple[str, ...]:
    student = getattr(pl_module, "student", None)
    datamodule = getattr(trainer, "datamodule", None)
    names = getattr(student, "classes", None) or getattr(datamodule, "classes", None)
    return tuple(names) if names else tuple(map(str, range(count)))


def _domains(trainer: Trainer, batch: Any) -> list[str]:
    """Of each sample; nothing where there is one domain."""
    names = getattr(getattr(trainer, "datamodule", None), "domains", ())
    return [names[at] for at in batch["domain"].tolist()] if len(names) > 1 else []


def _table(prediction: dict[str, Tensor], classes: Sequence[str], domains: Sequence[str]) -> pa.Table:
    import pyarrow as pa

    columns = {
        "sample_id": pa.array(prediction["sample_id"].cpu().numpy(), pa.int64()),
        **({"domain": pa.array(domains, pa.string())} if domains else {}),
        **_answers(prediction["prediction"].cpu(), classes),
    }
    if "probabilities" in prediction:
        columns["probabilities"] = _lists(prediction["probabilities"].float().cpu())
    columns["embedding"] = _lists(prediction["embedding"].float().cpu())
    return pa.table(columns).replace_schema_metadata({"classes": json.dumps(list(classes))})


def _answers(said: Tensor, classes: Sequence[str]) -> dict[str, pa.Array]:
    import pyarrow as pa

    if said.is_floating_point():
        columns = said.float().unbind(dim=1)
        return {f"prediction_{n}": pa.array(c.numpy()) for n, c in zip(classes, columns, strict=True)}
    if said.ndim == 1:
        return {"prediction": pa.array([classes[i] for i in said.tolist()], pa.string())}
    names = [[n for n, yes in zip(classes, row, strict=True) if yes] for row in said.tolist()]
    return {"prediction": pa.array(names, pa.list_(pa.string()))}


def _lists(rows: Tensor) -> pa.Array:
    import pyarrow as pa

    offsets = pa.array(range(0, rows.numel() + 1, rows.shape[1]), pa.int32())
    return pa.ListArray.from_arrays(offsets, pa.array(rows.contiguous().view(-1).numpy(), pa.float32()))


def _append(target: Path, part: Path) -> None:
    import pyarrow.parquet as pq

    joined = target.with_name(target.name + ".joined")
    schema = pq.read_schema(target)
    with (
        pq.ParquetFile(target) as first,
        pq.ParquetFile(part) as second,
        pq.ParquetWriter(joined, schema) as writer,
    ):
        for batch in chain(first.iter_batches(), second.iter_batches()):
            writer.write_batch(batch)
    os.replace(joined, target)
    part.unlink()
