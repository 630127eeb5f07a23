"""Students that teach each other."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from lightning_distill import MutualDistillationModule, load_student
from lightning_distill.callbacks import StudentExport
from lightning_distill.clipping import ValueClip
from lightning_distill.errors import ConfigError, NonFiniteError
from lightning_distill.losses import RKD, LayerLoss, LogitKD, ProxyKD
from lightning_distill.losses import Hint as LayerHint
from lightning_distill.model import MultimodalModel
from lightning_distill.optimization import GroupedOptimizer
from lightning_distill.structures import UNLABELLED, Batch, ModelOutput
from lightning_distill.tasks import Multilabel
from tests.builders import (
    Notebook,
    VectorEncoder,
    VectorProcessor,
    VectorSource,
    make_batch,
    make_data,
    make_model,
    make_trainer,
    same_bits,
    weights_of,
)
from tests.cli.conftest import Project, project, small_config
from tests.module.parts import ADAM, Follow, Spy, TargetSource, Told, several

__all__ = ["project"]  # a fixture

THREE = {"one": ("a",), "two": ("b",), "both": ("a", "b")}


def make_students(names: tuple[str, ...] = tuple(THREE), **options: Any) -> dict[str, MultimodalModel]:
    return {name: make_model(THREE[name], **options) for name in names}


class Leaky(LayerLoss):
    """Squared distance of layers of one width, which leaves it to others to stop the gradient."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(names, names)

    def forward(self, student: ModelOutput, teacher: ModelOutput, batch: Batch) -> Tensor:
        found = [(student.at(n) - teacher.at(n)).square().mean() for n in ("logits", *self.student_layers)]
        return torch.stack(found).sum()


def mutual(**options: Any) -> MutualDistillationModule:
    defaults: dict[str, Any] = {"losses": {"kd": LogitKD(1.0)}, "optimizer": ADAM}
    students = {} if "students" in options else {"students": make_students(("one", "two"))}
    return MutualDistillationModule(**(defaults | students | options))


def exact(module: MutualDistillationModule) -> tuple[MutualDistillationModule, Batch]:
    """In float64 and in eval mode, without dropout, with a batch that lacks a label."""
    torch.manual_seed(3)
    batch = make_batch(size=8)
    batch["target"][2] = UNLABELLED
    batch["inputs"] = {m: x.double() for m, x in batch["inputs"].items() if isinstance(x, Tensor)}
    return module.double().eval(), batch


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    known = target != UNLABELLED
    p = logits.exp() / logits.exp().sum(dim=1, keepdim=True)
    return -p[known, target[known]].log().mean()


def divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 KL(teacher || student), by its definition."""
    p, q = (
        (x / temperature).exp() / (x / temperature).exp().sum(dim=1, keepdim=True) for x in (teacher, student)
    )
    return temperature**2 * (p * (p / q).log()).sum(dim=1).mean()


@pytest.mark.parametrize("names", [("one", "two"), ("one", "two", "both")])
def test_gradients_are_those_of_sums_made_by_hand(names: tuple[str, ...]) -> None:
    """Each peer alone, against logits of the others that are plain numbers."""
    seed_everything(1, verbose=False)
    weights: dict[str, Any] = {"task": 0.7, "soft": 1.3, "hard": 0.4}
    module, batch = exact(
        mutual(
            students=make_students(names),
            losses={"soft": LogitKD(3.0), "hard": LogitKD(1.0)},
            weights=weights,
        )
    )
    terms = module.peer_terms(module.answers(batch), batch)
    total = module.total(terms)
    total.backward()  # type: ignore[no-untyped-call]
    peers, expected = module.peers, 0.0
    assert tuple(peers) == names
    assert peers[names[0]] is module.student
    said = {name: peer(batch).logits.detach() for name, peer in peers.items()}
    for name, peer in peers.items():
        z, others = peer(batch).logits, [logits for other, logits in said.items() if other != name]
        kl = {t: sum(divergence(z, o, t) for o in others) / len(others) for t in (3.0, 1.0)}
        loss = 0.7 * cross_entropy(z, batch["target"]) + 1.3 * kl[3.0] + 0.4 * kl[1.0]
        parameters = list(peer.parameters())
        for p, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            assert p.grad is not None
            torch.testing.assert_close(p.grad, gradient, rtol=1e-9, atol=1e-12)
        assert any(bool(p.grad.abs().max() > 1e-4) for p in parameters if p.grad is not None)
        expected += loss.item()
    assert total.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("layer", ["logits", "embedding", "features.a", "encoders.a.linear"])
def test_no_gradient_reaches_the_peer_one_learns_from(layer: str) -> None:
    module, batch = exact(
        mutual(students={"x": make_model(("a",)), "y": make_model(("a",))}, losses={"leaky": Leaky([layer])})
    )
    for pair in module._pairs.values():
        pair.read_layers([layer], ())
    terms = module.peer_terms(module.answers(batch), batch)
    terms["x/leaky"].backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is None for p in module.peers["y"].parameters())
    assert any(p.grad is not None and bool(p.grad.any()) for p in module.peers["x"].parameters())


def test_c2kd_teaches_both_ways() -> None:
    """Rows both rank alike, by hand: the divergence over all classes but the target."""
    module, batch = exact(mutual(losses={"proxy": ProxyKD(threshold=-1.0)}))
    batch["target"] = torch.arange(8) % 3
    answers = module.answers(batch)
    terms = module.peer_terms(answers, batch)
    z = {name: answer.logits for name, answer in answers.items()}
    for mine, other in (("one", "two"), ("two", "one")):
        total = 0.0
        for row, target in enumerate(batch["target"].tolist()):
            rest = [c for c in range(3) if c != target]
            s, t = z[mine][row].tolist(), z[other][row].tolist()
            discordant = [(s[i] - s[j]) * (t[i] - t[j]) < 0 for i, j in ((0, 1), (0, 2), (1, 2))]
            if all(discordant):
                continue
            q = [math.exp(s[c]) / sum(math.exp(s[d]) for d in rest) for c in rest]
            p = [math.exp(t[c]) / sum(math.exp(t[d]) for d in rest) for c in rest]
            total += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
        assert total > 0
        assert terms[f"{mine}/proxy"].item() == pytest.approx(total / 8, rel=1e-9)
    module.total(terms).backward()  # type: ignore[no-untyped-call]
    for peer in module.peers.values():
        assert peer.head.weight.grad is not None
        assert bool(peer.head.weight.grad.any())


def test_one_optimizer_and_one_clip_rule_hold_all_peers(tmp_path: Path) -> None:
    spy = Spy()
    module = mutual(students=make_students(), clip_rule=spy)
    before = weights_of(module)
    trainer = make_trainer(tmp_path)
    trainer.fit(module, make_data())
    (optimizer,) = trainer.optimizers
    stepped = {p.data_ptr() for group in optimizer.param_groups for p in group["params"]}
    assert stepped == {p.data_ptr() for peer in module.peers.values() for p in peer.parameters()}
    assert stepped == set(spy.calls[0])
    for name, p in module.named_parameters():
        assert not torch.equal(p, before[name]), name
    assert all(peer.classes == ("ant", "bee", "cat") for peer in module.peers.values())


def test_what_is_logged(tmp_path: Path) -> None:
    notebook, weights = Notebook(), {"task": 0.5, "kd": 2.0}
    module = mutual(weights=weights)
    trainer = make_trainer(tmp_path, logger=notebook)
    trainer.fit(module, make_data())
    series = {
        f"{peer}/{term}": notebook.series(f"train/{peer}/{term}")
        for peer in ("one", "two")
        for term in weights
    }
    assert all(len(values) == 4 for values in series.values())
    total = [sum(weights[n.split("/")[1]] * v[i] for n, v in series.items()) for i in range(4)]
    assert notebook.series("train/loss") == pytest.approx(total, rel=1e-5)
    found = {name: float(value) for name, value in trainer.callback_metrics.items()}
    for name in ("loss", "task", "kd", "accuracy", "macro_f1", "calibration_error", "agreement"):
        assert found[f"val/{name}"] == found[f"val/one/{name}"]
        assert f"val/two/{name}" in found
    for peer in ("one", "two"):
        expected = 0.5 * found[f"val/{peer}/task"] + 2.0 * found[f"val/{peer}/kd"]
        assert found[f"val/{peer}/loss"] == pytest.approx(expected, rel=1e-5)


def test_accuracy_and_agreement_are_those_of_each_peer(tmp_path: Path) -> None:
    module, data = mutual(students=make_students()), make_data()
    trainer = make_trainer(tmp_path)
    (found,) = trainer.validate(module, data, verbose=False)
    batches = list(data.val_dataloader())
    module.eval()
    target = torch.cat([batch["target"] for batch in batches])
    with torch.no_grad():
        said = {n: torch.cat([p(b).logits for b in batches]).argmax(1) for n, p in module.peers.items()}
    for name, prediction in said.items():
        right = (prediction == target).double().mean().item()
        assert found[f"val/{name}/accuracy"] == pytest.approx(right)
        alike = [(prediction == o).double().mean().item() for other, o in said.items() if other != name]
        assert found[f"val/{name}/agreement"] == pytest.approx(sum(alike) / 2)
    assert found["val/accuracy"] == found["val/one/accuracy"]


def test_unlabelled_samples_are_learnt_from_the_others(tmp_path: Path) -> None:
    notebook = Notebook()
    module = mutual(weights={"task": 0.0})
    make_trainer(tmp_path, logger=notebook, max_epochs=10).fit(
        module, make_data(VectorSource(unlabelled=range(41)))
    )
    kd = notebook.series("val/one/kd")
    assert kd[-1] < 0.5 * kd[0]
    assert not notebook.series("val/one/accuracy")
    assert not notebook.series("val/accuracy")


def test_another_task(tmp_path: Path) -> None:
    """Multilabel, with a term on the embeddings, which all peers have."""
    module = mutual(losses={"rkd": RKD()}, task=Multilabel())
    trainer = make_trainer(tmp_path)
    trainer.fit(module, make_data(TargetSource(several())))
    assert {"val/macro_f1", "val/two/macro_f1", "val/two/rkd"} <= set(trainer.callback_metrics)


def test_layers_all_peers_have_can_be_read(tmp_path: Path) -> None:
    layer = "encoders.a.norm"
    module = mutual(
        students={"x": make_model(("a",)), "y": make_model(("a", "b"))}, losses={"rkd": RKD(layer, layer)}
    )
    trainer = make_trainer(tmp_path)
    trainer.fit(module, make_data())
    assert float(trainer.callback_metrics["val/x/rkd"]) > 0


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        ("encoders.a.norm", "no module of that path"),
        ("features.a", "no module of that path"),
        ("encoders", "did not run"),
    ],
)
def test_a_layer_one_peer_lacks_is_refused_before_training(tmp_path: Path, layer: str, words: str) -> None:
    module = mutual(losses={"rkd": RKD(layer, layer)})
    trainer = make_trainer(tmp_path)
    with pytest.raises(ConfigError, match=f"layer '{layer}' of the student.*{words}"):
        trainer.fit(module, make_data())
    assert not trainer.optimizers


def test_all_peers_train_in_train_mode_and_know_their_data(tmp_path: Path) -> None:
    module, modes, data = mutual(), [], make_data()
    module.eval()
    for peer in module.peers.values():
        peer.register_forward_hook(lambda model, *_: modes.append(model.training))
    make_trainer(tmp_path, limit_val_batches=0).fit(module, data)
    assert modes == [True] * 8
    for peer in module.peers.values():
        assert peer.preprocessing is not None
        assert tuple(peer.preprocessing) == peer.modalities


class WideProcessor(VectorProcessor):
    settings = {"dim": 5}  # type: ignore[assignment]  # noqa: RUF012


class WideEncoder(VectorEncoder):
    requirements = {"dim": 7}  # type: ignore[assignment]  # noqa: RUF012


def test_every_peer_must_be_fed_what_it_needs(tmp_path: Path) -> None:
    students = {"one": make_model(("a",)), "two": MultimodalModel({"b": WideEncoder(5)}, 3)}
    data = make_data()
    data.processors["b"] = WideProcessor(5)
    with pytest.raises(ConfigError, match="encoder 'b', dim"):
        make_trainer(tmp_path).fit(mutual(students=students), data)


def test_the_first_step_tells_the_scale_of_every_term(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        make_trainer(tmp_path).fit(mutual(), make_data())
    told = [line for line in caplog.messages if line.startswith("  ") and line.endswith("%")]
    assert [line.split()[0] for line in told] == ["one/task", "one/kd", "two/task", "two/kd"]
    assert all(float(line.split()[4]) > 0 for line in told)


@pytest.mark.parametrize("saved", [3, 4])
def test_a_run_resumes_to_the_last_bit(tmp_path: Path, saved: int) -> None:
    """In the middle and at the end of an epoch, with dropout of units and of modalities."""

    def train(resume: Path | None = None, **options: Any) -> dict[str, Tensor]:
        seed_everything(5, verbose=False)
        module = mutual(
            students=make_students(("both", "one"), modality_dropout=0.3), clip_rule=ValueClip(0.05)
        )
        trainer = make_trainer(tmp_path, max_epochs=2, **options)
        torch.rand(3 + (resume is not None))
        trainer.fit(module, make_data(), ckpt_path=resume, weights_only=True)
        state = trainer.optimizers[0].state_dict()["state"]
        moments = {f"{i}.{n}": torch.as_tensor(x) for i, found in state.items() for n, x in found.items()}
        return weights_of(module) | moments

    keep = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=saved, save_top_k=-1)
    whole = train(callbacks=[keep], enable_checkpointing=True)
    resumed = train(tmp_path / f"step={saved}.ckpt")
    assert whole.keys() == resumed.keys()
    assert [name for name in whole if not same_bits(whole[name], resumed[name])] == []


def test_checkpoint_holds_the_peers_once_and_no_teacher(tmp_path: Path) -> None:
    module = mutual()
    trainer = make_trainer(tmp_path)
    trainer.fit(module, make_data())
    trainer.save_checkpoint(tmp_path / "c.ckpt")
    saved = torch.load(tmp_path / "c.ckpt", weights_only=True)
    assert "teacher" not in saved
    one, two = (module.peers[name].state_dict() for name in ("one", "two"))
    expected = {f"student.{n}": x for n, x in one.items()} | {f"others.two.{n}": x for n, x in two.items()}
    assert saved["state_dict"].keys() == expected.keys()
    assert all(torch.equal(saved["state_dict"][name], x) for name, x in expected.items())


def test_the_first_peer_predicts(tmp_path: Path) -> None:
    module, data = mutual(), make_data()
    asked: list[int] = []
    module.peers["two"].register_forward_hook(lambda *_: asked.append(1))
    data.setup("validate")
    said = make_trainer(tmp_path).predict(module, data.val_dataloader())
    assert said is not None
    module.eval()
    with torch.no_grad():
        first = [module.student(batch).logits.argmax(1) for batch in data.val_dataloader()]
    assert torch.equal(torch.cat([s["prediction"] for s in said]), torch.cat(first))  # type: ignore[call-overload]
    assert not asked


def test_the_first_peer_is_exported(tmp_path: Path) -> None:
    dims = {"class_path": "tests.builders.VectorEncoder", "init_args": {"dim": 6}}
    config = {
        "class_path": "lightning_distill.MultimodalModel",
        "init_args": {"encoders": {"a": dims}, "num_classes": 3},
    }
    module = mutual()
    make_trainer(tmp_path, callbacks=[StudentExport(tmp_path / "s", config)]).fit(module, make_data())
    loaded = load_student(tmp_path / "s", packages=["tests"]).state_dict()
    ours = module.peers["one"].state_dict()
    assert loaded.keys() == ours.keys()
    assert all(torch.equal(loaded[name], ours[name]) for name in ours)


def test_a_loss_that_is_not_finite_names_the_peer(tmp_path: Path) -> None:
    module = mutual()
    module.peers["two"].head.weight.data.fill_(torch.nan)
    with pytest.raises(NonFiniteError, match="two/task"):
        make_trainer(tmp_path).fit(module, make_data())


def twice() -> dict[str, MultimodalModel]:
    model = make_model()
    return {"x": model, "y": model}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (lambda: {"students": {}}, "two peers or more"),
        (lambda: {"students": make_students(("one",))}, "two peers or more"),
        (lambda: {"students": {"x": make_model(), "y": make_model(classes=4)}}, "num_classes"),
        (lambda: {"students": {"x": make_model(), "a.b": make_model()}}, "without dots"),
        (lambda: {"students": {"x": make_model(), "keys": make_model()}}, "without dots"),
        (lambda: {"students": twice()}, "their own weights"),
        (lambda: {"losses": {"hint": LayerHint("embedding", "embedding")}}, "adaptor"),
        (lambda: {"losses": {"mine": Follow()}}, "adaptor"),
        (lambda: {"losses": {"task": LogitKD()}}, "a term called 'task'"),
        (lambda: {"weights": {"kdd": 1.0}}, "a weight for 'kdd'"),
        (lambda: {"task": Multilabel()}, "MultilabelKD"),
        (lambda: {"optimizer": GroupedOptimizer()}, "GroupedOptimizer"),
    ],
)
def test_what_cannot_be_is_refused(options: Callable[[], dict[str, Any]], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        mutual(**options())


def test_by_the_command_line(project: Project) -> None:
    config = small_config()
    student = config["model"]["init_args"].pop("student")
    config["model"]["class_path"] = "lightning_distill.mutual.MutualDistillationModule"
    config["model"]["init_args"] |= {
        "students": {"first": student, "second": student},
        "losses": {"kd": {"class_path": "LogitKD", "init_args": {"temperature": 1.0}}},
    }
    Path("mutual.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    assert project.fit("--run", "r", config="mutual.yaml") == 0, project.err
    assert "val/second/accuracy" in Path("r/metrics.csv").read_text()
    assert Path("r/student/config.json").is_file()
    assert project.run("test", "--run", "r") == 0, project.err
    assert "test/second/accuracy" in project.out
    assert project.run("predict", "--run", "r") == 0, project.err
    assert Path("r/predictions.parquet").is_file()


def test_terms_are_told_the_optimizer_step(tmp_path: Path) -> None:
    term = Told()
    module = MutualDistillationModule(make_students(("one", "two")), {"kd": term})
    trainer = make_trainer(tmp_path, max_epochs=2, accumulate_grad_batches=2, limit_val_batches=0)
    trainer.fit(module, make_data())
    assert term.seen == [(batch // 2, batch // 4) for batch in range(8)]
