"""Knowledge fused with a new domain's data, against NumPy references written from the papers."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from lightning_distill.data import DataSource, SampleTable
from lightning_distill.errors import CheckpointError, ConfigError, TeacherError
from lightning_distill.knowledge import Knowledge
from lightning_distill.knowledge_fusion import (
    ArithmeticMean,
    ConfidentMean,
    FusionContext,
    FusionStep,
    GeometricMean,
    LabelPropagation,
    PriorCorrection,
    corrected,
    estimated_prior,
    fuse,
    neighbour_graph,
    propagated,
)
from lightning_distill.knowledge_writing import Origin, write_arrays
from lightning_distill.structures import UNLABELLED
from lightning_distill.teachers import StoredTeacher
from tests.builders import CLASSES, make_batch

Array = NDArray[Any]


def random_probabilities(rng: np.random.Generator, rows: int, classes: int = 3) -> Array:
    return rng.dirichlet(np.full(classes, 0.7), rows)


def log_softmax(x: Array) -> Array:
    x = x.astype(np.float64) - x.max(axis=1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=1, keepdims=True))


class TwoDomains(DataSource):
    """Rows of "old", all labelled, then rows of "new"; nothing can be loaded.

    Args:
        old: Rows of the old domain.
        new: Rows of the new one; every fourth row of each domain is for validation, every fifth for test.
        known: Training labels of the new domain that are not hidden.
    """

    def __init__(self, old: int = 20, new: int = 30, known: int = 0) -> None:
        self.classes, self.domains = CLASSES, ("old", "new")
        size = old + new
        self.truth = np.random.default_rng(3).integers(0, len(CLASSES), size)
        number = np.concatenate([np.arange(old), np.arange(new)])
        split = np.where(number % 5 == 4, 2, np.where(number % 4 == 3, 1, 0)).astype(np.int8)
        domain = (np.arange(size) >= old).astype(np.int64)
        hidden = np.flatnonzero((domain == 1) & (split == 0))[known:]
        target = self.truth.copy()
        target[hidden] = UNLABELLED
        ids = np.random.default_rng(4).permutation(size).astype(np.int64) * 3 - 10
        self.table = SampleTable(ids, target, split, domain, {"a": np.ones(size, np.bool_)})

    @property
    def samples(self) -> SampleTable:
        return self.table

    def load(self, modality: str, row: int) -> Any:
        raise AssertionError("fusion reads no input")


def stored(
    folder: Path, source: TwoDomains, seed: int = 0, order: Sequence[int] = (0, 1, 2), **arrays: Array
) -> tuple[Knowledge, Array]:
    """Knowledge of a teacher that is right more often than not, and its logits in the order of the rows."""
    rng = np.random.default_rng(seed)
    size = len(source.table)
    logits = (rng.normal(size=(size, 3)) + 2 * np.eye(3)[source.truth]).astype(np.float32)
    embedding = (rng.normal(size=(size, 8)) + 2 * np.eye(8)[source.truth]).astype(np.float32)
    found = {"logits": logits[:, order], "embedding": embedding, **arrays}
    names = [CLASSES[c] for c in order]
    origin = Origin("train,val,test", "print", {"a": {"dim": 6}})
    return write_arrays(folder, source.table.sample_id, found, names, "float32", origin), logits


def by_row(source: TwoDomains, ids: Array) -> Array:
    """Rows of the table in which these ids stand."""
    order = np.argsort(source.table.sample_id)
    return order[np.searchsorted(source.table.sample_id[order], ids)]


# Label propagation


def reference_graph(embedding: Array, neighbours: int) -> Array:
    v = embedding / np.linalg.norm(embedding, axis=1, keepdims=True)
    likeness = v @ v.T
    A = np.zeros_like(likeness)
    for i, row in enumerate(likeness):
        order = [j for j in np.argsort(-row) if j != i][:neighbours]
        A[i, order] = np.maximum(row[order], 0) ** 3
    return A + A.T


def reference_propagation(W: Array, Y: Array, alpha: float) -> Array:
    root = np.diag(W.sum(axis=1) ** -0.5)
    F = (1 - alpha) * np.linalg.solve(np.eye(len(W)) - alpha * root @ W @ root, Y)
    return F / F.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("size", [40, 1300])  # one block, and more than one
def test_graph_is_that_of_the_definition(size: int) -> None:
    embedding = np.random.default_rng(0).normal(size=(size, 6)) + 0.5
    found = neighbour_graph(embedding, 7)
    np.testing.assert_allclose(found.toarray(), reference_graph(embedding, 7), atol=1e-12)
    assert found.nnz <= 2 * 7 * size


@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.8, 0.99])
def test_propagation_is_the_closed_form(alpha: float) -> None:
    rng = np.random.default_rng(1)
    W = reference_graph(rng.normal(size=(60, 5)) + 0.5, 6)
    Y = random_probabilities(rng, 60)
    from scipy import sparse

    found = propagated(sparse.csr_array(W), Y, alpha)
    np.testing.assert_allclose(found, reference_propagation(W, Y, alpha), atol=1e-6)


def test_propagation_step_seeds_labels_and_changes_the_new_domain_alone() -> None:
    rng = np.random.default_rng(2)
    p, embedding = random_probabilities(rng, 50), rng.normal(size=(50, 5)) + 0.5
    target, label = np.arange(50) >= 20, np.full(50, UNLABELLED)
    label[:15] = np.arange(15) % 3
    label[40:45] = 1
    found = LabelPropagation(6, 0.7).apply(p, FusionContext(target, label, embedding))
    Y = p.copy()
    Y[label >= 0] = np.eye(3)[label[label >= 0]]
    expected = reference_propagation(reference_graph(embedding, 6), Y, 0.7)
    np.testing.assert_array_equal(found[:20], p[:20])
    np.testing.assert_allclose(found[20:], expected[20:], atol=1e-6)


def test_samples_without_neighbours_keep_their_answer() -> None:
    p = random_probabilities(np.random.default_rng(0), 5)
    nowhere = FusionContext(np.ones(5, np.bool_), np.full(5, UNLABELLED), np.zeros((5, 4), np.float32))
    np.testing.assert_allclose(LabelPropagation().apply(p, nowhere), p, atol=1e-8)
    alone = FusionContext(np.ones(1, np.bool_), np.full(1, UNLABELLED), np.ones((1, 4)))
    np.testing.assert_allclose(LabelPropagation().apply(p[:1], alone), p[:1], atol=1e-8)
    same = FusionContext(nowhere.target, nowhere.label, np.ones((5, 4)))
    assert np.isfinite(LabelPropagation(2, 0.99).apply(p, same)).all()


def test_propagation_helps_where_neighbours_are_right() -> None:
    """Two clusters, which touch; of the 30 % that the teacher has wrong two thirds become right."""
    rng = np.random.default_rng(5)
    truth = np.arange(400) % 2
    embedding = rng.normal(size=(400, 8)) + 3 * np.eye(8)[truth]
    said = np.where(rng.random(400) < 0.7, truth, 1 - truth)
    p = 0.8 * np.eye(2)[said] + 0.1
    context = FusionContext(np.ones(400, np.bool_), np.full(400, UNLABELLED), embedding)
    found = LabelPropagation(10, 0.9).apply(p, context)
    assert (found.argmax(axis=1) == truth).mean() > 0.9


# Priors


def mixture(prior: Array, size: int) -> tuple[Array, Array]:
    """Exact answers of a teacher that learned from equal shares: three normals on a line."""
    rng = np.random.default_rng(6)
    truth = rng.choice(3, size, p=prior)
    x = rng.normal(np.array([-1.5, 0.0, 1.5])[truth])
    likelihood = np.exp(-0.5 * (x[:, None] - np.array([-1.5, 0.0, 1.5])) ** 2)
    return likelihood / likelihood.sum(axis=1, keepdims=True), truth


def test_expectation_maximisation_finds_the_shares_of_a_known_mixture() -> None:
    shares = np.array([0.7, 0.1, 0.2])
    p, truth = mixture(shares, 20_000)
    found = estimated_prior(p, np.full(3, 1 / 3))
    np.testing.assert_allclose(found, shares, atol=0.02)
    assert np.abs(p.mean(axis=0) - shares).max() > 0.05  # the answers alone do not show them
    # A fixed point of the paper's equations, written out.
    again = np.zeros(3)
    for row in p:
        weighed = row * found / (1 / 3)
        again += weighed / weighed.sum() / len(p)
    np.testing.assert_allclose(again, found, atol=1e-8)
    better = corrected(p, np.full(3, 1 / 3), found)
    assert (better.argmax(axis=1) == truth).mean() > (p.argmax(axis=1) == truth).mean() + 0.03


def test_prior_identities() -> None:
    p = random_probabilities(np.random.default_rng(7), 20)
    taught = np.array([0.2, 0.3, 0.5])
    np.testing.assert_allclose(corrected(p, taught, taught), p)
    there = corrected(p, taught, np.array([0.6, 0.2, 0.2]))
    np.testing.assert_allclose(corrected(there, np.array([0.6, 0.2, 0.2]), taught), p)
    np.testing.assert_allclose(estimated_prior(p[:0], taught), taught)
    impossible = corrected(np.array([[1.0, 0.0, 0.0]]), taught, np.array([0.0, 0.5, 0.5]))
    np.testing.assert_array_equal(impossible, [[1.0, 0.0, 0.0]])


def test_prior_step_takes_the_teachers_prior_from_the_sources_labels() -> None:
    p = random_probabilities(np.random.default_rng(8), 10)
    target, label = np.arange(10) >= 6, np.array([0, 0, 0, 1, 2, UNLABELLED, 2, 2, UNLABELLED, 2])
    found = PriorCorrection([0.2, 0.2, 0.6]).apply(p, FusionContext(target, label, None))
    weighed = p * np.array([0.2 / 0.6, 0.2 / 0.2, 0.6 / 0.2])
    np.testing.assert_array_equal(found[:6], p[:6])
    np.testing.assert_allclose(found[6:], (weighed / weighed.sum(axis=1, keepdims=True))[6:])
    given = PriorCorrection(None, [0.5, 0.25, 0.25]).apply(p, FusionContext(target, label, None))
    taught = np.array([0.5, 0.25, 0.25])
    np.testing.assert_allclose(given[6:], corrected(p[6:], taught, estimated_prior(p[6:], taught)))


# Several teachers


def test_means_of_two_teachers(tmp_path: Path) -> None:
    source = TwoDomains()
    a, logits_a = stored(tmp_path / "a", source, 1)
    b, logits_b = stored(tmp_path / "b", source, 2, order=(2, 0, 1))  # other order, the same names
    p = [np.exp(log_softmax(x)) for x in (logits_a, logits_b)]
    entropy = np.stack([-(x * np.log(x)).sum(axis=1) for x in p])
    sure = np.exp(-entropy / 0.3) / np.exp(-entropy / 0.3).sum(axis=0)
    product = p[0] ** 0.75 * p[1] ** 0.25
    expected: list[tuple[Any, Array]] = [
        (None, (p[0] + p[1]) / 2),
        (ArithmeticMean([3, 1]), 0.75 * p[0] + 0.25 * p[1]),
        (ArithmeticMean([0, 1]), p[1]),
        (GeometricMean([3, 1]), product / product.sum(axis=1, keepdims=True)),
        (GeometricMean([0, 2]), p[1]),
        (ConfidentMean(0.3), sure[0][:, None] * p[0] + sure[1][:, None] * p[1]),
    ]
    for mean, wanted in expected:
        fused = fuse([a, b], source, ["new"], mean=mean)
        rows = by_row(source, fused.sample_id)
        np.testing.assert_allclose(np.exp(fused.logits), wanted[rows], atol=1e-6, err_msg=str(mean))
        assert fused.classes == CLASSES
        assert fused.embedding is not None
        np.testing.assert_array_equal(fused.embedding, a.rows(fused.sample_id, ["embedding"])["embedding"])


# The whole


class Halved(FusionStep):
    """A step of the user's own: half of the way to equal shares, in the new domain."""

    def __init__(self) -> None:
        self.share = 0.5

    def apply(self, probabilities: Array, context: FusionContext) -> Array:
        equal = self.share * probabilities + (1 - self.share) / probabilities.shape[1]
        return np.where(context.target[:, None], equal, probabilities)


def test_fusion_is_its_steps_and_known_labels(tmp_path: Path) -> None:
    source = TwoDomains(known=5)
    parent, logits = stored(tmp_path / "a", source)
    steps = [PriorCorrection([0.5, 0.3, 0.2], [0.2, 0.4, 0.4]), LabelPropagation(4, 0.6), Halved()]
    fused = fuse([parent], source, ["new"], steps, smoothing=0.3)
    rows = by_row(source, fused.sample_id)
    table = source.table
    assert sorted(rows) == sorted(np.flatnonzero(table.split < 2))
    new = table.domain[rows] == 1
    known = new & (table.split[rows] == 0) & (table.target[rows] != UNLABELLED)
    assert known.sum() == 5
    before = np.exp(log_softmax(logits))[rows]
    p = before.copy()
    p[new] *= np.array([2.5, 0.75, 0.5])
    p /= p.sum(axis=1, keepdims=True)
    Y, sown = p.copy(), (table.split[rows] == 0) & (table.target[rows] != UNLABELLED)
    Y[sown] = np.eye(3)[table.target[rows][sown]]
    embedding = np.asarray(fused.embedding, np.float64)
    spread = reference_propagation(reference_graph(embedding, 4), Y, 0.6)
    p[new] = 0.5 * spread[new] + 0.5 / 3
    p[known] = 0.7 * np.eye(3)[table.target[rows][known]] + 0.1
    np.testing.assert_allclose(np.exp(fused.logits), p, atol=1e-5)
    numbers = fused.numbers
    assert (numbers.samples, numbers.target_samples, numbers.known_labels) == (len(rows), int(new.sum()), 5)
    assert numbers.changed == int((before.argmax(1) != p.argmax(1))[new].sum())
    entropies = [-(x[new] * np.log(x[new])).sum(axis=1).mean() for x in (before, p)]
    np.testing.assert_allclose([numbers.entropy_before, numbers.entropy_after], entropies, atol=1e-4)
    assert numbers.counts_before == np.bincount(before[new].argmax(1), minlength=3).tolist()
    assert numbers.counts_after == np.bincount(p[new].argmax(1), minlength=3).tolist()
    agreed = (before.argmax(1) == table.target[rows])[known].mean()
    assert numbers.agreement_before == pytest.approx(agreed)


def test_changes_are_counted_in_the_new_domain(tmp_path: Path) -> None:
    source = TwoDomains()
    parent, _ = stored(tmp_path / "a", source)

    class Turned(FusionStep):
        def apply(self, probabilities: Array, context: FusionContext) -> Array:
            return np.roll(probabilities, 1, axis=1)

    numbers = fuse([parent], source, ["new"], [Turned()]).numbers
    assert numbers.changed == numbers.target_samples < numbers.samples
    assert numbers.counts_after == np.roll(numbers.counts_before, 1).tolist()


def test_agreement_after_is_with_labels_that_the_steps_did_not_see(tmp_path: Path) -> None:
    source = TwoDomains(known=12)
    parent, _ = stored(tmp_path / "a", source)

    class Copy(FusionStep):
        """Cheats: says the label wherever it sees one, and else a class that is wrong."""

        def apply(self, probabilities: Array, context: FusionContext) -> Array:
            wrong = (source.truth[by_row(source, fused_ids)] + 1) % 3
            return np.eye(3)[np.where(context.label >= 0, context.label, wrong)]

    fused_ids = fuse([parent], source, ["new"]).sample_id
    assert fuse([parent], source, ["new"], [Copy()]).numbers.agreement_after == 0.0
    numbers = fuse([parent], source, ["new"]).numbers
    assert numbers.agreement_after == numbers.agreement_before
    none = fuse([parent], TwoDomains(), ["new"]).numbers
    assert (none.agreement_before, none.agreement_after, none.known_labels) == (None, None, 0)


def test_hidden_labels_are_never_read(tmp_path: Path) -> None:
    """Whatever stands in validation and test, of either domain, the answer is the same to the bit."""
    steps = [PriorCorrection(), LabelPropagation(5)]
    results = []
    for poisoned in (False, True):
        source = TwoDomains(old=60, new=60, known=4)
        parent, _ = stored(tmp_path / f"parent {poisoned}", source)
        if poisoned:
            source.truth = np.full(120, 10**6)
            target = source.table.target.copy()
            target[source.table.split > 0] = 10**6
            source.table = replace(source.table, target=target)
        results.append(fuse([parent], source, ["new"], steps, splits=["train", "val", "test"]))
    np.testing.assert_array_equal(results[0].logits, results[1].logits)
    assert results[0].numbers == results[1].numbers
    assert results[0].numbers.known_labels == 4
    # And the check can fail: a training label that training sees does count.
    source.table.target[np.flatnonzero(source.table.split == 0)[0]] += 1
    source.table.target[:] = np.where(source.table.target > 2, 0, source.table.target)
    assert not np.array_equal(fuse([parent], source, ["new"], steps).logits, results[0].logits)


def test_a_stored_teacher_reads_the_result(tmp_path: Path) -> None:
    source = TwoDomains(known=3)
    parent, _ = stored(tmp_path / "a", source)
    fused = fuse([parent], source, ["new"], [LabelPropagation(5)])
    written = fused.write(tmp_path / "fused", "float32")
    written.verify()
    teacher = StoredTeacher(tmp_path / "fused")
    batch = make_batch(size=6)
    batch["sample_id"] = torch.from_numpy(fused.sample_id[[3, 0, 9, 9, 1, 2]])
    answer = teacher(batch)
    np.testing.assert_allclose(answer.logits.numpy(), fused.logits[[3, 0, 9, 9, 1, 2]], rtol=1e-6)
    assert answer.embedding is not None
    assert teacher.classes == CLASSES
    content = json.loads((tmp_path / "fused" / "knowledge.json").read_text())
    told = content["fusion"]
    assert (content["split"], content["data_fingerprint"]) == ("train,val", source.fingerprint)
    assert content["preprocessing"] == {"a": {"dim": 6}}
    assert told["steps"] == [{"class": "LabelPropagation", "neighbours": 5, "alpha": 0.8}]
    assert (told["mean"], told["targets"]) == ({"class": "ArithmeticMean", "weights": None}, ["new"])
    assert told["numbers"]["known_labels"] == 3
    from lightning_distill.knowledge import checksum

    assert told["parents"][0]["xxh3_64"] == checksum(tmp_path / "a" / "knowledge.json")
    with pytest.raises(ConfigError, match="expected a new folder"):
        fused.write(tmp_path / "fused")
    # What is fused can be fused again, and by itself stays what it is.
    again = fuse([written], TwoDomains(), ["new"])
    np.testing.assert_allclose(np.exp(again.logits), np.exp(fused.logits), atol=1e-6)


def test_far_logits_are_clamped_not_lost(tmp_path: Path) -> None:
    source = TwoDomains()
    sure = (500 * np.eye(3)[source.truth]).astype(np.float32)
    parent, _ = stored(tmp_path / "a", source, logits=sure)
    fused = fuse([parent], source, ["new"])
    assert fused.logits.min() == pytest.approx(np.log(1e-12))
    assert np.isfinite(fused.write(tmp_path / "f").arrays["logits"]).all()


def test_equal_inputs_give_equal_bits(tmp_path: Path) -> None:
    source = TwoDomains(known=3)
    parent, _ = stored(tmp_path / "a", source)
    steps = [PriorCorrection(), LabelPropagation(5)]
    found = [fuse([parent], source, ["new"], steps).write(tmp_path / name).content for name in "bc"]
    assert found[0] == found[1]


def test_three_thousand_samples_take_seconds(tmp_path: Path) -> None:
    source = TwoDomains(old=2000, new=1800)
    rng = np.random.default_rng(0)
    embedding = (rng.normal(size=(3800, 128)) + 2 * np.eye(128)[source.truth]).astype(np.float32)
    parent, _ = stored(tmp_path / "a", source, embedding=embedding)
    begin = time.perf_counter()
    fused = fuse([parent], source, ["new"], [PriorCorrection(), LabelPropagation()])
    assert fused.numbers.samples > 3000
    assert time.perf_counter() - begin < 5


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LabelPropagation(0), "found 0; expected 1 or more"),
        (lambda: LabelPropagation(5, 1.0), "0 to below 1"),
        (lambda: LabelPropagation(5, float("nan")), "0 to below 1"),
        (lambda: PriorCorrection([0.5, 0.6]), "in sum 1"),
        (lambda: PriorCorrection([1.5, -0.5]), "of 0 or more"),
        (lambda: PriorCorrection(None, [0.0, 1.0]), "above 0"),
        (lambda: PriorCorrection([float("nan"), 1.0]), "in sum 1"),
    ],
)
def test_settings_out_of_range(make: Callable[[], FusionStep], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


def test_mistakes(tmp_path: Path) -> None:
    source = TwoDomains()
    parent, logits = stored(tmp_path / "a", source)

    def wrong(message: str, kind: type[Exception] = ConfigError, **options: Any) -> None:
        given: dict[str, Any] = {"parents": [parent], "source": source, "targets": ["new"]}
        with pytest.raises(kind, match=message):
            fuse(**(given | options))

    wrong(r"found 'neww'; did you mean 'new'\?", targets=["neww"])
    wrong("found none; expected one or several of the data's domains: old, new", targets=[])
    wrong(r"found 'tain'; did you mean 'train'\?", splits=["tain"])
    wrong("expected 0 to below 1", smoothing=1.0)
    wrong("expected at least one folder", parents=[])
    wrong("found 2 shares; expected 3", steps=[PriorCorrection([0.5, 0.5])])
    wrong("2 numbers of 0 or more|1 numbers of 0 or more", mean=ArithmeticMean([1.0, 1.0]))
    ids = source.table.sample_id
    bare = write_arrays(tmp_path / "bare", ids, {"logits": logits}, CLASSES)
    wrong("no embedding", parents=[bare], steps=[LabelPropagation()])
    few = write_arrays(tmp_path / "few", ids[:25], {"logits": logits[:25]}, CLASSES)
    wrong("nothing about", CheckpointError, parents=[parent, few])
    old = write_arrays(tmp_path / "old", ids[:20], {"logits": logits[:20]}, CLASSES)
    wrong("none of them of new", parents=[old])
    other = write_arrays(tmp_path / "other", ids, {"logits": logits}, ["ant", "bee", "dog"])
    wrong("without the class 'cat'", TeacherError, parents=[other])
    nameless = write_arrays(tmp_path / "two", ids, {"logits": logits[:, :2]})
    wrong("answers of 2 classes without names", TeacherError, parents=[nameless])
    broken = write_arrays(tmp_path / "nan", ids, {"logits": np.where(logits > 3, np.nan, logits)}, CLASSES)
    wrong("NaN or infinity for samples", CheckpointError, parents=[broken])
    nowhere = TwoDomains()
    nowhere.table.target[nowhere.table.target == 2] = 1
    wrong(r"1 of 3 classes, numbers \[2\]", source=nowhere, steps=[PriorCorrection()])
    numbers = TwoDomains()
    numbers.table = replace(numbers.table, target=np.zeros((50, 2), np.float32))
    wrong("expected one class a sample", source=numbers)

    class Bad(FusionStep):
        def apply(self, probabilities: Array, context: FusionContext) -> Array:
            return 2 * probabilities

    wrong(r"fuse, Bad\.apply", steps=[Bad()])
