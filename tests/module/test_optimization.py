"""Groups of parameters, decay by layer, warm-up; each also through the command line."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import transformers
from timm.optim import param_groups_layer_decay
from torch import nn

from lightning_distill.errors import ConfigError
from lightning_distill.learning_rates import WarmupCosine
from lightning_distill.losses import LogitKD
from lightning_distill.optimization import GroupedOptimizer, ParameterGroup, layers_above, make_optimizer
from tests.builders import make_data, make_model, make_trainer
from tests.cli.conftest import Project, module, project  # noqa: F401 - a fixture
from tests.cli.test_command_line_wins import last
from tests.module.parts import SGD, Follow, make_module, supervised
from tests.module.test_optimizer import Rates

DECAYING = partial(torch.optim.AdamW, lr=0.1, weight_decay=0.3)


def settings(model: Any, factory: GroupedOptimizer) -> dict[str, tuple[float, float]]:
    """Name -> (learning rate, weight decay)."""
    optimizer = make_optimizer(factory, model)
    names = {id(p): name for name, p in model.named_parameters()}
    return {
        names[id(p)]: (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for p in group["params"]
    }


def test_the_longest_prefix_wins() -> None:
    groups = [
        ParameterGroup("encoders.a.linear", 0.01),
        ParameterGroup("encoders", 0.5),
        ParameterGroup("head", 2.0, 0.1),
    ]
    found = settings(supervised(), GroupedOptimizer(DECAYING, groups))
    assert found["student.encoders.a.linear.weight"] == pytest.approx((0.001, 0.3))
    assert found["student.encoders.a.linear.bias"] == pytest.approx((0.001, 0.0))
    assert found["student.encoders.b.linear.weight"] == pytest.approx((0.05, 0.3))
    assert found["student.encoders.a.norm.weight"] == pytest.approx((0.05, 0.0))
    assert found["student.head.weight"] == pytest.approx((0.2, 0.1))
    assert set(found) == {name for name, _ in supervised().named_parameters()}


def test_vectors_may_decay_too_and_adaptors_have_a_name() -> None:
    student = make_module(losses={"kd": LogitKD(), "hint": Follow()})
    factory = GroupedOptimizer(DECAYING, [ParameterGroup("terms", 3.0)], decay_vectors=True)
    found = settings(student, factory)
    assert found["terms.losses.hint.project.bias"] == pytest.approx((0.3, 0.3))
    assert found["student.head.bias"] == pytest.approx((0.1, 0.3))


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224"])
def test_layers_of_timm_are_timms(name: str) -> None:
    backbone = timm.create_model(name, num_classes=0)
    encoder = nn.ModuleDict({"backbone": backbone})
    factor = {f"backbone.{n}": 0.5**above for n, above in layers_above(backbone).items()}
    assert {n: 0.5**above for n, above in layers_above(encoder).items()} == factor
    names = {id(p): f"backbone.{n}" for n, p in backbone.named_parameters()}
    theirs = {
        names[id(p)]: group["lr_scale"]
        for group in param_groups_layer_decay(backbone, layer_decay=0.5)
        for p in group["params"]
    }
    assert factor == pytest.approx(theirs)


def test_layers_of_transformers() -> None:
    config = transformers.BertConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=3, num_attention_heads=2, intermediate_size=8
    )
    above = layers_above(transformers.BertModel(config, add_pooling_layer=False))
    assert above["embeddings.word_embeddings.weight"] == 3
    assert above["encoder.layer.0.output.dense.weight"] == 2
    assert above["encoder.layer.2.attention.self.query.bias"] == 0


def test_decay_by_layer_meets_the_factor_of_the_group() -> None:
    student = supervised()
    student.student.encoders["a"].linear = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8))
    factory = GroupedOptimizer(DECAYING, [ParameterGroup("encoders.a", 0.1)], layer_decay=0.5)
    found = settings(student, factory)
    rates = {name.removeprefix("student."): rate for name, (rate, _) in found.items()}
    assert rates["encoders.a.norm.weight"] == pytest.approx(0.01)
    assert rates["encoders.a.linear.2.weight"] == pytest.approx(0.005)
    assert rates["encoders.a.linear.0.weight"] == pytest.approx(0.0025)
    assert rates["head.weight"] == pytest.approx(0.1)


def test_a_prefix_that_names_nothing() -> None:
    with pytest.raises(
        ConfigError, match=r"'encoders.c', under which nothing is trained; did you mean 'encoders"
    ):
        make_optimizer(GroupedOptimizer(SGD, [ParameterGroup("encoders.c")]), supervised())


@pytest.mark.parametrize(
    "options",
    [
        {"layer_decay": 0.0},
        {"layer_decay": 1.5},
        {"groups": [ParameterGroup("head"), ParameterGroup("head", 0.5)]},
        {"groups": [ParameterGroup("head", -1.0)]},
    ],
)
def test_settings_that_cannot_be(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="GroupedOptimizer"):
        GroupedOptimizer(SGD, **options)


@pytest.mark.parametrize(("interval", "epochs"), [("step", 2), ("epoch", 4)])
def test_warmup_lasts_as_long_as_training(tmp_path: Path, interval: Any, epochs: int) -> None:
    rates = Rates()
    student = supervised(
        optimizer=SGD, lr_scheduler=partial(WarmupCosine, warmup_steps=1), scheduler_interval=interval
    )
    size = 14 if interval == "step" else 28  # four steps in all
    make_trainer(tmp_path, max_epochs=epochs, callbacks=[rates]).fit(student, make_data(batch_size=size))
    assert rates.seen == pytest.approx([0.05, 0.1, 0.075, 0.025])


def test_a_warmup_that_is_too_long(tmp_path: Path) -> None:
    student = supervised(optimizer=SGD, lr_scheduler=partial(WarmupCosine, warmup_steps=9))
    with pytest.raises(ConfigError, match="9 of 2 steps"):
        make_trainer(tmp_path, max_epochs=2).fit(student, make_data())
    with pytest.raises(ConfigError, match="a training without an end"):
        make_trainer(tmp_path, max_epochs=-1, max_time={"seconds": 0}).fit(student, make_data())


def test_a_warmup_without_an_end() -> None:
    optimizer = SGD(make_model().parameters())
    schedule = WarmupCosine(optimizer, 0)
    optimizer.step()
    with pytest.raises(ConfigError, match="total_steps"):
        schedule.step()
    with pytest.raises(ConfigError, match="final_share"):
        WarmupCosine(optimizer, 0, 5, final_share=2.0)


GROUPED = {
    "class_path": "lightning_distill.optimization.GroupedOptimizer",
    "init_args": {
        "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.01, "weight_decay": 0.2}},
        "groups": [{"prefix": "encoders.text", "lr_factor": 0.1}, {"prefix": "head", "weight_decay": 0.0}],
        "layer_decay": 0.5,
    },
}
WARMUP = {"class_path": "lightning_distill.learning_rates.WarmupCosine", "init_args": {"warmup_steps": 2}}
UNFREEZING = {
    "class_path": "lightning_distill.callbacks.GradualUnfreezing",
    "init_args": {"schedule": {1: ["encoders.text"]}},
}


def all_of_it(config: dict[str, Any]) -> None:
    module(config).update(optimizer=GROUPED, lr_scheduler=WARMUP, scheduler_interval="step")
    config["trainer"]["callbacks"] = [UNFREEZING]


def test_all_of_it_from_the_config(project: Project) -> None:  # noqa: F811
    name = project.change("all.yaml", all_of_it)
    words = ("--model.optimizer.optimizer.lr", "0.02")
    assert project.fit("--run", "a", *words, config=name) == 0, project.err
    groups = last("a")["optimizer_states"][0]["param_groups"]
    bases = {round(group["initial_lr"], 6) for group in groups}
    assert max(bases) == 0.02
    assert 0.002 in bases
    assert {group["weight_decay"] for group in groups} == {0.0, 0.2}
    assert last("a")["lr_schedulers"][0]["total_steps"] == 8
    assert all(group["lr"] == pytest.approx(0, abs=1e-9) for group in groups)
    assert project.run("fit", "--run", "a", "--resume", "auto", "--trainer.max_epochs", "3") == 0, project.err
    assert last("a")["global_step"] == 12
    assert last("a")["lr_schedulers"][0]["total_steps"] == 12


@pytest.mark.parametrize("key", ["optimizer", "unfreezing"])
def test_a_wrong_prefix_in_the_config(project: Project, key: str) -> None:  # noqa: F811
    def edit(config: dict[str, Any]) -> None:
        all_of_it(config)
        if key == "optimizer":
            optimizer: Any = {**GROUPED["init_args"], "groups": [{"prefix": "encoders.txt"}]}  # type: ignore[dict-item]
            module(config)["optimizer"] = {**GROUPED, "init_args": optimizer}
        else:
            config["trainer"]["callbacks"] = [
                {**UNFREEZING, "init_args": {"schedule": {1: ["encoders.txt"]}}}
            ]

    name = project.change("wrong.yaml", edit)
    assert "did you mean 'encoders.text" in project.fails("fit", "--config", name, "--run", "a")
