"""Mistyped names are found before torch is loaded, in the words of the parser; nothing else is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from lightning_distill.cli import names
from lightning_distill.cli.early import check_names, keys
from lightning_distill.cli.parsing import parsed
from lightning_distill.errors import ConfigError
from tests.cli.conftest import Config, Project, module
from tests.cli.test_mistakes import IN_A_FILE, distil, student
from tests.test_configs import EXPERIMENTS

LATE = (
    "key in a callable's callable",
    "class in a callable's callable",
    "mapping under a wrong key",
    "key in the task head",
)
"""In what the model makes later, from sizes."""
FOUND = (
    "module key",
    "key in a loss",
    "key in an encoder",
    "key in a callable",
    "key in the data",
    "module class",
    "loss class",
    "loss class with its path",
    "encoder class",
    "data class",
    *LATE,
)
"""The mistakes of `test_mistakes` that are names of this package."""


@pytest.mark.parametrize("name", FOUND)
def test_mistyped_names_are_found(project: Project, name: str) -> None:
    edit, where, parts = IN_A_FILE[name]
    with pytest.raises(ConfigError) as early:
        check_names(["fit", "--config", project.change("mistake.yaml", edit)])
    place, _, told = str(early.value).partition(": found ")
    assert "mistake.yaml" in place
    assert where in place
    assert all(part.removeprefix("found ") in told for part in parts)


SAME = ("key in a loss", "key in a callable", "module class", "encoder class", *LATE)


@pytest.mark.parametrize("name", SAME)
def test_the_paragraph_is_that_of_the_parser(
    project: Project, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["fit", "--config", project.change("mistake.yaml", IN_A_FILE[name][0])]
    with pytest.raises(ConfigError) as early:
        check_names(words)
    every = names.subclasses
    # Which classes of tests are loaded depends on what ran before.
    monkeypatch.setattr(
        names, "subclasses", lambda kind: (c for c in every(kind) if not c.__module__.startswith("tests."))
    )
    late = project.fails(*words)
    assert late == f"error: {early.value}"


def test_a_key_of_the_command(project: Project) -> None:
    file = project.change("mistake.yaml", IN_A_FILE["top key"][0])
    with pytest.raises(ConfigError, match=r"mistake\.yaml, line 40: found 'modle'; .* mean 'model'\?"):
        check_names(["doctor", "-c", file])


OUTSIDE = ("no such module", "no such module of a callable")
"""Classes of packages that a config may not name."""


@pytest.mark.parametrize("name", OUTSIDE)
def test_packages_from_outside_are_found(project: Project, name: str) -> None:
    with pytest.raises(ConfigError, match=r"mistake\.yaml, line \d+, .* found 'mine\..* add --allow mine"):
        check_names(["fit", "--config", project.change("mistake.yaml", IN_A_FILE[name][0])])


@pytest.mark.parametrize("name", sorted(set(IN_A_FILE) - {*FOUND, *OUTSIDE, "top key"}))
def test_other_mistakes_are_left_to_the_parser(project: Project, name: str) -> None:
    check_names(["fit", "--config", project.change("mistake.yaml", IN_A_FILE[name][0])])


@pytest.mark.parametrize("key", ["fusion", "head"])
def test_a_key_without_its_class(project: Project, key: str) -> None:
    """The parser takes it, and fails where it would call it."""
    file = project.change("empty.yaml", lambda c: student(c).update({key: None}))
    line = 1 + [text.strip() for text in Path(file).read_text().splitlines()].index(f"{key}: null")
    kind = {"fusion": "FusionHead", "head": "TaskHead"}[key]
    with pytest.raises(ConfigError) as told:
        check_names(["fit", "-c", file])
    place = f"empty.yaml, line {line}, model.student.{key}"
    assert str(told.value).startswith(f"{place}: found nothing; expected a {kind}. To fix: name one")
    check_names(["fit", "-c", project.change("free.yaml", lambda c: student(c).update(feature_clip=None))])


def test_no_yaml(project: Project) -> None:
    Path("broken.yaml").write_text("a: [1,\nb: 2")
    with pytest.raises(ConfigError, match=r"broken\.yaml: found YAML that cannot .* look at line 3"):
        check_names(["fit", "-c", "broken.yaml"])


@pytest.mark.parametrize("text", ["hello", "- a", "", "a: 2026-13-45"])
def test_what_is_no_mapping_is_left_to_the_parser(project: Project, text: str) -> None:
    Path("odd.yaml").write_text(text)
    check_names(["fit", "--config=odd.yaml", "-c", "nowhere.yaml", "--config", "."])


def odd_keys(config: Config) -> None:
    """Keys that the parser reads in a way of its own."""
    config.update({"trainer.max_epochs": 3, "config": "small.yaml", "fit": {"trainer": {}}})
    config["model"].update(dict_kwargs={"foo": 3})
    module(config).update({"student.init_args.num_classes": 3}, __path__="x", __orig__=3)


def other_paths(config: Config) -> None:
    """Other ways to name the same."""
    distil(config, class_path="lightning_distill.losses.logit_kd.LogitKD")
    config["model"].update(class_path="lightning_distill.DistillationModule")
    module(config)["losses"].update(kd2="LogitKD")
    student(config).update(fusion="part.yaml")
    module(config).update(student=student(config))  # its only class need not be named
    config["data"]["init_args"].update(num_workers=0, in_memory=True)  # of the base class
    summary = {"class_path": "ModelSummary", "init_args": {"max_depth": 2}}
    config["trainer"].update(callbacks=[summary, {"class_path": "RichProgressBar"}])


def other_packages(config: Config) -> None:
    """A term of a file beside the config, which brings another one with it, known by a short name."""
    distil(config)
    first = {"class_path": "early_terms.Mine", "init_args": {"strength": 2.0}}
    module(config)["losses"].update(first=first, second={"class_path": "Other"})


@pytest.mark.parametrize("edit", [odd_keys, other_paths, other_packages])
def test_what_the_parser_accepts_is_accepted(
    project: Project, edit: Callable[[Config], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(".")
    monkeypatch.setenv("LIGHTNING_DISTILL_ALLOW", "early_terms")
    Path("part.yaml").write_text("class_path: ConcatFusion\n")
    Path("early_terms.py").write_text(
        "from lightning_distill.losses import LogitKD\n"
        "class Mine(LogitKD):\n    def __init__(self, strength: float):\n        super().__init__(strength)\n"
        "class Other(LogitKD):\n    pass\n"
    )
    words = ["fit", "--config", project.change("fine.yaml", edit)]
    assert parsed(words)["model"]
    check_names(words)


def test_pieces_of_a_config(project: Project) -> None:
    piece = {"model": {"init_args": {"student": {"init_args": {"num_classes": 3}}}}}
    Path("piece.yaml").write_text(yaml.safe_dump(piece))
    words = ["fit", "-c", "small.yaml", "-c", "piece.yaml", "--model.losses.kd=LogitKD"]
    assert parsed(words)["model"]["init_args"]["student"]["init_args"]["num_classes"] == 3
    check_names(words)


def test_a_short_name_may_come_from_the_command_line(project: Project) -> None:
    file = project.change("other.yaml", lambda c: distil(c, class_path="Other"))
    check_names(["fit", "-c", file, "--model.losses.first=early_terms.Mine"])
    with pytest.raises(ConfigError, match="found 'Other'; expected"):
        check_names(["fit", "-c", file, "--trainer.max_epochs", "3"])


@pytest.mark.parametrize("config", EXPERIMENTS, ids=lambda p: p.stem)
def test_configs_are_accepted(config: Path) -> None:
    check_names(["fit", "--config", str(config)])


@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict"])
def test_keys_are_those_of_the_parser(project: Project, command: str) -> None:
    paragraph = project.fails(command, "--config", project.change("top.yaml", lambda c: c.update(zz=1)))
    told = paragraph.partition("expected one of ")[2].partition(". To fix")[0].split(", ")
    assert told == sorted(keys(command))
