"""Samples in WebDataset shards, read where they are."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import tarfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonargparse import ArgumentParser

from lightning_distill.data import (
    DataSource,
    GroupSplit,
    ManifestColumns,
    MultiLabel,
    ShardSource,
    SingleLabel,
)
from lightning_distill.data.shard_members import scan
from lightning_distill.data.shard_names import expand_braces
from lightning_distill.errors import ConfigError, DistillError, ManifestError, SampleError
from tests.data.media import assert_same, batches, make_module, png, wav

MODALITIES = {"image": "jpg;png", "text": "txt", "audio": "wav;flac"}


def write(path: Path, members: Iterable[tuple[str, bytes]], format: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, "w", format=format) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def sample(key: int) -> list[tuple[str, bytes]]:
    """Sample 1 has no image, 2 no text, 3 no sound, 4 no label."""
    members = {
        "png": png(key),
        "txt": f"text {key}\n".encode(),
        "wav": wav(key),
        "cls": str(key % 2).encode(),
        "json": json.dumps(
            {"who": f"speaker {key // 3}", "weight": 0.5, "tags": ["x", "y"][: key % 3]}
        ).encode(),
        "pyd": pickle.dumps(print),
    }
    if 1 <= key <= 4:
        del members[["png", "txt", "wav", "cls"][key - 1]]
    return [(f"data/{key:04}.{extension}", data) for extension, data in members.items()]


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Two shards of 8 and 4 samples, and one of 4 to validate on."""
    for name, keys in (("train-0", range(8)), ("train-1", range(8, 12)), ("val-0", range(20, 24))):
        write(tmp_path / f"{name}.tar", (member for key in keys for member in sample(key)))
    return tmp_path


def make(folder: Path, **options: Any) -> ShardSource:
    shards = {"train": f"{folder}/train-{{0..1}}.tar", "val": [f"{folder}/val-0.tar"]}
    return ShardSource(**({"shards": shards, "modalities": MODALITIES} | options))


def test_samples(shards: Path) -> None:
    source = make(shards, columns=ManifestColumns())
    table = source.samples
    assert source.classes == ("0", "1")
    assert table.split.tolist() == [0] * 12 + [1] * 4
    assert table.target.tolist() == [0, 1, 0, 1, -100, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1]
    for row, modality in enumerate(MODALITIES, start=1):
        assert [bool(table.present[m][row]) for m in MODALITIES] == [m != modality for m in MODALITIES]
    assert table.weight.tolist() == [0.5] * 16
    assert source.load("text", 9) == "text 9\n"
    assert source.read("image", 9) == png(9)
    assert source.load("audio", 9).sample_rate == 8000
    assert source.describe(9) == f"{shards}/train-1.tar, sample 'data/0009'"


def test_keys_of_json_are_columns(shards: Path) -> None:
    source = make(
        shards,
        shards=f"{shards}/*.tar",
        target=MultiLabel("tags"),
        splitter=GroupSplit("who", 0.3, 0.2),
        modalities={"text": "txt;who"},
    )
    assert source.samples.target[:3].tolist() == [[0, 0], [1, 0], [1, 1]]
    groups = [source.samples.split[start : start + 3] for start in (0, 3, 6)]
    assert all(len(set(group.tolist())) == 1 for group in groups)
    assert source.load("text", 2) == "speaker 0"


def test_any_number_of_workers_gives_the_same_batches(shards: Path) -> None:
    alone = batches(make_module(make(shards)))
    assert len(alone) == 2 * 3
    assert alone[0]["weight"].tolist() == [0.5] * 4
    assert_same(alone, batches(make_module(make(shards), num_workers=2)))


def test_ids_follow_content_not_place(shards: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved.tar"
    keys = [key for key in range(12) if key != 4]
    write(moved, ((f"other/{name[5:]}", data) for key in keys[::-1] for name, data in sample(key)))
    source, other = make(shards), make(shards, shards=str(moved), allow_absent=True)
    ids = source.samples.sample_id
    assert len(set(ids.tolist())) == 16
    assert other.samples.sample_id.tolist() == ids[keys[::-1]].tolist()


def test_a_known_shard_is_not_scanned_again_and_a_changed_one_is(shards: Path) -> None:
    first = make(shards)
    assert first.index.path is not None
    assert make(shards).index.path == first.index.path
    path = shards / "val-0.tar"
    times = path.stat()
    write(path, (member for key in range(30, 34) for member in sample(key)))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert path.stat().st_size == times.st_size
    assert make(shards).samples.sample_id[12:].tolist() != first.samples.sample_id[12:].tolist()
    with pytest.raises(SampleError, match=r"val-0.tar, sample 'data/00.*content has changed"):
        first.load("image", 12)


def test_the_same_image_in_two_splits_is_told(tmp_path: Path) -> None:
    for name in ("train", "val"):
        write(
            tmp_path / f"{name}.tar",
            [("0.png", png(1)), ("0.cls", b"0"), ("1.png", name.encode()), ("1.cls", b"1")],
        )
    with pytest.warns(UserWarning, match=r"rows 1 \(train\) and 3 \(val\) are the same sample"):
        ShardSource({"train": f"{tmp_path}/train.tar", "val": f"{tmp_path}/val.tar"}, {"image": "png"})


@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_long_names(tmp_path: Path, format: int) -> None:
    names = [f"{'folder/' * 40}{name}" for name in ("\u00fc0.txt", "\u00fc0.cls", "1.txt", "1.cls")]
    write(tmp_path / "a.tar", [(name, str(at).encode()) for at, name in enumerate(names)], format)
    source = ShardSource(str(tmp_path / "a.tar"), {"text": "txt"})
    assert [source.load("text", row) for row in (0, 1)] == ["0", "2"]
    assert "\u00fc0" in source.describe(0)


def test_members_may_be_in_any_order_and_hidden_files_are_no_samples(tmp_path: Path) -> None:
    members = [
        ("./a.txt", b"A"),
        ("b.cls", b"1"),
        ("._a.txt", b"?"),
        ("README", b"?"),
        ("./a.CLS", b"0"),
        ("b.txt", b"B"),
    ]
    write(tmp_path / "a.tar", members)
    source = ShardSource([str(tmp_path / "a.tar")], {"text": "txt"})
    assert [(source.load("text", row), source.samples.target[row]) for row in (0, 1)] == [("A", 0), ("B", 1)]


def test_many_shards_and_a_fork(tmp_path: Path) -> None:
    for number in range(70):
        write(
            tmp_path / f"{number:03}.tar",
            [(f"{number}.png", png(number)), (f"{number}.cls", b"01"[number % 2 :][:1])],
        )
    source = ShardSource(f"{tmp_path}/{{000..069}}.tar", {"image": "png"})
    assert all(source.read("image", row) == png(row) for row in [*range(70), 0])
    copy = pickle.loads(pickle.dumps(source))
    assert copy.read("image", 69) == png(69)
    parent, child = os.pipe()
    if not (process := os.fork()):
        os.write(child, str(all(source.read("image", row) == png(row) for row in range(70))).encode())
        os._exit(0)
    os.waitpid(process, 0)
    assert os.read(parent, 10) == b"True"


def test_the_samples_are_those_webdataset_reads(shards: Path) -> None:
    webdataset = pytest.importorskip("webdataset", reason="needs the package webdataset")
    source = make(shards)
    theirs = list(webdataset.WebDataset(f"{shards}/train-{{0..1}}.tar", shardshuffle=False))
    assert len(theirs) == 12
    for row, found in enumerate(theirs):
        assert source.describe(row).endswith(f"sample {found['__key__']!r}")
        for modality, extension in (("image", "png"), ("audio", "wav")):
            assert (extension in found) == source.samples.present[modality][row]
            if extension in found:
                assert source.read(modality, row) == found[extension]
        assert source.load("text", row) == found.get("txt", b"").decode()
        assert source.samples.target[row] == int(found.get("cls", b"-100"))


def test_braces() -> None:
    assert list(expand_braces("a", "")) == ["a"]
    assert list(expand_braces("{0..2}/x{8..10}", ""))[:4] == ["0/x8", "0/x9", "0/x10", "1/x8"]
    assert list(expand_braces("{098..101}", "")) == ["098", "099", "100", "101"]
    for pattern in ("{0..999999999}", "{3..1}", "{0..999}{0..999}"):
        with pytest.raises(ConfigError, match="names"):
            list(expand_braces(pattern, "here"))


def test_it_is_built_from_yaml(shards: Path) -> None:
    parser = ArgumentParser()
    parser.add_subclass_arguments(DataSource, "source")
    for value, count in (
        (f'"{shards}/train-{{0..1}}.tar"', 12),
        (f"['{shards}/train-0.tar', '{shards}/val-*.tar']", 12),
        (f"{{train: '{shards}/train-*.tar', val: ['{shards}/val-0.tar']}}", 16),
    ):
        text = f"class_path: lightning_distill.data.ShardSource\ninit_args:\n  shards: {value}\n"
        config = parser.parse_string(f"source:\n{_indented(text + '  modalities: {text: txt, image: png}')}")
        assert len(parser.instantiate_classes(config).source.samples) == count


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())


# -- faults ---------------------------------------------------------------------------------------------


def tar_with(path: Path, **fields: Any) -> Path:
    """A shard with one member whose header has these fields."""
    with tarfile.open(path, "w") as tar:
        info = tarfile.TarInfo("a.txt")
        for name, value in fields.items():
            setattr(info, name, value)
        tar.addfile(info, io.BytesIO(b"x" * info.size))
    return path


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}, "a link to '/etc/passwd'"),
        ({"type": tarfile.LNKTYPE, "linkname": "b.txt"}, "a link to 'b.txt'"),
        ({"type": tarfile.CHRTYPE}, "a device"),
        ({"type": tarfile.FIFOTYPE}, "a device, a pipe"),
        ({"name": "/etc/a.txt"}, "a name that leaves"),
        ({"name": "x/../../a.txt"}, "a name that leaves"),
        ({"name": "x\udc80.txt"}, "no UTF-8"),
        ({"pax_headers": {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}, "size": 1024}, "sparse|damaged"),
    ],
)
def test_members_that_are_refused(tmp_path: Path, fields: dict[str, Any], found: str) -> None:
    path = tar_with(tmp_path / "a.tar", **fields)
    with pytest.raises(ManifestError, match=found) as caught:
        scan(path)
    assert str(path) in caught.value.where


def test_a_name_twice(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tar", [("0.txt", b"a"), ("0.cls", b"0"), ("0.TXT", b"b")])
    with pytest.raises(
        ManifestError, match=r"a.tar, member '0.TXT': found '0.txt' \(byte 512\) and '0.TXT' \(byte 2560\)"
    ):
        scan(path)


def test_a_shard_that_is_cut_or_damaged(shards: Path) -> None:
    """Anywhere: no sample is lost without a word."""
    path = shards / "val-0.tar"
    whole = path.read_bytes()
    end = max(member.offset + member.size for s in scan(path) for member in s.members.values())
    for size in [1, 511, 512, *range(600, end, 3511), end, -(-end // 512) * 512]:
        path.write_bytes(whole[:size])
        with pytest.raises(ManifestError, match=r"val-0.tar: found (a damaged tar|no tar)"):
            scan(path)
    path.write_bytes(whole + whole)
    with pytest.raises(ManifestError, match="something else than a header"):
        scan(path)
    for at in range(0, end, 512):
        if whole[at + 257 : at + 262] == b"ustar":
            path.write_bytes(whole[:at] + b"\xff" + whole[at + 1 :])
            with pytest.raises(ManifestError, match="damaged"):
                scan(path)


@given(
    st.lists(st.tuples(st.integers(0, 511), st.integers(0, 255)), min_size=1, max_size=4),
    st.integers(0, 10**6),
)
def test_headers_of_any_content(changes: list[tuple[int, int]], place: int) -> None:
    """With a right checksum: what comes out is samples or one of our errors."""
    with TemporaryDirectory() as folder:
        path = write(Path(folder, "a.tar"), (member for key in range(3) for member in sample(key)))
        data = bytearray(path.read_bytes())
        headers = [at for at in range(0, len(data), 512) if data[at + 257 : at + 262] == b"ustar"]
        start = headers[place % len(headers)]
        for at, value in changes:
            data[start + at] = value
        data[start + 148 : start + 156] = b" " * 8
        data[start + 148 : start + 156] = b"%06o\0 " % sum(data[start : start + 512])
        path.write_bytes(data)
        with suppress(DistillError):
            assert sum(len(s.members) for s in scan(path)) <= len(headers)


@pytest.mark.parametrize(("suffix", "command"), [(".gz", "gunzip"), (".bz2", "bunzip2"), (".xz", "unxz")])
def test_compressed_shards(tmp_path: Path, suffix: str, command: str) -> None:
    path = tmp_path / f"a.tar{suffix}"
    with tarfile.open(path, f"w:{suffix[1:]}") as tar:
        tar.addfile(tarfile.TarInfo("a.txt"))
    with pytest.raises(ManifestError, match=f"{command} {path}"):
        ShardSource(str(path), {"text": "txt"})


def test_what_is_no_shard(tmp_path: Path) -> None:
    def source(shards: Any) -> None:
        ShardSource(shards, {"text": "txt"})

    (tmp_path / "a.tar").write_bytes(b"<html>" + bytes(1000))
    with pytest.raises(ManifestError, match=r"a.tar: found no tar: an HTML page"):
        source(str(tmp_path / "a.tar"))
    with pytest.raises(ManifestError, match="is missing"):
        source(str(tmp_path / "b.tar"))
    with pytest.raises(ManifestError, match="no file that fits"):
        source(f"{tmp_path}/*.tgz")
    with pytest.raises(ManifestError, match="no samples"):
        source(str(write(tmp_path / "c.tar", [])))
    for shards in (
        "https://host/a.tar",
        "pipe:cat a.tar",
        [],
        {"trian": "a.tar"},
        [str(tmp_path / "a.tar")] * 2,
    ):
        with pytest.raises(ConfigError, match=r"ShardSource\.shards"):
            source(shards)


def test_faults_in_members(tmp_path: Path) -> None:
    def source(member: str, data: bytes, **options: Any) -> ShardSource:
        members = [(f"{key}.{kind}", str(key).encode()) for key in (0, 1) for kind in ("txt", "cls")]
        path = write(tmp_path / "a.tar", [*members, ("2.txt", b"2"), (member, data)])
        return ShardSource(str(path), **({"modalities": {"text": "txt"}} | options))

    where = f"{tmp_path}/a.tar"
    with pytest.raises(ManifestError, match=f"{where}, member '3.txt', byte 2: found the byte 0xff"):
        source("3.txt", b"ab\xff")
    with pytest.raises(ManifestError, match=f"{where}, sample '3', '3.txt': found a NUL"):
        source("3.txt", b"a\0")
    with pytest.raises(ManifestError, match=f"{where}, member '3.txt': found 1048577 bytes"):
        source("3.txt", b"a" * (2**20 + 1))
    with pytest.raises(SampleError, match=f"{where}, member '2.png': found an empty member"):
        source("2.png", b"", modalities={"text": "txt", "image": "png"})
    with pytest.raises(ManifestError, match=f"{where}, member '2.json': found no JSON"):
        source("2.json", b"{", target=SingleLabel("who"))
    with pytest.raises(
        ManifestError, match=f"{where}, sample '2', member 'json', key 'who': found an object"
    ):
        source("2.json", b'{"who": {}}', target=SingleLabel("who"))
    with pytest.raises(ManifestError, match=f"{where}, sample '2', column 'cls': found the label 'x'"):
        source("2.cls", b"x", target=SingleLabel("cls", ["0", "1"]))
    with pytest.raises(ManifestError, match=f"{where}, sample '3', column 'txt': found nothing in 'txt'"):
        source("3.cls", b"0")
    with pytest.raises(ManifestError, match=r"no 'clss' in any of 3 samples.*did you mean 'cls'"):
        source("2.cls", b"0", target=SingleLabel("clss"))
    broken = source("2.png", b"GIF89a", modalities={"text": "txt", "image": "png"}, allow_absent=True)
    with pytest.raises(SampleError, match=f"{where}, sample '2', column 'png': found 2.png: "):
        broken.load("image", 2)


def test_pickles_are_never_opened(shards: Path) -> None:
    for options in ({"modalities": {"text": "txt", "image": "png;pyd"}}, {"target": SingleLabel("pkl")}):
        with pytest.raises(ConfigError, match="pickles"):
            make(shards, **options)


def test_a_shard_that_goes_away(shards: Path) -> None:
    source = pickle.loads(pickle.dumps(make(shards)))  # with no file open
    (shards / "train-1.tar").unlink()
    with pytest.raises(SampleError, match=r"train-1.tar: found a shard that cannot be read"):
        source.load("image", 9)
    os.truncate(shards / "train-0.tar", 1000)
    with pytest.raises(SampleError, match="it ends before byte"):
        source.load("image", 7)


def test_splits_are_told_once(shards: Path) -> None:
    with pytest.raises(ConfigError, match="splitter"):
        make(shards, splitter=GroupSplit("who"))


def test_gzip_members_are_other_extensions(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.tar",
        [
            ("0.txt", b"a"),
            ("0.cls", b"0"),
            ("1.txt.gz", gzip.compress(b"b")),
            ("1.cls", b"1"),
            ("1.txt", b"c"),
        ],
    )
    assert ShardSource(str(path), {"text": "txt"}).load("text", 1) == "c"
    assert np.unique(ShardSource(str(path), {"text": "txt"}).samples.sample_id).size == 2
