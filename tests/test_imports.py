"""What importing costs, and what the package never does."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import lightning_distill

PACKAGE = Path(lightning_distill.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

IMPORT = """
import sys, time
before, start = set(sys.modules), time.process_time()
import lightning_distill
lightning_distill.__version__, dir(lightning_distill)
spent = time.process_time() - start
loaded = {name.partition(".")[0] for name in set(sys.modules) - before}
print(spent)
print(*sorted(loaded - set(sys.stdlib_module_names)))
"""


def test_import_loads_nothing_heavy() -> None:
    done = subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, text=True, check=True)
    spent, loaded = done.stdout.splitlines()
    assert loaded.split() == ["lightning_distill"]
    assert float(spent) < 0.2


def test_every_public_name_can_be_imported() -> None:
    for name in lightning_distill.__all__:
        assert getattr(lightning_distill, name) is not None
        assert name in dir(lightning_distill)
    with pytest.raises(AttributeError, match="no attribute 'Studnt'"):
        _ = lightning_distill.Studnt


FORBIDDEN_NAMES = {"eval", "exec", "compile", "__import__"}
FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


def dotted(node: ast.expr) -> str:
    """`a.b.c` of an attribute chain, as far as it is one."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def faults(tree: ast.AST) -> list[str]:
    """Calls and imports that can run what a file holds."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            found += [f"import {n}" for n in names if n.partition(".")[0] in FORBIDDEN_MODULES]
        if not isinstance(node, ast.Call):
            continue
        name, options = dotted(node.func), {k.arg: k.value for k in node.keywords}
        safe = isinstance(options.get("weights_only"), ast.Constant) and ast.literal_eval(
            options["weights_only"]
        )
        risky = {
            name in FORBIDDEN_NAMES,
            name == "torch.load" and not safe,
            name in ("os.system", "os.popen", "yaml.load", "yaml.unsafe_load"),
            any(
                k in options and not is_false(options[k])
                for k in ("allow_pickle", "shell", "trust_remote_code")
            ),
        }
        if True in risky:
            found.append(f"line {node.lineno}: {name}")
    return found


def is_false(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is False


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_nothing_runs_what_a_file_holds(path: Path) -> None:
    assert faults(ast.parse(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from pickle import loads",
        "eval('1')",
        "exec(text)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path, allow_pickle=True)",
        "subprocess.run(text, shell=True)",
        "AutoModel.from_pretrained(name, trust_remote_code=trust)",
    ],
)
def test_the_search_finds(code: str) -> None:
    assert faults(ast.parse(code))


@pytest.mark.parametrize("code", ["model.eval()", "torch.load(path, weights_only=True)", "re.compile(text)"])
def test_the_search_passes(code: str) -> None:
    assert faults(ast.parse(code)) == []
