"""`lightning-distill evaluate`: a run's student on every subset of its modalities."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_distill.errors import CheckpointError, ConfigError, DistillError

if TYPE_CHECKING:
    from lightning_distill.data import MultimodalDataModule
    from lightning_distill.tasks import Task


def main(argv: Sequence[str]) -> int:
    """Print the table and write it as JSON.

    Args:
        argv: Words after `evaluate`.

    Returns:
        Exit code.
    """
    options = _parser().parse_args(list(argv))
    run: Path = options.run
    out: Path = options.out or run / "subsets.json"
    if out.is_dir():
        raise ConfigError(
            where="evaluate --out", found=f"{out} is a folder", expected="a file", fix="name a file in it"
        )
    config = _read_config(run)

    from rich.console import Console

    from lightning_distill.evaluation import evaluate_subsets
    from lightning_distill.export import load_student
    from lightning_distill.quiet import silence_tips
    from lightning_distill.reporting import save_subsets, subset_table

    silence_tips()
    # What this config names is run in any case, to make the data: its packages are trusted already.
    student = load_student(run / "student", packages=sorted(_packages(config["model"])))
    data, task = _data_and_task(config, run / "config.yaml")
    results = evaluate_subsets(student, data, task, options.split)
    save_subsets(results, options.split, out)
    console = Console()
    console.print(subset_table(results, f"{run}, split {options.split}"))
    console.print(f"\nWrote {out}", highlight=False, markup=False, soft_wrap=True)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lightning-distill evaluate",
        description="Metrics for every subset of the student's modalities, as a table and as JSON.",
        allow_abbrev=False,
    )
    parser.add_argument("--run", type=Path, required=True, help="folder of a run that `fit` has finished")
    parser.add_argument("--split", choices=("val", "test"), default="test", help="default: test")
    parser.add_argument("--out", type=Path, help="JSON file to write; default: subsets.json in the run")
    return parser


def _read_config(run: Path) -> dict[str, Any]:
    import yaml  # type: ignore[import-untyped]

    path = run / "config.yaml"
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
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
    return CheckpointError(
        where=path,
        found=found,
        expected="the config of a run, as `fit` writes it",
        fix="name the folder of a finished run: lightning-distill evaluate --run RUN",
    )


def _packages(value: Any) -> Iterator[str]:
    """Packages of all classes that a part of a config names."""
    if isinstance(value, dict):
        if isinstance(value.get("class_path"), str):
            yield value["class_path"].partition(".")[0]
        for item in value.values():
            yield from _packages(item)
    elif isinstance(value, list):
        for item in value:
            yield from _packages(item)


def _data_and_task(config: dict[str, Any], path: Path) -> tuple[MultimodalDataModule, Task]:
    """What the run was trained on and for."""
    import jsonargparse
    from lightning.pytorch import LightningDataModule

    from lightning_distill.data import MultimodalDataModule
    from lightning_distill.tasks import Classification, Task

    wanted = {"data": config["data"]}
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
        raise _cause(error, path) from error
    if not isinstance(made.data, MultimodalDataModule):
        raise ConfigError(
            where=f"{path}, data",
            found=f"a {type(made.data).__name__}",
            expected="a MultimodalDataModule, which says which modalities a sample has",
            fix="call lightning_distill.evaluation.evaluate_subsets on a DataModule of that kind",
        )
    return made.data, made.task if task else Classification()


def _cause(error: BaseException, path: Path) -> DistillError:
    """The user's own mistake where there is one behind it; parsers wrap what a constructor raises."""
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
