"""Layers of real models, captured by path: timm, transformers, and whatever wraps them."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from lightning_distill.errors import ConfigError
from lightning_distill.extraction import LayerExtractor, find_module
from lightning_distill.tokens import TokenGrid, as_map, as_tokens, map_shape, pooled_alike


def make_mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))


def captured(model: nn.Module, paths: Sequence[str], *args: Any, **inputs: Any) -> Mapping[str, Tensor]:
    extractor = LayerExtractor(model, paths)
    try:
        with extractor.capturing() as layers:
            model(*args, **inputs)
    finally:
        extractor.close()
    return layers


def hooks(model: nn.Module) -> int:
    """How many are there of ours; transformers 5 has hooks of its own."""
    there = [hook for m in model.modules() for hook in m._forward_hooks.values()]
    return sum(type(hook).__module__ == "lightning_distill.extraction" for hook in there)


class Returns(nn.Module):
    """Gives back what it was told to make of its input."""

    def __init__(self, make: Any) -> None:
        super().__init__()
        self.make = make

    def forward(self, x: Tensor) -> Any:
        return self.make(x)


class Wrapped(nn.Module):
    """A part whose output the model does not look at."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, x: Tensor) -> Tensor:
        self.part(x)
        return x


# -- what an output may be ---------------------------------------------------------------------------------


def test_several_layers_at_once_are_what_the_modules_gave() -> None:
    model, x = make_mlp(), torch.randn(5, 4)
    layers = captured(model, ["0", "2", "1"], x)
    assert list(layers) == ["0", "2", "1"]
    assert torch.equal(layers["0"], model[0](x))
    assert torch.equal(layers["1"], model[:2](x))
    assert torch.equal(layers["2"], model(x))


def test_a_path_asked_for_twice_is_captured_once() -> None:
    assert list(captured(make_mlp(), ["0", "0"], torch.randn(5, 4))) == ["0"]


@pytest.mark.parametrize(
    ("make", "path"),
    [
        (lambda x: (x, 2 * x), "part[1]"),
        (lambda x: [x, 2 * x], "part[1]"),
        (lambda x: {"a": x, "b": 2 * x}, "part[b]"),
        (lambda x: {"a": 2 * x, "loss": None}, "part"),
        (lambda x: (2 * x,), "part"),
        (lambda x: (None, 2 * x, {"cache": x}), "part"),
        (lambda x: 2 * x, "part[0]"),
    ],
)
def test_one_tensor_of_a_tuple_list_or_dict(make: Any, path: str) -> None:
    x = torch.randn(3, 2)
    assert torch.equal(captured(Wrapped(Returns(make)), [path], x)[path], 2 * x)


@pytest.mark.parametrize(
    ("make", "path", "message"),
    [
        (lambda x: (x, x), "part", r"tuple with the tensors \['0', '1'\].*PATH\[0\]"),
        (lambda x: (x, x), "part[7]", r"a tensor under '7'"),
        (lambda x: {"hidden_state": x}, "part[hidden_sate]", "did you mean 'hidden_state'"),
        (lambda x: {"a": x, "b": None}, "part[b]", r"dict with the tensors \['a'\]"),
        (lambda x: "word", "part", "output of type str"),
        (lambda x: None, "part", "output of type NoneType"),
    ],
)
def test_an_output_that_is_not_one_tensor_is_told(make: Any, path: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        captured(Wrapped(Returns(make)), [path], torch.randn(3, 2))


def test_two_entries_of_one_module() -> None:
    x = torch.randn(3, 2)
    layers = captured(Wrapped(Returns(lambda x: (x, -x))), ["part[0]", "part[1]"], x)
    assert torch.equal(layers["part[0]"], -layers["part[1]"])


def test_what_runs_in_place_behind_a_module_does_not_reach_what_was_captured() -> None:
    """torchvision and timm put ReLU(inplace=True) behind the layer that OFD reads before its ReLU."""
    norm, x = nn.BatchNorm2d(2), torch.randn(4, 2, 3, 3)
    model = nn.Sequential(norm, nn.ReLU(inplace=True))
    layers = captured(model, ["0"], x)
    assert layers["0"].min() < 0
    torch.testing.assert_close(layers["0"], norm(x))
    layers["0"].sum().backward()
    assert norm.bias.grad is not None
    torch.testing.assert_close(norm.bias.grad, torch.full((2,), 36.0))


# -- real models -------------------------------------------------------------------------------------------


def test_timm_resnet() -> None:
    import timm

    model = timm.create_model("test_resnet", pretrained=False, num_classes=3).eval()
    x = torch.randn(2, 3, 64, 64)
    layers = captured(model, ["layer1", "layer4", "bn1", "layer2.0.conv1"], x)
    assert torch.equal(layers["layer4"], model.forward_features(x))
    assert layers["bn1"].min() < 0  # before a ReLU that works in place
    assert layers["layer1"].shape[0] == 2
    assert as_map(layers["layer2.0.conv1"]).ndim == 4


def test_timm_vit_tokens_are_a_map() -> None:
    import timm

    model = timm.create_model("test_vit", pretrained=False, num_classes=3, img_size=64).eval()
    x = torch.randn(2, 3, 64, 64)
    layers = captured(model, ["blocks.1", "norm", "patch_embed"], x)
    assert torch.equal(layers["norm"], model.forward_features(x))
    side = model.patch_embed.grid_size
    grid = TokenGrid(side[0], side[1], model.num_prefix_tokens)
    tokens = layers["blocks.1"]
    found = as_map(tokens, grid)
    assert found.shape == (2, model.embed_dim, *side)
    # Patch (row, column) is token prefix + row * width + column.
    assert torch.equal(found[:, :, 1, 2], tokens[:, grid.prefix + side[1] + 2])


@pytest.fixture(scope="module")
def bert() -> Any:
    from transformers import BertConfig, BertForSequenceClassification

    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    return BertForSequenceClassification(BertConfig(vocab_size=40, num_labels=3, **sizes)).eval()


def test_transformers_text_model(bert: Any) -> None:
    words = torch.randint(0, 40, (2, 7))
    paths = ["bert[last_hidden_state]", "bert[pooler_output]", "bert.encoder.layer.0", "bert.pooler"]
    layers = captured(bert, paths, input_ids=words)
    expected = bert(input_ids=words, output_hidden_states=True).hidden_states
    assert torch.equal(layers["bert[last_hidden_state]"], expected[2])
    assert torch.equal(layers["bert.encoder.layer.0"], expected[1])
    assert torch.equal(layers["bert[pooler_output]"], layers["bert.pooler"])
    with pytest.raises(ConfigError, match=r"\['last_hidden_state', 'pooler_output'\]"):
        captured(bert, ["bert"], input_ids=words)
    assert hooks(bert) == 0


def test_transformers_image_model() -> None:
    from transformers import ViTConfig, ViTModel

    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    model = ViTModel(ViTConfig(image_size=32, patch_size=8, **sizes)).eval()
    x = torch.randn(2, 3, 32, 32)
    layers = captured(model, ["layernorm"], x)
    assert torch.equal(layers["layernorm"], model(x).last_hidden_state)
    assert as_map(layers["layernorm"], TokenGrid(4, 4)).shape == (2, 16, 4, 4)


# -- paths that lead nowhere -------------------------------------------------------------------------------


@pytest.mark.row("S2")
def test_a_wrong_path_is_an_error_with_the_near_name(bert: Any) -> None:
    with pytest.raises(
        ConfigError, match=r"of the teacher.*did you mean 'bert\.encoder\.layer\.1'"
    ) as caught:
        LayerExtractor(bert, ["bert.encoder.layers.1"], "teacher")
    assert "named_modules" in str(caught.value)
    assert hooks(bert) == 0


@pytest.mark.parametrize("path", ["", "0.weight", "forward", "3", "0..1", "0[", "[0]"])
def test_what_is_no_module_is_an_error(path: str) -> None:
    with pytest.raises(ConfigError, match="no module of that path in Sequential"):
        LayerExtractor(make_mlp(), [path])


def test_no_hook_is_left_when_one_of_the_paths_is_wrong() -> None:
    model = make_mlp()
    with pytest.raises(ConfigError):
        LayerExtractor(model, ["0", "nowhere"])
    assert hooks(model) == 0


@pytest.mark.row("S2")
def test_a_module_that_never_runs_is_an_error_with_the_near_name() -> None:
    import timm

    model = timm.create_model("test_efficientnet", pretrained=False, num_classes=3).eval()
    model.spare = nn.Linear(2, 2)
    with pytest.raises(ConfigError, match=r"layer 'spare' of the model: found a module that did not run"):
        captured(model, ["spare"], torch.randn(1, 3, 64, 64))

    class Loops(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stages = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])

        def forward(self, x: Tensor) -> Tensor:
            for stage in self.stages:
                x = stage(x)
            return x

    with pytest.raises(ConfigError, match=r"did not run; did you mean 'stages\.[01]'"):
        captured(Loops(), ["stages"], torch.randn(3, 4))


@pytest.mark.row("S2")
def test_a_module_that_runs_twice_is_an_error() -> None:
    linear = nn.Linear(4, 4)
    with pytest.raises(ConfigError, match="ran 2 times"):
        captured(nn.Sequential(linear, nn.ReLU(), linear), ["0"], torch.randn(3, 4))


# -- when things are kept ----------------------------------------------------------------------------------


def test_nothing_is_kept_outside_the_block() -> None:
    model, x = make_mlp(), torch.randn(5, 4)
    extractor = LayerExtractor(model, ["0"])
    model(x)
    with extractor.capturing() as layers:
        assert layers == {}
        model(x)
    model(2 * x)
    assert torch.equal(layers["0"], model[0](x))
    assert extractor._seen == {"0": []}


def stop(x: Tensor) -> None:
    raise ValueError("stop")


def test_each_block_starts_anew_also_after_an_error() -> None:
    model, x = make_mlp(), torch.randn(5, 4)
    extractor = LayerExtractor(model, ["0"])
    with pytest.raises(ValueError, match="stop"), extractor.capturing():
        stop(model(x))
    model(x)
    with extractor.capturing() as layers:
        model(3 * x)
    assert torch.equal(layers["0"], model[0](3 * x))
    with pytest.raises(ConfigError, match="did not run"), extractor.capturing():
        pass


def test_close_removes_the_hooks_and_only_those() -> None:
    model = make_mlp()
    calls: list[int] = []
    model[0].register_forward_hook(lambda *_: calls.append(1))
    first, second = LayerExtractor(model, ["0", "1"]), LayerExtractor(model, ["0"])
    first.close()
    assert hooks(model) == 1
    with second.capturing() as layers:
        model(torch.randn(5, 4))
    assert set(layers) == {"0"}
    second.close()
    second.close()
    assert hooks(model) == 0
    model(torch.randn(5, 4))
    assert calls == [1, 1]


def test_the_answer_is_the_same_with_hooks_and_has_the_same_gradient() -> None:
    model, x = make_mlp(), torch.randn(5, 4)
    plain = model(x)
    expected = torch.autograd.grad(plain.sum(), model.parameters())
    with LayerExtractor(model, ["0", "1"]).capturing():
        hooked = model(x)
    assert torch.equal(hooked, plain)
    for a, b in zip(torch.autograd.grad(hooked.sum(), model.parameters()), expected, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_a_hooked_model_can_be_copied_and_pickled(copied: Any) -> None:
    model, x = make_mlp(), torch.randn(5, 4)
    extractor = LayerExtractor(model, ["0"])
    twin = copied(model)
    with extractor.capturing() as layers:
        model(x)
        twin(2 * x)  # has hooks of its own, which keep nothing
    assert torch.equal(layers["0"], model[0](x))
    assert torch.equal(captured(twin, ["0"], x)["0"], model[0](x))


# -- what wraps models -------------------------------------------------------------------------------------


class Checkpointed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = make_mlp(), nn.Linear(2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = checkpoint(self.body, x, use_reentrant=False)
        return self.head(y)


def test_activation_checkpointing_captures_once_and_has_the_gradient() -> None:
    model, x = Checkpointed(), torch.randn(5, 4)
    extractor = LayerExtractor(model, ["body.0"])
    with extractor.capturing() as layers:
        out = model(x)
    (layers["body.0"].sum() + out.sum()).backward()  # recomputes the body, with its hooks
    assert extractor._seen == {"body.0": []}
    found = [p.grad for p in model.parameters()]
    plain = copy.deepcopy(model)
    plain.zero_grad()
    hidden = plain.body[0](x)
    (hidden.sum() + plain.head(plain.body[1:](hidden)).sum()).backward()
    for grad, p in zip(found, plain.parameters(), strict=True):
        torch.testing.assert_close(grad, p.grad)


def test_checkpoint_wrapper_is_looked_through() -> None:
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

    model, x = nn.Sequential(checkpoint_wrapper(make_mlp()), nn.Linear(2, 1)), torch.randn(5, 4)
    assert torch.equal(captured(model, ["0.1"], x)["0.1"], model[0][:2](x))
    assert type(find_module(model, "0")) is nn.Sequential


@pytest.mark.parametrize("ran_before", [False, True])
def test_compiled_model(ran_before: bool) -> None:
    model, x = make_mlp(), torch.randn(5, 4)
    compiled: Any = torch.compile(model, backend="eager")
    if ran_before:
        compiled(x)  # what is compiled now calls no hooks
    extractor = LayerExtractor(compiled, ["0"])
    for factor in (1, 2):
        with extractor.capturing() as layers:
            compiled(factor * x)
        torch.testing.assert_close(layers["0"], model[0](factor * x))
        compiled(x)
        assert extractor._seen == {"0": []}
    layers["0"].sum().backward()
    assert model[0].weight.grad is not None
    extractor.close()
    # As in a `test` after a `fit`: other layers of what was compiled with hooks.
    torch.testing.assert_close(captured(compiled, ["1"], x)["1"], model[:2](x))


def test_model_with_a_compiled_part() -> None:
    model, x = nn.Sequential(make_mlp(), nn.Linear(2, 1)), torch.randn(5, 4)
    model[0].compile(backend="eager")
    model(x)
    torch.testing.assert_close(captured(model, ["0.1"], x)["0.1"], torch.tanh(model[0][0](x)))
    parts: Any = [torch.compile(model[0], backend="eager"), model[1]]
    torch.testing.assert_close(captured(nn.Sequential(*parts), ["0.2"], x)["0.2"], model[0](x))


def test_a_child_that_is_called_module_is_no_wrapper() -> None:
    model = nn.ModuleDict({"module": nn.Linear(4, 3), "other": nn.Linear(3, 2)})
    assert find_module(model, "module") is model["module"]


@pytest.fixture
def process_group(tmp_path: Path) -> Iterator[None]:
    if not dist.is_gloo_available():
        pytest.skip("this PyTorch has no gloo")
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'meeting'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("process_group")
def test_ddp() -> None:
    model, x = make_mlp(), torch.randn(5, 4)
    wrapped = DistributedDataParallel(model)
    extractor = LayerExtractor(wrapped, ["0"])
    with extractor.capturing() as layers:
        out = wrapped(x)
    torch.testing.assert_close(layers["0"], model[0](x))
    (out.sum() + layers["0"].sum()).backward()
    expected = torch.autograd.grad(model(x).sum() + model[0](x).sum(), model.parameters())
    for p, grad in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, grad)
    with pytest.raises(ConfigError, match=r"did you mean '0'|such as 0, 1, 2"):
        LayerExtractor(wrapped, ["00"])


@pytest.mark.usefixtures("process_group")
def test_fsdp() -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    model, x = make_mlp(), torch.randn(5, 4)
    plain = copy.deepcopy(model)
    mesh = init_device_mesh("cpu", (1,))
    fully_shard(model[0], mesh=mesh)
    fully_shard(model, mesh=mesh)
    extractor = LayerExtractor(model, ["0", "1"])
    with extractor.capturing() as layers:
        out = model(x)
    torch.testing.assert_close(layers["0"], plain[0](x))
    torch.testing.assert_close(layers["1"], plain[:2](x))
    (out.sum() + layers["0"].sum()).backward()
    expected = torch.autograd.grad(plain(x).sum() + plain[0](x).sum(), plain.parameters())
    for p, grad in zip(model.parameters(), expected, strict=True):
        sharded: Any = p.grad
        torch.testing.assert_close(sharded.full_tensor(), grad)


# -- tokens and maps ---------------------------------------------------------------------------------------


def test_tokens_to_a_map_and_back() -> None:
    tokens, grid = torch.randn(2, 2 + 15, 8), TokenGrid(3, 5, prefix=2)
    found = as_map(tokens, grid)
    for row in range(3):
        for column in range(5):
            assert torch.equal(found[:, :, row, column], tokens[:, 2 + 5 * row + column])
    assert torch.equal(as_tokens(found), tokens[:, 2:])
    assert map_shape(tokens.shape[1:], grid) == (8, 3, 5)
    assert as_map(found, grid) is found


@pytest.mark.parametrize("grid", [None, TokenGrid(4, 4), TokenGrid(4, 4, prefix=0), TokenGrid(2, 4)])
def test_tokens_that_do_not_fit_the_grid(grid: TokenGrid | None) -> None:
    with pytest.raises(ConfigError, match="prefix \\+ height \\* width"):
        as_map(torch.randn(2, 18, 8), grid)
    with pytest.raises(ConfigError, match="feature map"):
        as_map(torch.randn(2, 8), grid)


def test_tokens_of_what_is_no_map() -> None:
    with pytest.raises(ConfigError, match="batch x channels x height x width"):
        as_tokens(torch.randn(2, 16, 8))


def test_maps_are_pooled_to_the_smaller_of_each_side() -> None:
    a, b = torch.randn(2, 3, 8, 2), torch.randn(2, 5, 4, 6)
    x, y = pooled_alike(a, b)
    assert x.shape == (2, 3, 4, 2)
    assert y.shape == (2, 5, 4, 2)
    torch.testing.assert_close(x, a.view(2, 3, 4, 2, 2).mean(dim=3))
    torch.testing.assert_close(y, b.view(2, 5, 4, 2, 3).mean(dim=4))
    assert pooled_alike(a, a)[0] is a
