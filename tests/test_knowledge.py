"""Stored knowledge: the folder, its reader, and the teacher that answers from it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lightning_distill.errors import CheckpointError, ConfigError, TeacherError
from lightning_distill.knowledge import Knowledge
from lightning_distill.knowledge_writing import Origin, write_arrays, write_knowledge
from lightning_distill.structures import Batch
from lightning_distill.teachers import FrozenTeacher, StoredTeacher
from tests.builders import CLASSES, VectorSource, make_batch, make_data, make_model, make_trainer
from tests.module.parts import SGD, distilling

LAYER = "encoders.a.linear"


def make_teacher() -> FrozenTeacher:
    model = make_model()
    model.classes = CLASSES
    return FrozenTeacher(model)


def batches() -> list[Batch]:
    """Three batches whose ids do not come in order; some samples lack a modality."""
    made = [make_batch(size=5, absent={"a": [0], "b": [1]}) for _ in range(3)]
    ids = torch.randperm(15) * 7 - 20
    for batch, part in zip(made, ids.split(5), strict=True):
        batch["sample_id"] = part
    return made


def write(folder: Path, **options: Any) -> tuple[FrozenTeacher, list[Batch], Knowledge]:
    teacher, data = make_teacher(), batches()
    defaults: dict[str, Any] = {"layers": [LAYER], "alone": ["a", "b"], "dtype": "float32"}
    return teacher, data, write_knowledge(teacher, data, folder, **(defaults | options))


def test_it_can_be_read_with_numpy_and_json_alone(tmp_path: Path) -> None:
    teacher, data, _ = write(tmp_path / "k", origin=Origin("val", "abc", {"a": {"dim": 6}}))
    content = json.loads((tmp_path / "k" / "knowledge.json").read_text())
    assert (content["format"], content["classes"], content["samples"]) == (1, list(CLASSES), 15)
    assert (content["split"], content["data_fingerprint"]) == ("val", "abc")
    assert content["preprocessing"] == {"a": {"dim": 6}}
    for name, entry in content["arrays"].items():
        array = np.load(tmp_path / "k" / f"{name}.npy", allow_pickle=False)
        assert (list(array.shape), str(array.dtype)) == (entry["shape"], entry["dtype"])
    ids = np.load(tmp_path / "k" / "sample_id.npy")
    assert (np.diff(ids) > 0).all()
    logits = np.load(tmp_path / "k" / "logits.npy")
    layer = np.load(tmp_path / "k" / "layers" / f"{LAYER}.npy")
    for batch in data:
        output, at = teacher(batch), np.searchsorted(ids, batch["sample_id"].numpy())
        np.testing.assert_array_equal(logits[at], output.logits.numpy())
        np.testing.assert_array_equal(layer[at], output.layers[LAYER].numpy())


def test_answers_with_one_modality_alone(tmp_path: Path) -> None:
    teacher, data, knowledge = write(tmp_path / "k")
    batch = data[0]
    rows = knowledge.rows(batch["sample_id"].numpy())
    assert not any("features.b" in name for name in rows if name.startswith("alone/a/"))
    assert np.isnan(rows["alone/a/logits"][0]).all()
    kept = slice(1, None)
    present = {"a": torch.ones(5, dtype=torch.bool), "b": torch.zeros(5, dtype=torch.bool)}
    expected = teacher({**batch, "present": present}).logits  # type: ignore[typeddict-item]
    np.testing.assert_array_equal(rows["alone/a/logits"][kept], expected[kept].numpy())
    stored = StoredTeacher(tmp_path / "k", modality="a")
    part: Batch = {**batch, "sample_id": batch["sample_id"][1:]}  # type: ignore[assignment]
    assert torch.equal(stored(part).logits, expected[1:])
    with pytest.raises(TeacherError, match="found no a"):
        stored(batch)
    with pytest.raises(TeacherError, match="answers with a, b alone"):
        StoredTeacher(tmp_path / "k", modality="c")
    with pytest.raises(ConfigError, match="what the teacher reads: a, b"):
        write(tmp_path / "other", alone=["c"])


def test_a_stored_teacher_says_what_the_teacher_said(tmp_path: Path) -> None:
    teacher, data, _ = write(tmp_path / "k")
    stored = StoredTeacher(tmp_path / "k")
    stored.read_layers([LAYER, "features.b", "embedding"])
    for batch in data:
        ours, theirs = stored(batch), teacher(batch)
        for name in ("logits", "embedding", "features.b", LAYER):
            assert torch.equal(ours.at(name), theirs.at(name)), name
    assert (stored.classes, stored.num_classes, dict(stored.requirements)) == (CLASSES, 3, {})
    with pytest.raises(ConfigError, match=r"without it; did you mean 'encoders\.a\.linear'"):
        stored.read_layers(["encoders.b.linear"])


def test_half_precision_rounds_and_refuses_what_is_too_large(tmp_path: Path) -> None:
    teacher, data, knowledge = write(tmp_path / "k", dtype="float16")
    found = knowledge.rows(data[0]["sample_id"].numpy(), ["logits"])["logits"]
    assert found.dtype == np.float16
    np.testing.assert_allclose(found, teacher(data[0]).logits.numpy(), rtol=2**-11, atol=1e-7)
    large = make_model()
    large.head.weight.data.mul_(1e7)
    with pytest.raises(ConfigError, match="store float32"):
        write_knowledge(FrozenTeacher(large), batches(), tmp_path / "l")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["k"]


def test_nothing_half_written_stays(tmp_path: Path) -> None:
    def cut() -> Iterator[Batch]:
        yield from batches()[:1]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_knowledge(make_teacher(), cut(), tmp_path / "k")
    assert not list(tmp_path.iterdir())
    with pytest.raises(ConfigError, match="no sample"):
        write_knowledge(make_teacher(), [], tmp_path / "k")
    write(tmp_path / "k")
    with pytest.raises(ConfigError, match="expected a new folder"):
        write(tmp_path / "k")


def test_missing_samples_are_named(tmp_path: Path) -> None:
    _, data, knowledge = write(tmp_path / "k")
    wanted = np.array([int(data[0]["sample_id"][0]), 10**9, -5], np.int64)
    with pytest.raises(CheckpointError, match=r"2 of 3 samples: \[1000000000, -5\]"):
        knowledge.rows(wanted)
    with pytest.raises(CheckpointError, match="did you mean 'logits'"):
        knowledge.rows(wanted[:1], ["logit"])


def test_damage_is_found(tmp_path: Path) -> None:
    write(tmp_path / "k")
    Knowledge.open(tmp_path / "k").verify()

    def copy(name: str) -> Path:
        return Path(shutil.copytree(tmp_path / "k", tmp_path / name))

    file = copy("flipped") / "logits.npy"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    knowledge = Knowledge.open(tmp_path / "flipped")
    with pytest.raises(CheckpointError, match="another checksum"):
        knowledge.verify()
    file = copy("short") / "logits.npy"
    file.write_bytes(file.read_bytes()[:-4])
    (copy("gone") / "embedding.npy").unlink()
    (copy("text") / "knowledge.json").write_text("[1]")
    told = copy("future") / "knowledge.json"
    told.write_text(told.read_text().replace('"format": 1', '"format": 2'))
    outside = copy("outside") / "knowledge.json"
    outside.write_text(outside.read_text().replace('"logits"', '"../k/logits"'))
    for name in ("short", "gone", "text", "future", "outside", "nothing"):
        with pytest.raises(CheckpointError, match="lightning-distill knowledge"):
            Knowledge.open(tmp_path / name)


def test_training_on_stored_answers_is_training_on_the_teacher(tmp_path: Path) -> None:
    data = make_data(VectorSource())
    data.setup("fit")
    # A VectorProcessor adds noise in training; here the stored view is the one that is trained on.
    for processor in data.processors.values():
        processor.noise = 0.0  # type: ignore[attr-defined]
    teacher = make_teacher()
    seen = [*data.train_dataloader(), *data.val_dataloader()]
    write_knowledge(teacher, seen, tmp_path / "k", dtype="float32")
    weights = []
    for source in (teacher, StoredTeacher(tmp_path / "k")):
        torch.manual_seed(5)
        module = distilling(source, optimizer=SGD)  # Adam would enlarge what rounding leaves of a zero
        make_trainer(tmp_path, max_epochs=2).fit(module, data)
        weights.append(torch.cat([p.detach().flatten() for p in module.parameters()]))
    torch.testing.assert_close(weights[0], weights[1], atol=1e-5, rtol=1e-5)


def test_arrays_become_a_folder(tmp_path: Path) -> None:
    ids = np.array([5, -2, 9, 5])
    logits = np.arange(8.0).reshape(4, 2)
    told = write_arrays(tmp_path / "k", ids, {"logits": logits, "layers/a.b": logits[:, :1]}, ["x", "y"])
    assert told.sample_id.tolist() == [-2, 5, 9]
    assert told.arrays["logits"].dtype == np.float16
    np.testing.assert_array_equal(told.arrays["logits"], [[2, 3], [0, 1], [4, 5]])  # the first row of id 5
    assert told.classes == ("x", "y")
    Knowledge.open(tmp_path / "k").verify()
    assert "fusion" not in told.content


def test_arrays_that_do_not_fit_are_refused_and_leave_nothing(tmp_path: Path) -> None:
    ids, logits = np.arange(4), np.zeros((4, 2))
    wrong: list[tuple[dict[str, np.ndarray], Sequence[str] | None, str]] = [
        ({"embedding": logits}, None, "`logits`"),
        ({"logits": logits[:3]}, None, "a row for each sample"),
        ({"logits": logits}, ["x"], "and 1 classes"),
        ({"logits": logits, "sample_id": ids}, None, "apart from the arrays"),
        ({"logits": logits + 1e6}, None, "store float32"),
    ]
    for arrays, classes, message in wrong:
        with pytest.raises(ConfigError, match=message):
            write_arrays(tmp_path / "k", ids, arrays, classes)
    with pytest.raises(ConfigError, match="no sample"):
        write_arrays(tmp_path / "k", ids[:0], {"logits": logits[:0]})
    assert not list(tmp_path.iterdir())
