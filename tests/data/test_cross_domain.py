"""Batches of several domains: whose rows, with which flags, labels and masks; pairs; what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lightning_distill.data import (
    ByteTextProcessor,
    ClassBalanced,
    CrossDomainDataModule,
    Domains,
    ImageDataModule,
    ImageProcessor,
    LengthBucketed,
    ManifestSource,
    MultimodalDataModule,
    MultimodalDataset,
    PairedByClass,
    PairedByRow,
    Shuffle,
)
from lightning_distill.data.datasets import Digits
from lightning_distill.errors import ConfigError, ManifestError, SampleError
from lightning_distill.structures import UNLABELLED, Batch
from tests.builders import DIMS, VectorProcessor, make_data
from tests.data.domains import cross, domain, vectors
from tests.data.test_stream import VectorStream


def batches(data: MultimodalDataModule, split: str = "train", epoch: int = 0) -> list[Batch]:
    data.setup("fit")
    loader = data.train_dataloader() if split == "train" else data.val_dataloader()
    loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
    return list(loader)


def ids(found: list[Batch], side: bool | None = None) -> list[int]:
    return [
        int(i)
        for batch in found
        for i, target in zip(batch["sample_id"], batch["in_target_domain"], strict=True)
        if side is None or bool(target) == side
    ]


def tensors(batch: Batch, rows: Tensor) -> dict[int, list[float]]:
    """Sample id -> what the student reads of it."""
    inputs = torch.cat([x for x in batch["inputs"].values() if isinstance(x, Tensor)], dim=1)
    return dict(zip(batch["sample_id"][rows].tolist(), inputs[rows].tolist(), strict=True))


def test_a_batch_holds_rows_of_both_domains() -> None:
    data = cross()
    found = batches(data)
    assert len(found) == 7
    for batch in found:
        target = batch["in_target_domain"]
        assert target.dtype == torch.bool
        assert target.tolist() == [False] * 4 + [True] * (len(target) - 4)
        assert torch.equal(batch["domain"], target.long())
        assert torch.equal(batch["sample_id"] >= 7000, target)
        assert (batch["target"][target] == UNLABELLED).all()
        assert batch["target"][~target].tolist() == [(int(i) - 5000) % 3 for i in batch["sample_id"][~target]]
    assert sorted(ids(found, side=False)) == list(range(5000, 5028))
    assert sorted(ids(found, side=True)[:11]) == list(range(7000, 7011))
    assert (data.domains, data.targets) == (("source", "target"), ("target",))
    assert (data.batch_size, tuple(data.parts)) == (8, ("source", "target"))


def test_evaluation_sees_every_sample_once_and_both_domains_together() -> None:
    found = batches(cross(), "val")
    assert sorted(ids(found)) == [*range(5028, 5041), *range(7011, 7017)]
    assert all(0 < int(batch["in_target_domain"].sum()) < len(batch["target"]) for batch in found)


@pytest.mark.parametrize("in_memory", [False, True])
def test_rows_hold_what_their_own_domain_has(in_memory: bool) -> None:
    one, other = vectors(), vectors(7000, train=11, val=6)
    data = cross(
        **{n: domain(s, noise=0.0, in_memory=in_memory) for n, s in (("source", one), ("target", other))}
    )
    read = [tensors(batch, torch.arange(len(batch["target"]))) for batch in batches(data)]
    for sample_id, values in (pair for rows in read for pair in rows.items()):
        source, row = (one, sample_id - 5000) if sample_id < 7000 else (other, sample_id - 7000)
        expected = np.concatenate([source.vectors[m][row] for m in DIMS])
        assert np.allclose(values, expected, atol=1e-6)


def test_a_domain_without_a_modality_lacks_it() -> None:
    data = cross(source=domain(vectors(), ("a",)))
    for batch in batches(data):
        there = batch["present"]
        assert there["a"].all()
        assert torch.equal(there["b"], batch["in_target_domain"])
        blank = batch["inputs"]["b"]
        assert isinstance(blank, Tensor)
        assert blank[~there["b"]].abs().max() < 0.11  # nothing but the augmentation's noise
    assert list(data.processors) == ["a", "b"]


def test_a_teachers_modality_is_for_the_teacher_alone() -> None:
    target = MultimodalDataModule(
        vectors(7000), {"a": VectorProcessor(6)}, 4, teacher_processors={"b": VectorProcessor(5)}
    )
    batch = batches(cross(source=domain(vectors(), ("a",)), target=target))[0]
    assert set(batch["inputs"]) == {"a"}
    assert set(batch["teacher_inputs"]) == {"b"}
    assert torch.equal(batch["present"]["b"], batch["in_target_domain"])


def test_several_domains_by_name() -> None:
    sources = {"x": domain(vectors(1000, train=6, val=2)), "y": domain(vectors(2000, train=9, val=2))}
    targets = {"z": domain(vectors(3000, train=30, val=2), batch_size=3)}
    data = CrossDomainDataModule(Domains(sources), Domains(targets))
    assert (data.domains, data.targets) == (("x", "y", "z"), ("z",))
    found = batches(data)
    assert len(found) == 10
    for batch in found:
        assert torch.equal(batch["domain"], batch["sample_id"] // 1000 - 1)
        assert torch.equal(batch["in_target_domain"], batch["domain"] == 2)
    assert data.report()[:2] == [
        "x, train: 6 samples, 6 labelled (a+b 6)",
        "x, val: 2 samples, 2 labelled (a+b 2)",
    ]
    assert len(data.report()) == 6


def test_each_domain_is_drawn_by_its_own_sampling() -> None:
    few = vectors(7000, train=24, val=3, unlabelled=range(2, 24))
    labelled = domain(few, sampling=Shuffle(labelled_per_batch=2))
    uneven = vectors(train=28, val=2, unlabelled=range(10, 28))
    found = batches(cross(source=domain(uneven, sampling=ClassBalanced()), target=labelled))
    assert len(found) == 6
    for batch in found:
        target = batch["in_target_domain"]
        assert int(target.sum()) == 4 + 2
        assert batch["sample_id"][target][4:].sort().values.tolist() == [7000, 7001]
        assert (batch["target"][~target] != UNLABELLED).all()
    counts = np.bincount([(i - 5000) % 3 for i in ids(found, side=False)[:10]])
    assert counts.max() - counts.min() <= 1


def test_texts_of_a_domain_are_bucketed_by_their_own_lengths(tmp_path: Path) -> None:
    def side(name: str, count: int, **options: Any) -> MultimodalDataModule:
        rows = [f"{name}{'x' * i},{'ab'[i % 2]},{'train' if i < count else 'val'}" for i in range(count + 4)]
        path = tmp_path / f"{name}.csv"
        path.write_text("\n".join(["text,label,split", *rows]))
        return MultimodalDataModule(
            ManifestSource(path, {"text": "text"}), {"text": ByteTextProcessor()}, 4, **options
        )

    data = cross(source=side("s", 20), target=side("t", 12, sampling=LengthBucketed()))
    found = batches(data)
    lengths: list[list[int]] = []
    for batch in found[:3]:  # one pass over the target
        inputs = batch["inputs"]["text"]
        assert isinstance(inputs, dict)
        lengths.append(sorted(inputs["attention_mask"].sum(dim=1)[batch["in_target_domain"]].tolist()))
    assert all(row[-1] - row[0] == 3 for row in lengths)
    assert len({n for row in lengths for n in row}) == 12


def test_domains_of_one_size_are_drawn_apart() -> None:
    """Drawn by one seed, rows that stand in the same place would always meet: of one class, as it happens."""
    found = batches(cross(target=domain(vectors(7000))))
    assert len(found) == 7
    pairs = list(zip(ids(found, side=False), ids(found, side=True), strict=True))
    assert sum(one - 5000 == other - 7000 for one, other in pairs) < 14


def test_what_comes_again_in_an_epoch_is_shown_anew() -> None:
    found = batches(cross(target=domain(vectors(7000, train=3, val=2), batch_size=3)))
    shown: dict[int, list[list[float]]] = {}
    for batch in found:
        for sample_id, values in tensors(batch, batch["in_target_domain"]).items():
            shown.setdefault(sample_id, []).append(values)
    assert all(len(views) == 7 == len({tuple(v) for v in views}) for views in shown.values())


def test_kept_views_come_in_turn() -> None:
    sides = {"source": domain(vectors(), views=2), "target": domain(vectors(7000, train=3, val=2), views=2)}
    found = batches(cross(**sides))
    assert [batch["view"].unique().tolist() for batch in found] == [[n % 2] for n in range(7)]


@pytest.mark.parametrize("split", ["train", "val"])
def test_workers_give_the_same_batches(split: str) -> None:
    alone = batches(cross(), split, epoch=1)
    sides = {"source": domain(vectors(), num_workers=2)}
    data = cross(**sides)
    assert data.num_workers == 2
    for one, other in zip(alone, batches(data, split, epoch=1), strict=True):
        assert torch.equal(one["sample_id"], other["sample_id"])
        assert torch.equal(one["in_target_domain"], other["in_target_domain"])
        assert all(torch.equal(one["inputs"][m], other["inputs"][m]) for m in DIMS)  # type: ignore[arg-type]


# -- pairs --------------------------------------------------------------------------------------------


def test_pairs_by_row() -> None:
    data = cross(target=domain(vectors(7000, val=2), batch_size=9), pairing=PairedByRow())
    for epoch in (0, 1):
        found = batches(data, epoch=epoch)
        assert len(found) == 7
        for batch in found:
            target = batch["in_target_domain"]
            assert target.tolist() == [False] * 4 + [True] * 4
            assert (batch["sample_id"][target] - batch["sample_id"][~target] == 2000).all()
    assert sorted(ids(found, side=False)) == list(range(5000, 5028))


def test_pairs_by_row_hold_where_source_rows_are_left_out() -> None:
    source = domain(vectors(unlabelled=[0, 5]), sampling=Shuffle(unlabelled=False))
    found = batches(cross(source=source, target=domain(vectors(7000, val=2)), pairing=PairedByRow()))
    assert sorted(ids(found, side=False)) == [i for i in range(5000, 5028) if i not in (5000, 5005)]
    for batch in found:
        target = batch["in_target_domain"]
        assert (batch["sample_id"][target] - batch["sample_id"][~target] == 2000).all()


def test_pairs_by_class() -> None:
    target = domain(vectors(7000, train=11, val=2, unlabelled=[0, 1]))
    data = cross(target=target, pairing=PairedByClass())
    epochs = [batches(data, epoch=epoch) for epoch in (0, 1, 0)]
    for batch in epochs[0]:
        side = batch["in_target_domain"]
        assert torch.equal(batch["target"][side], batch["target"][~side])
        for label in range(3):
            partners = batch["sample_id"][side & (batch["target"] == label)].tolist()
            assert len(set(partners)) == min(len(partners), 3)
    assert set(ids(epochs[0], side=True)) == set(range(7002, 7011))
    assert ids(epochs[0]) == ids(epochs[2]) != ids(epochs[1])


@pytest.mark.parametrize(
    ("pairing", "options", "message"),
    [
        (
            PairedByRow(),
            {"target": Domains({"y": domain(vectors(1)), "z": domain(vectors(2))})},
            "1 source and 2 target",
        ),
        (PairedByRow(), {}, "28 source rows and 11 target rows"),
        (
            PairedByRow(),
            {"target": domain(vectors(7000, unlabelled=[3]), sampling=Shuffle(unlabelled=False))},
            "1 source rows whose partner is not used",
        ),
        (PairedByClass(), {}, "no labelled target row of 3 of the source's classes"),
        (PairedByClass(), {"source": domain(vectors(unlabelled=[3]))}, "1 source rows without a label"),
    ],
)
def test_pairs_that_do_not_exist(pairing: Any, options: Any, message: str) -> None:
    data = cross(pairing=pairing, **options)
    with pytest.raises(ConfigError, match=rf"pairing, {type(pairing).__name__}: found {message}"):
        batches(data)


# -- what is refused ----------------------------------------------------------------------------------


class Changed(MultimodalDataModule):
    """Makes data sets of its own."""

    def make_dataset(self, *args: Any) -> MultimodalDataset:
        return super().make_dataset(*args)


def other(**options: Any) -> MultimodalDataModule:
    return domain(vectors(7000), **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"source": Domains({})}, r"CrossDomainDataModule.source: found no domain"),
        ({"target": Domains({"source": other()})}, r"target: found two domains of the name 'source'"),
        *[
            ({"target": Domains({name: other()})}, r"none of loss, score, task, unimodal")
            for name in ("a/b", "a.b", " ")
        ],
        *[
            ({"target": Domains({name: other()})}, rf"of the name '{name}'")
            for name in ("loss", "score", "task", "unimodal")
        ],
        (
            {"target": other(in_memory=True)},
            r"in_memory: found False in the domain 'source', True in 'target'",
        ),
        ({"target": other(views=3)}, r"views: found None in the domain 'source', 3 in 'target'"),
        (
            {"target": other(on_bad_sample="substitute")},
            r"on_bad_sample: found stop .* substitute in 'target'",
        ),
        ({"target": other(noise=0.2)}, r"processors\['a'\]: found VectorProcessor in the domain 'source'"),
        (
            {"target": make_data(VectorStream())},
            r"target: found VectorStream in the domain 'target', a stream; .*ManifestSource",
        ),
        (
            {"target": Changed(vectors(), {"a": VectorProcessor(6)})},
            r"found Changed .* with make_dataset of its own",
        ),
        ({"target": cross()}, r"make_dataset of its own.*give each of its domains by itself"),
    ],
)
def test_parts_that_do_not_go_together(options: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        cross(**options)


def test_readers_and_processors_must_be_alike() -> None:
    def teachers(dim: int, student: bool) -> MultimodalDataModule:
        processors: Any = {"a": VectorProcessor(6)} | ({"b": VectorProcessor(5)} if student else {})
        return MultimodalDataModule(vectors(7000), processors, teacher_processors={"b": VectorProcessor(dim)})

    with pytest.raises(
        ConfigError, match=r"the teacher alone in the domain 'target', and .* too in 'source'"
    ):
        cross(target=teachers(5, student=False))
    with pytest.raises(ConfigError, match=r"teacher_processors\['b'\].*the same processor"):
        cross(target=teachers(9, student=True))
    assert set(cross(target=teachers(5, student=True)).teacher_processors) == {"b"}


def test_pairs_take_no_substitutes() -> None:
    sides = {n: domain(vectors(), on_bad_sample="substitute") for n in ("source", "target")}
    with pytest.raises(ConfigError, match=r"pairing: found PairedByRow, and on_bad_sample"):
        cross(pairing=PairedByRow(), **sides)


def test_a_domain_without_training_rows_is_told_at_setup() -> None:
    empty = domain(vectors(7000, train=5, unlabelled=range(5)), sampling=Shuffle(unlabelled=False))
    with pytest.raises(
        ManifestError, match=r"split 'train': found 0 usable rows of 18 in the domain 'target'"
    ):
        cross(target=empty).setup("fit")
    data = cross()
    data.setup("fit")
    with pytest.raises(ManifestError, match=r"domain 'target': found 11 samples for 12 processes"):
        data.make_sampler("train", data.dataset("train"), (0, 12))


class Damaged(VectorProcessor):
    """Cannot prepare a sample of NaN."""

    def prepare(self, raw: Any, view: Any = None) -> Tensor:
        if np.isnan(raw).any():
            raise ValueError("NaN")
        return super().prepare(raw, view)


@pytest.mark.parametrize("in_memory", [False, True])
def test_a_bad_sample_is_replaced_by_one_of_its_domain(in_memory: bool) -> None:
    def side(first: int, train: int, broken: list[int]) -> MultimodalDataModule:
        source = vectors(first, train=train, val=2, broken=broken)
        options: Any = {"on_bad_sample": "substitute", "in_memory": in_memory}
        return MultimodalDataModule(source, {"a": Damaged(6)}, 4, **options)

    found = batches(cross(source=side(5000, 28, []), target=side(7000, 11, [3])))
    target = ids(found, side=True)
    assert len(target) == 11 + 11 + 4  # seven batches: two passes and the first batch of a third
    assert 7003 not in target
    assert sorted(ids(found, side=False)) == list(range(5000, 5028))
    target_part = side(7000, 20, [3])
    whole = side(5000, 20, [])
    whole.on_bad_sample = target_part.on_bad_sample = "stop"
    data = cross(source=whole, target=target_part)
    with pytest.raises(SampleError, match=r"domain 'target', row 3"):
        batches(data)


def test_of_processors_that_differ_only_the_difference_is_told() -> None:
    source, target = (
        ImageDataModule(Digits(train=20, val=10, test=10), {"image": ImageProcessor(size, channels=1)})
        for size in (12, 14)
    )
    told = (
        r"found ImageProcessor \{'size': 12\} in the domain 'source', ImageProcessor \{'size': 14\} in 'tar"
    )
    with pytest.raises(ConfigError, match=told):
        CrossDomainDataModule(source, target)
