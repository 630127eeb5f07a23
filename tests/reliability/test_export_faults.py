"""A saved student is the one that was saved, whatever happens to its folder, or it is refused."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lightning_distill import load_student, save_student
from lightning_distill.encoders import ByteTextCNN, ImageCNN
from lightning_distill.errors import CheckpointError, ConfigError, DiskError
from lightning_distill.fusion import ConcatFusion
from lightning_distill.knowledge import Knowledge
from lightning_distill.knowledge_writing import write_arrays
from lightning_distill.model import MultimodalModel
from tests.builders import make_batch, same_bits, weights_of
from tests.encoders.pretrained import save_timm
from tests.reliability.corruptions import KINDS, corrupt
from tests.reliability.counts import times
from tests.reliability.small_disk import small_disk

ENCODERS: dict[str, Any] = {
    "image": {"class_path": "lightning_distill.encoders.ImageCNN", "init_args": {"width": 8}},
    "text": {"class_path": "lightning_distill.encoders.ByteTextCNN", "init_args": {"embedding_dim": 16}},
}
CONFIG: dict[str, Any] = {
    "class_path": "lightning_distill.MultimodalModel",
    "init_args": {
        "num_classes": 3,
        "encoders": ENCODERS,
        "fusion": {"class_path": "lightning_distill.fusion.ConcatFusion"},
    },
}


def model_of(value: float | None = None) -> MultimodalModel:
    """The model of `CONFIG`; every weight is `value`, where given."""
    model = MultimodalModel(
        {"image": ImageCNN(width=8), "text": ByteTextCNN(embedding_dim=16)}, 3, partial(ConcatFusion)
    )
    if value is not None:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(value)
    return model


def content_of(folder: Path, skipped: tuple[str, ...] = ("files", "check")) -> dict[str, Any]:
    found = json.loads((folder / "config.json").read_text())
    return {name: value for name, value in found.items() if name not in skipped}


def equal(found: nn.Module, wanted: dict[str, Tensor]) -> bool:
    mine = weights_of(found)
    return mine.keys() == wanted.keys() and all(same_bits(mine[name], wanted[name]) for name in wanted)


# -- damage -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student of which one encoder has kept its architecture in a file of its own."""
    from lightning_distill.encoders import TimmImageEncoder

    folder = tmp_path_factory.mktemp("sound")
    weights = str(save_timm(folder / "timm"))
    init_args = {"pretrained": True, "weights": weights}
    image = {"class_path": "lightning_distill.encoders.TimmImageEncoder", "init_args": init_args}
    config = json.loads(json.dumps(CONFIG))
    config["init_args"]["encoders"]["image"] = image
    encoders = {
        "image": TimmImageEncoder(pretrained=True, weights=weights),
        "text": ByteTextCNN(embedding_dim=16),
    }
    model = MultimodalModel(encoders, 3)
    model.classes = ("ant" * 99, "bee" * 99, "cat" * 99)  # words that nothing else would miss
    save_student(model, folder / "student", config)
    return folder / "student"


def one_bit(raw: bytes, rng: np.random.Generator) -> bytes:
    """One flipped bit, which often leaves JSON what it was: JSON."""
    at = int(rng.integers(len(raw)))
    return raw[:at] + bytes([raw[at] ^ 1 << int(rng.integers(8))]) + raw[at + 1 :]


def test_every_damage_is_found_and_named_or_changes_nothing(sound: Path, tmp_path: Path) -> None:
    """Z3: flips, cuts, zeros and swaps in every file of the folder."""
    folder = Path(shutil.copytree(sound, tmp_path / "student"))
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    assert [path.name for path in files] == ["config.json", "config.json", "model.safetensors"]
    wanted, content = weights_of(load_student(folder)), content_of(folder)
    kinds = ["one bit", *KINDS]
    rng, harmless, unnamed, trials = np.random.default_rng(11), 0, list[str](), times(300, 1500)
    for trial in range(trials):
        path, kind = files[trial % len(files)], kinds[trial // len(files) % len(kinds)]
        raw = path.read_bytes()
        path.write_bytes(one_bit(raw, rng) if kind == "one bit" else corrupt(raw, kind, rng))
        try:
            assert equal(load_student(folder), wanted), f"{path}, {kind}: other weights, unnoticed"
            assert content_of(folder) == content
            harmless += 1
        except CheckpointError as error:
            unnamed += [] if str(path) in error.where else [str(error)]
        path.write_bytes(raw)
    assert equal(load_student(folder), wanted)
    assert not unnamed
    assert harmless <= trials // 50, "white space of a JSON file is no more than that"


def test_files_of_two_students_that_changed_places(tmp_path: Path) -> None:
    for name, value in (("a", 1.0), ("b", 2.0)):
        save_student(model_of(value), tmp_path / name, CONFIG)
    shutil.copy(tmp_path / "a" / "model.safetensors", tmp_path / "b")
    with pytest.raises(
        CheckpointError, match=r"b/model\.safetensors: found other bytes.*XXH3-128 [0-9a-f]{32}"
    ):
        load_student(tmp_path / "b")


def test_a_word_that_is_damaged_is_no_older_version(tmp_path: Path) -> None:
    """Without its checksums a folder is read as one of an older version: their names must not get lost."""
    save_student(model_of(), tmp_path / "s", CONFIG)
    path = tmp_path / "s" / "config.json"
    good = path.read_text()
    for word in ("check", "files"):
        path.write_text(good.replace(f'"{word}":', f'"{word[:-1]}{chr(ord(word[-1]) ^ 1)}":'))
        with pytest.raises(CheckpointError, match="does not know, or damage"):
            load_student(tmp_path / "s")
    path.write_text(good)
    load_student(tmp_path / "s")
    path.write_text(json.dumps(content_of(tmp_path / "s")))
    load_student(tmp_path / "s")  # an older one


# -- what is saved ------------------------------------------------------------------------------------


def strided(model: MultimodalModel) -> None:
    """Not contiguous, and a view of something larger."""
    wide = torch.randn(model.head.in_features, 6)
    model.head.weight = nn.Parameter(wide.t()[::2])
    model.head.bias = nn.Parameter(torch.randn(9)[2:5])
    assert not model.head.weight.is_contiguous()


def overlapping(model: MultimodalModel) -> None:
    """Two parameters over parts of the same memory."""
    memory = torch.randn(3 * model.head.in_features + 3)
    model.head.weight = nn.Parameter(memory[3:].view(3, -1))
    model.head.bias = nn.Parameter(memory[1:4])


@pytest.mark.row("K13")
@pytest.mark.parametrize("make", [strided, overlapping])
def test_tensors_of_any_layout_come_back(tmp_path: Path, make: Callable[[MultimodalModel], None]) -> None:
    model = model_of()
    make(model)
    save_student(model, tmp_path / "missing" / "folders" / "s", CONFIG)
    assert equal(load_student(tmp_path / "missing" / "folders" / "s"), weights_of(model))


class Tied(ImageCNN):
    """Its last layer is the first one's again; a subclass of its own, as a user writes it."""

    def __init__(self) -> None:
        super().__init__(width=8)
        self.again = nn.Linear(4, 4)
        self.once = nn.Linear(4, 4)
        self.again.weight = self.once.weight


@pytest.mark.row("K13")
@pytest.mark.parametrize("split", [False, True])
def test_tied_tensors_come_back_and_are_tied_again(tmp_path: Path, split: bool) -> None:
    """`split`: from a state dict in which each name has memory of its own, as it is gathered from ranks."""
    config = json.loads(json.dumps(CONFIG))
    config["init_args"]["encoders"] = {"image": {"class_path": f"{__name__}.Tied"}}
    model = MultimodalModel({"image": Tied()}, 3)
    gathered = {name: x.clone() for name, x in model.state_dict().items()} if split else None
    save_student(model, tmp_path / "s", config, gathered)
    loaded = load_student(tmp_path / "s", packages=["tests"])
    assert equal(loaded, weights_of(model))
    encoder: Any = loaded.encoders["image"]
    assert encoder.again.weight is encoder.once.weight
    assert (tmp_path / "s" / "model.safetensors").stat().st_size < 1.1 * sum(
        x.nbytes for x in model.parameters()
    ) + 4096


@pytest.mark.row("K13")
def test_tensors_that_only_the_trained_model_had_tied(tmp_path: Path) -> None:
    config = json.loads(json.dumps(CONFIG))
    config["init_args"]["encoders"] = {"one": ENCODERS["image"], "two": ENCODERS["image"]}
    one, two = ImageCNN(width=8), ImageCNN(width=8)
    model = MultimodalModel({"one": one, "two": two}, 3)
    names = [name for name, _ in one.named_parameters() if name.endswith("weight")]
    for name in names:
        path, _, last = name.rpartition(".")
        setattr(two.get_submodule(path), last, one.get_parameter(name))
    save_student(model, tmp_path / "s", config)
    assert equal(load_student(tmp_path / "s"), weights_of(model))


@pytest.mark.row("K13")
def test_nothing_else_is_overwritten(tmp_path: Path) -> None:
    bert = tmp_path / "bert"
    bert.mkdir()
    (bert / "config.json").write_text('{"model_type": "bert"}')
    (bert / "model.safetensors").write_bytes(b"precious")
    for place in (bert, bert / "config.json", bert.parent):
        with pytest.raises(ConfigError, match=r"found a f.*name another folder"):
            save_student(model_of(), place, CONFIG)
    assert (bert / "model.safetensors").read_bytes() == b"precious"
    assert [path.name for path in tmp_path.iterdir()] == ["bert"]
    (tmp_path / "empty").mkdir()
    save_student(model_of(1.0), tmp_path / "empty", CONFIG)
    save_student(model_of(2.0), tmp_path / "empty", CONFIG)
    assert equal(load_student(tmp_path / "empty"), weights_of(model_of(2.0)))


# -- kills --------------------------------------------------------------------------------------------

_TOUCHES = frozenset({"mkdir", "write", "fsync", "rename", "unlink", "rmdir", "chmod", "serialize_file"})


def _save_and_die(folder: Path, at: int) -> None:
    """In a copy of this process: save, and be killed before or after the `at`-th thing done to a disk."""
    count = 0

    def watch(frame: Any, event: str, function: Any) -> None:
        nonlocal count
        if event in ("c_call", "c_return") and getattr(function, "__name__", "") in _TOUCHES:
            if count == at:
                os.kill(os.getpid(), signal.SIGKILL)
            count += 1

    model = model_of(2.0)
    sys.setprofile(watch)
    save_student(model, folder, CONFIG)
    sys.setprofile(None)
    os._exit(0)


def killed(folder: Path, at: int) -> bool:
    """Whether the save was killed, rather than done before."""
    process = os.fork()
    if process == 0:
        try:
            _save_and_die(folder, at)
        finally:
            os._exit(1)
    status = os.waitpid(process, 0)[1]
    assert os.WIFSIGNALED(status) or os.waitstatus_to_exitcode(status) == 0
    return os.WIFSIGNALED(status)


@pytest.mark.row("K13")
def test_a_save_that_is_killed_leaves_the_old_student_or_the_new_one(tmp_path: Path) -> None:
    """Before and after each call that touches the disk."""
    old, new = weights_of(model_of(1.0)), weights_of(model_of(2.0))
    folder, at, seen, between = tmp_path / "student", 0, [], 0
    save_student(model_of(1.0), folder, CONFIG)
    while killed(folder, at):
        between += not folder.exists()
        found = load_student(folder)
        seen.append("new" if equal(found, new) else "old")
        assert equal(found, new if seen[-1] == "new" else old)
        save_student(model_of(1.0), folder, CONFIG)
        assert [path.name for path in tmp_path.iterdir()] == ["student"], "what the killed one left is gone"
        at += 1
    assert at >= 24, "calls"
    assert between, "a kill between the two renames"
    assert seen == sorted(seen, reverse=True), "once the new one stands it stays"
    assert {"old", "new"} == set(seen)


@pytest.mark.row("K13")
def test_the_first_save_that_is_killed_leaves_nothing_or_all(tmp_path: Path) -> None:
    new, at = weights_of(model_of(2.0)), 0
    while killed(tmp_path / str(at), at):
        if (tmp_path / str(at)).exists():
            assert equal(load_student(tmp_path / str(at)), new)
        at += 3


# -- disks --------------------------------------------------------------------------------------------


@pytest.mark.row("P4")
@pytest.mark.parametrize("room", [1.1, 1.5, 1.9])
def test_a_full_disk_leaves_the_old_student(tmp_path: Path, room: float) -> None:
    size = sum(x.nbytes for x in weights_of(model_of()).values())
    with small_disk(tmp_path / "disk", f"{int(room * size)}") as disk:
        save_student(model_of(1.0), disk / "student", CONFIG)
        before = sorted(path.name for path in disk.iterdir())
        with pytest.raises(
            DiskError, match=rf"student.*bytes are free.*takes {size:,} bytes|student.*No space"
        ) as caught:
            save_student(model_of(2.0), disk / "student", CONFIG)
        assert caught.value.exit_code == 28
        assert equal(load_student(disk / "student"), weights_of(model_of(1.0)))
        assert sorted(path.name for path in disk.iterdir()) == before == ["student"]


@pytest.mark.row("P4")
def test_a_disk_that_can_only_be_read(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "8m") as disk:
        save_student(model_of(1.0), disk / "student", CONFIG)
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        with pytest.raises(DiskError, match="Read-only file system"):
            save_student(model_of(2.0), disk / "student", CONFIG)
        assert equal(load_student(disk / "student"), weights_of(model_of(1.0)))


def test_a_loaded_student_answers_as_before_a_second_save(tmp_path: Path) -> None:
    """Z17: to the bit, also after it was loaded and saved again."""
    model, batch = model_of(), make_batch(("image", "text"))
    save_student(model, tmp_path / "a", CONFIG)
    save_student(load_student(tmp_path / "a"), tmp_path / "b", CONFIG)
    wanted = model.eval()(batch).logits
    assert same_bits(load_student(tmp_path / "a")(batch).logits, wanted)
    assert same_bits(load_student(tmp_path / "b")(batch).logits, wanted)


@pytest.mark.row("P4")
@pytest.mark.parametrize("room", [0.5, 1.5, 2.1])
def test_a_full_disk_leaves_no_half_knowledge(tmp_path: Path, room: float) -> None:
    """While rows come in, and while they are put in order."""
    logits = np.ones((3000, 40), np.float32)
    with small_disk(tmp_path / "disk", f"{int(room * logits.nbytes)}") as disk:
        write_arrays(disk / "old", np.arange(9), {"logits": logits[:9]}, dtype="float32")
        with pytest.raises(DiskError, match=r"disk/new: found .*No space left.*bytes are free"):
            write_arrays(
                disk / "new", np.arange(3000)[::-1], {"logits": logits, "embedding": logits}, dtype="float32"
            )
        Knowledge.open(disk / "old").verify()
        assert [path.name for path in disk.iterdir()] == ["old"]
