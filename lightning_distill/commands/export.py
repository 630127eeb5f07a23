"""`lightning-distill export`: a run's student alone, in formats that other programs read."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_distill.commands.opening import Finished, finished_run, packages, run_config
from lightning_distill.errors import ConfigError, printable
from lightning_distill.quiet import silence_tips

if TYPE_CHECKING:
    from rich.table import Table

    from lightning_distill.data import MultimodalDataModule
    from lightning_distill.evaluation import SubsetResult
    from lightning_distill.shipping.verification import Verification
    from lightning_distill.structures import Batch


def main(argv: Sequence[str]) -> int:
    """Write the folder, and print how each format compares with the student.

    Args:
        argv: Words after `export`.

    Returns:
        Exit code.
    """
    options = _parser().parse_args(list(argv))
    run: Path = options.run
    out: Path = options.out or run / "export"
    if options.onnx:
        from lightning_distill.shipping.onnx_file import check_installed

        check_installed()
    silence_tips()
    opened = finished_run(run)

    from rich.console import Console

    from lightning_distill.evaluation import evaluate_subsets
    from lightning_distill.export import check_replaceable
    from lightning_distill.shipping.before import check_only_ours
    from lightning_distill.shipping.card_use import three_lines
    from lightning_distill.shipping.verification import pieces

    check_replaceable(out.resolve())
    check_only_ours(out.resolve())
    results = evaluate_subsets(opened.student, opened.data, opened.task, options.split)
    batches = list(pieces(_batches(opened.data, options.split), opened.student.modalities))
    _some(batches, options.split)
    found = _write(run, out.resolve(), opened, batches, results, options)
    console = Console()
    console.print(_table(found, out, printable(f"{run}, {options.split} split")))
    lines = [f"\nWrote {printable(out, 5000)}. To use it:", ""]
    lines += [
        f"    {line}" for line in three_lines(opened.student.modalities, _foreign(out), printable(out, 5000))
    ]
    console.print("\n".join(lines), highlight=False, markup=False, soft_wrap=True)
    return 0


def _some(batches: Sequence[Batch], split: str) -> None:
    if not batches:
        raise ConfigError(
            where="export --split",
            found=f"no sample in the {split} split that has one of the student's modalities",
            expected="some, on which the files are compared with the student",
            fix=f"name the other split: --split {'val' if split == 'test' else 'test'}",
        )


def _batches(data: MultimodalDataModule, split: str) -> Iterator[Batch]:
    """Samples of a split, also of a stream; where the run does so, others for those that cannot be read."""
    import torch

    from lightning_distill.data import StreamSource
    from lightning_distill.data.in_order import batches_in_order

    if not isinstance(data.source, StreamSource):
        substitute = data.on_bad_sample == "substitute"
        yield from batches_in_order(data, [split], torch.device("cpu"), substitute)
        return
    data.setup("validate" if split == "val" else "test")
    yield from data.val_dataloader() if split == "val" else data.test_dataloader()


def _write(
    run: Path,
    out: Path,
    opened: Finished,
    batches: Sequence[Batch],
    results: Sequence[SubsetResult],
    options: argparse.Namespace,
) -> list[Verification]:
    """All files, or none."""
    from lightning_distill.reporting.atomic import write_json
    from lightning_distill.security.secrets import redacted_values
    from lightning_distill.shipping.before import CARD, CHECKS, licence_of
    from lightning_distill.shipping.card import card
    from lightning_distill.shipping.card_facts import Facts, data_facts, teacher_facts
    from lightning_distill.shipping.description import description
    from lightning_distill.shipping.flat import FlatModel
    from lightning_distill.shipping.formats import versions, write_formats
    from lightning_distill.shipping.verification import ALLOWED
    from lightning_distill.writing.disk import refusals_named
    from lightning_distill.writing.whole_folder import standing, whole_folder

    config = run_config(run)
    outputs = opened.task.outputs
    flat = FlatModel(opened.student, batches[0])
    names = sorted(packages(config["model"]))
    told = description(flat, batches[0], opened.data.processors, outputs, _foreign(run / "student"))
    safe: dict[str, Any] = redacted_values(config)
    licence = licence_of(out)
    with whole_folder(out) as folder, refusals_named(out):
        shutil.copytree(standing(run / "student"), folder, dirs_exist_ok=True)
        found = write_formats(flat, folder, batches, told, names, options.onnx, options.program)
        facts = Facts(
            run.resolve().name,
            told,
            outputs,
            opened.student,
            teacher_facts(safe),
            data_facts(safe, opened.data),
            options.split,
            results,
            found,
            licence,
        )
        (folder / CARD).write_text(card(facts), encoding="utf-8")
        checks = {
            "split": options.split,
            "allowed": ALLOWED,
            "versions": versions(options.onnx),
            "formats": list(map(asdict, found)),
        }
        write_json(folder / CHECKS, checks)
    return found


def _foreign(student: Path) -> list[str]:
    """Packages besides this one and torch whose classes a saved student names."""
    from lightning_distill.student_config import read_config

    content = read_config(student)
    return sorted({*packages([content["model"], content["processors"]])} - {"lightning_distill", "torch"})


def _table(found: Sequence[Verification], out: Path, title: str) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(f"{title}\n", style="bold"), title_justify="left", box=box.SIMPLE_HEAD)
    table.show_edge, table.pad_edge = False, False
    for heading in ("format", "file"):
        table.add_column(heading)
    for heading in ("MB", "samples", "largest difference"):
        table.add_column(heading, justify="right")
    for each in found:
        size = sum(path.stat().st_size for path in out.glob(f"{each.file}*"))
        difference = "0, equal bits" if each.bit_equal else f"{each.largest_difference:.2g}"
        table.add_row(each.name, each.file, f"{size / 1e6:,.2f}", f"{each.samples:,}", difference)
    return table


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lightning-distill export",
        description="The student alone: safetensors, ONNX, torch.export and a model card, ready for a hub. "
        "Each file is read again and compared with the student on real samples.",
        allow_abbrev=False,
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a run that `fit` has finished")
    parser.add_argument("--out", type=Path, help="folder to write; default: export in the run")
    parser.add_argument("--no-onnx", dest="onnx", action="store_false", help="write no ONNX file")
    parser.add_argument(
        "--no-program", dest="program", action="store_false", help="write no torch.export file"
    )
    parser.add_argument(
        "--split",
        choices=("val", "test"),
        default="test",
        help="samples to measure and compare on; default: test",
    )
    return parser
