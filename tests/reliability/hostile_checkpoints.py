"""Checkpoints and saved students that want to run code."""

from __future__ import annotations

import json
import os
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning_distill.writing.seal import CHECK, FILES
from tests.reliability.canaries import TRACE, Canary
from tests.reliability.hostile import BOMB, HEAD, PART, Config, Opening, add_member


def checkpoint(write: Callable[[Path], object]) -> Callable[[], Opening]:
    """Read as `fit --resume` and `test` read it."""

    def make() -> Opening:
        from lightning_distill.checkpoints import VerifiedCheckpointIO

        write(Path("last.ckpt"))
        return lambda: VerifiedCheckpointIO().load_checkpoint("last.ckpt", weights_only=False)

    return make


def saved(**content: Any) -> Callable[[Path], object]:
    """By torch, with pickle."""

    def write(path: Path) -> None:
        import torch

        torch.save({"state_dict": {}, "global_step": 1, "epoch": 0, **content}, path)

    return write


def zipped(path: Path) -> None:
    """A zip as torch writes it, its pickle by hand."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Canary(), 2))
        archive.writestr("archive/byteorder", "little")
        archive.writestr("archive/version", "3\n")


def legacy(path: Path) -> None:
    """As torch wrote before it wrote zip files."""
    import torch

    torch.save({"state_dict": Canary()}, path, _use_new_zipfile_serialization=False)


def script(path: Path) -> None:
    """A TorchScript archive, which brings code."""
    import torch

    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), str(path))


def tarred(path: Path) -> None:
    """The oldest format of torch."""
    with tarfile.open(path, "w") as tar:
        for name in ("storages", "tensors", "pickle"):
            add_member(tar, name, pickle.dumps(Canary(), 2))


class Outsider:
    """A class of the program, in a checkpoint."""


def of_main(path: Path) -> None:
    """A class of `__main__`."""
    kept, Outsider.__module__ = Outsider.__module__, "__main__"
    try:
        path.write_bytes(b"c__main__\nOutsider\n)\x81.")
    finally:
        Outsider.__module__ = kept


CHECKPOINTS: dict[str, Callable[[], Opening]] = {
    "a bare pickle": checkpoint(lambda path: path.write_bytes(pickle.dumps(Canary()))),
    "a pickle for a state": checkpoint(saved(state_dict=Canary())),
    "a pickle in hyperparameters": checkpoint(saved(hyper_parameters={"a": Canary()})),
    "an _instantiator that is a function": checkpoint(saved(hyper_parameters={"_instantiator": os.system})),
    "a class for hparams_type": checkpoint(saved(hparams_type=Outsider, hparams_name="x")),
    "an object of the program": checkpoint(saved(callbacks={"x": Outsider()})),
    "a class of __main__": checkpoint(of_main),
    "a zip with a pickle": checkpoint(zipped),
    "an old pickle of torch": checkpoint(legacy),
    "the oldest": checkpoint(tarred),
    "TorchScript": checkpoint(script),
    "eval in a pickle": checkpoint(
        lambda path: path.write_bytes(f"cbuiltins\neval\n(Vopen({TRACE!r}, 'w')\ntR.".encode())
    ),
}


def save_hostile(edit: Callable[[Config], object]) -> None:
    """A student whose config.json was changed after it was saved, in the folder `student`."""
    from lightning_distill.encoders import ByteTextCNN
    from lightning_distill.export import save_student
    from lightning_distill.model import MultimodalModel

    spec = {"class_path": "lightning_distill.encoders.ByteTextCNN", "init_args": {"width": 8}}
    arguments: Config = {"num_classes": 2, "encoders": {"text": spec}}
    model = MultimodalModel({"text": ByteTextCNN(width=8)}, 2)
    whole = {"class_path": "lightning_distill.MultimodalModel", "init_args": arguments}
    save_student(model, "student", whole)
    content = json.loads(Path("student/config.json").read_text())
    edit(content)
    # Whoever can change the file can leave out its checksums.
    content = {key: value for key, value in content.items() if key not in (FILES, CHECK)}
    Path("student/config.json").write_text(json.dumps(content))
    Path("part.yaml").write_text(PART)


def loaded(edit: Callable[[Config], object]) -> Callable[[], Opening]:
    """Such a student, loaded."""

    def make() -> Opening:
        from lightning_distill.export import load_student

        save_hostile(edit)
        return lambda: load_student(Path("student"))

    return make


def init_args(content: Config) -> Config:
    found: Config = content["model"]["init_args"]
    return found


STUDENTS: dict[str, Callable[[], Opening]] = {
    "a head from outside": loaded(lambda c: init_args(c).update(fusion={"class_path": HEAD})),
    "a name alone": loaded(lambda c: init_args(c).update(fusion=HEAD)),
    "os.system": loaded(lambda c: init_args(c).update(fusion="os.system")),
    "a file beside": loaded(lambda c: init_args(c).update(fusion="part.yaml")),
    "a file in the folder": loaded(
        lambda c: (init_args(c).update(fusion="{folder}/p.yaml"), Path("student/p.yaml").write_text(PART))
    ),
    "a text that is YAML": loaded(lambda c: init_args(c).update(fusion=f"{{class_path: {HEAD}}}")),
    "a text that is a tag": loaded(
        lambda c: init_args(c).update(fusion=f"!!python/object/apply:os.system ['touch {TRACE}']")
    ),
    "a text that is a bomb": loaded(
        lambda c: init_args(c).update(fusion="{" + BOMB.replace("\n", ",") + "}")
    ),
    "an encoder from outside": loaded(lambda c: init_args(c)["encoders"].update(text={"class_path": HEAD})),
    "a model from outside": loaded(lambda c: c["model"].update(class_path=HEAD)),
    "deep JSON": loaded(lambda c: init_args(c).update(encoders=json.loads("[" * 900 + "]" * 900))),
    "weights that are a pickle": loaded(
        lambda c: Path("student/model.safetensors").write_bytes(pickle.dumps(Canary()))
    ),
}
