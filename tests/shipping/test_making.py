"""What a description becomes without a parser is what the parser of configs makes of it."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import jsonargparse
import pytest
from torch import nn

from lightning_distill.model import MultimodalModel
from lightning_distill.security import allowed
from lightning_distill.shipping.making import make
from tests.builders import weights_of
from tests.shipping.making_parts import Colour, Holder, Mask, Part, Unknown

HOME = "tests.shipping.making_parts"
TRUSTED = ("lightning_distill", "torch.nn", "tests")


def spec(name: str, /, **init_args: Any) -> dict[str, Any]:
    return {"class_path": name if "." in name else f"{HOME}.{name}", "init_args": init_args}


def parsed(description: Any, base: type) -> Any:
    """By jsonargparse as delivered: other tests may have told it what it may import."""
    with allowed.kept():
        allowed._restore(allowed._as_delivered())
        parser = jsonargparse.ArgumentParser(exit_on_error=False)
        parser.add_subclass_arguments(base, "it")
        return parser.instantiate(parser.parse_object({"it": description})).it


def plain(value: Any) -> Any:
    """What can be compared of an object; what makes something is told by what it makes."""
    if isinstance(value, Part):
        told = {
            name: plain(item) for name, item in value.told.items() if name not in ("make_part", "several")
        }
        makes = plain(value.told["make_part"](5)) if "make_part" in value.told else None
        return type(value), told, makes, plain(list(value.told.get("several", ())))
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return (type(value), repr(value)) if isinstance(value, nn.Module) else (type(value), value)


ALIKE = [
    spec("Part", count=3, share=1, name="a", place="x/y", colour="BLUE", kind="b", sizes=[1, 2]),
    spec("Part", name=None, place=None),
    spec("Holder", part=spec("Holder", part=spec("Part", count=2)), count=7),
    spec(
        "Holder",
        parts={"a": spec("Part"), "b": spec("Holder")},
        several=[spec("torch.nn.ReLU"), spec("Part")],
    ),
    spec("Holder", make_part=spec("Part", share=2), act=spec("torch.nn.LeakyReLU", negative_slope=0.5)),
    spec("Holder", mask={"share": 0.25}),
    spec("Holder", anything=spec("torch.nn.ReLU")),
    spec("Holder", part=f"{HOME}.Part"),
    spec("Holder", part=spec("made_part", count=3)),
    spec("Holder", anything={"a": [1, None, "text"]}),
]


@pytest.mark.parametrize("description", ALIKE)
def test_it_is_what_the_parser_makes(description: Any) -> None:
    ours = plain(make(description, Part, TRUSTED))
    theirs = plain(parsed(copy.deepcopy(description), Part))  # it changes what it is given
    assert ours == theirs


def test_values_become_what_the_constructor_wants() -> None:
    told = make(ALIKE[0], Part, TRUSTED).told
    assert told == {
        "count": 3,
        "share": 1.0,
        "name": "a",
        "place": Path("x/y"),
        "colour": Colour.BLUE,
        "kind": "b",
        "sizes": (1, 2),
    }
    assert isinstance(told["share"], float)
    held = make(spec("Holder", mask={"share": 1}, make_part=spec("Part", share=2)), Holder, TRUSTED).told
    assert held["mask"] == Mask(1.0)
    assert held["make_part"](5).told["count"] == 5
    assert held["make_part"](5).told["share"] == 2.0


def test_types_that_cannot_be_told_are_walked() -> None:
    made = make(spec("Unknown", layers={"a": spec("torch.nn.ReLU")}), Part, TRUSTED)
    assert isinstance(made, Unknown)
    assert isinstance(made.told["layers"]["a"], nn.ReLU)


@pytest.mark.parametrize(
    ("description", "words"),
    [
        (spec("Part", count="3"), "count: '3', no int"),
        (spec("Part", count=True), "count: True, no int"),
        (spec("Part", count=2.5), r"count: 2\.5, no int"),
        (spec("Part", colour="GREEN"), "colour: 'GREEN', none of RED, BLUE"),
        (spec("Part", kind="c"), "kind: 'c', none of"),
        (spec("Part", sizes=3), "sizes: 3, no list"),
        (spec("Part", sizes=[1, "2"]), "sizes: '2', no int"),
        (spec("Holder", parts=[1]), r"parts: \[1\], no mapping"),
        (spec("Holder", parts={"a": spec("torch.nn.ReLU")}), "parts: a: .*ReLU, no Part"),
        (spec("Holder", part=3), "part: 3, no class_path"),
        (spec("Holder", part={"class_path": f"{HOME}.Part", "other": 1}), "no class_path"),
        (spec("Holder", part=spec("untold", count=1)), "untold, no Part"),
        (spec("Holder", make_part="part.yaml"), "part.yaml', no class of"),
        (spec("Holder", act=spec("Mask")), "act: .*cannot be called"),
        (spec("Holder", act="os.system"), "act: 'os.system', no class of"),
        (spec("Holder", anything=spec("subprocess.Popen")), "Popen', no class of"),
        (spec("Holder", anything=spec("lightning_distill.cli.command.DistillationCLI")), "no class of"),
        (spec("Holder", anything=spec("lightning_distill.export.load_student")), "no class"),
        (spec("Holder", anything=spec(f"{HOME}.Path")), "which is pathlib.Path, no class of"),
        (spec("torch.nn.ReLU"), "no Part"),
        (spec("antigravity.Part"), "no class of lightning_distill"),
        (spec(f"{HOME}.Nothing"), "Nothing', no class"),
        (spec("..Part"), "no class of"),
        ("Part", "no class of"),
        ([], r"\[\], no class_path"),
        (None, "None, no class_path"),
    ],
)
def test_what_it_refuses(description: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make(description, Part, TRUSTED)
    assert "antigravity" not in sys.modules


def test_unknown_names_are_told() -> None:
    with pytest.raises(TypeError, match="cuont"):
        make(spec("Part", cuont=3), Part, TRUSTED)


CLIP = {"class_path": "lightning_distill.feature_clipping.HardClip", "init_args": {"epsilon": 1}}
HEADS: list[dict[str, Any]] = [
    spec("lightning_distill.fusion.ConcatFusion"),
    spec("lightning_distill.fusion.GatedFusion", output_dim=8),
    spec("lightning_distill.fusion.LearnedPlaceholders", fusion=spec("lightning_distill.fusion.GatedFusion")),
]


@pytest.mark.parametrize("fusion", HEADS)
def test_models_have_the_same_parts(fusion: dict[str, Any]) -> None:
    description = spec(
        "lightning_distill.MultimodalModel",
        num_classes=3,
        encoders={
            "image": spec("lightning_distill.encoders.ImageCNN", width=4),
            "text": spec("lightning_distill.encoders.ByteTextCNN", width=8),
        },
        fusion=fusion,
        feature_clip=CLIP,
        modality_clips={"text": CLIP},
        head=spec("lightning_distill.heads.MLPHead", dropout=0),
        unimodal_heads=True,
    )
    ours, theirs = (
        make(description, MultimodalModel, TRUSTED),
        parsed(copy.deepcopy(description), MultimodalModel),
    )
    assert str(ours) == str(theirs)
    shapes = [{name: x.shape for name, x in weights_of(model).items()} for model in (ours, theirs)]
    assert shapes[0] == shapes[1]
