"""What the commands that open a config or a finished run have in common."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from lightning_distill.errors import CheckpointError, ConfigError, DistillError, nearest
from lightning_distill.security.allowed import refusal, restrict_imports
from lightning_distill.shelves import import_shelves

if TYPE_CHECKING:
    import torch

    from lightning_distill.data import MultimodalDataModule
    from lightning_distill.model import MultimodalModel
    from lightning_distill.structures import Batch
    from lightning_distill.tasks import Task
    from lightning_distill.teachers import Teacher


def run_config(run: Path) -> dict[str, Any]:
    """The config of a run, as `fit` left it.

    Args:
        run: Folder of the run.

    Raises:
        CheckpointError: If there is none, or it names neither data nor model.
    """
    import yaml  # type: ignore[import-untyped]

    from lightning_distill.security.safe_yaml import load_yaml

    path = run / "config.yaml"
    try:
        config = load_yaml(path.read_text(encoding="utf-8"))
        if not all(isinstance(config[key]["class_path"], str) for key in ("data", "model")):
            raise TypeError("class_path")
    except FileNotFoundError:
        raise _not_a_run(path, "no such file") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise _not_a_run(path, error) from error
    except (KeyError, TypeError) as error:
        raise _not_a_run(path, "no class_path for both `data` and `model`") from error
    found: dict[str, Any] = config
    return found


def _not_a_run(path: Path, found: object) -> CheckpointError:
    others = [other.parent.name for other in path.parent.parent.glob("*/config.yaml")]
    return CheckpointError(
        where=path,
        found=found,
        expected="the config of a run, as `fit` writes it",
        fix=f"name the folder of a run that `fit` has finished{nearest(path.parent.name, others)}",
    )


class Finished(NamedTuple):
    """A run that `fit` has finished: what it trained, and on what."""

    name: str
    student: MultimodalModel
    data: MultimodalDataModule
    task: Task


def finished_run(run: Path) -> Finished:
    """A run's student, in evaluation mode, with the data and the task of its config.

    Args:
        run: Folder of the run.

    Raises:
        CheckpointError: If it is no such folder, or its student is damaged.
        ConfigError: If the data cannot be made, or are of another kind.
    """
    config = run_config(run)
    check_ended(run)
    from lightning_distill.export import load_student  # only now: a mistyped folder is told at once

    # What this config may name is trusted in any case, to make the data; what it may not, stays refused.
    restrict_imports()
    student = load_student(run / "student", packages=sorted(packages(config["model"])))
    return Finished(str(run), student, *data_and_task(config, run / "config.yaml"))


def check_ended(run: Path) -> None:
    """A run has a student once its training has ended.

    Args:
        run: Folder of the run.

    Raises:
        CheckpointError: If it has none.
    """
    if not (run / "student").is_dir():
        raise CheckpointError(
            where=run,
            found="no student: the training has not ended",
            expected="the folder of a run that `fit` has finished",
            fix=f"go on: lightning-distill fit --config {run / 'config.yaml'} --run {run} --resume auto",
        )


def distillation_config(path: Path) -> dict[str, Any]:
    """A config of the user, with a teacher.

    Args:
        path: The file.

    Raises:
        ConfigError: If it cannot be read, or names no teacher or no data.
    """
    fix = "name the config of a distillation, or a finished run with --run"
    return _read(path, [("data", "class_path"), ("model", "init_args", "teacher")], fix)


def student_config(path: Path) -> dict[str, Any]:
    """A config of the user, with data.

    Args:
        path: The file.

    Raises:
        ConfigError: If it cannot be read, or names no data.
    """
    return _read(path, [("data", "class_path")], "name the config that trains the student")


def _read(path: Path, keys: Sequence[tuple[str, ...]], fix: str) -> dict[str, Any]:
    """A config in which these keys have a value."""
    import yaml

    from lightning_distill.security.safe_yaml import load_yaml

    try:
        config: dict[str, Any] = load_yaml(path.read_text(encoding="utf-8"))
        for key in keys:
            value: Any = config
            for part in key:
                value = value[part]
            if not value:
                raise TypeError(f"no {key[-1]}")
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError) as error:
        raise ConfigError(
            where=path,
            found=f"{type(error).__name__}: {error}",
            expected=f"a config with {' and '.join('.'.join(key) for key in keys)}",
            fix=fix,
        ) from error
    return config


def packages(value: Any) -> Iterator[str]:
    """Packages of all classes that a part of a config names.

    >>> sorted(packages({"class_path": "a.B", "init_args": {"parts": [{"class_path": "c.D"}]}}))
    ['a', 'c']
    """
    if isinstance(value, dict):
        if isinstance(value.get("class_path"), str):
            yield value["class_path"].partition(".")[0]
        for item in value.values():
            yield from packages(item)
    elif isinstance(value, list):
        for item in value:
            yield from packages(item)


def data_and_task(config: dict[str, Any], path: Path) -> tuple[MultimodalDataModule, Task]:
    """What a config trains on and for.

    Args:
        config: With `data` and `model`.
        path: Where it stands, for messages.

    Raises:
        ConfigError: If the data cannot be made, or are of another kind.
    """
    import jsonargparse
    from lightning.pytorch import LightningDataModule

    from lightning_distill.data import MultimodalDataModule
    from lightning_distill.tasks import Classification, Task

    import_shelves()
    wanted = {"data": config["data"]}
    restrict_imports()
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(LightningDataModule, "data")
    task = (config["model"].get("init_args") or {}).get("task")
    if task:
        parser.add_subclass_arguments(Task, "task")
        wanted["task"] = task
    try:
        made = parser.instantiate(parser.parse_object(wanted))
    except DistillError:
        raise
    except (jsonargparse.ArgumentError, TypeError, ValueError) as error:
        raise mistake(error, path) from error
    if not isinstance(made.data, MultimodalDataModule):
        raise ConfigError(
            where=f"{path}, data",
            found=f"a {type(made.data).__name__}",
            expected="a MultimodalDataModule, which says which modalities a sample has",
            fix="make it one of the package's, or a subclass of MultimodalDataModule",
        )
    return made.data, made.task if task else Classification()


def mistake(error: BaseException, path: Path) -> DistillError:
    """The user's own mistake where there is one behind it; parsers wrap what a constructor raises.

    Args:
        error: What was raised.
        path: Where the config stands, for messages.
    """
    refused = refusal(error, path)
    if refused is not None:
        return refused
    while error.__cause__ is not None and not isinstance(error, DistillError):
        error = error.__cause__
    if isinstance(error, DistillError):
        return error
    return ConfigError(
        where=path,
        found=error,
        expected="data that can be made as when the run was trained",
        fix="run it from the same folder, with the same files and the same version of the package",
    )


def teacher_of(config: dict[str, Any], run: Path | None, path: Path) -> Teacher:
    """The best model of a run, or the teacher a config names.

    Args:
        config: Of the run where there is one.
        run: Folder of the run.
        path: Where the config stands, for messages.

    Raises:
        CheckpointError: If the run has no such model.
        ConfigError: If the teacher cannot be made.
    """
    import jsonargparse

    from lightning_distill.export import load_student
    from lightning_distill.teachers import FrozenTeacher, Teacher

    restrict_imports()
    if run is not None:
        return FrozenTeacher(load_student(run / "student", packages=sorted(packages(config["model"]))))
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Teacher, "teacher")
    try:
        made = parser.instantiate(parser.parse_object({"teacher": config["model"]["init_args"]["teacher"]}))
    except DistillError:
        raise
    except (jsonargparse.ArgumentError, TypeError, ValueError) as error:
        raise mistake(error, path) from error
    teacher: Teacher = made.teacher
    return teacher


def check_splits(splits: Sequence[str]) -> None:
    """What `--split` names must be splits.

    Raises:
        ConfigError: Names the one that is not.
    """
    from lightning_distill.data.source import SPLITS

    for split in splits:
        if split not in SPLITS:
            raise ConfigError(
                where="command line, --split",
                found=split,
                expected=", ".join(SPLITS),
                fix="join several with commas",
            )


def batches(data: MultimodalDataModule, splits: Sequence[str], device: torch.device) -> Iterator[Batch]:
    """Every sample of these splits, as in evaluation.

    Args:
        data: Where they come from.
        splits: Of train, val, test.
        device: Where the batches go.

    Raises:
        ConfigError: If there is no such split.
    """
    from lightning_distill.data.in_order import batches_in_order

    check_splits(splits)
    yield from batches_in_order(data, splits, device)
