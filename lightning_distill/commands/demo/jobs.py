"""The demo's trainings, side by side in a few processes of one thread each."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from multiprocessing import get_context
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from lightning_distill.commands.demo.constants import CLIP_STEPS
from lightning_distill.commands.demo.records import Cell, CellResult, Result, grid


@dataclass
class Finished:
    """What the trainings gave.

    Attributes:
        rows: seed -> rows of the first table.
        cells: Rows of the second table.
    """

    rows: dict[int, list[Result]] = field(default_factory=dict)
    cells: list[CellResult] = field(default_factory=list)


def run_all(seeds: Sequence[int], steps: int, processes: int, console: Console) -> Finished:
    """Run every seed of the story and every cell of the clip grid.

    Args:
        seeds: Of the story; the grid uses the first.
        steps: Optimizer steps a training.
        processes: Trainings at a time.
        console: Where the progress bar goes.
    """
    finished = Finished()
    # Fork would copy torch's thread pools in an unknown state.
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn"), initializer=_be_quiet) as pool:
        story = {pool.submit(_story, seed, steps): seed for seed in seeds}
        cells = [pool.submit(_cell, cell, seeds[0], min(steps, CLIP_STEPS)) for cell in grid()]
        try:
            _wait([*story, *cells], console)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    for future, seed in story.items():
        finished.rows[seed] = future.result()
    finished.cells = [future.result() for future in cells]
    return finished


def _wait(futures: Sequence[Future[Any]], console: Console) -> None:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("jobs", total=len(futures))
        for future in as_completed(futures):
            future.result()
            progress.advance(task)


def _be_quiet() -> None:
    import torch
    from lightning.fabric.utilities.warnings import PossibleUserWarning

    torch.set_num_threads(1)
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=PossibleUserWarning)
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
    warnings.filterwarnings("ignore", message=".*lr_scheduler.step.*")


def _story(seed: int, steps: int) -> list[Result]:
    from lightning_distill.commands.demo.story import Story, embedded

    return Story(seed, embedded(seed), steps).rows()


def _cell(cell: Cell, seed: int, steps: int) -> CellResult:
    from lightning_distill.commands.demo.clipping import run

    return run(cell, seed, steps)
