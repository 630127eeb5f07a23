"""`lightning-distill export` through the real command line, on a run of a second."""

from __future__ import annotations

import contextlib
import copy
import json
import re
import shutil
import zipfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime
import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import ModelCardData

from lightning_distill import Student
from lightning_distill.__main__ import main
from lightning_distill.data import ImageProcessor
from lightning_distill.errors import CheckpointError
from lightning_distill.export import load_student
from lightning_distill.shipping import formats
from lightning_distill.shipping.description import preparation
from lightning_distill.shipping.lineage import hub_names, lineage, shown
from lightning_distill.shipping.verification import pieces, verified, with_absences
from tests.builders import make_batch
from tests.cli.conftest import SPLITS, Project, module, project, train_once
from tests.commands.test_evaluate import ROWS, cells, with_images, write_table
from tests.data.test_text import save_bert

__all__ = ["project"]

FILES = {"README.md", "config.json", "model.onnx", "model.pt2", "model.safetensors", "verification.json"}


@pytest.fixture(scope="module")
def shipped_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a teacher `a`, a student `b` that it has taught, and the student's `b/export`."""
    folder = tmp_path_factory.mktemp("shipped")
    write_table([cells(i) for i in range(ROWS)], folder)
    for i in range(ROWS):
        picture = np.random.default_rng(i).integers(0, 256, (8, 8, 3)) // (1 + i % 2)
        cv2.imwrite(str(folder / f"{i}.png"), picture.astype(np.uint8))
    config = with_images()
    (folder / "teacher.yaml").write_text(yaml.safe_dump(config))
    train_once(folder, "teacher.yaml")
    saved = {
        "class_path": "lightning_distill.export.load_student",
        "init_args": {"folder": str(folder / "a/student")},
    }
    module(config)["teacher"] = {"class_path": "FrozenTeacher", "init_args": {"model": saved}}
    module(config)["losses"] = {"kd": {"class_path": "LogitKD"}}
    (folder / "student.yaml").write_text(yaml.safe_dump(config))
    with contextlib.chdir(folder):
        assert main(["fit", "--config", "student.yaml", "--run", "b"]) == 0
        assert main(["export", "b"]) == 0
    return folder


@pytest.fixture
def shipped(project: Project, shipped_run: Path) -> Project:
    """A copy of that folder, entered."""
    shutil.copytree(shipped_run, ".", dirs_exist_ok=True)
    return project


def files_in(folder: str) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file()}


def test_the_folder_is_a_student_and_says_what_was_compared(shipped: Project) -> None:
    assert files_in("b/export") == FILES
    ours, theirs = load_student(Path("b/student")), load_student(Path("b/export"))
    assert all(torch.equal(x, theirs.state_dict()[name]) for name, x in ours.state_dict().items())
    told = json.loads(Path("b/export/verification.json").read_text())
    assert [each["name"] for each in told["formats"]] == ["safetensors", "torch.export", "ONNX"]
    rows = [cells(i) for i in range(ROWS)]
    for each in told["formats"]:
        assert each["samples"] == sum(row[3] == "test" for row in rows)
        assert each["comparisons"] > 2 * each["samples"]
        assert each["largest_difference"] <= each["limit"] <= 1e-5
        assert {1, 7} < set(each["batch_sizes"])
        assert len(each["tokens"]) > 1
    assert told["formats"][0]["bit_equal"] is True
    assert told["versions"]["onnxruntime"] == onnxruntime.__version__


def test_the_card_is_one_for_the_hub(shipped: Project) -> None:
    card = ModelCard.load("b/export/README.md")
    assert isinstance(card.data, ModelCardData)
    card.data.to_yaml()
    assert card.data.library_name == "lightning_distill"
    assert {"knowledge-distillation", "multimodal", "onnx", "text", "image"} <= set(card.data.tags or [])
    results = {each.metric_name: each for each in card.data.eval_results or []}
    assert set(results) == {"accuracy", "macro_f1", "calibration_error"}
    assert results["macro_f1"].metric_type == "f1"
    assert results["accuracy"].dataset_split == "test"
    assert "license" not in card.data.to_dict()
    assert "FrozenTeacher" in card.text
    assert "a/student: image by ImageCNN, text by ByteTextCNN, fused by ConcatFusion; " in card.text
    assert "2 classes: x, y" in card.text
    assert str(Path.cwd().parent) not in Path("b/export/README.md").read_text()
    assert f"{sum(p.numel() for p in load_student(Path('b/export')).parameters()):,} parameters" in card.text


def test_the_cards_code_runs(shipped: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    text = Path("b/export/README.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 3
    shutil.copy("3.png", "b/export/photo.png")
    monkeypatch.chdir("b/export")
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {})


def test_the_terminal_says_the_three_lines(shipped: Project) -> None:
    assert shipped.run("export", "b", "--out", "deep/x", "--no-onnx", "--no-program", "--split", "val") == 0
    assert "Wrote deep/x." in shipped.out
    assert 'student = Student.from_pretrained("deep/x")' in shipped.out
    assert "0, equal bits" in shipped.out
    assert files_in("deep/x") == FILES - {"model.onnx", "model.pt2"}
    assert json.loads(Path("deep/x/verification.json").read_text())["split"] == "val"
    assert "onnx" not in Path("deep/x/README.md").read_text().lower()


def test_a_raw_file_prepared_by_the_metadata_is_what_training_evaluates(shipped: Project) -> None:
    """Every step of the recipe, by the numbers in the file, against the processor itself."""
    session = onnxruntime.InferenceSession("b/export/model.onnx")
    told = json.loads(session.get_modelmeta().custom_metadata_map["preprocessing"])["image"]
    for shape in ((8, 8), (5, 6), (9, 12), (16, 11), (40, 19), (6, 30)):
        picture = np.random.default_rng(0).integers(0, 256, (*shape, 3)).astype(np.uint8)
        cv2.imwrite("raw.png", picture)
        for size, channels, keep in ((8, 3, False), (7, 1, True)):
            processor = ImageProcessor(size, channels, keep_aspect=keep)
            recipe = told if size == 8 else preparation(processor)
            expected = processor.collate([processor.prepare(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB))])
            np.testing.assert_array_equal(prepared(Path("raw.png"), recipe)[None], expected.numpy())


def prepared(path: Path, told: dict[str, Any]) -> Any:
    """What the steps say, by a hand that has only read them."""
    size, numbers = told["settings"]["size"], told["numbers"]
    image = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_COLOR_RGB)
    assert image is not None
    if told["settings"]["keep_aspect"]:
        height, width = image.shape[:2]
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        image = image[top : top + side, left : left + side]
    if told["settings"]["channels"] == 1:
        image = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    height, width = image.shape[:2]

    def taps(side: int) -> Any:
        a = max(round(64 * (side / size - 1)), 1 / 16) / 256
        return np.array([a, 1 - 2 * a, a])

    if max(height, width) > numbers["area_above"]:
        smaller = (min(width, size), min(height, size))
        image = cv2.resize(image, smaller, interpolation=cv2.INTER_AREA)
    elif max(height, width) > numbers["smooth_above"]:
        image = cv2.sepFilter2D(image, -1, taps(width), taps(height), borderType=cv2.BORDER_REPLICATE)
    if image.shape[:2] != (size, size):
        image = cv2.resize(image, (size, size))
    return image.reshape(size, size, -1).transpose(2, 0, 1)


def test_a_licence_stays_and_what_was_added_is_not_removed(shipped: Project) -> None:
    words = ("export", "b", "--no-onnx", "--no-program")
    for name in ("model.onnx", "model.pt2"):
        Path("b/export", name).unlink()
    card = Path("b/export/README.md")
    assert "No licence is set" in card.read_text()
    card.write_text(card.read_text().replace("---\n", "---\nlicense: other\nlicense_name: ours\n", 1))
    assert shipped.run(*words) == 0
    told = ModelCard.load(card).data.to_dict()
    assert (told["license"], told["license_name"]) == ("other", "ours")
    assert "No licence is set" not in card.read_text()
    Path("b/export/.git/refs").mkdir(parents=True)
    Path("b/export/.git/HEAD").write_text("x")
    Path("b/export/notes.txt").write_text("x")
    before = files_in("b/export")
    assert "found .git, notes.txt, which export did not write" in shipped.fails(*words)
    assert files_in("b/export") == before
    shutil.rmtree("b/export/.git")
    Path("b/export/notes.txt").unlink()
    card.write_text("---\nlicense: [\n---\n")
    assert "README.md: found metadata that cannot be read" in shipped.fails(*words)


def test_a_file_that_answers_otherwise_leaves_nothing(
    shipped: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weights change between writing and comparing."""
    write = formats.write_program

    def other(program: Any, *rest: Any) -> None:
        name, bias = next((n, x) for n, x in program.state_dict.items() if "head" in n and x.ndim == 1)
        program.state_dict[name] = torch.nn.Parameter(bias + torch.tensor([1e-3, 0]))
        write(program, *rest)

    monkeypatch.setattr(formats, "write_program", other)
    before = Path("b/export/README.md").read_bytes()
    paragraph = shipped.fails("export", "b", "--out", "new", "--no-onnx", code=4)
    assert "model.pt2, read again: found a logit that differs by 0.001, where the largest is" in paragraph
    assert "--no-program" in paragraph
    assert shipped.run("export", "b", "--no-onnx") == 4
    assert Path("b/export/README.md").read_bytes() == before
    assert files_in("b/export") == FILES
    assert not Path("new").exists()
    assert not list(Path().rglob(".*partial*"))


def test_weights_that_change_on_their_way_are_seen(shipped: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = shutil.copytree

    def other(*args: Any, **options: Any) -> Any:
        folder = copy(*args, **options)
        path = Path(folder) / "model.safetensors"
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
        return folder

    monkeypatch.setattr(shutil, "copytree", other)
    assert "model.safetensors" in shipped.fails("export", "b", "--out", "new", "--no-onnx", code=4)
    assert not Path("new").exists()


def test_what_cannot_be_done_is_said(shipped: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "no such file" in shipped.fails("export", "c", code=4)
    assert "holds something else" in shipped.fails("export", "b", "--out", "a")
    monkeypatch.setattr("lightning_distill.shipping.onnx_file._NEEDED", ("onnx", "no_such_package"))
    paragraph = shipped.fails("export", "b", "--out", "new")
    assert "no package no_such_package" in paragraph
    assert "pip install 'lightning-distill[onnx]', or --no-onnx" in paragraph
    write_table([row for row in map(cells, range(ROWS)) if row[3] != "test"])
    assert "0 usable rows" in shipped.fails("export", "b", "--out", "new", "--no-onnx", code=3)


def test_no_file_names_a_folder_of_this_machine(project: Project) -> None:
    """Neither in its bytes nor in those of what is packed in it."""
    secret = Path("SECRETHOME").absolute()
    secret.mkdir()
    words = save_bert(secret / "words")

    def edit(config: dict[str, Any]) -> None:
        config["trainer"]["max_epochs"] = 1
        config["data"]["init_args"]["processors"]["text"] = {
            "class_path": "TextProcessor",
            "init_args": {"tokenizer": str(words), "max_length": 6},
        }

    assert project.fit("--run", "a", config=project.change("c.yaml", edit)) == 0
    assert project.run("export", "a") == 0, project.err
    assert {"model.onnx", "model.pt2", "tokenizer/text/tokenizer.json"} <= files_in("a/export")
    for path in (path for path in Path("a/export").rglob("*") if path.is_file()):
        parts = {"": path.read_bytes()}
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                parts |= {name: archive.read(name) for name in archive.namelist()}
        assert not [name for name, content in parts.items() if b"SECRETHOME" in content], path
    card = Path("a/export/README.md").read_text()
    assert "TextProcessor` (tokenizer words, max\\_length 6" in card
    assert "the tokenizer in tokenizer/text/ (" in card
    secret.rename("elsewhere")
    Path("a").rename("b")
    found = load_student(Path("b/export")).preprocessing
    assert found is not None
    assert found["text"]["tokenizer"] == "words", "the same of two teachers that were saved in two places"
    assert Student.from_pretrained("b/export").predict({"text": "a cat"}).label in ("x", "y")


def test_peers_are_no_absent_teacher(project: Project) -> None:
    def edit(config: dict[str, Any]) -> None:
        config["model"]["class_path"] = "MutualDistillationModule"
        student = module(config).pop("student")
        module(config)["students"] = {name: copy.deepcopy(student) for name in ("one", "two", "three")}
        module(config)["losses"] = {"kd": {"class_path": "LogitKD"}}
        config["trainer"]["max_epochs"] = 1

    assert project.fit("--run", "a", config=project.change("c.yaml", edit)) == 0
    assert project.run("export", "a", "--no-onnx", "--no-program") == 0
    card = Path("a/export/README.md").read_text()
    assert "A model trained together with 2 peers with" in card
    assert "It and 2 peers (two, three) have taught each other" in card
    assert "o teacher" not in card
    assert "- knowledge-distillation\n" in card


def test_several_domains_are_named_by_what_they_are_read_from(project: Project) -> None:
    def edit(config: dict[str, Any]) -> None:
        config["trainer"]["max_epochs"] = 1
        parts = [copy.deepcopy(config["data"]) for _ in range(3)]
        for name, part in zip(("table", "second", "third"), parts, strict=True):
            shutil.copy("table.csv", f"{name}.csv") if name != "table" else None
            part["init_args"]["source"]["init_args"]["path"] = f"{name}.csv"
        sources = {"class_path": "Domains", "init_args": {"modules": {"x": parts[0], "y": parts[1]}}}
        given = {"source": sources, "target": parts[2], "pairing": {"class_path": "Independent"}}
        config["data"] = {"class_path": "CrossDomainDataModule", "init_args": given}

    assert project.fit("--run", "a", config=project.change("c.yaml", edit)) == 0, project.err
    assert project.run("export", "a", "--no-onnx", "--no-program") == 0, project.err
    card = Path("a/export/README.md").read_text()
    paths = "; ".join(f"ManifestSource (path {name}.csv)" for name in ("table", "second", "third"))
    assert f"| source | {paths} |\n" in card
    assert "Over all domains together: x, y, target.\n" in card


def test_a_picture_that_cannot_be_read_is_gone_on_without(shipped: Project) -> None:
    bad = next(i for i in range(ROWS) if cells(i)[3] == "test" and cells(i)[1])
    Path(f"{bad}.png").write_bytes(b"nonsense")
    words = ("export", "b", "--no-onnx", "--no-program", "--out", "new")
    assert f"{bad}.png" in shipped.fails(*words, code=3)
    config = yaml.safe_load(Path("b/config.yaml").read_text())
    config["data"]["init_args"]["on_bad_sample"] = "substitute"
    Path("b/config.yaml").write_text(yaml.safe_dump(config))
    assert shipped.run(*words) == 0, shipped.err


def test_prices_can_be_exported(project: Project) -> None:
    def edit(config: dict[str, Any]) -> None:
        config["trainer"]["max_epochs"] = 15
        given = module(config)
        given["task"] = {"class_path": "Regression"}
        given["student"]["init_args"]["num_classes"] = 1
        given["optimizer"]["init_args"]["lr"] = 1.0
        source = config["data"]["init_args"]["source"]["init_args"]
        source["target"] = {"class_path": "RegressionTarget", "init_args": {"columns": ["price"]}}

    rows = [f"{'ab'[i % 2] * 3}{i},{300_000 + 100_000 * (i % 2) + i},{SPLITS[i // 2 % 4]}" for i in range(64)]
    Path("table.csv").write_text("\n".join(["text,price,split", *rows]) + "\n")
    assert project.fit("--run", "a", config=project.change("c.yaml", edit)) == 0, project.err
    assert project.run("export", "a") == 0, project.err
    told = json.loads(Path("a/export/verification.json").read_text())
    assert "1e-5 of the largest logit" in told["allowed"]
    assert told["formats"][-1]["largest_value"] > 1e5
    assert any(each["largest_difference"] > 1e-5 for each in told["formats"])
    assert all(each["relative_difference"] <= 1e-5 for each in told["formats"])
    assert told["allowed"] in Path("a/export/README.md").read_text()


def test_samples_that_a_student_cannot_read_are_left_out() -> None:
    """And the others come in batches of 1, 7 and 32, without columns that only padding fills."""
    batch = make_batch(("image", "text"), 60, {"image": [0, 3, 59]})
    found = list(pieces([batch, batch], ("image",), most=100))
    assert [len(each["sample_id"]) for each in found] == [1, 7, 32, 1, 7, 9, 1, 7, 32, 1, 2]
    ids = batch["sample_id"][batch["present"]["image"]]
    assert torch.equal(torch.cat([each["sample_id"] for each in found]), torch.cat([ids, ids])[:100])
    for each in pieces([batch], ("text",)):
        inputs = each["inputs"]["text"]
        assert isinstance(inputs, dict)
        assert inputs["input_ids"].shape[1] == int(inputs["attention_mask"].sum(dim=1).max())


def test_a_modality_is_left_out_only_where_another_remains() -> None:
    batch = make_batch(("image", "text"), 3, {"image": [1]})
    found = [{m: x.tolist() for m, x in each["present"].items()} for each in with_absences(batch)]
    assert found == [
        {"image": [True, False, True], "text": [True] * 3},
        {"image": [False] * 3, "text": [True] * 3},
    ]


def test_answers_of_another_shape_or_not_a_number_are_refused() -> None:
    batch = make_batch(size=2)
    right = torch.ones(2, 3)
    for wrong in (torch.ones(2, 2), torch.full((2, 3), torch.nan), right.double() + 1.1e-5):
        with pytest.raises(CheckpointError, match=r"x\.onnx, read again"):
            verified("ONNX", "x.onnx", lambda _: right, lambda _, x=wrong: x, [batch])  # type: ignore[misc]
    near = verified("ONNX", "x.onnx", lambda _: right, lambda _: right.double() + 0.9e-5, [batch])
    assert near.largest_difference == pytest.approx(0.9e-5)
    assert not near.bit_equal
    assert near.relative_difference == near.largest_difference
    with pytest.raises(CheckpointError, match="bit for bit"):
        verified("safetensors", "x", lambda _: right * 0, lambda _: right * -0.0, [batch], limit=0)


def test_the_limit_grows_with_large_values_of_the_same_output() -> None:
    """Prices of 400,000 beside shares below 1; a sample without a price has the limit of the others."""
    batches = [make_batch(size=2), make_batch(size=1)]
    rights = {2: torch.tensor([[4e5, 0.5], [3e5, 0.25]]), 1: torch.tensor([[0.0, 0.75]])}

    def right(batch: Any) -> torch.Tensor:
        return rights[len(batch["target"])]

    for off in ((3.9, 0.0), (-3.9, 0.9e-5)):
        change = torch.tensor(off, dtype=torch.float64)
        found = verified("ONNX", "x.onnx", right, lambda batch, x=change: right(batch) + x, batches)  # type: ignore[misc]
        assert (found.largest_value, found.limit) == (4e5, 1e-5)
        assert found.largest_difference == pytest.approx(3.9)
        assert found.relative_difference == pytest.approx(max(3.9 / 4e5, off[1]))
    for off, words in (
        ((4.1, 0.0), "4.1, where the largest is 4e"),
        ((0.0, 1.1e-5), "1.1e-05, where .* 0.75"),
    ):
        change = torch.tensor(off, dtype=torch.float64)
        with pytest.raises(CheckpointError, match=words):
            verified("ONNX", "x.onnx", right, lambda batch, x=change: right(batch) + x, batches)  # type: ignore[misc]


def test_help(project: Project) -> None:
    assert project.run("export", "--help") == 0
    assert all(option in project.out for option in ("RUN", "--out", "--no-onnx", "--no-program", "--split"))
    assert project.run("export") == 2


def test_lineage_of_teachers(tmp_path: Path) -> None:
    gone = {"class_path": "x.load_student", "init_args": {"folder": str(tmp_path / "old/student")}}
    inner = {"class_path": "a.FrozenTeacher", "init_args": {"model": gone}}
    bert = {"class_path": "a.TransformersTeacher", "init_args": {"model": "owner/bert", "modality": "text"}}
    group = {"class_path": "a.AveragedTeacher", "init_args": {"teachers": {"one": inner, "two": bert}}}
    names = [(level, text.partition(", which")[0]) for level, text in lineage(group)]
    assert names == [
        (0, "AveragedTeacher"),
        (1, "FrozenTeacher"),
        (2, "a saved model, old/student"),
        (1, "TransformersTeacher (model owner/bert)"),
    ]
    assert list(hub_names(group)) == ["owner/bert"]
    assert list(lineage(None)) == []
    assert shown("https://example.org/a/b") == "https://example.org/a/b"
