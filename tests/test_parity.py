"""Models are fed what they need, and a teacher what it was trained with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import BertTokenizerFast

from lightning_distill import checks
from lightning_distill.data import Processor
from lightning_distill.encoders import ByteTextCNN, ImageCNN, LogMelCNN
from lightning_distill.errors import ConfigError, TeacherError
from lightning_distill.model import MultimodalModel
from lightning_distill.parity import plain, preprocessing_fits, recorded
from lightning_distill.randomness import View
from lightning_distill.teachers import FrozenTeacher


class Settings(Processor):
    """Has the settings it is given, and prepares nothing."""

    def __init__(self, views: Mapping[str, Any] | None = None, **settings: Any) -> None:
        self._settings, self._views = settings, views or {}

    @property
    def settings(self) -> Mapping[str, Any]:
        return self._settings

    @property
    def view_settings(self) -> Mapping[str, Any]:
        return self._views

    def prepare(self, raw: Any, view: View | None = None) -> Any:
        raise NotImplementedError

    def blank(self) -> Any:
        raise NotImplementedError

    def collate(self, prepared: Sequence[Any]) -> Any:
        raise NotImplementedError


def data(processors: Mapping[str, Processor], **teacher_processors: Processor) -> Any:
    return SimpleNamespace(processors=dict(processors), teacher_processors=teacher_processors)


def model() -> MultimodalModel:
    return MultimodalModel({"image": ImageCNN(3), "text": ByteTextCNN(300), "audio": LogMelCNN(40)}, 3)


FITTING: dict[str, Processor] = {
    "image": Settings(size=32, channels=3),
    "text": Settings(vocabulary_size=300, max_length=64),
    "audio": Settings(mels=40, sample_rate=8000),
}
WRONG = [("image", "channels", 3, 1), ("text", "vocabulary_size", 300, 301), ("audio", "mels", 40, 64)]


def test_what_fits_is_let_through() -> None:
    preprocessing_fits(model(), FrozenTeacher(model()), data(FITTING))
    fewer = FITTING | {"text": Settings(vocabulary_size=259)}
    preprocessing_fits(model(), FrozenTeacher(model()), data(fewer))
    silent = {m: Settings() for m in FITTING}  # a processor that tells nothing
    preprocessing_fits(model(), FrozenTeacher(model()), data(silent))


def test_it_is_one_of_the_checks() -> None:
    assert checks.preprocessing_fits is preprocessing_fits


@pytest.mark.parametrize("foreign", [None, SimpleNamespace(), SimpleNamespace(processors=[1])])
def test_a_datamodule_of_another_kind_is_not_looked_at(foreign: Any) -> None:
    preprocessing_fits(model(), FrozenTeacher(model()), foreign)
    assert recorded(model(), foreign) is None


@pytest.mark.parametrize(("modality", "key", "needed", "given"), WRONG)
def test_the_students_encoders_need_their_settings(modality: str, key: str, needed: int, given: int) -> None:
    found = rf"student, encoder .{modality}., {key}: .*{key} {needed}, and a processor with {key} {given}; "
    with pytest.raises(ConfigError, match=found):
        preprocessing_fits(model(), None, data(FITTING | {modality: Settings(**{key: given})}))


@pytest.mark.parametrize(("modality", "key", "needed", "given"), WRONG)
def test_the_teachers_encoders_need_theirs(modality: str, key: str, needed: int, given: int) -> None:
    student = MultimodalModel({"other": ImageCNN()}, 3)
    wrong = data(FITTING | {modality: Settings(**{key: given})})
    found = rf"teacher, encoder '{modality}', {key}: .*{given}.*teacher_processors: {{{modality}: ...}}"
    with pytest.raises(TeacherError, match=found):
        preprocessing_fits(student, FrozenTeacher(model()), wrong)
    wrong.teacher_processors[modality] = FITTING[modality]
    preprocessing_fits(student, FrozenTeacher(model()), wrong)


def test_a_teacher_reads_as_it_was_trained() -> None:
    trained = model()
    trained.preprocessing = recorded(trained, data(FITTING))
    preprocessing_fits(model(), FrozenTeacher(trained), data(FITTING))
    larger = FITTING | {"image": Settings(size=64, channels=3)}
    with pytest.raises(TeacherError) as caught:
        preprocessing_fits(model(), FrozenTeacher(trained), data(larger))
    assert caught.value.where == "teacher, modality 'image', size"
    assert "size 64" in caught.value.found
    assert "size 32" in caught.value.expected
    assert "add teacher_processors: {image: ...}" in caught.value.fix
    preprocessing_fits(model(), FrozenTeacher(trained), data(larger, image=FITTING["image"]))


def test_a_setting_that_is_gone_counts_and_a_new_one_does_not() -> None:
    trained = model()
    trained.preprocessing = {"image": {"size": 32}}
    preprocessing_fits(model(), FrozenTeacher(trained), data(FITTING))
    with pytest.raises(TeacherError, match="size not set"):
        preprocessing_fits(model(), FrozenTeacher(trained), data(FITTING | {"image": Settings(channels=3)}))


def test_settings_equal_those_read_from_a_file() -> None:
    trained = model()
    processors = FITTING | {"image": Settings(mean=(0.5, 0.5), folder=Path("x"), channels=3)}
    trained.preprocessing = recorded(trained, data(processors))
    assert trained.preprocessing is not None
    assert trained.preprocessing["image"] == {"mean": [0.5, 0.5], "folder": "x", "channels": 3}
    preprocessing_fits(model(), FrozenTeacher(trained), data(processors))
    assert plain({"a": (1,)}) == {"a": [1]}


def test_all_modalities_nothing_prepares_are_listed() -> None:
    student = MultimodalModel({"image": ImageCNN(3)}, 3)
    with pytest.raises(TeacherError, match=r"found none for \['text', 'audio'\], which the teacher reads"):
        preprocessing_fits(student, FrozenTeacher(model()), data({"image": FITTING["image"]}))


def save_tokenizer(folder: Path, words: Sequence[str]) -> Settings:
    folder.mkdir()
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    BertTokenizerFast(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    return Settings(tokenizer=str(folder), vocabulary_size=len(vocabulary), vocabulary="-".join(words))


@pytest.mark.row("S1")
@pytest.mark.parametrize(
    ("words", "told"), [(["a", "dog"], "token 6 is 'cat' there and 'dog' here"), (["a"], "token 6 is 'cat'")]
)
def test_T5_tokenizers_that_differ(tmp_path: Path, words: list[str], told: str) -> None:
    theirs, ours = save_tokenizer(tmp_path / "t", ["a", "cat"]), save_tokenizer(tmp_path / "s", words)
    trained = MultimodalModel({"text": ByteTextCNN()}, 3)
    trained.preprocessing = recorded(trained, data({"text": theirs}))
    with pytest.raises(TeacherError) as caught:
        preprocessing_fits(trained, FrozenTeacher(trained), data({"text": ours}))
    assert f"with {5 + len(words)} tokens" in caught.value.found
    assert "with 7 tokens" in caught.value.expected
    assert told in caught.value.expected
    preprocessing_fits(trained, FrozenTeacher(trained), data({"text": ours}, text=theirs))


def test_T5_tokenizers_that_are_not_on_disk_are_told_by_size(tmp_path: Path) -> None:
    trained = MultimodalModel({"text": ByteTextCNN()}, 3)
    trained.preprocessing = {"text": {"tokenizer": "no/such", "vocabulary_size": 99, "vocabulary": "x"}}
    ours = save_tokenizer(tmp_path / "s", ["a"])
    with pytest.raises(
        TeacherError, match=r"with 6 tokens; expected a tokenizer 'no/such' with 99 tokens, as"
    ):
        preprocessing_fits(trained, FrozenTeacher(trained), data({"text": ours}))


def test_T5_one_tokenizer_in_two_places_is_one(tmp_path: Path) -> None:
    theirs, ours = (save_tokenizer(tmp_path / name, ["a", "cat"]) for name in "ts")
    trained = MultimodalModel({"text": ByteTextCNN()}, 3)
    trained.preprocessing = recorded(trained, data({"text": theirs}))
    preprocessing_fits(trained, FrozenTeacher(trained), data({"text": ours}))
