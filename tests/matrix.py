"""``python -m tests.matrix``: the unit and integration tests on every Python that can be had here, and a table.

An interpreter is looked for on PATH and among pyenv's versions. One that is not there is taken from a newer Debian
suite, unpacked into a folder of its own, which needs root, debootstrap and a Debian mirror among apt's sources. It has
its own mounts and processes, which end with it, however it ends. Knows no mirror and no index: they are those of the
machine. Refuses to install anything on the machine itself, and loads the standard library only.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from typing_extensions import Self

PROJECT = Path(__file__).resolve().parent.parent

#: What the package is said to run on, in pyproject.toml.
WANTED = ("3.10", "3.11", "3.12", "3.13", "3.14", "3.15", "pypy3.11")

#: It has the latest patches of each Python, and PyPy; testing has them a little later.
SUITE = "sid"

#: Minutes are needed for one interpreter; this is for one that hangs, seconds.
RUN_SECONDS = 30 * 60

#: As `make test` runs them, without those that measure time and have to be alone.
SIDE_BY_SIDE = ("-n", "4", "--dist", "worksteal", "-m", "not alone")

#: Run by an interpreter: who it is, as a name of WANTED, and its whole version. It fails where there is no venv module.
WHO_ARE_YOU = """
import ensurepip, json, platform, sys, venv
name = "%d.%d" % sys.version_info[:2]
kind = {"cpython": "", "pypy": "pypy"}.get(sys.implementation.name, sys.implementation.name)
free_threaded = "t" if not getattr(sys, "_is_gil_enabled", lambda: True)() else ""
print(json.dumps([kind + name + free_threaded, sys.executable, platform.python_version()]))
"""

#: Run as root: a process, mount and pid namespace of its own, then a command in the unpacked system. Its root is
#: mounted on itself, because tests of ours unshare mounts, which only works below a mount point. The shell stays: the
#: first process of a pid namespace has to reap orphans, and pytest would take them for its own children.
ENTER = """
set -e
mount --bind "$1" "$1"
mount -t proc proc "$1/proc"
mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs "$1/dev/shm"
root=$1
shift
set +e
chroot "$root" "$@"
exit $?
"""

# Copied are the files of the project; not what was made beside them.
NOT_COPIED = shutil.ignore_patterns(".git", ".venv*", ".*_cache", ".hypothesis", "__pycache__", "*.egg-info")


class CannotBeHadError(Exception):
    """Why there is no such interpreter here, in words."""


@dataclass(frozen=True, slots=True)
class Python:
    """An interpreter on this machine."""

    name: str
    executable: str
    version: str


@dataclass(frozen=True, slots=True)
class Result:
    """What the tests said on one interpreter, or why they could not be run."""

    name: str
    version: str = ""
    where: str = ""
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    seconds: float = 0.0
    #: In words, where the numbers do not say it: no such interpreter, or a run that broke off.
    trouble: str = ""
    missing: bool = False


# Interpreters of this machine


def candidates(name: str) -> Iterator[str]:
    """Where an interpreter may be: on PATH, then among pyenv's, the newest first."""
    commands = ("pypy3.11", "pypy3") if name.startswith("pypy") else (f"python{name}",)
    for command in commands:
        if (found := shutil.which(command)) is not None:
            yield found
    versions = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    for command in commands:
        found_here = versions.glob(f"*/bin/{command}")
        yield from map(str, sorted(found_here, key=lambda path: _numbers(path.parent.parent.name), reverse=True))


def _numbers(version: str) -> list[int]:
    return [int(part) for part in version.replace("-", ".").split(".") if part.isdigit()]


def find_python(name: str) -> Python | None:
    """The first candidate that runs, is what it is called, and can make a virtual environment."""
    for candidate in candidates(name):
        # A shim of pyenv's is on PATH for versions that are not chosen: it ends with an error.
        try:
            asked = subprocess.run(
                [candidate, "-c", WHO_ARE_YOU], capture_output=True, text=True, timeout=60, check=True
            )
            python = Python(*json.loads(asked.stdout))
        except (OSError, subprocess.SubprocessError, ValueError, TypeError):
            continue
        if python.name == name:
            return python
    return None


# A newer Debian suite


def debian_mirror() -> str:
    """The Debian mirror that apt uses on this machine; CannotBeHadError if it has none."""
    form = "$(REPO_URI)|$(LABEL)|$(COMPONENT)|$(RELEASE)"
    command = ["apt-get", "indextargets", "--format", form, "Created-By: Packages"]
    try:
        printed = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise CannotBeHadError("apt does not say which mirror it uses") from error
    for line in printed.splitlines():
        uri, label, component, _ = line.split("|")
        # The label is in what apt has downloaded. Another label is another archive: of security fixes, of a vendor.
        if label == "Debian" and component == "main":
            return uri
    raise CannotBeHadError("no Debian mirror among apt's sources, or 'apt-get update' has not been run")


def pip_settings() -> dict[str, str]:
    """This machine's settings of pip, from its files and variables, as variables."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    listed = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    settings = {}
    for line in listed.stdout.splitlines():
        key, _, value = line.partition("=")
        option = key.removeprefix(":env:").rpartition(".")[2]
        with contextlib.suppress(ValueError, SyntaxError):
            settings["PIP_" + option.upper().replace("-", "_")] = str(ast.literal_eval(value))
    return settings


def files_named(settings: Iterable[str]) -> list[str]:
    """The files that settings of pip name by their path: its certificates, its constraints."""
    return [word for value in settings for word in value.split() if os.path.isabs(word) and os.path.isfile(word)]


def copy_into(root: Path, files: Iterable[str]) -> None:
    """Copy files to where they have the same path below ``root``."""
    for name in files:
        there = root / name.lstrip("/")
        there.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(name, there)


class Debian:
    """A Debian suite in a folder: unpacked when it is entered, and gone when it is left."""

    def __init__(self, suite: str) -> None:
        self.suite = suite
        self.root = Path()
        self._exit = contextlib.ExitStack()

    def __enter__(self) -> Self:
        if os.geteuid() != 0:
            raise CannotBeHadError("only root can unpack a Debian suite")
        for program in ("debootstrap", "unshare", "chroot"):
            if shutil.which(program) is None:
                raise CannotBeHadError(f"{program} is not installed")
        mirror = debian_mirror()
        with contextlib.ExitStack() as stack:
            self.root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tb-matrix-")))
            # Other users of it have to read what is below: tests change to them.
            self.root.chmod(0o755)
            log = self.root / "debootstrap.log"
            say(f"Unpacking Debian {self.suite}")
            command = [
                "debootstrap",
                "--variant=minbase",
                "--include=ca-certificates,make",
                self.suite,
                str(self.root),
                mirror,
            ]
            with log.open("wb") as output:
                # What it starts has to end with it: it would go on writing where it was taken away.
                alone = ["unshare", "--mount", "--mount-proc", "--pid", "--fork", "--kill-child"]
                done = subprocess.run([*alone, *command], stdout=output, stderr=output, check=False)
            if done.returncode:
                last = log.read_text(errors="replace").strip().rpartition("\n")[2]
                raise CannotBeHadError(f"debootstrap of {self.suite} failed: {last}")
            shutil.copytree(PROJECT, self.root / "project", ignore=NOT_COPIED)
            copy_into(self.root, files_named(pip_settings().values()))
            if self.run(["true"]).returncode:
                raise CannotBeHadError("file systems cannot be mounted here")
            self.run(["apt-get", "-qq", "update"])
            self._exit = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._exit.close()

    def run(self, command: Sequence[str], folder: str = "/") -> subprocess.CompletedProcess[bytes]:
        """Run a command in it; who is started there ends with it."""
        proxies = {name: os.environ[name] for name in os.environ if name.lower().endswith("_proxy")}
        environ = {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": "/root",
            "LANG": "C.UTF-8",
            "DEBIAN_FRONTEND": "noninteractive",
            **pip_settings(),
            **proxies,
        }
        enter = ["unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child"]
        inside = ["env", f"--chdir={folder}", *command]
        return subprocess.run(
            [*enter, "sh", "-c", ENTER, "sh", str(self.root), *inside], env=environ, check=False, timeout=RUN_SECONDS
        )

    def install(self, name: str) -> str:
        """The path of an interpreter, installed from the suite; CannotBeHadError if that has none."""
        is_pypy = name.startswith("pypy")
        package = "pypy3-venv" if is_pypy else f"python{name}-venv"
        self.run(["apt-get", "-qq", "install", "--no-install-recommends", "--yes", package])
        executable = f"/usr/bin/{name if is_pypy else 'python' + name}"
        if not os.path.lexists(self.root / executable.lstrip("/")):
            raise CannotBeHadError(f"Debian {self.suite} has none")
        return executable


# The runs


def environment_commands(name: str, executable: str, arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Two commands, run in the project's folder: one makes the virtual environment, the other runs the tests in it."""
    venv = f".venv-{name}"
    tests = [f"{venv}/bin/python", "-m", "pytest", "-q", *SIDE_BY_SIDE, "tests/unit", "tests/integration"]
    return (
        ["make", "--no-print-directory", f"PYTHON={executable}", f"VENV={venv}", f"{venv}/.with-test"],
        [*tests, f"--junit-xml={venv}/matrix.xml", *arguments],
    )


def read_result(name: str, version: str, where: str, report: Path, code: int) -> Result:
    """What the tests said, from the file that pytest wrote and the code it ended with."""
    try:
        suites = ET.parse(report).getroot().iter("testsuite")
        total, failures, errors, skipped, seconds = 0, 0, 0, 0, 0.0
        for suite in suites:
            total += int(suite.attrib["tests"])
            failures += int(suite.attrib["failures"])
            errors += int(suite.attrib["errors"])
            skipped += int(suite.attrib["skipped"])
            seconds += float(suite.attrib["time"])
    except (OSError, ET.ParseError, KeyError, ValueError):
        return Result(name, version, where, trouble=f"pytest ended with {code} and left no report")
    failed = failures + errors
    trouble = f"pytest ended with {code}" if code and not failed else ""
    return Result(name, version, where, total - failed - skipped, failed, skipped, seconds, trouble)


def run_here(python: Python, arguments: Sequence[str]) -> Result:
    """The tests on an interpreter of this machine."""
    environ = {key: value for key, value in os.environ.items() if key != "CI"}  # what is missing here is no failure
    make, tests = environment_commands(python.name, python.executable, arguments)
    report = PROJECT / f".venv-{python.name}" / "matrix.xml"
    if subprocess.run(make, cwd=PROJECT, env=environ, check=False).returncode:
        return Result(python.name, python.version, "here", trouble="its environment could not be made")
    report.unlink(missing_ok=True)
    try:
        code = subprocess.run(tests, cwd=PROJECT, env=environ, check=False, timeout=RUN_SECONDS).returncode
    except subprocess.TimeoutExpired:
        return Result(python.name, python.version, "here", trouble=f"not done after {RUN_SECONDS} s")
    return read_result(python.name, python.version, "here", report, code)


def run_there(debian: Debian, name: str, arguments: Sequence[str]) -> Result:
    """The tests on an interpreter from a Debian suite."""
    where = f"Debian {debian.suite}"
    try:
        executable = debian.install(name)
        make, tests = environment_commands(name, executable, arguments)
        if debian.run(make, "/project").returncode:
            return Result(name, where=where, trouble="its environment could not be made")
        venv = debian.root / "project" / f".venv-{name}"
        version = next(
            (
                line.partition("=")[2].strip()
                for line in (venv / "pyvenv.cfg").read_text().splitlines()
                if "version" in line
            ),
            "",
        )
        code = debian.run(tests, "/project").returncode
    except CannotBeHadError as error:
        return Result(name, where=where, trouble=str(error), missing=True)
    except subprocess.TimeoutExpired:
        return Result(name, where=where, trouble=f"not done after {RUN_SECONDS} s")
    return read_result(name, version, where, venv / "matrix.xml", code)


def table(results: Iterable[Result]) -> Iterator[str]:
    """One line for each interpreter."""
    yield f"{'interpreter':<12} {'version':<9} {'from':<12} {'passed':>7} {'failed':>7} {'skipped':>7} {'seconds':>8}"
    for result in results:
        line = f"{result.name:<12} {result.version:<9} {result.where:<12} "
        if result.passed or result.failed or result.skipped:
            line += f"{result.passed:>7} {result.failed:>7} {result.skipped:>7} {result.seconds:>8.0f} "
        yield (line + (f" {result.trouble}" if result.trouble else "")).rstrip()


def exit_code(results: Iterable[Result], *, asked: bool) -> int:
    """1 if tests failed or could not be run; a missing interpreter counts if it was asked for by name."""
    return int(any(result.failed or (result.trouble and (asked or not result.missing)) for result in results))


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.matrix", description=__doc__.partition("\n")[0])
    parser.add_argument("--only", action="append", choices=WANTED, help="this interpreter; it has to be there")
    parser.add_argument(
        "--suite", default=SUITE, help="the Debian suite that has what is missing (default: %(default)s)"
    )
    parser.add_argument("--no-suite", action="store_true", help="only interpreters of this machine")
    parser.add_argument("pytest", nargs="*", help="arguments for pytest, after --")
    arguments = parser.parse_args()
    # So that an end in order takes the unpacked suite away.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))

    names = arguments.only or WANTED
    found = {name: find_python(name) for name in names}
    results: dict[str, Result] = {}
    for name, python in found.items():
        if python is not None:
            say(f"== {name}: {python.executable}")
            results[name] = run_here(python, arguments.pytest)
    absent = [name for name, python in found.items() if python is None]
    try:
        if absent and arguments.no_suite:
            raise CannotBeHadError("not on this machine")
        if absent:
            started = time.monotonic()
            with Debian(arguments.suite) as debian:
                say(f"Unpacked in {time.monotonic() - started:.0f} s")
                for name in absent:
                    say(f"== {name}: Debian {arguments.suite}")
                    results[name] = run_there(debian, name, arguments.pytest)
    except CannotBeHadError as error:
        results.update({name: Result(name, trouble=f"not here: {error}", missing=True) for name in absent})
    ordered = [results[name] for name in names]
    say("")
    for line in table(ordered):
        say(line)
    return exit_code(ordered, asked=arguments.only is not None)


if __name__ == "__main__":
    sys.exit(main())
