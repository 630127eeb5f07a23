"""What the package never calls, whatever a file or a config says; and what it never depends on."""

from __future__ import annotations

import ast
import re
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.test_imports import FILES, PACKAGE, dotted, is_false

CHECKPOINT = PACKAGE / "checkpoints" / "file.py"
"""The one file that reads what torch has written."""
MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "onnx", "onnxruntime"}
CALLS = {
    "__import__",
    "compile",
    "eval",
    "exec",
    "os.popen",
    "os.system",
    "shutil.unpack_archive",
    "tempfile.mktemp",
    "yaml.full_load",
    "yaml.load",
    "yaml.load_all",
    "yaml.unsafe_load",
}
JUST_WRITTEN = {
    "shipping/onnx_file.py": "import onnxruntime",
    "shipping/formats.py": "torch.export.load",
}
"""Files that read again what was written a moment before, to compare it; never what comes from elsewhere."""
LAST = {"extract", "extractall", "load_state_dict_from_url", "read_pickle", "unsafe_load"}
"""Of any object."""
ANYWHERE = ("torch.hub", "torch.export.load", "torch.utils.cpp_extension", "torch.jit.load", "torch.package")
OFF = ("allow_pickle", "shell", "trust_remote_code")
"""Options that may only be given as False."""


def faults(tree: ast.AST, reads_checkpoints: bool = False) -> list[str]:
    """Calls, imports and options that can run what a file holds."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            more = [f"{node.module}.{a.name}" for a in node.names] if isinstance(node, ast.ImportFrom) else []
            found += [f"import {n}" for n in names if n.partition(".")[0] in MODULES]
            found += [f"import {n}" for n in [*names, *more] if n.startswith(ANYWHERE)]
        elif isinstance(node, ast.Attribute) and dotted(node).startswith(ANYWHERE):
            found.append(f"line {node.lineno}: {dotted(node)}")
        elif isinstance(node, ast.Call):
            found += [f"line {node.lineno}: {problem}" for problem in _call(node, reads_checkpoints)]
    return found


def _call(node: ast.Call, reads_checkpoints: bool) -> list[str]:
    name, options = dotted(node.func), {k.arg: k.value for k in node.keywords}
    last = node.func.attr if isinstance(node.func, ast.Attribute) else ""
    problems = [name] if name in CALLS or last in LAST else []
    if name == "torch.load" and not (reads_checkpoints and _is(options.get("weights_only"), True)):
        problems.append("torch.load elsewhere, or not weights_only=True")
    if name in ("np.load", "numpy.load") and not is_false(options.get("allow_pickle", node)):
        problems.append("np.load without allow_pickle=False")
    problems += [f"{key}" for key in OFF if key in options and not is_false(options[key])]
    # Of a save it says what is saved.
    if last != "save_checkpoint" and "weights_only" in options and not _is(options["weights_only"], True):
        problems.append("weights_only")
    return problems


def _is(node: ast.expr | None, value: object) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


@pytest.mark.row("Q1", "Q2", "Q10", "K14")
def test_nothing_in_the_package_runs_what_a_file_holds() -> None:
    found = {
        path.relative_to(PACKAGE).as_posix(): problems
        for path in FILES
        if (problems := faults(ast.parse(path.read_text(encoding="utf-8")), path == CHECKPOINT))
    }
    for name, problem in JUST_WRITTEN.items():
        assert [text.partition(": ")[2] or text for text in found.pop(name)] == [problem]
    assert found == {}
    assert len(FILES) > 200


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from pickle import loads",
        "import onnx",
        "eval('1')",
        "exec(text)",
        "compile(text, '', 'exec')",
        "os.system(text)",
        "yaml.load(text, Loader=yaml.SafeLoader)",
        "yaml.unsafe_load(text)",
        "subprocess.run(text, shell=True)",
        "subprocess.run(text, shell=shell)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=flag)",
        "model.load_from_checkpoint(path, weights_only=False)",
        "torch.hub.load('a/b', 'c')",
        "import torch.hub",
        "torch.export.load(path)",
        "from torch import hub",
        "from torch.utils.cpp_extension import load",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "AutoModel.from_pretrained(name, trust_remote_code=trust)",
        "tar.extractall(folder)",
        "archive.extract(member)",
        "tempfile.mktemp()",
        "pandas.read_pickle(path)",
    ],
)
def test_the_search_finds(code: str) -> None:
    assert faults(ast.parse(code), reads_checkpoints=True)


@pytest.mark.parametrize(
    "code",
    [
        "model.eval()",
        "re.compile(text)",
        "yaml.safe_load(text)",
        "np.load(path, allow_pickle=False)",
        "torch.load(path, weights_only=True)",
        "AutoModel.from_pretrained(name, trust_remote_code=False)",
        "trainer.save_checkpoint(path, weights_only=False)",
    ],
)
def test_the_search_passes(code: str) -> None:
    assert faults(ast.parse(code), reads_checkpoints=True) == []
    assert bool(faults(ast.parse(code))) == code.startswith("torch.load")


FLOORS = {
    # _instantiator of a checkpoint ran code; a stolen release
    "lightning": ("2.6.6", ("2.6.2", "2.6.3", "2.4.0")),
    # weights_only corrupted memory; below 2.6 it ran code
    "torch": ("2.10.0", ("2.9.1", "2.5.1")),
    # config.json ran code in spite of trust_remote_code=False
    "transformers": ("5.3.0", ("5.2.0",)),
    # templates left their sandbox
    "jinja2": ("3.1.6", ("3.1.5",)),
    # refuses import paths
    "jsonargparse": ("4.53.0", ("4.52.0",)),
    # bombs in FITS and PSD files; only tests and benchmarks use it
    "pillow": ("12.2.0", ("12.1.1",)),
}
"""Package -> the oldest release without the hole, and some with it."""


def _requirements() -> dict[str, list[str]]:
    told = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lists = [told["dependencies"], *told["optional-dependencies"].values()]
    found: dict[str, list[str]] = {}
    for line in (line for lines in lists for line in lines):
        found.setdefault(re.split(r"[\[<>=!~ ]", line)[0].lower(), []).append(line)
    return found


@pytest.mark.row("Q8")
@pytest.mark.parametrize("name", FLOORS)
def test_releases_with_known_holes_are_not_installed(name: str) -> None:
    requirement = pytest.importorskip("packaging.requirements", reason="needs the package packaging")
    floor, holed = FLOORS[name]
    lines = _requirements()[name]
    assert lines
    for line in lines:
        accepts = requirement.Requirement(line).specifier
        assert accepts.contains(floor)
        assert [release for release in holed if accepts.contains(release)] == []
    assert requirement.Requirement(f"{name}>={floor}").specifier.contains(version(name))


def test_the_repository_has_no_pickle() -> None:
    named = {".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".bin", ".joblib"}
    assert [path for path in Path(PACKAGE).rglob("*") if path.suffix in named] == []
