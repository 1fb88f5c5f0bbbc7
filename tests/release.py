"""``python -m tests.release``: are the files of a release whole? Run before each one: ``make release-check``.

Builds the sdist, and the wheel from it. The wheel is tried on every interpreter of ``tests/matrix.py`` by
``tests/programs/try_wheel.py``. The unit tests run in what the sdist unpacks to, in an environment of its own.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from tests import matrix
from tests.matrix import PROJECT, WANTED, Debian, find_python, say

TRY = "tests/programs/try_wheel.py"

#: Of the wheel. It has no picture, no test and no other package in it.
MAX_WHEEL_BYTES = 700_000


def run(*command: str, folder: Path = PROJECT) -> None:
    say("$ " + " ".join(command))
    if subprocess.run(command, cwd=folder, check=False).returncode:
        raise SystemExit(1)


def build(folder: Path) -> tuple[Path, Path]:
    """The sdist and the wheel, as they would be uploaded."""
    run(sys.executable, "-m", "build", "--outdir", str(folder), ".")
    run(sys.executable, "-m", "twine", "check", "--strict", *map(str, folder.iterdir()))
    [sdist], [wheel] = folder.glob("*.tar.gz"), folder.glob("*.whl")
    for file in (sdist, wheel):
        say(f"{file.stat().st_size:>9,} bytes  {file.name}")
    if wheel.stat().st_size > MAX_WHEEL_BYTES:
        raise SystemExit(f"the wheel has more than {MAX_WHEEL_BYTES:,} bytes")
    return sdist, wheel


def try_sdist(sdist: Path, folder: Path) -> None:
    """Run the unit tests in it, by the means that it brings along."""
    with tarfile.open(sdist) as archive:
        # Every Python of the matrix from 3.10.12 on knows the filter; what is unpacked is our own.
        archive.extractall(folder, filter="data")
    [unpacked] = folder.iterdir()
    run("make", "--no-print-directory", ".venv/.with-test", folder=unpacked)
    python = str(unpacked / ".venv" / "bin" / "python")
    run(python, "-m", "pytest", "-q", *matrix.SIDE_BY_SIDE, "tests/unit", "tests/test_docs.py", folder=unpacked)


def try_wheel(wheel: Path, names: list[str], suite: str) -> list[str]:
    """Try it on interpreters; those on which it failed, or that could not be had, are returned."""
    failed = []
    absent = []
    for name in names:
        if (python := find_python(name)) is None:
            absent.append(name)
        else:
            say(f"== {name}: {python.executable}")
            if subprocess.run([python.executable, TRY, str(wheel)], cwd=PROJECT, check=False).returncode:
                failed.append(name)
    try:
        if absent:
            with Debian(suite) as debian:
                matrix.copy_into(debian.root, [str(wheel)])
                for name in absent:
                    say(f"== {name}: Debian {suite}")
                    if debian.run([debian.install(name), TRY, str(wheel)], "/project").returncode:
                        failed.append(name)
    except matrix.CannotBeHadError as error:
        say(f"{', '.join(absent)}: {error}")
        failed += [name for name in absent if name not in failed]
    return failed


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.release", description=__doc__.partition("\n")[0])
    parser.add_argument("--only", action="append", choices=WANTED, help="try the wheel on this interpreter")
    parser.add_argument("--no-sdist", action="store_true", help="do not run the tests of the sdist")
    parser.add_argument("--suite", default=matrix.SUITE, help="the Debian suite that has what is missing here")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="wsgi-tb-release-") as name:
        built, unpacked = Path(name) / "dist", Path(name) / "unpacked"
        sdist, wheel = build(built)
        failed = try_wheel(wheel, arguments.only or list(WANTED), arguments.suite)
        if not arguments.no_sdist:
            try_sdist(sdist, unpacked)
    say(f"The wheel failed on {', '.join(failed)}" if failed else "The release is whole")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
