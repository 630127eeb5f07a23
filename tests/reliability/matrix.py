"""The rows of the fault matrix, and which tests hold them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROWS: Final = {
    # teacher and student
    "S1": "classes, vocabularies or sizes of the two differ",
    "S2": "a layer that is not there, is named twice, or never runs",
    "S3": "any order of train, eval, fit, load, to and compile",
    "S4": "batch statistics and dropout of a teacher that strategies have wrapped",
    "S5": "a teacher's parameter on its way to optimizer, clip rule, average or decay",
    "S6": "a tensor that teacher and student share",
    "S7": "a teacher's keys in checkpoint and export",
    "S8": "a teacher's file that changed since",
    "S9": "a teacher that says NaN or infinity",
    "S10": "views of teacher and student that differ",
    "S11": "a teacher in another precision than its cached answers",
    # cache of teachers' answers
    "C1": "flipped bits, blocks of zeros, records and files that changed places",
    "C2": "files that are cut short, left over, or without their index",
    "C3": "anything that an answer depends on, changed",
    "C4": "rows of a table in another order, or more of them",
    "C5": "a file with other content but the old name, size and time",
    "C6": "random views under a cache",
    "C7": "many writers, one of them killed",
    "C8": "a disk that is full, broken or read-only",
    "C9": "a cache of a newer version or another byte order",
    "C10": "pickles among the files of a cache",
    "C11": "any number of files under any number of workers",
    # checkpoints and resume
    "K1": "a kill at each write, sync and rename of a save",
    "K2": "a kill at any moment of a run",
    "K3": "a checkpoint that is damaged, cut short, empty or something else",
    "K4": "a checkpoint that wants to run code",
    "K5": "hyperparameters that are not plain",
    "K6": "a checkpoint of another run",
    "K7": "weights that are NaN",
    "K8": "the old best one while the new one is written",
    "K9": "resuming at every step, and again and again",
    "K10": "a folder that cannot be written",
    "K11": "two runs in one folder",
    "K12": "clocks that go backwards",
    "K13": "exports of tied and strided tensors, over what is there",
    "K14": "an ONNX file with data from elsewhere",
    # config and command line
    "F1": "keys, types and names that are wrong",
    "F2": "YAML that is more or less than it seems",
    "F3": "classes from outside",
    "F4": "options that contradict each other",
    "F5": "numbers out of range",
    "F6": "settings from the environment",
    "F7": "a config of an older version",
    # gradients, losses, numbers
    "G1": "a loss, or one term of it, that is not finite",
    "G2": "a gradient that is not finite while the loss is",
    "G3": "a step that the loss scaler leaves out",
    "G4": "gradients of all sizes, kinds and precisions under every rule",
    "G5": "a rule under accumulation, with two optimizers, on two processes",
    "G6": "a rule's history over a resume",
    "G7": "logits and temperatures at their extremes",
    "G8": "batches of one, short ones, and those without a label",
    "G9": "memory that runs out",
    "G10": "a monitored metric that is NaN or missing",
    # distributed
    "D1": "a process that fails, dies or hangs",
    "D2": "numbers of samples that do not divide",
    "D3": "an order that must be kept",
    "D4": "a process without samples in validation",
    "D5": "parameters that a batch does not use",
    "D6": "files that one process writes",
    "D7": "a resume on more or fewer processes",
    "D8": "norms of what is split over processes",
    "D9": "processes that see different data, configs or code",
    # process, disk, logs
    "P1": "SIGTERM at any moment",
    "P2": "SIGINT, once and twice",
    "P3": "SLURM's signal to requeue",
    "P4": "a disk that is full or broken, wherever something is written",
    "P5": "no network",
    "P6": "W&B that is missing or fails",
    "P7": "one history over a resume",
    "P8": "strange names and values of metrics",
    "P9": "a thousand steps: memory and open files",
    "P10": "what workers leave behind",
    # security
    "Q1": "pickles in any file",
    "Q2": "members of an archive that point elsewhere",
    "Q3": "files that are small and become large",
    "Q4": "model folders with code, or weights that are pickles",
    "Q5": "secrets, in all that is written",
    "Q6": "words that look like secrets",
    "Q7": "lines forged by names",
    "Q8": "dependencies with known holes",
    "Q9": "rights and places of temporary files",
    "Q10": "calls that run code",
}
TESTS: Final = Path(__file__).parents[1]


def held() -> Iterator[tuple[str, str]]:
    """Each row that a test says it holds, and the test, from the sources."""
    for path in sorted(TESTS.rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                for row in _rows_of(node):
                    yield row, f"{path.relative_to(TESTS)}::{node.name}"


def _rows_of(node: ast.FunctionDef | ast.ClassDef) -> Iterator[str]:
    for mark in node.decorator_list:
        if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.row":
            yield from (ast.literal_eval(argument) for argument in mark.args)
