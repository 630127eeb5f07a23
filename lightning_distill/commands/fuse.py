"""`lightning-distill fuse`: what teachers know, fused with the data of the new domain, as a folder."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from lightning_distill.commands.opening import data_and_task, student_config
from lightning_distill.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from lightning_distill.data import MultimodalDataModule
    from lightning_distill.knowledge_fusion import FusedKnowledge, FusionStep, TeacherMean

_CLASSES: Final = 20
"""Most classes that are shown."""


def main(argv: Sequence[str]) -> int:
    """Write the folder and say what fusion has changed.

    Args:
        argv: Words after `fuse`.

    Returns:
        Exit code.
    """
    options = _parser().parse_args(list(argv))
    config = {"model": {}, **student_config(options.config)}

    from rich.console import Console

    from lightning_distill.knowledge import Knowledge
    from lightning_distill.knowledge_fusion import fuse
    from lightning_distill.knowledge_writing import check_new

    check_new(options.out)  # before the work
    parents = [Knowledge.open(folder) for folder in options.knowledge]
    mean, steps = _mean(options), _steps(options)
    data, _ = data_and_task(config, options.config)
    targets = options.target.split(",") if options.target else _targets(data)
    splits = options.split.split(",")
    fused = fuse(parents, data.indexed, targets, steps, mean, splits, options.smoothing)
    fused.write(options.out, "float32" if options.float32 else "float16")
    _say(fused, Console(), targets, options.out)
    return 0


def _say(fused: FusedKnowledge, console: Console, targets: Sequence[str], out: Path) -> None:
    numbers = fused.numbers
    console.print(_table(fused, f"{', '.join(targets)}: {numbers.target_samples:,} samples"))
    if numbers.known_labels:
        console.print(
            f"Agreement is with {numbers.known_labels:,} known labels; after fusion, with each half of them "
            "where fusion saw the other half alone.",
            highlight=False,
        )
    console.print(f"Wrote {out}: {numbers.samples:,} samples", highlight=False, markup=False, soft_wrap=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lightning-distill fuse",
        description="Fuse what teachers know with the data of a new domain, for StoredTeacher.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    known = "folders of `lightning-distill knowledge`, about the samples of these data"
    add("--knowledge", type=Path, nargs="+", required=True, metavar="DIR", help=known)
    add("-c", "--config", type=Path, required=True, help="config with the data of all domains")
    add("--out", type=Path, required=True, help="folder to write")
    add("--target", default="", help="new domains: a,b; default: the targets of a CrossDomainDataModule")
    add("--split", default="train,val", help="of train, val, test; default: train,val")
    add("--smoothing", type=float, default=0.1, help="of known labels of the new domain; default: 0.1")
    add("--float32", action="store_true", help="instead of float16")
    _add_steps(parser.add_argument_group("what the data of the new domain tell"))
    _add_means(parser.add_argument_group("several teachers"))
    return parser


def _add_steps(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--neighbours", type=int, metavar="K", help="propagate among K neighbours in the embedding")
    add("--alpha", type=float, help="how far neighbours count, 0 to below 1; default: 0.8")
    add("--prior", help="share of each class in the new domain: p,p,...; or `estimate`, from the answers")
    add("--teacher-prior", help="the same where the teacher learned; default: by the source's labels")


def _add_means(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--weights", help="of each teacher in the mean: w,w,...; default: all alike")
    how = group.add_mutually_exclusive_group()
    how.add_argument("--geometric", action="store_true", help="geometric mean, not the arithmetic one")
    how.add_argument("--confident", type=float, metavar="TAU", help="surer teachers count more; nats: 0.5")


def _targets(data: MultimodalDataModule) -> Sequence[str]:
    from lightning_distill.data import CrossDomainDataModule

    if isinstance(data, CrossDomainDataModule):
        return data.targets
    domains = data.indexed.domains
    if len(domains) > 1:
        raise ConfigError(
            where="fuse --target",
            found=f"nothing, and data of the domains {', '.join(domains)}",
            expected="which of them are new",
            fix=f"for example --target {domains[-1]}, or data of a CrossDomainDataModule",
        )
    return domains


def _mean(options: argparse.Namespace) -> TeacherMean:
    from lightning_distill.knowledge_fusion import ArithmeticMean, ConfidentMean, GeometricMean

    weights = _shares("--weights", options.weights)
    if options.confident is None:
        return GeometricMean(weights) if options.geometric else ArithmeticMean(weights)
    if weights is not None:
        raise ConfigError(
            where="fuse --weights",
            found="--confident, which finds weights for each sample",
            expected="one of the two",
            fix="leave one out",
        )
    return ConfidentMean(options.confident)


def _steps(options: argparse.Namespace) -> list[FusionStep]:
    from lightning_distill.knowledge_fusion import LabelPropagation, PriorCorrection

    for option, needed, given in (
        ("--alpha", "--neighbours", options.alpha is not None and options.neighbours is None),
        ("--teacher-prior", "--prior", options.teacher_prior and not options.prior),
    ):
        if given:
            raise ConfigError(
                where=f"fuse {option}",
                found=f"no {needed}",
                expected=f"{option} together with {needed}",
                fix=f"give {needed} too, or leave {option} out",
            )
    steps: list[FusionStep] = []
    if options.prior:
        prior = None if options.prior == "estimate" else _shares("--prior", options.prior)
        steps.append(PriorCorrection(prior, _shares("--teacher-prior", options.teacher_prior)))
    if options.neighbours is not None:
        alpha = {} if options.alpha is None else {"alpha": options.alpha}
        steps.append(LabelPropagation(options.neighbours, **alpha))
    return steps


def _shares(option: str, text: str | None) -> list[float] | None:
    try:
        return [float(word) for word in text.split(",")] if text else None
    except ValueError:
        raise ConfigError(
            where=f"fuse {option}", found=text, expected="numbers joined with commas", fix="such as 0.3,0.7"
        ) from None


def _table(fused: FusedKnowledge, title: str) -> Table:
    from rich.table import Table
    from rich.text import Text

    numbers, table = fused.numbers, Table("", "teachers", "fused", title=Text(title), title_justify="left")
    table.columns[1].justify = table.columns[2].justify = "right"
    table.add_row("mean entropy, nats", f"{numbers.entropy_before:.3f}", f"{numbers.entropy_after:.3f}")
    table.add_row("answers changed", "", f"{numbers.changed:,}")
    if numbers.agreement_before is not None and numbers.agreement_after is not None:
        before, after = numbers.agreement_before, numbers.agreement_after
        table.add_row("agreement with labels", f"{before:.1%}", f"{after:.1%}")
    table.add_section()
    pairs = list(zip(numbers.counts_before, numbers.counts_after, strict=True))
    order = sorted(range(len(pairs)), key=lambda c: -abs(pairs[c][1] - pairs[c][0]))  # stable
    for c in sorted(order[:_CLASSES]):
        name = str(c) if fused.classes is None else fused.classes[c]
        table.add_row(Text(f"answers {name}"), *(f"{count:,}" for count in pairs[c]))
    if len(pairs) > _CLASSES:
        table.add_row(f"{len(pairs) - _CLASSES:,} more classes", "", "")
    return table
