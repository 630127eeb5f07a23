"""What it costs to start: CPU seconds of fresh processes, against torch and a stock LightningCLI.

    python benchmarks/startup.py --out benchmarks/results/startup.json

Each round starts every process once, in rotated order, with one thread; a time is user plus system time of
the process. The stock command is a script with nothing but
`LightningCLI(LightningModule, LightningDataModule, subclass_mode_model=True, subclass_mode_data=True)`, whose
`fit --help` is set against ours: the median of the rounds' ratios, with the least and the largest. Wall time
is told too, for it is what one waits; other work on the machine counts in it. `fit --help` runs once before,
so that nothing is compiled to bytecode in a round.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
STOCK = """
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.cli import LightningCLI

LightningCLI(LightningModule, LightningDataModule, subclass_mode_model=True, subclass_mode_data=True)
"""

CONFIG = """
model:
  class_path: DistillationModule
  init_args:
    student:
      class_path: MultimodalModel
      init_args:
        num_classes: 2
        encoders:
          text:
            class_path: ByteTextCNN
            init_args: {widht: 8}
data:
  class_path: TextDataModule
"""
"""With a mistyped key."""

LIMITS = {"import lightning_distill": 0.2, "--help": 0.5, "--version": 0.5, "list": 0.5, "mistyped key": 0.5}
"""Seconds, of issue and docs."""
FIT, STOCK_FIT = "fit --help", "LightningCLI fit --help"
MOST_RATIO = 1.05
HEAVY = "any(name in sys.modules for name in ('torch', 'lightning'))"


def commands(folder: Path) -> dict[str, list[str]]:
    """Words after `python` by name."""
    (folder / "stock.py").write_text(STOCK)
    (folder / "mistake.yaml").write_text(CONFIG)
    ours = ["-m", "lightning_distill"]
    return {
        "python": ["-c", "pass"],
        "import lightning_distill": ["-c", "import lightning_distill"],
        "--help": [*ours, "--help"],
        "--version": [*ours, "--version"],
        "list": [*ours, "list"],
        "list LogitKD": [*ours, "list", "LogitKD"],
        "mistyped key": [*ours, "fit", "--config", str(folder / "mistake.yaml")],
        "import torch": ["-c", "import torch"],
        FIT: [*ours, "fit", "--help"],
        STOCK_FIT: [str(folder / "stock.py"), "fit", "--help"],
    }


def once(words: Sequence[str]) -> tuple[float, float]:
    """CPU and wall seconds of a process."""
    begin = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **ONE_THREAD},
    )
    _, _, used = os.wait4(process.pid, 0)
    process.returncode = 0  # it has been waited for
    return used.ru_utime + used.ru_stime, time.perf_counter() - begin


def measure(processes: Mapping[str, Sequence[str]], rounds: int) -> dict[str, list[tuple[float, float]]]:
    names = list(processes)
    once(processes[FIT])
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for number in range(rounds):
        at = number * 3 % len(names)
        for name in (*names[at:], *names[:at]):
            spent[name].append(once(processes[name]))
    return spent


def spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": median(values), "min": min(values), "max": max(values)}


def loads_torch(words: Sequence[str]) -> bool:
    """Whether a command of ours has loaded torch or lightning when it ends."""
    code = f"import sys; from lightning_distill.__main__ import main; main(sys.argv[1:]); sys.exit({HEAVY})"
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, check=False)
    return done.returncode != 0


def report(spent: Mapping[str, list[tuple[float, float]]], heavy: Mapping[str, bool]) -> dict[str, Any]:
    ratios = [ours[0] / stock[0] for ours, stock in zip(spent[FIT], spent[STOCK_FIT], strict=True)]
    least = median(cpu for cpu, _ in spent["python"])
    rows = [
        {
            "process": name,
            "cpu_s": spread([cpu for cpu, _ in values]),
            "wall_s": spread([wall for _, wall in values]),
            "over_python_s": median(cpu for cpu, _ in values) - least,
            "limit_s": LIMITS.get(name),
        }
        for name, values in spent.items()
    ]
    packages = ("lightning-distill", "lightning", "torch", "jsonargparse")
    kept = {name: median(cpu for cpu, _ in spent[name]) <= limit for name, limit in LIMITS.items()}
    return {
        "rounds": len(ratios),
        "rows": rows,
        "ratios": {"fit_help_over_stock": {**spread(ratios), "limit": MOST_RATIO}},
        "loads_torch_or_lightning": dict(heavy),
        "within_limits": {**kept, FIT: median(ratios) <= MOST_RATIO},
        "machine": {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
    }


def show(found: Mapping[str, Any]) -> None:
    print(f"{'process':26} {'CPU s':>7} {'least .. most':>16} {'wall s':>7} {'limit':>6}")
    for row in found["rows"]:
        cpu, wall, limit = row["cpu_s"], row["wall_s"]["median"], row["limit_s"] or ""
        around = f"{cpu['min']:.3f} .. {cpu['max']:.3f}"
        print(f"{row['process']:26} {cpu['median']:7.3f} {around:>16} {wall:7.3f} {limit:>6}")
    print("fit --help over stock:", found["ratios"]["fit_help_over_stock"])
    loading = [name for name, loads in found["loads_torch_or_lightning"].items() if loads]
    print("quick ones that load torch or lightning:", ", ".join(loading) or "none")


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(words)
    with tempfile.TemporaryDirectory() as folder:
        processes = commands(Path(folder))
        ours = {name: w[2:] for name, w in processes.items() if w[0] == "-m" and name != FIT}
        heavy = {name: loads_torch(w) for name, w in ours.items()}
        found = report(measure(processes, options.rounds), heavy)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(found, indent=1) + "\n")
    show(found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
