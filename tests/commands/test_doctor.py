"""`lightning-distill doctor` through the real command line: each kind of finding, and all of them at once."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from lightning_distill.data import ManifestSource
from tests.cli.conftest import SPLITS, Config, Project, module, project, trained, trained_run

__all__ = ["project", "trained", "trained_run"]


class Dying(ManifestSource):
    """A decoder that takes the process with it."""

    def load(self, modality: str, row: int) -> Any:
        if row == 3:
            os.abort()
        return super().load(modality, row)


class Doctor:
    """Changes the small config and runs the doctor on it."""

    def __init__(self, project: Project) -> None:
        self.project = project

    def __call__(self, *words: str, code: int = 0, change: Callable[[Config], None] | None = None) -> str:
        """What was printed, without its line breaks."""
        name = "small.yaml" if change is None else self.project.change("changed.yaml", change)
        found = self.project.run("doctor", "-c", name, *words)
        assert found == code, self.project.out + self.project.err
        assert "Traceback" not in self.project.out + self.project.err
        assert all(len(line) <= 80 for line in self.project.out.splitlines())
        return " ".join(self.project.out.split())

    def count(self, level: str) -> int:
        """Findings of a level that were printed; the summary must agree."""
        shown = len(re.findall(rf"^{level} ", self.project.out, re.MULTILINE))
        assert re.search(rf"\b{shown} {level}s?[,.]", self.project.out), self.project.out
        return shown


@pytest.fixture
def doctor(project: Project) -> Doctor:
    return Doctor(project)


def write_table(rows: list[list[str]], header: str = "text,label,split") -> None:
    Path("table.csv").write_text("\n".join([header, *map(",".join, rows)]) + "\n")


def text_rows(count: int = 64) -> list[list[str]]:
    return [["ab"[i % 2] * 3 + str(i), "xy"[i % 2], SPLITS[i // 2 % 4]] for i in range(count)]


def data(config: Config) -> Config:
    found: Config = config["data"]["init_args"]
    return found


def source(config: Config) -> Config:
    found: Config = data(config)["source"]["init_args"]
    return found


def with_images(config: Config) -> None:
    """Text and image, as `write_images` makes them."""
    encoder = {"class_path": "ImageCNN", "init_args": {"channels": 3, "width": 4, "embedding_dim": 8}}
    module(config)["student"]["init_args"]["encoders"]["image"] = encoder
    config["data"]["class_path"] = "ImageTextDataModule"
    data(config)["processors"]["image"] = {"class_path": "ImageProcessor", "init_args": {"size": 8}}
    source(config)["modalities"]["image"] = "image"


def write_images(bad: range = range(0)) -> None:
    rows = []
    for i, row in enumerate(text_rows()):
        cv2.imwrite(f"{i}.png", np.full((9, 10 + i, 3), i, np.uint8))
        if i in bad:
            Path(f"{i}.png").write_text("<html>")
        rows.append([f"{i}.png", *row])
    write_table(rows, "image,text,label,split")


def with_teacher(config: Config, folder: str = "a/student") -> None:
    loader = {"class_path": "lightning_distill.export.load_student", "init_args": {"folder": folder}}
    module(config)["teacher"] = {"class_path": "FrozenTeacher", "init_args": {"model": loader}}
    module(config)["losses"] = {"kd": {"class_path": "LogitKD", "init_args": {"temperature": 2.0}}}


# -- a sound config -------------------------------------------------------------------------------------


def test_nothing_is_wrong_and_nothing_is_changed(doctor: Doctor) -> None:
    before = {path.name for path in Path().iterdir()}
    told = doctor()
    assert "0 errors, 0 warnings, 0 notes. Ready to train." in told
    assert "train 32 32 text 32 val 16 16 text 16 test 16 16 text 16" in told  # samples, labels, modalities
    assert "x 16 8 8 y 16 8 8" in told
    assert "64 of 64 samples read" in told
    assert "training, an epoch" in told
    assert {path.name for path in Path().iterdir()} == before


def test_memory_is_what_parameters_and_adam_take(doctor: Doctor) -> None:
    """float32: 4 bytes a parameter, as much for its gradient, two moments of Adam."""
    wide = 2000
    encoder = {"class_path": "ByteTextCNN", "init_args": {"width": 8, "embedding_dim": wide}}

    def change(config: Config) -> None:
        module(config)["student"]["init_args"]["encoders"]["text"] = encoder

    told = doctor(change=change)
    count = 259 * 8 + 2 * (8 * 8 * 3 + 8) + (8 * wide + wide) + (2 * wide + 2)
    assert f"trained parameters {4 * count / 1e6:.1f} MB their gradients {4 * count / 1e6:.1f} MB" in told
    assert f"optimizer state {8 * count / 1e6:.1f} MB" in told


def test_the_config_of_a_run_and_settings_on_the_line(doctor: Doctor, trained: Project) -> None:
    project = doctor.project
    assert project.run("doctor", "--run", "a", "--samples", "10", "--workers", "0") == 0, project.err
    assert "10 of 64 samples read" in project.out
    assert "val/acc" in doctor("--checkpoint.monitor", "val/acc", code=2)


# -- the config -----------------------------------------------------------------------------------------


def test_a_config_that_does_not_parse(doctor: Doctor) -> None:
    project = doctor.project
    assert "did you mean 'optimizer'?" in project.fails(
        "doctor", "-c", "small.yaml", "--model.optimiser.lr", "1"
    )
    assert "nothing.yaml" in project.fails("doctor", "-c", "nothing.yaml")
    assert "--config FILE" in project.fails("doctor")
    assert "--samples 0" in project.fails("doctor", "-c", "small.yaml", "--samples", "0")
    assert project.run("doctor", "--help") == 0
    assert all(option in project.out for option in ("--config", "--all", "--samples", "--workers", "--run"))


def test_everything_is_told_at_once(doctor: Doctor) -> None:
    """Trainer, teacher, data, processor and monitor: none hides another."""

    def change(config: Config) -> None:
        with_teacher(config, "nowhere/student")
        config["trainer"]["devices"] = 0
        config["checkpoint"] = {"monitor": "val/acuracy"}
        source(config)["path"] = "tabel.csv"
        tokenizer = {"class_path": "TextProcessor", "init_args": {"tokenizer": "no/tokenizer"}}
        data(config)["processors"]["text"] = tokenizer

    told = doctor(change=change, code=2)
    for part in ("devices", "nowhere/student", "tabel.csv", "no/tokenizer", "did you mean 'val/accuracy'?"):
        assert part in told
    assert doctor.count("error") == 5
    assert "Training would fail" in told


def test_settings_that_contradict_each_other(doctor: Doctor) -> None:
    def change(config: Config) -> None:
        module(config)["clip_rule"] = {"class_path": "ValueClip", "init_args": {"epsilon": 1.0}}
        config["trainer"]["gradient_clip_val"] = 1.0
        module(config)["student"]["init_args"]["num_classes"] = 3
        module(config)["task"] = {"class_path": "Regression"}

    told = doctor(change=change, code=2)
    for part in ("gradient_clip_val", "num_classes", "targets that hold one class a sample"):
        assert part in told


def test_a_metric_that_the_task_does_not_have(doctor: Doctor) -> None:
    write_table([[text, f"{i}.5", split] for i, (text, _, split) in enumerate(text_rows())])

    def change(config: Config) -> None:
        module(config)["task"] = {"class_path": "Regression"}
        module(config)["student"]["init_args"]["num_classes"] = 1
        source(config)["target"] = {"class_path": "RegressionTarget", "init_args": {"columns": ["label"]}}
        config["early_stopping"] = {"monitor": "val/macro_f1"}
        config["checkpoint"] = {"monitor": "val/r2", "mode": "min"}

    told = doctor(change=change, code=2)
    assert "early_stopping.monitor found 'val/macro_f1', which is not logged" in told
    assert "val/mae, val/r2, val/rmse" in told
    assert doctor.count("error") == 1


def test_the_wrong_direction(doctor: Doctor) -> None:
    told = doctor(change=lambda c: c.update(checkpoint={"monitor": "val/loss", "mode": "max"}))
    assert "checkpoint.mode found max, for val/loss expected min" in told
    told = doctor(change=lambda c: c.update(checkpoint={"monitor": "val/accuracy", "mode": "min"}))
    assert "checkpoint.mode found min, for val/accuracy expected max" in told
    assert doctor.count("warning") == 1


def test_an_encoder_and_a_processor_that_do_not_fit(doctor: Doctor) -> None:
    write_images()

    def change(config: Config) -> None:
        with_images(config)
        data(config)["processors"]["image"]["init_args"]["channels"] = 1

    assert "an encoder with channels 3, and a processor with channels 1" in doctor(change=change, code=2)
    assert doctor.count("error") == 1
    assert doctor.count("note") == 1  # that no batch was tried


def test_an_encoder_without_a_processor(doctor: Doctor) -> None:
    def change(config: Config) -> None:
        with_images(config)
        del data(config)["processors"]["image"]
        config["data"]["class_path"] = "TextDataModule"
        source(config)["modalities"] = {"text": "text"}

    assert "model.student.encoders.image" in doctor(change=change, code=2)


# -- the teacher ----------------------------------------------------------------------------------------


def test_a_teacher_of_other_classes_and_other_preprocessing(doctor: Doctor) -> None:
    assert doctor.project.fit("--run", "a", "--data.source.target.class_path", "SingleLabel") == 0

    def change(config: Config) -> None:
        with_teacher(config)
        target = {"class_path": "SingleLabel", "init_args": {"classes": ["y", "x"]}}
        source(config)["target"] = target
        data(config)["processors"]["text"]["init_args"]["max_length"] = 9

    told = doctor(change=change, code=2)
    assert "found a processor with max_length 9 expected max_length 8" in told
    assert doctor.count("error") == 1  # classes in another order are found by name


def test_a_teacher_that_cannot_read_some_samples(doctor: Doctor) -> None:
    write_images()

    def teacher(config: Config) -> None:
        with_images(config)
        del module(config)["student"]["init_args"]["encoders"]["text"]

    doctor.project.change("teacher.yaml", teacher)
    assert doctor.project.fit("--run", "a", config="teacher.yaml") == 0, doctor.project.err
    rows = [["" if i == 1 else f"{i}.png", *row] for i, row in enumerate(text_rows())]
    write_table(rows, "image,text,label,split")

    def change(config: Config) -> None:
        with_images(config)
        with_teacher(config)
        del module(config)["student"]["init_args"]["encoders"]["image"]

    told = doctor(change=change, code=3)
    assert "none of the modalities the teacher reads (image); so it is in 1 of 32 samples" in told
    assert "row 3" in told


def test_a_sound_teacher(doctor: Doctor, trained: Project) -> None:
    told = doctor(change=with_teacher)
    assert "0 errors, 0 warnings" in told
    assert re.search(r"teacher 0\.\d MB", told)


# -- the table ------------------------------------------------------------------------------------------


def test_all_faults_of_a_table(doctor: Doctor) -> None:
    """What `fit` counts as further faults is listed here."""
    rows = [[*row, "", "1"] for row in text_rows()]
    rows[0][1] = " x"  # blanks around a label
    rows[1][4] = "-1"  # a weight
    rows[2][3] = " d"  # a domain
    rows[3][0] = ""  # no modality
    write_table(rows, "text,label,split,domain,weight")
    told = doctor(code=3)
    for part in ("row 2, column 'label'", "column 'weight'", "column 'domain'", "row 5, column 'text'"):
        assert part in told
    assert doctor.count("error") == 4
    error = doctor.project.fails("fit", "--config", "small.yaml", code=3)
    assert "(3 more faults: lightning-distill doctor lists all)" in error


def test_a_split_without_rows(doctor: Doctor) -> None:
    write_table([[text, label, "train" if split == "val" else split] for text, label, split in text_rows()])
    assert "split 'val' found 0 usable rows of 64" in doctor(code=3)
    write_table([[text, label, "train" if split == "test" else split] for text, label, split in text_rows()])
    doctor()
    assert doctor.count("warning") == 1


def test_L3_a_class_that_training_never_sees(doctor: Doctor) -> None:
    write_table([[text, label if split != "train" else "x", split] for text, label, split in text_rows()])
    told = doctor(code=3)
    assert "32 labelled samples, all of the class 'x'" in told
    rows = text_rows()
    write_table([*rows, ["ccc", "z", "val"]])

    def three(config: Config) -> None:
        module(config)["student"]["init_args"]["num_classes"] = 3

    told = doctor(change=three)
    assert "no sample of 1 of 3 classes: 'z'; the other splits have 1" in told
    assert doctor.count("warning") == 1
    assert doctor.count("note") == 1  # nor does the test split have one


def test_no_labels(doctor: Doctor) -> None:
    rows = text_rows()
    write_table([[text, "" if split == "train" else label, split] for text, label, split in rows])
    assert "32 samples, none with a label" in doctor(code=3)
    write_table([[text, "" if split == "val" else label, split] for text, label, split in rows])
    told = doctor()
    assert "early_stopping.monitor found 'val/accuracy', and no validation sample with a label" in told
    assert doctor.count("warning") == 2


def test_a_rare_class_is_a_note(doctor: Doctor) -> None:
    rows = [[f"a{i}", "x", "train"] for i in range(60)]
    write_table([*text_rows(), *rows, *[[f"c{i}", "z", ("train", "val", "test")[i]] for i in range(3)]])

    def three(config: Config) -> None:
        module(config)["student"]["init_args"]["num_classes"] = 3

    told = doctor(change=three)
    assert "the largest class has 76 samples, the smallest 1" in told
    assert "ClassBalanced" in told


def test_leaks_and_groups(doctor: Doctor) -> None:
    rows = [[*row, f"s{i % 6}"] for i, row in enumerate(text_rows())]
    rows[-1][0] = rows[0][0]
    write_table(rows, "text,label,split,speaker")
    told = doctor()
    assert "rows 2 (train) and 65 (test) are the same sample" in told
    assert "column 'speaker' found 6 of 6 groups are in several splits" in told
    assert doctor.count("warning") == 2
    write_table(
        [[*row[:3], row[2] + str(i % 8)] for i, row in enumerate(text_rows())], "text,label,split,speaker"
    )
    doctor()
    assert doctor.count("warning") == 0


# -- samples --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", ["0", "2"])
def test_files_that_do_not_decode(doctor: Doctor, workers: str) -> None:
    write_images(bad=range(3))
    told = doctor("--all", "--workers", workers, change=with_images, code=3)
    for i in range(3):
        assert f"row {i + 2}, column 'image' found {i}.png: an HTML page" in told
    assert doctor.count("error") == 3
    assert "image width 61 13 43 73" in told  # of the 61 others: least, median, most
    assert "training, an epoch" in told  # and yet the rest is looked at


def test_some_files_and_all_of_them(doctor: Doctor) -> None:
    write_images(bad=range(40))
    doctor("--samples", "16", change=with_images, code=3)
    some = doctor.count("error")
    doctor("--samples", "16", change=with_images, code=3)
    assert some == doctor.count("error") < 17  # the same ones
    told = doctor("--all", change=with_images, code=3)
    assert "20 more samples that cannot be read, 40 in all" in told
    assert doctor.count("error") == 21


def test_A6_a_decoder_that_ends_the_process(doctor: Doctor) -> None:
    def change(config: Config) -> None:
        data(config)["source"]["class_path"] = f"{__name__}.Dying"

    told = doctor("--workers", "1", "--samples", "64", change=change, code=3)
    assert "error table.csv, row 5 found a process that died while it read this" in told
    assert "64 of 64 samples read" not in told


def test_texts_that_are_cut(doctor: Doctor) -> None:
    rows = text_rows()
    write_table([[text * 5 if i < 32 else text, *rest] for i, (text, *rest) in enumerate(rows)])
    told = doctor()
    assert "data, text cut at 8 tokens found 50.0% of the texts lose their ends" in told
    assert doctor.count("warning") == 1


# -- a training batch -----------------------------------------------------------------------------------


def test_numbers_that_overflow(doctor: Doctor) -> None:
    write_table([[text, "3e30", split] for text, _, split in text_rows()])

    def change(config: Config) -> None:
        module(config)["task"] = {"class_path": "Regression"}
        module(config)["student"]["init_args"]["num_classes"] = 1
        source(config)["target"] = {"class_path": "RegressionTarget", "init_args": {"columns": ["label"]}}

    told = doctor(change=change, code=5)
    assert "the term 'task' not finite" in told


def test_a_step_that_fails_is_one_finding(doctor: Doctor) -> None:
    """An error of torch's, that no check of ours foresees."""

    def change(config: Config) -> None:
        both = {"lr": 0.1, "fused": True, "foreach": True}
        optimizer = {"class_path": "torch.optim.SGD", "init_args": both}
        module(config)["optimizer"] = optimizer

    told = doctor(change=change, code=1)
    assert "one training batch found RuntimeError: `fused` and `foreach` cannot be `True` together" in told
    assert doctor.count("error") == 1


def test_a_rule_finds_encoders_by_the_names_it_finds_in_training(doctor: Doctor) -> None:
    def rule(modality: str) -> Callable[[Config], None]:
        rules = {modality: {"class_path": "NormClip"}}
        spec = {"class_path": "PerModality", "init_args": {"rules": rules}}
        return lambda config: module(config).update(clip_rule=spec)

    doctor(change=rule("text"))
    assert doctor.count("error") == 0
    assert "did you mean 'text'?" in doctor(change=rule("txt"), code=2)


def test_a_balancer_that_the_student_does_not_suit(doctor: Doctor) -> None:
    def change(config: Config) -> None:
        module(config)["gradient_balancer"] = {"class_path": "OGMGE", "init_args": {"alpha": 0.5}}

    assert "found a student of text expected two modalities or more" in doctor(change=change, code=2)
    assert doctor.count("error") == 1


def test_what_is_kept_in_memory(doctor: Doctor) -> None:
    """uint8 images of 3 x 100 x 100 for 48 samples of train and val, and some bytes of text."""
    write_images()

    def change(config: Config) -> None:
        with_images(config)
        data(config)["processors"]["image"]["init_args"]["size"] = 100
        data(config)["in_memory"] = True

    told = doctor(change=change)
    kept = re.search(r"samples in memory (\d\.\d) MB, .{1,9} to read them once", told)
    assert kept is not None
    assert float(kept[1]) == pytest.approx(48 * 30_000 / 1e6, abs=0.1)


# -- other data -----------------------------------------------------------------------------------------


def test_a_stream(doctor: Doctor) -> None:
    datasets = pytest.importorskip("datasets", reason="the extra huggingface is not installed")
    Path("parts").mkdir()
    for split, count in (("train", 60), ("validation", 20)):
        rows = [{"text": text, "label": label} for text, label, _ in text_rows(count)]
        datasets.Dataset.from_list(rows).to_parquet(f"parts/{split}.parquet")

    def change(config: Config) -> None:
        target = {"class_path": "SingleLabel", "init_args": {"classes": ["x", "y"]}}
        init_args = {"path": "parts", "modalities": {"text": "text"}, "target": target}
        data(config)["source"] = {"class_path": "HuggingFaceStream", "init_args": init_args}

    told = doctor(change=change)
    assert "a stream, whose samples are neither counted nor decoded" in told
    assert "to read in one process" in told
    told = doctor("--data.batch_size", "100", change=change, code=3)
    assert "found none: a stream leaves its last, incomplete batch out" in told


def test_a_data_module_of_somebody_else(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIGHTNING_DISTILL_ALLOW", "lightning.pytorch.demos")

    def change(config: Config) -> None:
        config["data"] = {"class_path": "lightning.pytorch.demos.boring_classes.BoringDataModule"}

    told = doctor(change=change)
    assert "a BoringDataModule, which does not tell what its samples are" in told
