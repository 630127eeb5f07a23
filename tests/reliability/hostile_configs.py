"""Configs that name classes from outside, in every place, and YAML that makes objects or much of little."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from tests.cli.conftest import small_config, write_project
from tests.reliability.canaries import MODULE, TRACE
from tests.reliability.hostile import BOMB, HEAD, PART, Config, Opening
from tests.reliability.hostile_checkpoints import init_args, save_hostile


def fit(*words: str) -> Opening:
    """The command line; its exit code."""
    from lightning_distill.__main__ import main

    return lambda: main(["fit", *words, "--trainer.fast_dev_run", "true"])


def config(edit: Callable[[Config], object], *words: str) -> Callable[[], Opening]:
    """`fit` with a changed config."""

    def make() -> Opening:
        write_project(Path())
        changed = small_config()
        edit(changed)
        Path("hostile.yaml").write_text(yaml.safe_dump(changed, sort_keys=False))
        return fit("-c", "hostile.yaml", *words)

    return make


def module(c: Config) -> Config:
    found: Config = c["model"]["init_args"]
    return found


def student(c: Config) -> Config:
    found: Config = module(c)["student"]["init_args"]
    return found


def fusion(path: str, **given: Any) -> Callable[[], Opening]:
    """A callable argument of the student."""
    spec = {"class_path": path, **({"init_args": given} if given else {})}
    return config(lambda c: student(c).update(fusion=spec))


def written(name: str, text: str, *words: str) -> Callable[[], Opening]:
    """`fit` with the small config and a file beside it."""

    def make() -> Opening:
        write_project(Path())
        Path(name).write_text(text)
        return fit(*(words or ("-c", name)))

    return make


def plain(name: str) -> Callable[[], Opening]:
    """The import path alone, without class_path."""
    return config(lambda c: student(c).update(fusion=name))


def command(*words: str) -> Callable[[], Opening]:
    """Another command that reads configs."""

    def make() -> Opening:
        from lightning_distill.__main__ import main

        changed = small_config()
        changed["data"]["class_path"] = HEAD
        module(changed)["teacher"] = {"class_path": HEAD}
        module(changed)["losses"] = {"kd": {"class_path": "LogitKD"}}
        Path("hostile.yaml").write_text(yaml.safe_dump(changed))
        Path("run").mkdir()
        Path("run/config.yaml").write_text(yaml.safe_dump(changed))
        save_hostile(lambda saved: None)  # a good one, so that what follows is reached
        Path("student").rename("run/student")
        return lambda: main(list(words))

    return make


CLASSES: dict[str, Callable[[], Opening]] = {
    "a shell for a head": fusion("os.system", command=f"touch {TRACE}"),
    "the posix name of it": fusion("posix.system", command=f"touch {TRACE}"),
    "eval": fusion("builtins.eval", source=f"open({TRACE!r}, 'w')"),
    "exec, without class_path": plain("builtins.exec"),
    "a process": fusion("subprocess.Popen", args=["touch", TRACE]),
    "torch.hub": fusion("torch.hub.load", repo_or_dir="a/b", model="c"),
    "torch.load": plain("torch.load"),
    "a compiler": plain("torch.utils.cpp_extension.load"),
    "import_module": fusion("importlib.import_module", name=MODULE),
    "the import_module of a module of ours": fusion("lightning_distill.shelves.import_module", name=MODULE),
    "a module that one of ours imports": plain("lightning_distill.export.shutil.rmtree"),
    "a way over a class": plain("torch.nn.Module.torch.load"),
    "our own command line": plain("lightning_distill.__main__.main"),
    "the parser's settings": plain("jsonargparse.set_parsing_settings"),
    "a method that loads": plain("lightning_distill.module.DistillationModule.load_from_checkpoint"),
    "a head from outside": fusion(HEAD),
    "a function from outside": plain(f"{MODULE}.make"),
    "a callback": config(lambda c: c["trainer"].update(callbacks=[{"class_path": f"{MODULE}.Own"}])),
    "one callback of two": config(
        lambda c: c["trainer"].update(
            callbacks=[{"class_path": "ModelSummary"}, {"class_path": f"{MODULE}.Own"}]
        )
    ),
    "a logger": config(lambda c: c["trainer"].update(logger={"class_path": HEAD})),
    "a strategy": config(lambda c: c["trainer"].update(strategy={"class_path": HEAD})),
    "a plugin": config(lambda c: c["trainer"].update(plugins=[{"class_path": HEAD}])),
    "a profiler": config(lambda c: c["trainer"].update(profiler={"class_path": HEAD})),
    "another reader of checkpoints": config(
        lambda c: c["trainer"].update(
            plugins=[{"class_path": "lightning.pytorch.plugins.io.TorchCheckpointIO"}]
        )
    ),
    "an encoder": config(lambda c: student(c)["encoders"].update(text={"class_path": HEAD})),
    "a processor": config(lambda c: c["data"]["init_args"]["processors"].update(text={"class_path": HEAD})),
    "a source": config(lambda c: c["data"]["init_args"].update(source={"class_path": HEAD})),
    "a module": config(lambda c: c["model"].update(class_path=HEAD)),
    "a data module": config(lambda c: c["data"].update(class_path=HEAD)),
    "an optimizer": config(lambda c: module(c).update(optimizer={"class_path": HEAD})),
    "a term, and its weight": config(
        lambda c: module(c).update(
            losses={"kd": {"class_path": "LogitKD"}}, weights={"kd": {"class_path": HEAD}}
        )
    ),
    "deep in a callable": fusion("LearnedPlaceholders", fusion={"class_path": HEAD}),
    "deeper": fusion(
        "LearnedPlaceholders", fusion={"class_path": "LearnedPlaceholders", "init_args": {"fusion": HEAD}}
    ),
    "in dict_kwargs": config(
        lambda c: student(c)["encoders"]["text"].update(dict_kwargs={"x": {"class_path": HEAD}})
    ),
    "as a text that is YAML": config(lambda c: student(c).update(fusion=f"{{class_path: {HEAD}}}")),
    "in a file that the config names": config(
        lambda c: (student(c).update(fusion="p.yaml"), Path("p.yaml").write_text(PART))
    ),
    "in a part file": written("part.yaml", PART, "-c", "small.yaml", "--model.student.fusion=part.yaml"),
    "in a part file that is JSON": written(
        "p.json", json.dumps({"class_path": HEAD}), "-c", "small.yaml", "--model.student.fusion=p.json"
    ),
    "on the command line": written("x", "", "-c", "small.yaml", f"--model.student.fusion={HEAD}"),
    "a class_path on the command line": written("x", "", "-c", "small.yaml", "--model.class_path", HEAD),
    "a student that trusts more": config(
        lambda c: (
            save_hostile(lambda saved: init_args(saved).update(fusion={"class_path": HEAD})),
            module(c).update(
                student={
                    "class_path": "lightning_distill.export.load_student",
                    "init_args": {"folder": "student", "packages": [MODULE]},
                }
            ),
        )
    ),
    "pickles, please": config(lambda c: c.update(weights_only=False, ckpt_path="x.ckpt")),
    **{
        " ".join(words[:1]): command(*words)
        for words in (
            ("doctor", "-c", "hostile.yaml"),
            ("assess", "-c", "hostile.yaml"),
            ("cache", "-c", "hostile.yaml"),
            ("knowledge", "--config", "hostile.yaml", "--out", "k"),
            ("find-clip", "-c", "hostile.yaml"),
            ("born-again", "-c", "hostile.yaml", "--out", "b"),
            ("evaluate", "run"),
            ("contribution", "run"),
            ("robustness", "run"),
            ("test", "--run", "run"),
        )
    },
}
"""Classes and functions from outside, in every place of a config."""

TEXTS: dict[str, Callable[[], Opening]] = {
    "a tag": written("h.yaml", f"a: !!python/object/apply:os.system ['touch {TRACE}']\n"),
    "a tag for a module": written("h.yaml", f"a: !!python/name:{MODULE}.make\n"),
    "a tag in a part file": written(
        "p.yaml",
        f"!!python/object/apply:os.system ['touch {TRACE}']\n",
        "-c",
        "small.yaml",
        "--model.student.fusion=p.yaml",
    ),
    "a bomb of aliases": written("h.yaml", BOMB),
    "a bomb of merges": written("h.yaml", BOMB + "b: {<<: *a3}\n"),
    "a bomb in a part file": written("p.yaml", BOMB, "-c", "small.yaml", "--model.student.fusion=p.yaml"),
    "a bomb in a text": written(
        "x", "", "-c", "small.yaml", "--model.student.fusion", "{" + BOMB.replace("\n", ",") + "}"
    ),
    "an alias of itself": written("h.yaml", "trainer: &t\n  callbacks: [*t]\n"),
    "deep lists": written("h.yaml", "a: " + "[" * 5000 + "]" * 5000),
    "deep JSON": written("h.json", '{"a": ' + "[" * 5000 + "]" * 5000 + "}"),
}
"""YAML that makes objects, or much of little."""
