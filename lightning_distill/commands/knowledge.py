"""`lightning-distill knowledge`: what a teacher knows about a data set, as a folder."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from lightning_distill.commands.opening import (
    batches,
    data_and_task,
    distillation_config,
    run_config,
    teacher_of,
)


def main(argv: Sequence[str]) -> int:
    """Write the folder and say what is in it.

    Args:
        argv: Words after `knowledge`.

    Returns:
        Exit code.
    """
    options = _parser().parse_args(list(argv))
    path: Path = options.config or options.run / "config.yaml"
    config = run_config(options.run) if options.run else distillation_config(path)

    import torch

    import lightning_distill.data
    import lightning_distill.encoders  # noqa: F401 - so that a config may name classes without the path
    from lightning_distill import parity
    from lightning_distill.knowledge_writing import Origin, write_knowledge

    data, _ = data_and_task(config, path)
    teacher = teacher_of(config, options.run, path)
    parity.preprocessing_fits(None, teacher, data)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    teacher.to(device)
    splits = options.split.split(",")
    told = {m: parity.plain(p.settings) for m, p in {**data.processors, **data.teacher_processors}.items()}
    knowledge = write_knowledge(
        teacher,
        batches(data, splits, device),
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
