"""Every block of code in README.md and docs/ does what it says: run here, on files as small as can be."""

from __future__ import annotations

import ast
import os
import re
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import lightning_distill.cli.command  # noqa: F401 - Lightning's log handler keeps its stream
from lightning_distill.__main__ import _COMMANDS, main
from lightning_distill.catalogue import find, homes
from lightning_distill.security.safe_yaml import load_yaml
from tests.docs.blocks import ROOT, Block, blocks, found, pages
from tests.docs.workshop import readers_names, write_configs, write_package, write_table, write_views

PAGES = pages()
IN_README: dict[str, str] = {
    "lightning-distill fit --config configs/experiment/image_text_resnet_bert.yaml": "downloads weights; "
    "tests/test_configs.py runs it with local ones",
}
"""Command lines of README that are not run, since it shows its marks nowhere else: why."""

READERS = {
    "FILE": "run_teacher.yaml",
    "CONFIG": "run_student.yaml",
    "DIR": "runs/fresh",
    "RUN": "runs/run_student",
    "FOLDER": "born",
}
"""What a page leaves to its reader."""
SHORT = ("--trainer.max_epochs=1", "--trainer.enable_progress_bar=false", "--trainer.accelerator=cpu")
SHORTER = {
    "fit": SHORT,
    "born-again": SHORT,
    "find-clip": ("--steps=8", "--trials=1", "--data.num_workers=0", *SHORT),
}
"""Command -> what is put behind it, so that it ends soon."""
OWN_FILES = {
    "docs/cache.md": {"views.yaml": "distil.yaml"},
    "docs/scale.md": {"views.yaml": "run.yaml"},
    "docs/fusion.md": {"run_teacher.yaml": "run.yaml"},
    "README.md": {"cross_domain.yaml": "run.yaml"},
}
"""Page -> the workshop's file -> the name under which the page's reader has it."""


def named(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def run(*words: str) -> None:
    assert main(words) == 0, " ".join(words)
    for name in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS"):
        os.environ.pop(name, None)


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Table, configs and finished runs; each page works in a copy."""
    folder = tmp_path_factory.mktemp("workshop")
    before = Path.cwd()
    os.chdir(folder)
    try:
        write_table()
        write_table("emoji/emoji.csv")
        write_configs()
        write_package()
        run("init", "table.csv", "--out", "run.yaml", "--student", "image")
        for name in ("run_teacher", "run_student"):
            run("fit", "--config", f"{name}.yaml", "--run", f"runs/{name}", *SHORT)
            shutil.copytree(f"runs/{name}", f"runs/{name.removeprefix('run_')}")
        write_views("run_student.yaml", "views.yaml")
        teacher = "configs/experiment/digits_teacher.yaml"
        run("fit", "--config", teacher, "--run", "runs/digits_teacher", *SHORT)
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def place(
    workshop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[Path]:
    """The reader's folder, entered."""
    page = named(request.getfixturevalue("page"))
    folder = tmp_path / "place"
    shutil.copytree(workshop, folder)
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    for source, target in OWN_FILES.get(page, {}).items():
        shutil.copy(source, target)
    monkeypatch.setenv("LIGHTNING_DISTILL_CACHE", str(folder / "cached"))
    for name, value in {"MAX_STEPS": "2", "ACCELERATOR": "cpu", "ENABLE_PROGRESS_BAR": "False"}.items():
        monkeypatch.setenv(f"PL_TRAINER_{name}", value)  # Lightning's own way to say so from outside
    yield folder
    sys.modules.pop("my_package", None)


def reason(page: Path, block: Block) -> str:
    """Why a block is not run: as its mark says."""
    lines = {" ".join(words) for words in block.commands}
    return block.reason or next(
        (IN_README[x] for x in lines if named(page) == "README.md" and x in IN_README), ""
    )


@pytest.mark.slow
@pytest.mark.parametrize("page", [p for p in PAGES if any(b.kind != "text" for b in blocks(p))], ids=named)
def test_the_blocks_of_a_page_run_in_order(page: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: Counter[str] = Counter()
    names = readers_names(named(page) == "docs/cross-domain.md")
    for block in blocks(page):
        where = f"{named(page)}:{block.line}"
        told = reason(page, block)
        if told:
            print(f"{where}: not run: {told}")
        elif block.kind == "python":
            # As a file of that line, so that an error names the page.
            exec(compile("\n" * block.line + block.text, str(page), "exec"), names)
        elif block.kind == "yaml":
            check_yaml(block.text, where)
        elif block.kind == "commands":
            for words in block.commands:
                command(words, where)
        done["not run" if told else block.kind] += 1
    print(f"{named(page)}: {dict(done)}")
    assert sum(done[kind] for kind in ("python", "yaml", "commands"))


def command(words: list[str], where: str) -> None:
    """Run a line of the terminal, or look at what it names."""
    allowed = [word.partition("=")[2] for word in words if word.startswith("LIGHTNING_DISTILL_ALLOW=")]
    words = [READERS.get(word, word) for word in words if not re.match(r"[A-Z_]+=", word)]
    program, *rest = words
    if program == "make":
        assert re.search(rf"^{rest[0]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), (
            f"{where}: {rest[0]}"
        )
    elif program == "python":
        check_script(*rest)
    else:
        assert program == "lightning-distill", f"{where}: {words} has a mark that says why it is not run"
        make_room(rest)
        more = ["--allow", *allowed] if allowed else []
        code = main([*rest, *more, *SHORTER.get(rest[0], ())])
        for name in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS"):
            os.environ.pop(name, None)
        assert code == 0, f"{where}: {' '.join(words)}"


def make_room(words: list[str]) -> None:
    """The workshop holds what other pages begin with; a reader's folder has nothing there yet."""
    if words[0] == "fit" and "--run" in words:
        shutil.rmtree(words[words.index("--run") + 1], ignore_errors=True)
    if words[0] == "init":
        out = Path(words[words.index("--out") + 1])
        pair = [out.with_stem(f"{out.stem}_{role}") for role in ("teacher", "student")]
        for path in pair if "--student" in words else [out]:
            path.unlink(missing_ok=True)


def check_script(script: str, *words: str) -> None:
    """The file is there, and it or what it imports beside it knows the options."""
    path = ROOT / script
    texts = [path.read_text()]
    for node in ast.walk(ast.parse(texts[0])):
        modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        beside = [path.with_name(f"{module.rpartition('.')[2]}.py") for module in modules]
        texts += [file.read_text() for file in beside if file.is_file()]
    for word in words:
        assert not word.startswith("--") or any(f'"{word}"' in text for text in texts), f"{script} {word}"


def check_yaml(text: str, where: str) -> None:
    """It can be read, and each class it names is ours or comes with a path."""
    load_yaml(text)
    for name in re.findall(r"class_path: ([\w.]+)", text):
        known = find(name) if name.startswith("lightning_distill.") else name in homes() or "." in name
        assert known, f"{where}: {name}"


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_what_the_text_names_is_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for script in re.findall(r"`(?:python )?((?:benchmarks|scripts|tests|configs)/[\w/.-]+\.\w+)\b", text):
        assert (ROOT / script).is_file(), script
    for name in re.findall(r"`lightning-distill ([a-z][a-z-]*)", text):
        assert name in _COMMANDS, name
    for target in re.findall(r"`make ([a-z-]+)", text):
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE), target
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    for link in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", prose):
        made = "reference/" in link  # at build time; Sphinx checks those
        assert made or (page.parent / link.lstrip("/")).exists(), f"{named(page)}: {link}"
    for doc in re.findall(r"\b(docs/[\w/-]+\.md)\b", text):
        assert (ROOT / doc).is_file(), doc


def test_blocks_are_found_and_marks_read() -> None:
    lines = ["# Title", "    lightning-distill list losses      all of them", "", "<!-- not run: why -->"]
    lines += ["```bash", "make test", "```", "- item", "    goes on", "", "```python", "x = 1", "```"]
    one, two, three = found(lines)
    assert (one.kind, one.commands, one.reason) == ("commands", [["lightning-distill", "list", "losses"]], "")
    assert (two.kind, two.reason, two.line) == ("commands", "why", 5)
    assert (three.kind, three.text, three.reason) == ("python", "x = 1", "")
    assert reason(ROOT / "docs" / "x.md", two) == "why"
