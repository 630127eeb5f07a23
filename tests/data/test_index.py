"""The Arrow file in the middle: made once, known by content, never believed when damaged. Fault row M18."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lightning.pytorch import seed_everything

from lightning_distill.data import (
    ByteTextProcessor,
    GroupSplit,
    ManifestColumns,
    ManifestSource,
    MultiLabel,
    RandomSplit,
    RegressionTarget,
    SingleLabel,
    Target,
    TextDataModule,
)
from lightning_distill.data.tables import TextTable
from lightning_distill.data.targets import Labels
from lightning_distill.encoders import ByteTextCNN
from lightning_distill.errors import CheckpointError, SampleError
from lightning_distill.model import MultimodalModel
from lightning_distill.module import DistillationModule
from tests.builders import make_trainer

TEXT = {"text": "text"}
HEAD = "text,label,tags,price,group,domain,weight"


@pytest.fixture
def manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LIGHTNING_DISTILL_CACHE", str(tmp_path / "cache"))
    rows = [f"text {i},{'ab'[i % 2]},a|b,{i}.5,g{i % 5},d{i % 2},{i % 3}" for i in range(60)]
    path = tmp_path / "m.csv"
    path.write_text("\n".join([HEAD, *rows]))
    return path


def files(manifest: Path) -> list[Path]:
    return sorted((manifest.parent / "cache").glob("*.arrow"))


def test_a_known_table_is_mapped_and_says_the_same(manifest: Path) -> None:
    for target in (SingleLabel(), MultiLabel("tags"), RegressionTarget(["price"])):
        first, second = (ManifestSource(manifest, TEXT, target) for _ in range(2))
        assert second.index.path is not None
        for name in ("sample_id", "target", "split", "domain", "weight"):
            mine, theirs = getattr(first.samples, name), getattr(second.samples, name)
            assert mine.dtype == theirs.dtype
            assert np.array_equal(mine, theirs)
        assert first.classes == second.classes
        assert first.domains == second.domains == ("d0", "d1")
        assert second.describe(3).endswith("m.csv, row 5")
        assert second.cell("text", 3) == "text 3"
    assert len(files(manifest)) == 3


def test_any_other_setting_or_content_is_another_index(manifest: Path) -> None:
    other = manifest.with_name("n.csv")
    other.write_text(manifest.read_text() + "\ntext,a,a,1,g,d0,1")
    makes: list[Any] = [
        lambda: ManifestSource(manifest, TEXT),
        lambda: ManifestSource(other, TEXT),
        lambda: ManifestSource(manifest, {"text": "tags"}),
        lambda: ManifestSource(manifest, TEXT, SingleLabel(classes=["b", "a"])),
        lambda: ManifestSource(manifest, TEXT, columns=ManifestColumns(domain="group")),
        lambda: ManifestSource(manifest, TEXT, splitter=RandomSplit(seed=1)),
        lambda: ManifestSource(manifest, TEXT, splitter=GroupSplit("group", 0.3, 0.3)),
        lambda: ManifestSource(manifest, TEXT, root=manifest.parent / "cache"),
        lambda: ManifestSource(manifest, TEXT, allow_absent=True),
    ]
    for count, make in enumerate(makes, 1):
        make()
        assert len(files(manifest)) == count


def test_same_name_size_and_time_but_other_content(manifest: Path) -> None:
    before, times = ManifestSource(manifest, TEXT), manifest.stat()
    manifest.write_text(manifest.read_text().replace("text 7,", "tixt 7,"))
    os.utime(manifest, ns=(times.st_atime_ns, times.st_mtime_ns))
    after = ManifestSource(manifest, TEXT)
    assert (before.cell("text", 7), after.cell("text", 7)) == ("text 7", "tixt 7")
    assert before.fingerprint != after.fingerprint
    other = ManifestSource(manifest, TEXT, splitter=RandomSplit(seed=1))
    assert other.fingerprint != after.fingerprint  # the same file, split otherwise


def test_a_damaged_index_is_made_again(manifest: Path) -> None:
    wanted = ManifestSource(manifest, TEXT).samples.sample_id.copy()
    (path,) = files(manifest)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for damage in range(60):
        data = bytearray(whole)
        data[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
        path.unlink()  # a mapped file must not change under those who use it
        path.write_bytes(data if damage % 3 else data[: int(rng.integers(len(data)))])
        assert np.array_equal(ManifestSource(manifest, TEXT).samples.sample_id, wanted)
        assert path.read_bytes() == whole


def test_no_place_for_the_index(manifest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (manifest.parent / "file").touch()
    monkeypatch.setenv("LIGHTNING_DISTILL_CACHE", str(manifest.parent / "file" / "cache"))
    assert len(ManifestSource(manifest, TEXT).samples) == 60


def test_a_target_of_the_users_own_is_read_each_time(manifest: Path) -> None:
    class Length(Target):
        columns = ("label",)
        names = ("short", "long")

        def read(self, table: TextTable) -> Labels:
            return Labels(self.names, np.zeros(len(table), np.int64))

    assert ManifestSource(manifest, TEXT, Length()).classes == ("short", "long")
    Length.names = ("low", "high")
    assert ManifestSource(manifest, TEXT, Length()).classes == ("low", "high")
    assert files(manifest) == []


def test_a_process_that_gets_a_source_maps_the_file_itself(manifest: Path) -> None:
    source = ManifestSource(manifest, TEXT)
    sent = pickle.dumps(source)
    assert len(sent) < 3000
    assert np.array_equal(pickle.loads(sent).samples.target, source.samples.target)


def test_files_that_went_missing_since(manifest: Path) -> None:
    for name in ("a.png", "b.png"):
        (manifest.parent / name).write_bytes(b"something")
    table = manifest.with_name("images.csv")
    table.write_text("image,label,split\na.png,x,train\nb.png,y,train\n")
    ManifestSource(table, {"image": "image"})
    (manifest.parent / "b.png").unlink()
    with pytest.raises(SampleError, match=r"row 3, column 'image'.*'b.png' \(row 3\) is missing"):
        ManifestSource(table, {"image": "image"})


def test_M18_a_manifest_that_changed_is_not_resumed(manifest: Path, tmp_path: Path) -> None:
    def fit(**options: Any) -> Any:
        seed_everything(0, verbose=False)
        data = TextDataModule(ManifestSource(manifest, TEXT), {"text": ByteTextProcessor()})
        model = MultimodalModel({"text": ByteTextCNN(width=8)}, 2)
        trainer = make_trainer(tmp_path, **options)
        return trainer, data, DistillationModule(model)

    trainer, data, module = fit(max_epochs=1)
    trainer.fit(module, datamodule=data)
    trainer.save_checkpoint(tmp_path / "c.ckpt")
    trainer, data, module = fit(max_epochs=2)
    trainer.fit(module, datamodule=data, ckpt_path=tmp_path / "c.ckpt")
    old = data.source.fingerprint
    manifest.write_text(manifest.read_text() + "\nmore,a,a,1,g,d0,1")
    trainer, data, module = fit(max_epochs=3)
    with pytest.raises(CheckpointError) as caught:
        trainer.fit(module, datamodule=data, ckpt_path=tmp_path / "c.ckpt")
    for fingerprint in (old, data.source.fingerprint):
        assert "-".join(part[:8] for part in fingerprint.split("-")) in str(caught.value)
    assert old != data.source.fingerprint
    trainer.test(module, datamodule=data, ckpt_path=tmp_path / "c.ckpt", verbose=False)  # testing is free
