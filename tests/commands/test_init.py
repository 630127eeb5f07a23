"""`lightning-distill init` through the real command line, on real files."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import cv2
import huggingface_hub.constants
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import soundfile
import yaml

from tests.cli.conftest import Project
from tests.encoders.pretrained import save_bert
from tests.test_configs import QUICK, save_tokenizer

WORDS = ("a red bird", "one green frog", "the blue fish")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Project:
    """An empty folder, entered."""
    monkeypatch.chdir(tmp_path)
    return Project(tmp_path, capfd)


def image(path: str, label: int, side: int = 20) -> str:
    picture = np.random.default_rng(label).integers(0, 60, (side, side + 4, 3), dtype=np.uint8)
    picture[:, :, label] += 150
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(path, picture)
    return path


def sound(path: str, label: int) -> str:
    time = np.arange(2400) / 8000
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.3 * np.sin(2 * np.pi * (300 + 400 * label) * time), 8000)
    return path


def write_csv(header: str, rows: list[list[str]], name: str = "table.csv") -> None:
    Path(name).write_text("\n".join([header, *map(",".join, rows)]) + "\n")


def text_rows(labels: list[str]) -> list[list[str]]:
    return [[f"{WORDS[i % 3]} number {i}", label] for i, label in enumerate(labels)]


def config(name: str = "my.yaml") -> Any:
    return yaml.safe_load(Path(name).read_text())


def source(name: str = "my.yaml") -> Any:
    return config(name)["data"]["init_args"]["source"]["init_args"]


def told(place: Project) -> str:
    """What was printed, without its line breaks."""
    return " ".join(place.out.split())


def fit(place: Project, name: str = "my.yaml", run: str = "out", *more: str) -> None:
    assert place.run("fit", "--config", name, "--run", run, *QUICK, *more) == 0, place.err


def test_the_whole_path_of_a_new_user(place: Project) -> None:
    """A CSV of image, text, audio and label; nothing is edited."""
    rows = []
    for i in range(60):
        label = i % 3
        picture = "" if i % 11 == 5 else image(f"data/img/{i}.png", label)[5:]
        clip = "" if i % 7 == 3 else sound(f"data/snd/{i}.wav", label)[5:]
        rows.append([picture, f"{WORDS[label]} number {i}", clip, "xyz"[label]])
    write_csv("picture,caption,clip,label", rows, "data/table.csv")
    assert place.run("init", "data/table.csv", "--out", "my.yaml", "--student", "image") == 0, place.err
    commands = [line.split()[1:] for line in place.out.splitlines() if line.startswith("  lightning-distill")]
    assert [words[0] for words in commands] == ["doctor", "fit", "doctor", "fit", "test", "predict"]
    for words in commands:
        more = QUICK if words[0] == "fit" else ()
        assert place.run(*words, *more) == 0, f"{words}: {place.out}{place.err}"
        assert "Ready to train" in place.out or words[0] != "doctor"
    assert Path("runs/my_student/predictions.parquet").is_file()
    teacher, student = config("my_teacher.yaml"), config("my_student.yaml")
    encoders = [c["model"]["init_args"]["student"]["init_args"]["encoders"] for c in (teacher, student)]
    assert [list(e) for e in encoders] == [["image", "text", "audio"], ["image"]]
    assert teacher["model"]["init_args"]["student"]["init_args"]["modality_dropout"] == 0.3
    # Rows without the student's modality are no error: only the teacher reads the others.
    data = student["data"]["init_args"]
    assert list(data["processors"]) == ["image"]
    assert list(data["teacher_processors"]) == ["text", "audio"]
    assert data["processors"]["image"]["init_args"]["size"] == 32
    sounds = data["teacher_processors"]["audio"]["init_args"]
    assert (sounds["sample_rate"], sounds["seconds"]) == (8000, 0.3)


@pytest.mark.parametrize("split", [False, True])
def test_class_folders_of_images(place: Project, split: bool) -> None:
    for i in range(45):
        folder = ("train", "val", "test")[i // 3 % 3] + "/" if split else ""
        image(f"pets/{folder}{'abc'[i % 3]}/{i}.png", i % 3)
    assert place.run("init", "pets", "--out", "my.yaml") == 0, place.err
    assert source()["splitter"]["class_path"] == ("ColumnSplit" if split else "RandomSplit")
    assert config()["model"]["init_args"]["student"]["init_args"]["num_classes"] == 3
    fit(place)


def test_class_folders_of_sounds(place: Project) -> None:
    for i in range(40):
        sound(f"birds/{'ab'[i % 2]}/{i}.wav", i % 2)
    assert place.run("init", "birds", "--out", "my.yaml") == 0, place.err
    assert config()["data"]["class_path"] == "AudioDataModule"
    fit(place)


@pytest.mark.parametrize("separator", ["|", ";", "; "])
def test_multilabel(place: Project, separator: str) -> None:
    labels = [separator.join(("a", "b", "c")[: 1 + i % 3]) for i in range(60)]
    write_csv("text,label", text_rows(labels))
    assert place.run("init", "table.csv", "--out", "my.yaml") == 0, place.err
    assert source()["target"] == {
        "class_path": "MultiLabel",
        "init_args": {"column": "label", "separator": separator},
    }
    assert config()["checkpoint"] == {"monitor": "val/macro_f1", "mode": "max"}
    if separator == "|":
        fit(place)
        assert "val/macro_f1" in Path("out/metrics.csv").read_text()


def test_regression(place: Project) -> None:
    write_csv("text,target", text_rows([f"{i / 7:.3f}" for i in range(60)]))
    assert place.run("init", "table.csv", "--out", "my.yaml") == 0, place.err
    assert source()["target"] == {"class_path": "RegressionTarget", "init_args": {"columns": ["target"]}}
    assert config()["checkpoint"] == {"monitor": "val/mae", "mode": "min"}
    fit(place)
    assert "val/rmse" in Path("out/metrics.csv").read_text()


@pytest.mark.parametrize(
    ("labels", "term"),
    [
        (["|".join(("a", "b", "c")[: 1 + i % 3]) for i in range(60)], "MultilabelKD"),
        ([f"{i / 7:.3f}" for i in range(60)], "RegressionKD"),
    ],
)
def test_a_student_of_other_tasks_is_distilled_too(place: Project, labels: list[str], term: str) -> None:
    rows = [[image(f"{i}.png", i % 3), *row] for i, row in enumerate(text_rows(labels))]
    write_csv("image,text,label", rows)
    assert place.run("init", "table.csv", "--out", "my.yaml", "--student", "text") == 0, place.err
    fit(place, "my_teacher.yaml", "runs/my_teacher")
    fit(place, "my_student.yaml", "out")
    assert config("my_student.yaml")["model"]["init_args"]["losses"]["kd"] == {"class_path": term}
    assert "val/kd" in Path("out/metrics.csv").read_text()


@pytest.mark.parametrize(
    ("labels", "kind"),
    [
        ([str(i % 10) for i in range(80)], "SingleLabel"),
        ([f"{i % 2}.0" for i in range(80)], "SingleLabel"),  # whole numbers that passed through pandas
        ([str(i) for i in range(80)], "RegressionTarget"),
        ([f"{i % 4}.5" for i in range(80)], "RegressionTarget"),
        (["-1.5e3" if i % 2 else "2" for i in range(80)], "SingleLabel"),
    ],
)
def test_numbers_are_classes_or_quantities(place: Project, labels: list[str], kind: str) -> None:
    write_csv("text,label", text_rows(labels))
    assert place.run("init", "table.csv", "--out", "my.yaml") == 0, place.err
    assert source()["target"]["class_path"] == kind


@pytest.mark.parametrize("suffix", ["tsv", "jsonl", "parquet"])
def test_other_tables(place: Project, suffix: str) -> None:
    rows = text_rows(["cat" if i % 2 else "dog" for i in range(60)])
    if suffix == "tsv":
        Path("table.tsv").write_text("\n".join(["text\tkind", *map("\t".join, rows)]) + "\n")
    elif suffix == "jsonl":
        lines = [json.dumps({"text": text, "kind": kind}) for text, kind in rows]
        Path("table.jsonl").write_text("\n".join(lines) + "\n")
    else:
        texts, kinds = zip(*rows, strict=True)
        columns = {"text": texts, "kind": kinds, "blob": [b"x"] * 60}
        pyarrow.parquet.write_table(pa.table(columns), "table.parquet")
    assert place.run("init", f"table.{suffix}", "--out", "my.yaml") == 0, place.err
    assert ("blob (of the type binary)" in told(place)) == (suffix == "parquet")
    assert source()["target"]["init_args"] == {"column": "kind"}  # the only column of a few short values
    fit(place)


@pytest.mark.parametrize("splits", [False, True])
def test_tar_shards(place: Project, splits: bool) -> None:
    """As WebDataset writes them: members of a sample share their name up to the first dot."""
    Path("shards").mkdir()
    for part in ("train", "val", "test"):
        with tarfile.open(f"shards/{part if splits else 'all'}-{part}.tar", "w") as file:
            for i in range(30):
                image(f"tmp/{part}{i}.png", i % 2)
                Path(f"tmp/{part}{i}.cls").write_text("cd"[i % 2])
                Path(f"tmp/{part}{i}.txt").write_text(f"{WORDS[i % 3]} {part} {i}")
                for ending in ("png", "cls", "txt"):
                    file.add(f"tmp/{part}{i}.{ending}", f"{part}{i}.{ending}")
    assert place.run("init", "shards", "--out", "my.yaml", "--student", "image") == 0, place.err
    found = source("my_teacher.yaml")
    assert found["modalities"] == {"image": "png", "text": "txt"}
    assert isinstance(found["shards"], dict) == splits
    fit(place, "my_teacher.yaml", "runs/my_teacher")
    assert place.run("doctor", "-c", "my_student.yaml") == 0, place.out


@pytest.mark.parametrize("splits", [False, True])
def test_a_saved_hugging_face_data_set(place: Project, splits: bool) -> None:
    datasets = pytest.importorskip("datasets", reason="the extra huggingface is not installed")
    features = datasets.Features(
        picture=datasets.Image(),
        sentence=datasets.Value("string"),
        kind=datasets.ClassLabel(names=["dog", "cat", "cow"]),
        when=datasets.Value("timestamp[s]"),
    )

    def part(name: str) -> Any:
        rows = []
        for i in range(40):
            data = Path(image(f"tmp/{name}{i}.png", i % 2)).read_bytes()
            text = f"{WORDS[i % 3]} {name} {i}"
            rows.append({"picture": {"bytes": data}, "sentence": text, "kind": i % 2, "when": i})
        return datasets.Dataset.from_list(rows, features=features)

    if splits:
        datasets.DatasetDict(train=part("a"), validation=part("b")).save_to_disk("saved")
    else:
        part("a").save_to_disk("saved")
    assert place.run("init", "saved", "--out", "my.yaml", "--label", "kind") == 0, place.err
    assert source()["modalities"] == {"image": "picture", "text": "sentence"}
    assert ("splitter" in source()) != splits
    assert "when (the type timestamp[s])" in told(place)
    # The class that no row has is an output as well: the data set names it.
    assert config()["model"]["init_args"]["student"]["init_args"]["num_classes"] == 3
    fit(place)


def test_columns_are_known_by_name_whatever_their_case(place: Project) -> None:
    rows = [[f"{WORDS[i % 3]} {i}", "ab"[i % 2], f"s{i % 10}", "pq"[i % 2], f"n{i}", ""] for i in range(60)]
    write_csv("Caption,Label,Speaker,Domain,sample_id,unused", rows)
    assert place.run("init", "table.csv", "--out", "my.yaml") == 0, place.err
    assert source()["columns"] == {"class_path": "ManifestColumns", "init_args": {"domain": "Domain"}}
    assert source()["splitter"]["class_path"] == "GroupSplit"
    assert source()["splitter"]["init_args"]["column"] == "Speaker"
    assert "sample_id is the sample id" in told(place)
    assert "unused (empty)" in told(place)
    fit(place)


def test_the_fuller_of_two_image_columns(place: Project) -> None:
    rows = [
        [image(f"a/{i}.png", 0) if i % 2 else "", image(f"b/{i}.png", 0), "xy"[i // 2 % 2]] for i in range(40)
    ]
    write_csv("front,back,label", rows)
    assert place.run("init", "table.csv", "--out", "my.yaml") == 0, place.err
    assert source()["modalities"] == {"image": "back"}
    assert "front (a second image; back is as full or fuller)" in told(place)


def test_paths_of_files_that_are_not_there_are_named(place: Project) -> None:
    rows = [[f"gone/{i}.png", f"{WORDS[i % 3]} {i}", "xy"[i % 2]] for i in range(40)]
    write_csv("photo,text,label", rows)
    assert place.run("init", "table.csv", "--out", "my.yaml") == 0, place.err
    assert source()["modalities"] == {"text": "text"}
    assert "photo (paths of image files, 0% of which are in" in told(place)
    write_csv("photo,label", [[row[0], row[2]] for row in rows])
    error = place.fails("init", "table.csv", "--out", "other.yaml")
    assert "photo: paths of image files, 0% of which" in error


def test_a_split_column(place: Project) -> None:
    splits = ("train", "train", "dev", "test")
    rows = [[*row, splits[i // 2 % 4]] for i, row in enumerate(text_rows(["a", "b"] * 30))]
    write_csv("text,label,Subset", rows)
    assert place.run("init", "table.csv", "--out", "my.yaml") == 0, place.err
    assert source()["splitter"] == {"class_path": "ColumnSplit", "init_args": {"column": "Subset"}}
    fit(place)
    write_csv("text,label,split", [[*row[:2], "train" if row[2] == "dev" else row[2]] for row in rows])
    error = place.fails("init", "table.csv", "--out", "other.yaml", code=3)
    assert "no val rows (" in error
    assert "to 'val'" in error
    write_csv("text,label,split", [[*row[:2], row[2].upper()] for row in rows])
    assert place.run("init", "table.csv", "--out", "other.yaml") == 0, place.err
    assert "split (no split, since it holds 'TRAIN'" in told(place)
    assert source("other.yaml")["splitter"]["class_path"] == "RandomSplit"
    fit(place, "other.yaml", "other")


def test_few_rows_still_make_three_splits(place: Project) -> None:
    write_csv("text,label", text_rows(["a", "b"] * 8))
    assert place.run("init", "table.csv", "--out", "my.yaml") == 0, place.err
    fit(place)
    write_csv("text,label,group", [[*row, f"g{i % 2}"] for i, row in enumerate(text_rows(["a", "b"] * 8))])
    error = place.fails("init", "table.csv", "--out", "other.yaml", code=3)
    assert "16 rows in few groups of column 'group'" in error


def test_groups_are_drawn_so_that_all_classes_and_most_rows_train(place: Project) -> None:
    """Twelve speakers, each of whom says one of three words."""
    rows = [
        [text, ("one", "two", "six")[i % 3], f"s{i % 12}"]
        for i, (text, _) in enumerate(text_rows([""] * 120))
    ]
    write_csv("text,label,speaker", rows)
    assert place.run("init", "table.csv", "--out", "my.yaml") == 0, place.err
    assert place.run("doctor", "-c", "my.yaml") == 0, place.out
    counts = {line.split()[0]: line.split()[1:] for line in place.out.splitlines() if line.strip()}
    assert int(counts["train"][0]) >= 60
    assert all(int(count) > 0 for count in (*counts["train"][:2], *counts["val"][:2], *counts["test"][:2]))
    assert all(int(counts[name][0]) > 0 for name in ("one", "two", "six"))


def test_what_cannot_be_told_is_asked_for(place: Project) -> None:
    rows = [[f"{WORDS[i % 3]} {i}", "ab"[i % 2], "xy"[i // 2 % 2]] for i in range(40)]
    write_csv("text,colour,shape", rows)
    error = place.fails("init", "table.csv", "--out", "my.yaml")
    assert "2 columns that could be the label: colour, shape" in error
    assert "--label COLUMN" in error
    assert "did you mean 'shape'?" in place.fails("init", "table.csv", "--out", "my.yaml", "--label", "shpe")
    assert place.run("init", "table.csv", "--out", "my.yaml", "--label", "shape") == 0, place.err
    assert source()["target"]["init_args"] == {"column": "shape"}
    write_csv("text,number", [[row[0], str(i)] for i, row in enumerate(rows)])
    assert "no column that could be the label" in place.fails("init", "table.csv", "--out", "other.yaml")
    write_csv("text,label", [[row[0], f"name {i}"] for i, row in enumerate(rows)])
    assert "40 different texts in 40" in place.fails("init", "table.csv", "--out", "other.yaml")


def test_an_existing_file_is_kept(place: Project) -> None:
    write_csv("text,label", text_rows(["a", "b"] * 30))
    Path("my.yaml").write_text("precious")
    assert "--overwrite" in place.fails("init", "table.csv", "--out", "my.yaml")
    assert Path("my.yaml").read_text() == "precious"
    assert place.run("init", "table.csv", "--out", "my.yaml", "--overwrite") == 0, place.err
    assert config()["trainer"]
    assert {path.name for path in Path().iterdir()} == {"my.yaml", "table.csv"}


def test_both_of_a_pair_or_none(place: Project) -> None:
    rows = [[image(f"{i}.png", 0), *row] for i, row in enumerate(text_rows(["a", "b"] * 30))]
    write_csv("image,text,label", rows)
    Path("my_student.yaml").write_text("precious")
    words = ("init", "table.csv", "--out", "my.yaml", "--student")
    assert "my_student.yaml, which is there" in place.fails(*words, "image")
    assert not Path("my_teacher.yaml").exists()
    assert "image, text" in place.fails(*words, "image,text")
    assert "did you mean 'image'?" in place.fails(*words, "imge")


def test_wrong_words(place: Project) -> None:
    write_csv("text,label", text_rows(["a", "b"] * 30))
    assert "did you mean 'table.csv'?" in place.fails("init", "tabel.csv", "--out", "my.yaml")
    assert "ends in .yaml" in place.fails("init", "table.csv", "--out", "my.txt")
    Path("photo.xyz").write_text("?")
    assert ".parquet" in place.fails("init", "photo.xyz", "--out", "my.yaml", code=3)
    Path("empty").mkdir()
    assert "no image and no sound" in place.fails("init", "empty", "--out", "my.yaml", code=3)
    Path("broken.csv").write_text("text,label\na,b,c\n")
    assert "row 2" in place.fails("init", "broken.csv", "--out", "my.yaml", code=3)
    assert place.run("init", "--help") == 0
    assert all(option in place.out for option in ("--out", "--student", "--label", "--overwrite"))


def test_names_that_would_break_yaml(place: Project) -> None:
    name = "a: {#b}\u2028*c"
    rows = [[f"{WORDS[i % 3]} {i}", "y" if i % 2 else "[no"] for i in range(60)]
    lines = [json.dumps({"text": text, "label": label, name: "x"}) for text, label in rows]
    Path("table.jsonl").write_text("\n".join(lines) + "\n")
    assert place.run("init", "table.jsonl", "--out", "my.yaml") == 0, place.err
    assert "\u2028" not in Path("my.yaml").read_text() + place.out
    fit(place)


def test_a_text_model_on_disk_is_used(place: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the folder where the hub's own library keeps what it has downloaded."""
    hub = place.folder / "hub"
    repo = hub / "models--sentence-transformers--all-MiniLM-L6-v2"
    save_tokenizer(save_bert(repo / "snapshots" / "abc"))
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("abc")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(hub))
    write_csv("text,label", text_rows(["a", "b"] * 30))
    assert place.run("init", "table.csv", "--out", "my.yaml") == 0, place.err
    model = "sentence-transformers/all-MiniLM-L6-v2"
    assert f"the weights of {model} are on disk" in told(place)
    encoders = config()["model"]["init_args"]["student"]["init_args"]["encoders"]
    assert encoders["text"] == {
        "class_path": "TransformersTextEncoder",
        "init_args": {"model": model, "pretrained": True},
    }
    assert config()["data"]["init_args"]["processors"]["text"]["init_args"]["tokenizer"] == model
