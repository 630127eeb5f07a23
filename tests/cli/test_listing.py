"""`lightning-distill list`: every part with a sentence, and what each takes."""

from __future__ import annotations

import inspect

import pytest

from lightning_distill import data, losses
from lightning_distill.shelves import SHELVES
from tests.cli.conftest import Project
from tests.shelves import SHELVES as FORMULA_SHELVES
from tests.shelves import concrete


def listed(text: str) -> dict[str, list[str]]:
    """Names by shelf."""
    blocks = [block.splitlines() for block in text.strip().split("\n\n")]
    return {block[0].partition(":")[0]: [line.split()[0] for line in block[1:]] for block in blocks}


def test_all_parts_are_listed_by_shelf(project: Project) -> None:
    assert project.run("list") == 0
    found = listed(project.out)
    assert set(found) == {"models", *SHELVES}
    for shelf in FORMULA_SHELVES:
        assert found[shelf] == sorted(cls.__name__ for cls in concrete(shelf))
    assert {"DistillationModule", "MultimodalModel", "load_student"} <= set(found["models"])
    assert {"ManifestSource", "TextDataModule", "ImageProcessor", "Shuffle"} <= set(found["data"])
    assert not {"DataSource", "MultimodalDataset", "SampleTable", "read_image"} & set(found["data"])


def test_a_line_is_the_first_sentence(project: Project) -> None:
    assert project.run("list", "losses") == 0
    assert list(listed(project.out)) == ["losses"]
    lines = {line.split()[0]: line.split(maxsplit=1)[1] for line in project.out.splitlines()[1:]}
    for name, sentence in lines.items():
        assert " ".join((inspect.getdoc(getattr(losses, name)) or "").split()).startswith(sentence)


@pytest.mark.parametrize("name", ["TextDataModule", "lightning_distill.data.TextDataModule"])
def test_a_class_shows_what_it_takes(project: Project, name: str) -> None:
    assert project.run("list", name) == 0
    assert "class_path: lightning_distill.data.TextDataModule" in project.out
    for parameter in inspect.signature(data.TextDataModule).parameters.values():
        default = "" if parameter.default is parameter.empty else f" = {parameter.default!r}"
        assert f"  {parameter.name}: {parameter.annotation}{default}\n      " in project.out


@pytest.mark.parametrize(
    ("name", "near"), [("LogitKDD", "LogitKD"), ("loses", "losses"), ("lightning_distill.losses.No", None)]
)
def test_there_is_no_such_part(project: Project, name: str, near: str | None) -> None:
    paragraph = project.fails("list", name)
    assert f"found {name}" in paragraph
    assert near is None or f"did you mean {near!r}?" in paragraph
