"""A shipped student predicts from raw files as the trained model does, where nearly nothing is installed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path
from re import match
from typing import Any

import cv2
import numpy as np
import pytest
import soundfile
import torch
import yaml
from torch import Tensor

from lightning_distill import MultimodalModel, Student, load_student
from lightning_distill.commands.opening import Finished, batches, finished_run
from lightning_distill.data import (
    AudioProcessor,
    ByteTextProcessor,
    ImageProcessor,
    Processor,
    Waveform,
)
from lightning_distill.data.audio import read_audio
from lightning_distill.data.image import read_image
from lightning_distill.encoders import ByteTextCNN
from lightning_distill.errors import CheckpointError, ConfigError, SampleError
from lightning_distill.shipping.prediction import told
from lightning_distill.structures import Batch, Outputs
from tests.builders import same_bits
from tests.cli.conftest import SPLITS, module, small_config, train_once
from tests.data.test_text import save_bert
from tests.encoders.pretrained import save_bert as save_bert_model

ROWS = 40
BARE = ("lightning_distill", "torch", "torchgen", "typing_extensions", "numpy", "safetensors", "xxhash")
"""What torch itself imports is of torch."""
SOUND = ("soundfile", "_soundfile", "_soundfile_data", "cffi", "_cffi_backend")
FORBIDDEN = ("lightning", "torchmetrics", "jsonargparse", "pyarrow", "scipy", "wandb", "matplotlib", "jinja2")


def cells(i: int) -> list[str]:
    """Every third row lacks something."""
    text, image, audio = f"{'ab'[i % 2] * 3} é{i}", f"{i}.png", f"{i}.wav"
    lacks = (i // 3) % 4 if i % 3 == 0 else 3
    values = [text if lacks != 0 else "", image if lacks != 1 else "", audio if lacks != 2 else ""]
    return [*values, "xy"[i % 2], SPLITS[i // 2 % 4]]


def write_files(folder: Path) -> None:
    for i in range(ROWS):
        rng = np.random.default_rng(i)
        picture = rng.integers(0, 256, (20 + i, 31, 3)) // (1 + i % 2)
        cv2.imwrite(str(folder / f"{i}.png"), picture.astype(np.uint8))
        soundfile.write(folder / f"{i}.wav", rng.normal(0, 0.1 * (1 + i % 2), 1500 + 40 * i), 8000)
    rows = [",".join(cells(i)) for i in range(ROWS)]
    (folder / "table.csv").write_text("\n".join(["text,image,audio,label,split", *rows]) + "\n")


def with_all() -> dict[str, Any]:
    """The small config with images and sounds, all augmented in training."""
    config = small_config()
    encoders = module(config)["student"]["init_args"]["encoders"]
    encoders["image"] = {
        "class_path": "ImageCNN",
        "init_args": {"channels": 3, "width": 4, "embedding_dim": 8},
    }
    encoders["audio"] = {"class_path": "LogMelCNN", "init_args": {"mels": 8, "width": 4, "embedding_dim": 8}}
    module(config)["student"]["init_args"]["fusion"] = {
        "class_path": "GatedFusion",
        "init_args": {"output_dim": 8},
    }
    data = config["data"]
    data["class_path"] = "ImageTextAudioDataModule"
    data["init_args"]["processors"] |= {
        "image": {
            "class_path": "ImageProcessor",
            "init_args": {
                "size": 8,
                "keep_aspect": True,
                "max_shift": 0.2,
                "views": {"class_path": "ImageViews", "init_args": {}},
            },
        },
        "audio": {
            "class_path": "AudioProcessor",
            "init_args": {
                "sample_rate": 8000,
                "seconds": 0.25,
                "mels": 8,
                "max_shift": 0.1,
                "spec_augment": {"class_path": "SpecAugment"},
            },
        },
    }
    data["init_args"]["source"]["init_args"]["modalities"] |= {"image": "image", "audio": "audio"}
    return config


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on files of three modalities."""
    folder = tmp_path_factory.mktemp("files")
    write_files(folder)
    (folder / "all.yaml").write_text(yaml.safe_dump(with_all(), sort_keys=False))
    return train_once(folder, "all.yaml")


def opened(run: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Finished, list[Batch]]:
    """The run as commands see it: its own DataModule, made of its config, on the test split."""
    monkeypatch.chdir(run.parent)
    found = finished_run(run)
    return found, list(batches(found.data, ["test"], torch.device("cpu")))


def samples_of(found: Finished, folder: Path) -> list[dict[str, str]]:
    """The same samples as files and texts."""
    rows = [cells(int(row)) for row in found.data.rows("test")]
    names = ("text", "image", "audio")
    given = [{m: cell for m, cell in zip(names, row, strict=False) if cell} for row in rows]
    return [{m: x if m == "text" else str(folder / x) for m, x in sample.items()} for sample in given]


def bare(folder: Path, samples: list[dict[str, str]], packages: tuple[str, ...]) -> dict[str, Any]:
    """What the student answers in a process that has these packages only."""
    program = Path(__file__).with_name("bare.py")
    asked = json.dumps({"folder": str(folder), "samples": samples})
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(torch.get_num_threads())}
    done = subprocess.run(
        [sys.executable, str(program), ",".join(packages), asked],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert not set(told["loaded"]) & set(FORBIDDEN)
    return told


def flat(inputs: Any) -> dict[str, Tensor]:
    return dict(inputs) if isinstance(inputs, dict) else {"": inputs}


def test_inputs_are_those_of_evaluation_to_the_bit(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found, wanted = opened(run, monkeypatch)
    student = Student.from_pretrained(run / "student")
    samples, at = samples_of(found, run.parent), 0
    for batch in wanted:
        count = len(batch["target"])
        ours = student.batch(samples[at : at + count])
        at += count
        for modality in ("image", "text", "audio"):
            mine, theirs = flat(ours["inputs"][modality]), flat(batch["inputs"][modality])
            assert mine.keys() == theirs.keys()
            assert all(same_bits(mine[name], theirs[name]) for name in mine)
            assert torch.equal(ours["present"][modality], batch["present"][modality])
    assert at == len(samples) >= 9
    assert {len(sample) for sample in samples} == {2, 3}, "some lack a modality"


def test_a_bare_process_answers_as_the_trained_model_to_the_bit(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, (batch, *_) = opened(run, monkeypatch)
    with torch.no_grad():
        logits = found.student(batch).logits
    samples = samples_of(found, run.parent)[: len(logits)]
    told = bare(run / "student", samples, (*BARE, "cv2", *SOUND))
    assert told["logits"] == [row.numpy().tobytes().hex() for row in logits]
    assert told["labels"] == ["xy"[at] for at in logits.argmax(dim=1).tolist()]
    assert told["printed"].startswith("Prediction(label=")


def test_the_student_is_of_the_checkpoint(run: Path) -> None:
    """So that "the trained model" above is not only what was exported."""
    state = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    ours = Student.from_pretrained(run / "student").model.state_dict()
    assert all(torch.equal(x, state[f"student.{name}"]) for name, x in ours.items())


def closure(name: str) -> set[str]:
    """Distributions that one needs, by their own word."""
    found, left = set[str](), [name]
    while left:
        found.add(at := left.pop())
        try:
            told = requires(at) or []
        except PackageNotFoundError:
            continue
        needs = [match(r"[\w.-]+", need) for need in told if "extra ==" not in need]
        left += [n[0].lower().replace("_", "-") for n in needs if n and n[0].lower() not in found]
    return found


def test_a_tokenizer_and_a_text_encoder_of_hugging_face(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the folder of the tokenizer nor that of the encoder is there any more."""
    words = save_bert(tmp_path / "words")
    save_bert_model(tmp_path / "bert")
    rows = [
        f"{'a cat' if i % 2 else 'dogs die'} {'. ' * (i % 3)},{'xy'[i % 2]},{SPLITS[i // 2 % 4]}"
        for i in range(32)
    ]
    (tmp_path / "table.csv").write_text("\n".join(["text,label,split", *rows]) + "\n")
    config = small_config()
    config["trainer"]["max_epochs"] = 1
    module(config)["student"]["init_args"]["encoders"]["text"] = {
        "class_path": "TransformersTextEncoder",
        "init_args": {"model": str(tmp_path / "bert")},
    }
    config["data"]["init_args"]["processors"]["text"] = {
        "class_path": "TextProcessor",
        "init_args": {"tokenizer": str(words), "max_length": 6},
    }
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(config))
    run = train_once(tmp_path, "small.yaml")
    found, (batch, *_) = opened(run, monkeypatch)
    with torch.no_grad():
        logits = found.student(batch).logits
    for folder in ("words", "bert"):
        (tmp_path / folder).rename(tmp_path / f"{folder} elsewhere")
    texts = [{"text": rows[int(row)].split(",")[0]} for row in found.data.rows("test")][: len(logits)]
    files = [path for path in (run / "student").rglob("*") if path.is_file()]
    assert not [path for path in files if str(tmp_path).encode() in path.read_bytes()], (
        "a path of this machine"
    )
    allowed = closure("transformers") | closure("torch")
    homes = packages_distributions().items()
    tops = {top for top, names in homes if {n.lower().replace("_", "-") for n in names} & allowed}
    told = bare(run / "student", texts, (*BARE, *(tops - set(FORBIDDEN))))
    assert told["logits"] == [row.numpy().tobytes().hex() for row in logits]


# -- what goes in and what comes out ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def student(run: Path) -> Student:
    return Student.from_pretrained(run / "student")


def test_files_arrays_and_batches_answer_alike(student: Student, run: Path) -> None:
    image, audio = run.parent / "1.png", run.parent / "1.wav"
    raw = {"image": read_image(image, ""), "audio": read_audio(audio, ""), "text": "bbb"}
    one = student.predict({"image": str(image), "audio": audio, "text": "bbb"})
    other = student.predict(raw)
    assert same_bits(one.logits, other.logits)
    assert one.embedding is not None
    assert one.embedding.shape == (8,)
    assert sum(one.probabilities.values()) == pytest.approx(1, abs=1e-6)
    assert one.label == max(one.probabilities, key=lambda name: one.probabilities[name])
    assert (one.labels, dict(one.numbers)) == ((one.label,), {})
    many = student.predict([raw, {"text": "aaa"}, {"text": "aaa", "image": None}], batch_size=2)
    assert torch.allclose(many[0].logits, one.logits, atol=1e-5)
    assert torch.allclose(many[1].logits, many[2].logits, atol=1e-5)
    assert not torch.allclose(many[0].logits, many[1].logits, atol=1e-5)
    assert student.predict([]) == []
    assert (student.modalities, student.classes) == (("text", "image", "audio"), ("x", "y"))
    assert student.to("cpu") is student


def test_what_is_wrong_with_a_sample_is_told(student: Student, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"sample 1: found 'imag'; did you mean 'image'\?"):
        student.predict([{"text": "a"}, {"imag": "x.png"}])
    with pytest.raises(SampleError, match=r"sample 0: found no modality.*text, image, audio"):
        student.predict({})
    with pytest.raises(SampleError, match=r"sample 2, image: found .*nothing\.png, which is missing"):
        student.predict([{"text": "a"}] * 2 + [{"image": tmp_path / "nothing.png"}], batch_size=1)
    with pytest.raises(SampleError, match=r"sample 0, image: found a ndarray of float64.*uint8 NumPy array"):
        student.predict({"image": np.zeros((4, 4, 3))})
    with pytest.raises(SampleError, match=r"sample 0, audio: .*ndarray, no Waveform with its sample rate"):
        student.predict({"audio": np.zeros(4)})
    with pytest.raises(SampleError, match=r"sample 0, text: .*int, no text"):
        student.predict({"text": 3})
    example = r"a mapping.*predict\(\{\"text\": \"a text\", \"image\": \"photo\.png\", \"audio\": "
    for nothing in ("aaa", b"a", Path("a"), None, 3):
        with pytest.raises(SampleError, match=rf"samples: found a {type(nothing).__name__}; .*{example}"):
            student.predict(nothing)  # type: ignore[call-overload]
        with pytest.raises(SampleError, match=rf"sample 1: found a {type(nothing).__name__}; .*{example}"):
            student.predict([{"text": "a"}, nothing])  # type: ignore[list-item]
    with pytest.raises(ConfigError, match="batch_size: found 0"):
        student.predict([{"text": "a"}], batch_size=0)


def test_an_image_may_be_one_of_pil(student: Student, run: Path) -> None:
    from PIL import Image

    path = run.parent / "0.png"
    with Image.open(path) as image:
        assert same_bits(
            student.predict({"image": image}).logits, student.predict({"image": str(path)}).logits
        )


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (torch.zeros(3, 20, 24, dtype=torch.uint8), r"Tensor of torch.uint8 with the shape \(3, 20, 24\)"),
        (np.zeros((3, 20, 24), np.uint8), r"ndarray of uint8 with the shape \(3, 20, 24\)"),
        (np.zeros((20, 24, 3), np.float32), "ndarray of float32"),
        (b"bytes", "bytes"),
        (3, "int"),
    ],
)
def test_an_image_of_another_kind_is_told_how_to_become_one(student: Student, image: Any, words: str) -> None:
    with pytest.raises(SampleError, match=f"sample 0, image: found a .*{words}.*permute"):
        student.predict({"image": image})


def test_the_folder_of_a_run_names_its_student(run: Path) -> None:
    with pytest.raises(CheckpointError, match=f"from_pretrained.'{run / 'student'}'"):
        Student.from_pretrained(run)
    assert repr(Student.from_pretrained(run / "student")).startswith("Student(")


@pytest.mark.parametrize("outputs", list(Outputs))
def test_each_kind_of_outputs(outputs: Outputs) -> None:
    model = MultimodalModel({"text": ByteTextCNN()}, num_classes=3)
    answer = Student(model, {"text": ByteTextProcessor()}, outputs).predict({"text": "a cat"})
    logits = answer.logits.double().numpy()
    exponentials = np.exp(logits - logits.max())
    expected = {
        Outputs.CLASSES: exponentials / exponentials.sum(),
        Outputs.LABELS: 1 / (1 + np.exp(-logits)),
        Outputs.NUMBERS: np.empty(0),
    }[outputs]
    assert list(answer.probabilities.values()) == pytest.approx(list(expected), rel=1e-5)
    likely = {
        Outputs.CLASSES: (str(logits.argmax()),),
        Outputs.LABELS: tuple(str(at) for at in np.flatnonzero(logits > 0)),
        Outputs.NUMBERS: (),
    }[outputs]
    assert answer.labels == likely
    assert answer.label == (likely[0] if outputs is Outputs.CLASSES else None)
    named = {"0": logits[0], "1": logits[1], "2": logits[2]} if outputs is Outputs.NUMBERS else {}
    assert dict(answer.numbers) == named


def test_probabilities_of_half_precision_are_not_rounded_twice() -> None:
    logits = torch.tensor([3.0, 1.0, -2.0], dtype=torch.bfloat16)
    exponentials = np.exp(np.array([3.0, 1.0, -2.0]))
    found = told(logits, None, ["a", "b", "c"], Outputs.CLASSES).probabilities
    assert list(found.values()) == pytest.approx(list(exponentials / exponentials.sum()), rel=1e-6)


def test_a_model_needs_a_processor_for_each_modality() -> None:
    with pytest.raises(ConfigError, match=r"Student\.processors: found none for text"):
        Student(MultimodalModel({"text": ByteTextCNN()}, num_classes=3), {})
    assert Waveform  # a sound that is no file is one of these


# -- folders that are not to be trusted ------------------------------------------------------------------


def edited(run: Path, folder: Path, **changes: Any) -> Path:
    """A copy whose config.json was changed, and its checksum left out."""
    shutil.copytree(run / "student", folder)
    content = json.loads((folder / "config.json").read_text())
    content = {name: value for name, value in content.items() if name not in ("files", "check")}
    (folder / "config.json").write_text(json.dumps(content | changes))
    return folder


@pytest.mark.parametrize(
    "spec",
    [
        {"class_path": "antigravity.Own"},
        {"class_path": "subprocess.Popen", "init_args": {"args": ["true"]}},
        {"class_path": "lightning_distill.data.ByteTextProcessor", "init_args": {"max_length": "os.system"}},
        {"class_path": "lightning_distill.data.text.chain"},
    ],
)
def test_a_processor_from_outside_imports_nothing(run: Path, tmp_path: Path, spec: Any) -> None:
    folder = edited(run, tmp_path / "s", processors=dict.fromkeys(("image", "text", "audio"), spec))
    with pytest.raises(
        CheckpointError, match=r"classes of lightning_distill, torch\.nn only.*from_pretrained"
    ):
        Student.from_pretrained(folder)
    assert "antigravity" not in sys.modules
    assert load_student(folder).modalities == ("text", "image", "audio"), (
        "the model alone is as good as before"
    )


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"class_path": "lightning_distill.encoders.ByteTextCNN"}, "no Processor"),
        ({"class_path": "lightning_distill.export.load_student", "init_args": {"folder": "x"}}, "no class"),
        ({"class_path": "lightning_distill.cli.command.DistillationCLI"}, "no class of lightning_distill"),
        ({"class_path": "lightning_distill.data.ByteTextProcessor", "init_args": {"length": 3}}, "length"),
        (
            {"class_path": "lightning_distill.data.ByteTextProcessor", "init_args": {"max_length": "9"}},
            "no int",
        ),
        (
            {"class_path": "lightning_distill.data.ByteTextProcessor", "init_args": {"max_length": 9}},
            "max_length 8",
        ),
        ({"init_args": {}}, "no class_path"),
    ],
)
def test_a_processor_that_is_none_or_another(run: Path, tmp_path: Path, spec: Any, words: str) -> None:
    content = json.loads((run / "student" / "config.json").read_text())
    folder = edited(run, tmp_path / "s", processors=content["processors"] | {"text": spec})
    with pytest.raises(CheckpointError, match=words):
        Student.from_pretrained(folder)


def test_a_folder_of_before_says_what_to_do(run: Path, tmp_path: Path) -> None:
    folder = edited(run, tmp_path / "s", processors=None, outputs=None)
    with pytest.raises(CheckpointError, match=r"what prepares text, image, audio.*Student\(load_student"):
        Student.from_pretrained(folder)
    processors: dict[str, Processor] = {
        "image": ImageProcessor(8, max_shift=0.4, max_rotation=90, keep_aspect=True),
        "text": ByteTextProcessor(8),
        "audio": AudioProcessor(8000, 0.25, 8, max_shift=0.4),
    }
    sample = {"text": "a", "image": run.parent / "1.png", "audio": run.parent / "1.wav"}
    expected = Student.from_pretrained(run / "student").predict(sample).logits
    assert same_bits(Student(load_student(folder), processors).predict(sample).logits, expected)


@pytest.mark.parametrize("outputs", [[1], "LOGITS", {"a": 1}])
def test_outputs_that_are_none_are_refused(run: Path, tmp_path: Path, outputs: Any) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json, outputs: found .*CLASSES, LABELS, NUMBERS"):
        Student.from_pretrained(edited(run, tmp_path / "s", outputs=outputs))


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_damaged_file_is_refused(run: Path, tmp_path: Path, name: str) -> None:
    folder = Path(shutil.copytree(run / "student", tmp_path / "s"))
    raw = bytearray((folder / name).read_bytes())
    raw[len(raw) // 2] ^= 1
    (folder / name).write_bytes(raw)
    with pytest.raises(CheckpointError, match=name):
        Student.from_pretrained(folder)
