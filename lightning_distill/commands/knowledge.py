"""`lightning-distill knowledge`: what a teacher knows about a data set, as a folder."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml  # type: ignore[import-untyped]

from lightning_distill.commands.evaluate import _cause, _data_and_task, _packages, _read_config
from lightning_distill.errors import ConfigError, DistillError

if TYPE_CHECKING:
    import torch

    from lightning_distill.data import MultimodalDataModule
    from lightning_distill.structures import Batch
    from lightning_distill.teachers import Teacher


def main(argv: Sequence[str]) -> int:
    """Write the folder and say what is in it.

    Args:
        argv: Words after `knowledge`.

    Returns:
        Exit code.
    """
    options = _parser().parse_args(list(argv))
    path: Path = options.config or options.run / "config.yaml"
    config = _read_config(options.run) if options.run else _user_config(path)

    import torch

    import lightning_distill.data
    import lightning_distill.encoders  # noqa: F401 - so that a config may name classes without the path
    from lightning_distill import parity
    from lightning_distill.knowledge_writing import Origin, write_knowledge

    data, _ = _data_and_task(config, path)
    teacher = _teacher(config, options.run, path)
    parity.preprocessing_fits(None, teacher, data)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    teacher.to(device)
    splits = options.split.split(",")
    told = {m: parity.plain(p.settings) for m, p in {**data.processors, **data.teacher_processors}.items()}
    knowledge = write_knowledge(
        teacher,
        _batches(data, splits, device),
        options.out,
        layers=options.layers.split(",") if options.layers else (),
        alone=tuple(teacher.requirements) if options.alone else (),
        dtype="float32" if options.float32 else "float16",
        origin=Origin(options.split, data.source.fingerprint, told),
    )
    size = sum(array.nbytes for array in knowledge.arrays.values())
    for name, array in knowledge.arrays.items():
        print(f"{name:30} {array.dtype} {' x '.join(map(str, array.shape))}")
    print(f"Wrote {options.out}: {len(knowledge):,} samples, {size / 2**20:.1f} MiB")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lightning-distill knowledge",
        description="Ask a teacher about every sample and keep its answers, for StoredTeacher.",
        allow_abbrev=False,
    )
    whose = parser.add_mutually_exclusive_group(required=True)
    whose.add_argument("--config", type=Path, help="config with a teacher, which is asked about its data")
    whose.add_argument("--run", type=Path, help="finished run, whose best model is asked about its data")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--split", default="train,val", help="of train, val, test; default: train,val")
    parser.add_argument("--layers", default="", help="paths of modules whose outputs are kept too: a,b")
    parser.add_argument("--alone", action="store_true", help="ask with each modality alone too")
    parser.add_argument("--float32", action="store_true", help="instead of float16")
    return parser


def _user_config(path: Path) -> dict[str, Any]:
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
        if not config["model"]["init_args"]["teacher"] or not config["data"]["class_path"]:
            raise TypeError("no teacher")
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError) as error:
        raise ConfigError(
            where=path,
            found=f"{type(error).__name__}: {error}",
            expected="a config with data.class_path and model.init_args.teacher",
            fix="name the config of a distillation, or a finished run with --run",
        ) from error
    found: dict[str, Any] = config
    return found


def _teacher(config: dict[str, Any], run: Path | None, path: Path) -> Teacher:
    import jsonargparse

    from lightning_distill.export import load_student
    from lightning_distill.teachers import FrozenTeacher, Teacher

    if run is not None:
        return FrozenTeacher(load_student(run / "student", packages=sorted(_packages(config["model"]))))
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Teacher, "teacher")
    try:
        made = parser.instantiate(parser.parse_object({"teacher": config["model"]["init_args"]["teacher"]}))
    except DistillError:
        raise
    except (jsonargparse.ArgumentError, TypeError, ValueError) as error:
        raise _cause(error, path) from error
    teacher: Teacher = made.teacher
    return teacher


def _batches(data: MultimodalDataModule, splits: Sequence[str], device: torch.device) -> Iterator[Batch]:
    """Every sample of these splits, as in evaluation."""
    from lightning.fabric.utilities import move_data_to_device

    from lightning_distill.data.bad_samples import BadSampleLog
    from lightning_distill.data.loader import batch_loader
    from lightning_distill.data.reading import Reading
    from lightning_distill.data.sampling import BatchSampler
    from lightning_distill.data.source import SPLITS

    for split in splits:
        if split not in SPLITS:
            raise ConfigError(
                where="knowledge --split",
                found=split,
                expected=", ".join(SPLITS),
                fix="join several with commas",
            )
    for processor in (*data.processors.values(), *data.teacher_processors.values()):
        processor.check()
    for split in splits:
        # "val" whatever the split, for "train" would augment.
        reading = Reading(data.processors, data.teacher_processors, data.seed, "val")
        dataset = data.make_dataset(data.rows(split), reading)
        if len(dataset):
            order = BatchSampler(len(dataset), data.batch_size, data.seed, False)
            for batch in batch_loader(dataset, order, data.num_workers, BadSampleLog(0, None)):
                yield move_data_to_device(batch, device)
