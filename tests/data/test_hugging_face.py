"""Samples of Hugging Face data sets, indexed and streamed."""

from __future__ import annotations

import os
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jsonargparse import ArgumentParser

from lightning_distill.data import (
    HuggingFaceSource,
    HuggingFaceStream,
    MultiLabel,
    MultimodalDataModule,
    RegressionTarget,
    ShardSource,
    SingleLabel,
    StratifiedSplit,
)
from lightning_distill.errors import ConfigError, ManifestError, SampleError
from tests.data.media import assert_same, batches, make_module, png, wav
from tests.data.test_shards import sample, write

datasets = pytest.importorskip("datasets", reason="needs the package datasets")
MODALITIES = {"image": "picture", "text": "text", "audio": "sound"}
FEATURES = {
    "picture": datasets.Image(),
    "text": datasets.Value("string"),
    "sound": datasets.Audio(),
    "label": datasets.ClassLabel(names=["zebra", "ant"]),
    "tags": datasets.List(datasets.ClassLabel(names=["v", "u"])),
    "x": datasets.Value("float64"),
}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


def make(keys: range, gaps: bool = False) -> Any:
    """With gaps, row 1 has no image, row 2 no text, row 3 no sound, row 4 no label."""

    def media(data: bytes) -> dict[str, Any]:
        return {"bytes": data, "path": None}

    columns: dict[str, list[Any]] = {
        "picture": [media(png(key)) for key in keys],
        "text": [f"text {key}" for key in keys],
        "sound": [media(wav(key)) for key in keys],
        "label": [key % 2 for key in keys],
        "tags": [[0, 1][: key % 3] for key in keys],
        "x": [key / 10 for key in keys],
    }
    if gaps:
        columns["picture"][1] = columns["text"][2] = columns["sound"][3] = None
        columns["label"][4] = -1
    # Cast, since `datasets` encodes a sound only with torchcodec.
    return datasets.Dataset.from_dict(columns).cast(datasets.Features(FEATURES))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    both = datasets.DatasetDict(train=make(range(12), gaps=True), validation=make(range(20, 24)))
    both.save_to_disk(tmp_path / "saved")
    return tmp_path / "saved"


def test_samples(saved: Path) -> None:
    source = HuggingFaceSource(saved, MODALITIES)
    table = source.samples
    assert source.classes == ("zebra", "ant")
    assert table.split.tolist() == [0] * 12 + [1] * 4
    assert table.target.tolist() == [0, 1, 0, 1, -100, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1]
    for row, modality in enumerate(MODALITIES, start=1):
        assert [bool(table.present[m][row]) for m in MODALITIES] == [m != modality for m in MODALITIES]
    assert source.load("text", 9) == "text 9"
    assert source.read("image", 13) == png(21)
    assert source.load("audio", 9).sample_rate == 8000
    assert source.describe(13) == f"{saved}['validation'][1]"


def test_any_number_of_workers_gives_the_same_batches(saved: Path) -> None:
    alone = batches(make_module(HuggingFaceSource(saved, MODALITIES)))
    assert_same(alone, batches(make_module(HuggingFaceSource(saved, MODALITIES), num_workers=2)))
    in_memory = HuggingFaceSource(datasets.load_from_disk(saved), MODALITIES)
    assert_same(alone, batches(make_module(in_memory, num_workers=2)))
    assert pickle.loads(pickle.dumps(in_memory)).read("image", 13) == png(21)


def test_ids_are_those_of_the_same_content_in_shards(saved: Path, tmp_path: Path) -> None:
    write(tmp_path / "a.tar", (member for key in range(5, 12) for member in sample(key)))
    shards = ShardSource(f"{tmp_path}/a.tar", {"image": "png", "audio": "wav"}, allow_absent=True)
    ours = HuggingFaceSource(saved, {"image": "picture", "audio": "sound"}, allow_absent=True)
    assert shards.samples.sample_id.tolist() == ours.samples.sample_id[5:12].tolist()


def test_other_targets(saved: Path) -> None:
    text = {"text": "text"}
    tags = HuggingFaceSource(make(range(6, 12)), text, MultiLabel("tags"))
    assert tags.classes == ("v", "u")
    assert tags.samples.target[:3].tolist() == [[0, 0], [1, 0], [1, 1]]
    numbers = HuggingFaceSource(make(range(6, 12)), text, RegressionTarget(["x"]))
    np.testing.assert_array_equal(
        numbers.samples.target[:, 0], np.arange(6, 12, dtype=np.float32) / np.float32(10)
    )
    other = HuggingFaceSource(make(range(6, 12)), text, SingleLabel(classes=["ant", "zebra"]))
    assert other.samples.target[:2].tolist() == [1, 0]


def test_a_data_set_without_splits_is_split(saved: Path) -> None:
    whole = make(range(6, 46)).shuffle(seed=0).select(range(30))
    for found in (whole, datasets.DatasetDict(train=whole)):
        source = HuggingFaceSource(found, {"image": "picture"}, splitter=StratifiedSplit(0.2, 0.2))
        assert [len(source.samples.rows_of(s)) for s in ("val", "test")] == pytest.approx([6, 6], abs=2)
        assert source.read("image", 3) == whole.with_format("arrow")[3]["picture"][0].as_py()["bytes"]


def test_files_are_read_only_where_the_user_loaded_the_data_set(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(1))
    rows = {
        "image": [{"bytes": None, "path": str(tmp_path / "a.png")}, {"bytes": png(2), "path": None}],
        "label": ["a", "b"],
    }
    found = datasets.Dataset.from_dict(rows)
    assert HuggingFaceSource(found, {"image": "image"}).read("image", 0) == png(1)
    found.save_to_disk(tmp_path / "saved")
    with pytest.raises(SampleError, match=r"saved\[0\], column 'image': found the path '.*a.png'"):
        HuggingFaceSource(tmp_path / "saved", {"image": "image"})


def test_faults(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ManifestError, match=r"saved\['train'\]: found no column 'pictur'.*did you mean 'picture'"
    ):
        HuggingFaceSource(saved, {"image": "pictur"})
    with pytest.raises(ManifestError, match="nowhere: found no data set"):
        HuggingFaceSource(tmp_path / "nowhere", MODALITIES)
    with pytest.raises(ManifestError, match="found no data set"):
        HuggingFaceSource(tmp_path, MODALITIES)
    with pytest.raises(ConfigError, match="found list"):
        HuggingFaceSource([1, 2], MODALITIES)
    with pytest.raises(ConfigError, match="HuggingFaceStream"):
        HuggingFaceSource(make(range(6)).to_iterable_dataset(), MODALITIES)
    with pytest.raises(ManifestError, match="the split 'extra'"):
        HuggingFaceSource(datasets.DatasetDict(train=make(range(6)), extra=make(range(6))), MODALITIES)
    with pytest.raises(ManifestError, match=r"Dataset\[1\], column 'text': found nothing in 'text'"):
        HuggingFaceSource(datasets.Dataset.from_dict({"text": ["a", ""], "label": [0, 1]}), {"text": "text"})
    with pytest.raises(ManifestError, match=r"column 'picture'.*the type struct"):
        HuggingFaceSource(saved, {"text": "picture"})
    broken = datasets.Dataset.from_dict({"image": [b"GIF89a", png(1)], "label": [0, 1]})
    with pytest.raises(SampleError, match=r"^Dataset\[0\], column 'image': found the image: "):
        HuggingFaceSource(broken, {"image": "image"}).load("image", 0)
    with pytest.raises(SampleError, match=r"Dataset\[1\], column 'image': found an empty cell"):
        HuggingFaceSource(
            datasets.Dataset.from_dict({"image": [png(1), b""], "label": [0, 1]}), {"image": "image"}
        )


def test_a_changed_file_is_noticed(saved: Path) -> None:
    source = HuggingFaceSource(saved, {"image": "picture", "text": "text"})
    (file,) = (saved / "train").glob("*.arrow")
    data = file.read_bytes()
    at = data.index(png(7)) + 60
    with file.open("r+b") as opened:
        os.pwrite(opened.fileno(), b"\xaa\xbb\xcc", at)
    with pytest.raises(SampleError, match=r"\['train'\]\[7\].*content has changed"):
        source.load("image", 7)
    again = HuggingFaceSource(saved, {"image": "picture", "text": "text"})
    assert again.samples.sample_id[7] != source.samples.sample_id[7]


def test_without_the_package_it_is_named(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    for source in (HuggingFaceSource, HuggingFaceStream):
        with pytest.raises(ConfigError, match=r"pip install lightning-distill\[huggingface\]"):
            source(saved, MODALITIES)


# -- streams --------------------------------------------------------------------------------------------


@pytest.fixture
def parquet(tmp_path: Path) -> Path:
    """One split in two files."""
    folder = tmp_path / "parquet"
    for name, keys in (("train-0", range(12)), ("train-1", range(12, 25)), ("validation-0", range(30, 39))):
        make(keys, gaps=True).to_parquet(folder / f"{name}.parquet")
    return folder


def test_a_stream_has_the_samples_of_the_indexed(parquet: Path) -> None:
    stream = HuggingFaceStream(parquet, MODALITIES)
    indexed = HuggingFaceSource(datasets.load_dataset(str(parquet)), MODALITIES, allow_absent=True)
    assert stream.splits == ("train", "val")
    assert stream.classes == indexed.classes == ("zebra", "ant")
    assert_same(batches(make_module(stream), "val", epochs=1), batches(make_module(indexed), "val", epochs=1))
    found = [sample for split in stream.splits for sample in stream.stream(split, 0)]
    assert [sample.sample_id for sample in found] == indexed.samples.sample_id.tolist()
    assert [int(sample.target) for sample in found] == indexed.samples.target.tolist()
    for row, sample_ in enumerate(found[:5]):
        assert set(sample_.raw) == {m for m in MODALITIES if indexed.samples.present[m][row]}
    assert found[13].place == f"{parquet}['train'], row 13"


@pytest.mark.parametrize("split", ["train", "val"])
def test_any_number_of_workers_gives_the_same_stream(parquet: Path, split: str) -> None:
    alone = batches(make_module(HuggingFaceStream(parquet, MODALITIES, buffer=7)), split)
    assert len(alone) == 2 * (6 if split == "train" else 3)
    several = make_module(HuggingFaceStream(parquet, MODALITIES, buffer=7), num_workers=2)
    assert_same(alone, batches(several, split))


def test_other_forms(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "lines").mkdir()
    (tmp_path / "lines" / "train.jsonl").write_text(
        '{"t": "a", "y": "p"}\n{"t": null, "y": "q"}\n{"t": "c", "y": null}\n'
    )
    target = SingleLabel("y", ["p", "q"])
    found = list(HuggingFaceStream(tmp_path / "lines", {"text": "t"}, target).stream("train", 0))
    assert [(dict(s.raw), int(s.target)) for s in found] == [
        ({"text": "a"}, 0),
        ({}, 1),
        ({"text": "c"}, -100),
    ]
    assert len(list(HuggingFaceStream(saved, MODALITIES).stream("val", 0))) == 4
    made = datasets.IterableDataset.from_generator(lambda: iter([{"t": "a", "y": "q", "weight": 2.5}]))
    (only,) = HuggingFaceStream(made, {"text": "t"}, target).stream("train", 0)
    assert (dict(only.raw), int(only.target), only.weight) == ({"text": "a"}, 1, 2.5)
    shuffled = make(range(6, 40)).to_iterable_dataset().shuffle(seed=1, buffer_size=30)
    stream = HuggingFaceStream({"train": shuffled}, {"text": "text"})
    orders = [[s.sample_id for s in stream.stream("train", epoch)] for epoch in (0, 1, 0)]
    assert orders[0] == orders[2] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1])


def test_faults_of_streams(parquet: Path, tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="squad: found nothing that can be streamed"):
        HuggingFaceStream("squad", {"text": "text"})
    with pytest.raises(ConfigError, match=r"target\.classes"):
        HuggingFaceStream(parquet, {"text": "text"}, SingleLabel("text"))
    with pytest.raises(ConfigError, match="HuggingFaceSource"):
        HuggingFaceStream(make(range(6)), MODALITIES)
    with pytest.raises(ConfigError, match="a modality it cannot read"):
        HuggingFaceStream(parquet, {"texts": "text"})
    with pytest.raises(ManifestError, match=r"\['train'\]: found no column 'txet'.*did you mean 'text'"):
        HuggingFaceStream(parquet, {"text": "txet"})
    with pytest.raises(
        ManifestError, match=r"parquet\['train'\], row 1, column 'text': found the label 'text 1'"
    ):
        list(
            HuggingFaceStream(parquet, {"image": "picture"}, SingleLabel("text", ["text 0", "b"])).stream(
                "train", 0
            )
        )
    (parquet / "train-1.parquet").write_bytes(b"PAR1 damaged PAR1")
    with pytest.raises(ManifestError, match=r"found (rows|nothing) that can"):
        list(HuggingFaceStream(parquet, MODALITIES).stream("train", 0))
    broken = make(range(6, 9)).add_column("bad", [b"GIF89a"] * 3).to_iterable_dataset()
    stream = HuggingFaceStream(broken, {"image": "bad"})
    with pytest.raises(SampleError, match=r"\['train'\], row 0, column 'bad': found the image: "):
        stream.load(next(stream.stream("train", 0)), "image")


def test_it_is_built_from_yaml(saved: Path, parquet: Path) -> None:
    parser = ArgumentParser()
    parser.add_class_arguments(MultimodalDataModule, "data")
    for source, path in (("HuggingFaceSource", saved), ("HuggingFaceStream", parquet)):
        text = f"""
data:
  source:
    class_path: lightning_distill.data.{source}
    init_args:
      path: {path}
      modalities: {{image: picture, text: text}}
  processors:
    text: {{class_path: lightning_distill.data.ByteTextProcessor}}
"""
        module = parser.instantiate_classes(parser.parse_string(text)).data
        assert len(batches(module, "val", epochs=1)) == 1


def test_a_column_that_only_one_split_has(saved: Path) -> None:
    def texts(count: int, **more: Any) -> Any:
        return datasets.Dataset.from_dict(
            {
                "text": [f"text {len(more)} {i}" for i in range(count)],
                "label": ["x", "y"] * (count // 2),
                **more,
            }
        )

    both = datasets.DatasetDict({"train": texts(4, weight=[0.5] * 4), "test": texts(2)})
    table = HuggingFaceSource(both, {"text": "text"}).samples
    assert table.weight.tolist() == [0.5] * 4 + [1.0] * 2
