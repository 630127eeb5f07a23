"""Archives, images, sounds, arrays and tables that lead elsewhere, unpickle, or become large."""

from __future__ import annotations

import json
import pickle
import struct
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.reliability.canaries import Canary
from tests.reliability.hostile import Opening, add_member


def shard(name: str, data: bytes = b"0", **more: Any) -> Callable[[], Opening]:
    """A tar file with one hostile member."""

    def make() -> Opening:
        from lightning_distill.data.shard_members import scan

        with tarfile.open("s.tar", "w") as tar:
            add_member(tar, name, data, **more)
        return lambda: list(scan(Path("s.tar")))

    return make


def compressed_shard() -> Opening:
    """A gigabyte of zeros."""
    from lightning_distill.data.shard_members import scan

    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    with Path("s.tar").open("wb") as file:
        for _ in range(64):
            file.write(packer.compress(bytes(1 << 24)))
        file.write(packer.flush())
    return lambda: list(scan(Path("s.tar")))


def image(width: int, height: int) -> Callable[[], Opening]:
    """A PNG that claims a size, and holds nearly nothing."""

    def make() -> Opening:
        from lightning_distill.data.image import decode_image

        def chunk(kind: bytes, data: bytes) -> bytes:
            check = struct.pack(">I", zlib.crc32(kind + data))
            return struct.pack(">I", len(data)) + kind + data + check

        head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        data = (
            b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(1 << 20))) + chunk(b"IEND", b"")
        )
        return lambda: decode_image(data, "row 1", "bomb.png")

    return make


def sound() -> Opening:
    """A header that claims two gigabytes."""
    from lightning_distill.data.audio import decode_audio

    size = (1 << 31) - 1
    form = b"fmt " + struct.pack("<IHHIIHH", 16, 1, 1, 16000, 32000, 2, 16)
    data = (
        b"RIFF"
        + struct.pack("<I", size)
        + b"WAVE"
        + form
        + b"data"
        + struct.pack("<I", size - 36)
        + bytes(64)
    )
    return lambda: decode_audio(data, "row 1", "bomb.wav")


def knowledge(write: Callable[[Path], object]) -> Callable[[], Opening]:
    """A folder of a teacher's answers, one array replaced."""

    def make() -> Opening:
        from lightning_distill.knowledge import CONFIG, FORMAT, IDS, Knowledge

        folder = Path("k")
        folder.mkdir()
        entry = {"dtype": "int64", "shape": [1], "xxh3_64": "0"}
        told = {IDS: entry, "logits": entry}
        (folder / CONFIG).write_text(json.dumps({"format": FORMAT, "arrays": told, "classes": None}))
        for name in told:
            write(folder / f"{name}.npy")
        return lambda: Knowledge.open(folder).verify()

    return make


def objects(path: Path) -> None:
    """An array of Python objects."""
    import numpy as np

    np.save(path, np.array([Canary()], dtype=object), allow_pickle=True)


def claims_much(path: Path) -> None:
    """A header of a terabyte, and no data."""
    head = b"{'descr': '<i8', 'fortran_order': False, 'shape': (137438953472,), }".ljust(117) + b"\n"
    path.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head)


def table(write: Callable[[Path], object]) -> Callable[[], Opening]:
    """A table of samples in Parquet."""

    def make() -> Opening:
        from lightning_distill.data import ManifestSource

        write(Path("m.parquet"))
        return lambda: len(ManifestSource(Path("m.parquet"), {"text": "text"}).samples) * 0

    return make


def pickled_metadata(path: Path) -> None:
    """What pandas and pyarrow once unpickled."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    pickled = pickle.dumps(Canary())
    extension = {"ARROW:extension:name": "arrow.py_extension_type", "ARROW:extension:metadata": pickled}
    fields = [
        pa.field("text", pa.string(), metadata=extension),
        pa.field("label", pa.string(), metadata={"pandas": pickled}),
    ]
    rows = pa.table(
        [["a", "b"] * 20, ["x", "y"] * 20], schema=pa.schema(fields, metadata={"pandas": pickled})
    )
    pq.write_table(rows, path)


def long_texts(path: Path) -> None:
    """A third of a gigabyte of one letter."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = pa.table({"text": ["b" * (1 << 24)], "label": ["x"]})
    with pq.ParquetWriter(
        path, rows.schema, compression="zstd", use_dictionary=False, write_statistics=False
    ) as writer:
        for _ in range(20):
            writer.write_table(rows)


def many_rows(path: Path) -> None:
    """Twenty million times the same."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    indices = pa.array(memoryview(bytes(20_000_000)), pa.int8())
    same = pa.DictionaryArray.from_arrays(indices, ["a"])
    pq.write_table(pa.table({"text": same, "label": same}), path)


DATA: dict[str, Callable[[], Opening]] = {
    "a member outside": shard("../0.jpg"),
    "an absolute member": shard("/elsewhere/0.jpg"),
    "a link": shard("0.jpg", b"", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
    "a hard link": shard("0.jpg", b"", type=tarfile.LNKTYPE, linkname="../x"),
    "a device": shard("0.jpg", b"", type=tarfile.CHRTYPE, devmajor=1, devminor=5),
    "a pipe": shard("0.jpg", b"", type=tarfile.FIFOTYPE),
    "a compressed bomb": lambda: compressed_shard(),
    "an image bomb": image(50_000, 50_000),
    "an image of half the cap in one line": image(1 << 26, 1),
    "a sound that claims gigabytes": lambda: sound(),
    "an array of objects": knowledge(objects),
    "a pickle for an array": knowledge(lambda path: path.write_bytes(pickle.dumps(Canary()))),
    "an array that claims a terabyte": knowledge(claims_much),
    "pickles in a table's metadata": table(pickled_metadata),
    "cells of many megabytes": table(long_texts),
    "many millions of rows": table(many_rows),
    "a pickle for a table": table(lambda path: path.write_bytes(pickle.dumps(Canary()))),
}
