"""What `lightning-distill doctor` finds about domains, on domains whose differences are known."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor

from lightning_distill.commands.doctor.domain_distances import Distance, measure_domains
from lightning_distill.commands.doctor.domain_features import read_features
from lightning_distill.commands.doctor.domains import count_domains, shares_differ
from lightning_distill.commands.doctor.findings import Findings
from lightning_distill.commands.doctor.fit import check_monitor
from lightning_distill.commands.doctor.parts import Parts
from lightning_distill.commands.doctor.report import print_distances, print_domains, print_findings
from lightning_distill.commands.doctor.samples import count_samples
from lightning_distill.data import (
    CrossDomainDataModule,
    DataSource,
    Domains,
    MultimodalDataModule,
    SampleTable,
)
from lightning_distill.domain_distance import MMDTest, ProxyADistance
from lightning_distill.losses import CORAL, DistillationLoss
from lightning_distill.module import DistillationModule
from lightning_distill.structures import UNLABELLED, Batch, ModelOutput
from lightning_distill.teachers import Teacher
from tests.builders import CLASSES, DIMS, VectorProcessor, make_model, weights_of
from tests.cli.conftest import Project, module, project, small_config

__all__ = ["project"]
WIDER = 1.3
"""How much more the A-distance varies than its standard error says."""


@dataclass
class Domain:
    """Vectors of two modalities around 0.

    Attributes:
        seed: Of the vectors, and so of the sample ids.
        rows: Two thirds for training, the rest for validation and test.
        classes: Labels, in turn.
        unlabelled: Splits without labels.
        shift: Modality -> what is added to its vectors.
        read: Modalities.
        batch_size: Samples a batch.
    """

    seed: int
    rows: int = 150
    classes: Sequence[int] = (0, 1, 2)
    unlabelled: Sequence[int] = ()
    shift: Mapping[str, float] = field(default_factory=dict)
    read: Sequence[str] = ("a", "b")
    batch_size: int = 8

    def data(self) -> MultimodalDataModule:
        """As a DataModule."""
        processors = {m: VectorProcessor(DIMS[m]) for m in self.read}
        return MultimodalDataModule(Vectors(self), processors, self.batch_size)  # type: ignore[arg-type]


class Vectors(DataSource):
    """What a `Domain` describes, in memory."""

    classes = CLASSES

    def __init__(self, domain: Domain) -> None:
        rng, size = np.random.default_rng(domain.seed), domain.rows
        self.vectors = {m: rng.normal(domain.shift.get(m, 0.0), 1.0, (size, DIMS[m])) for m in DIMS}
        split = np.array([0, 0, 0, 0, 1, 2], np.int8)[np.arange(size) % 6]
        target = np.array(domain.classes)[np.arange(size) // 6 % len(domain.classes)]
        self._table = SampleTable(
            sample_id=rng.integers(2**60, size=size),
            target=np.where(np.isin(split, domain.unlabelled), UNLABELLED, target),
            split=split,
            domain=np.zeros(size, np.int64),
            present={m: np.ones(size, np.bool_) for m in DIMS},
        )

    @property
    def samples(self) -> SampleTable:
        return self._table

    def load(self, modality: str, row: int) -> NDArray[np.float64]:
        return self.vectors[modality][row]


class Biased(Teacher):
    """Says the first class where the first number of "a" is below a bound, else the second.

    Args:
        bound: Which share of the rows that is.
        known: Modalities it gives features of.
        changes: As for every teacher.
    """

    def __init__(self, bound: float, known: Sequence[str] = (), changes: bool = False) -> None:
        self.num_classes, self.classes, self.requirements = 3, CLASSES, {"a": {}}
        self.bound, self.known, self.changes = bound, known, changes

    def __call__(self, batch: Batch) -> ModelOutput:
        a = batch["inputs"]["a"]
        assert isinstance(a, Tensor)
        said = (a[:, 0] >= self.bound).long()
        return ModelOutput(10.0 * torch.eye(3)[said], features={m: batch["inputs"][m] for m in self.known})  # type: ignore[misc]

    def to(self, device: torch.device) -> None:
        pass

    def tensors(self) -> Iterator[Tensor]:
        return iter(())

    def read_layers(self, names: Sequence[str]) -> None:
        pass


def make_parts(
    source: Domain | dict[str, Domain],
    target: Domain,
    teacher: Teacher | None = None,
    losses: dict[str, DistillationLoss] | None = None,
) -> Parts:
    torch.manual_seed(0)
    sources: Any = source
    several = isinstance(source, dict)
    made = Domains({n: d.data() for n, d in sources.items()}) if several else sources.data()
    data = CrossDomainDataModule(made, target.data())
    return Parts({"model": {}}, data, DistillationModule(make_model(), teacher, losses))


def look(parts: Parts, width: int = 80) -> str:
    """What is printed of the domains."""
    findings, out = Findings(), io.StringIO()
    counts = count_domains(parts, findings)
    distances = measure_domains(parts, counts, findings)
    console = Console(file=out, width=width)
    print_domains(console, counts)
    print_distances(console, distances)
    print_findings(console, findings)
    assert not findings.count("error"), out.getvalue()
    assert all(len(line) <= width for line in out.getvalue().splitlines())
    return " ".join(out.getvalue().split())


def distance(told: str, modality: str) -> tuple[float, float]:
    """A-distance and standard error in the printed table."""
    found = re.search(rf"{modality} \d+ ([\d.]+) ± ([\d.]+)", told)
    assert found, told
    return float(found[1]), float(found[2])


# -- distances ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [80, 100])
def test_a_shift_in_one_modality_alone(width: int) -> None:
    told = look(make_parts(Domain(0, 240), Domain(1, 240, shift={"a": 6.0})), width)
    assert distance(told, "a")[0] > 1.9
    found, error = distance(told, "b")
    assert found < 4 * WIDER * error
    assert "far apart in a (" in told
    assert "the domains differ least in b, so what a teacher knows of it may carry over best" in told
    assert "Compared: a: the student's features.a, as training starts; b: " in told


def test_the_same_rows_in_both_domains() -> None:
    """No classifier tells them apart, and the test of the target is no test."""
    told = look(make_parts(Domain(0), Domain(0)))
    assert distance(told, "a")[0] == distance(told, "b")[0] == 0.0
    assert "alike in a (0.00), b (0.00)" in told
    assert "in a and b an alignment term has little to align: distil, or train plainly" in told
    assert "split 'train' of the target found 100 of 100 samples are training samples of a source" in told
    assert "split 'test'" not in told


def test_a_target_that_is_tested_on_what_the_source_trains_on() -> None:
    parts = make_parts(Domain(0), Domain(0))
    assert isinstance(parts.data, CrossDomainDataModule)
    split = parts.data.indexed.samples.split
    for table in (parts.data.parts["target"].indexed.samples.split, split[150:]):
        table[:] = np.array([2, 0, 1], np.int8)[table]  # training rows become test rows
    told = look(parts)
    assert "warning domains, split 'test' of the target found 100 of 100 samples" in told
    assert "domain 'target', row 0" in told


def test_domains_far_apart_in_everything() -> None:
    source, target = Domain(0), Domain(1, shift={"a": 6.0, "b": 6.0})
    told = look(make_parts(source, target))
    assert "alignment may match wrong classes" in told
    assert "{align: {class_path: MaximumMeanDiscrepancy, init_args: {layer: features.a}}}" in told
    losses: dict[str, DistillationLoss] = {"align": CORAL("features.a")}
    assert "MaximumMeanDiscrepancy" not in look(make_parts(source, target, losses=losses))


def test_copies_are_not_many_rows() -> None:
    parts = make_parts(Domain(0), Domain(1))
    assert isinstance(parts.data, CrossDomainDataModule)
    source = parts.data.parts["source"].indexed
    assert isinstance(source, Vectors)
    source.vectors["a"] = source.vectors["a"][np.arange(150) % 5]
    told = look(parts)
    assert "domains, source and target, a found 5 and 100 different rows, too few to compare" in told
    assert re.search(r"source, target b 100 ", told)


def test_features_that_are_not_finite() -> None:
    parts = make_parts(Domain(0), Domain(1))
    assert parts.module is not None
    next(iter(parts.module.student.encoders["a"].parameters())).data.fill_(torch.nan)
    assert "the student's features.a, as training starts, not finite" in look(parts)


def test_what_is_compared_is_left_as_it_was() -> None:
    """Modes, batch statistics, random state; the same rows every time."""
    parts = make_parts(Domain(0), Domain(1))
    assert parts.module is not None
    assert isinstance(parts.data, CrossDomainDataModule)
    student = parts.module.student.train()
    before, state = weights_of(student), torch.get_rng_state()
    found = read_features(parts, parts.module, parts.data)
    assert torch.equal(state, torch.get_rng_state())
    assert student.training
    assert all(torch.equal(x, before[name]) for name, x in weights_of(student).items())
    sizes = {m: {d: len(x) for d, x in own.items()} for m, own in found.rows.items()}
    assert sizes == {m: {"source": 100, "target": 100} for m in "ab"}
    assert not found.cut_short
    again = read_features(parts, parts.module, parts.data)
    assert torch.equal(again.rows["a"]["target"], found.rows["a"]["target"])


def test_reading_that_takes_too_long_is_cut_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """One batch is read in any case, with as many rows of each domain."""
    monkeypatch.setattr("lightning_distill.commands.doctor.domain_features._PATIENCE", 0.0)
    told = look(make_parts(Domain(0), Domain(1, rows=300)))
    assert "source, target a 32 " in told
    assert "fewer than 400 a domain, since reading was stopped after 10 s" in told


def test_a_teachers_features_come_first_unless_it_learns_from_the_student() -> None:
    told = look(make_parts(Domain(0), Domain(1), Biased(0.0, ["a"])))
    assert "a: the teacher's features.a; b: the student's features.b, as training starts" in told
    told = look(make_parts(Domain(0), Domain(1), Biased(0.0, ["a"], changes=True)))
    assert "a: the student's features.a, as training starts; b" in told


@pytest.mark.parametrize(
    ("found", "error", "verdict"),
    [
        (0.2, 0.1, "alike"),
        (0.35, 0.1, "different"),
        (1.5, 0.2, "different"),
        (1.9, 0.05, "far apart"),
        (0.3, 0.3, "unclear"),
        (1.6, 0.3, "unclear"),
        (2.0, 0.3, "far apart"),
    ],
)
def test_verdicts(found: float, error: float, verdict: str) -> None:
    measured = ProxyADistance(found, error, 0.5 - found / 4, 100)
    assert Distance("a", "b", "text", measured, MMDTest(0.0, 1.0, 100)).verdict == verdict


def test_several_sources() -> None:
    told = look(make_parts({"near": Domain(0), "remote": Domain(1, shift={"a": 6.0})}, Domain(2)))
    assert re.search(r"near source 100 100 25 25 1\.0 a, b", told)
    assert "domains, near and target" in told
    assert "domains, remote and target found" in told
    assert told.count("far apart in a") == 1


def test_a_modality_that_one_of_several_sources_has() -> None:
    sources = {"near": Domain(0), "remote": Domain(1, read=["a"])}
    told = look(make_parts(sources, Domain(2)))
    assert "domains, b" not in told
    assert "near, target b 100" in told
    assert "remote, target b" not in told


# -- labels ---------------------------------------------------------------------------------------------


def test_classes_that_the_sources_or_the_target_lack() -> None:
    told = look(make_parts(Domain(0, classes=[0, 1]), Domain(1, classes=[0])))
    assert "1 of 3 classes have no labelled training sample: 'cat'" in told
    assert "nothing can teach them" in told
    assert "100 labelled training samples of the target, none of 'bee', which the sources have" in told
    assert re.search(r"\b48% of the labelled training samples of the target would have to change", told)
    assert "Zhao et al. 2019" in told


def test_labels_too_few_to_tell() -> None:
    """Eight labels without a class that is a third of the source."""
    told = look(make_parts(Domain(0), Domain(1, rows=12, classes=[0, 1])))
    assert "which the sources have" not in told
    assert "class balance" not in told


def test_shares() -> None:
    assert shares_differ([500, 500], [90, 10]) == pytest.approx(0.4)
    assert shares_differ([500, 500], [52, 48]) is None  # by chance
    assert shares_differ([50000, 50000], [52000, 48000]) is None  # not by chance, but little
    assert shares_differ([5, 5], [4, 0]) is None  # too few
    assert shares_differ([5, 5], [0, 0]) is None
    assert shares_differ([5, 0], [9, 0]) is None


def test_no_label_in_the_sources() -> None:
    told = look(make_parts(Domain(0, unlabelled=[0]), Domain(1)))
    assert "no labelled training sample in the sources" in told


def test_a_teacher_estimates_the_balance_of_a_target_without_labels() -> None:
    """Half of the source's rows are below 0; of a target that is shifted by 2, hardly any."""
    source = Domain(0, classes=[0, 1])
    target = Domain(1, unlabelled=[0, 1, 2], shift={"a": 2.0})
    told = look(make_parts(source, target, Biased(0.0)))
    assert "class balance found an estimate, since the target has no labels" in told
    assert "MinimumClassConfusion" in told
    assert "rather no term that aligns whole domains" in told
    told = look(make_parts(source, target, Biased(9.0)))  # it says the first class always, in both domains
    assert "an estimate" not in told
    told = look(make_parts(source, Domain(1, unlabelled=[0, 1, 2]), Biased(0.0)))
    assert "an estimate" not in told


# -- sizes, modalities, monitors ------------------------------------------------------------------------


def test_a_small_domain_comes_again() -> None:
    told = look(make_parts(Domain(0, rows=360), Domain(1, rows=60)))
    assert "40 training samples, which come about 6 times while 'source' comes once" in told
    assert re.search(r"target target 40 40 10 10 6\.0 a, b", told)
    assert "come about" not in look(make_parts(Domain(0, 360, batch_size=48), Domain(1, rows=60)))


@pytest.mark.parametrize("lacking", ["source", "target"])
def test_a_modality_that_one_domain_lacks(lacking: str) -> None:
    sides = {"source": Domain(0), "target": Domain(1)}
    sides[lacking].read = ["b"]
    told = look(make_parts(**sides))
    other = {"source": "target", "target": "source"}[lacking]
    assert f"domains, a found training samples in '{other}', none in '{lacking}'" in told
    assert ("drop model.student.encoders.a" in told) == (lacking == "target")
    assert "source, target b 100" in told
    assert "source, target a" not in told
    assert "too few to compare" not in told


def test_what_is_monitored() -> None:
    parts = make_parts(Domain(0), Domain(1, unlabelled=[0, 1]))

    def monitored(name: str, mode: str = "max", callbacks: Sequence[Any] = ()) -> list[str]:
        findings = Findings()
        checkpoint, trainer = {"monitor": name, "mode": mode}, {"callbacks": list(callbacks)}
        parts.config = {"model": {}, "checkpoint": checkpoint, "trainer": trainer}
        check_monitor(parts, count_samples(parts, Findings()), findings)
        return [f"{one.level} {one.where}: {one.found}" for one in findings.all]

    assert monitored("val/score") == monitored("val/source/accuracy") == []
    assert monitored("val/source/task", "min") == []
    assert monitored("val/score", "min") == ["warning checkpoint.mode: min, for val/score"]
    told = ["warning checkpoint.monitor: 'val/target/accuracy', and no validation sample with a label"]
    assert monitored("val/target/accuracy") == told
    assert "which is not logged" in monitored("val/elsewhere/accuracy")[0]
    assert "which is not logged" in monitored("val/validator/negative_entropy")[0]
    validators = [{"class_path": "lightning_distill.validators.NegativeEntropy"}]
    assert monitored("val/validator/negative_entropy", callbacks=validators) == []
    assert "for val/validator" in monitored("val/validator/negative_entropy", "min", validators)[0]


def test_one_domain_has_no_distances() -> None:
    parts = Parts({"model": {}}, Domain(0).data(), DistillationModule(make_model()))
    assert look(parts) == "0 errors, 0 warnings, 0 notes. Ready to train."


# -- the command ----------------------------------------------------------------------------------------


def _text_domain(name: str, letters: str, seed: int) -> dict[str, Any]:
    """A table of different texts of these letters, and what reads it."""
    rng, splits = np.random.default_rng(seed), ("train", "train", "train", "train", "val", "test")
    rows = [f"{''.join(rng.choice(list(letters), 7))},{'xy'[i // 6 % 2]},{splits[i % 6]}" for i in range(150)]
    Path(f"{name}.csv").write_text("\n".join(["text,label,split", *rows]) + "\n")
    data: dict[str, Any] = small_config()["data"]
    data["init_args"]["source"]["init_args"]["path"] = f"{name}.csv"
    return data


def test_the_command(project: Project) -> None:
    sides = {"source": _text_domain("source", "abcdefgh", 0), "target": _text_domain("target", "stuvwxyz", 1)}
    config = small_config() | {"data": {"class_path": "CrossDomainDataModule", "init_args": sides}}
    config |= {"checkpoint": {"monitor": "val/score", "mode": "max"}}
    Path("cross.yaml").write_text(yaml.safe_dump(config))
    before = {path.name for path in Path().iterdir()}
    assert project.run("doctor", "-c", "cross.yaml", "--workers", "0") == 0, project.out + project.err
    told = " ".join(project.out.split())
    assert {path.name for path in Path().iterdir()} == before
    assert all(len(line) <= 80 for line in project.out.splitlines())
    found, error = distance(told, "text")
    assert found > 4 * WIDER * error  # how much an encoder that is not trained sees is not known
    assert "domains, source and target found" in told
    assert "training, an epoch" in told
    assert "0 errors, 0 warnings, 1 note. Ready to train." in told
    assert module(config)["student"]["init_args"]["num_classes"] == 2
    sides["target"]["init_args"]["processors"]["text"]["init_args"]["max_length"] = 9
    Path("cross.yaml").write_text(yaml.safe_dump(config))
    assert project.run("doctor", "-c", "cross.yaml", "--workers", "0") == 2
    assert "max_length" in project.out
    assert "Distances" not in project.out
