"""The tests on every Python: how one is found, and what is made of what its tests said."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING

import pytest

from tests import matrix
from tests.matrix import CannotBeHadError, Debian, Python, Result

if TYPE_CHECKING:
    from pathlib import Path

REPORT = """<?xml version="1.0" encoding="utf-8"?>
<testsuites><testsuite name="pytest" errors="1" failures="2" skipped="3" tests="20" time="12.5">
</testsuite></testsuites>
"""


def program(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with no interpreter but those that the test puts below it: on PATH, or in pyenv's versions."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "pyenv"))
    return tmp_path


# Finding one


def test_candidates_are_those_on_path_then_pyenvs_newest_first(machine: Path) -> None:
    """By number, not by letter: 3.13.10 is newer than 3.13.9."""
    expected = [
        program(machine / "bin/python3.13", "exit 1"),
        program(machine / "pyenv/versions/3.13.10/bin/python3.13", "exit 1"),
        program(machine / "pyenv/versions/3.13.9/bin/python3.13", "exit 1"),
    ]
    program(machine / "pyenv/versions/3.12.1/bin/python3.12", "exit 1")
    assert list(matrix.candidates("3.13")) == [str(path) for path in expected]


def test_pypy_has_other_names(machine: Path) -> None:
    """Some systems call it pypy3 and nothing else."""
    longer, shorter = program(machine / "bin/pypy3.11", "exit 1"), program(machine / "bin/pypy3", "exit 1")
    assert list(matrix.candidates("pypy3.11")) == [str(longer), str(shorter)]


def test_one_that_only_says_that_it_is_not_chosen_is_passed_over(machine: Path) -> None:
    """As pyenv's shims do: the interpreter behind it is taken."""
    name = "{}.{}".format(*sys.version_info[:2])
    if sys.implementation.name == "pypy":
        name = "pypy" + name
    program(machine / f"bin/{next(iter(names(name)))}", "exit 127")
    program(machine / f"pyenv/versions/1/bin/{next(iter(names(name)))}", f'exec {sys.executable} "$@"')
    found = matrix.find_python(name)
    assert found is not None
    assert (found.name, found.version) == (name, ".".join(map(str, sys.version_info[:3])))


def names(name: str) -> tuple[str, ...]:
    return (name,) if name.startswith("pypy") else (f"python{name}",)


@pytest.mark.parametrize(
    "says",
    [
        "echo nonsense",
        """echo '["3.13t", "/x", "3.13.0"]'""",
        """echo '["3.12", "/x", "3.12.0"]'""",
        """echo '["3.13"]'""",
        "kill -ABRT $$",
    ],
    ids=["nonsense", "free-threaded", "another version", "less than asked", "killed"],
)
def test_one_that_is_not_what_it_is_called_is_not_taken(says: str, machine: Path) -> None:
    """Nor one that says something else than who it is."""
    program(machine / "bin/python3.13", says)
    assert matrix.find_python("3.13") is None


# What cannot be had


def test_a_user_cannot_unpack_a_suite(monkeypatch: pytest.MonkeyPatch) -> None:
    """It says so, before anything is made."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(CannotBeHadError, match="only root"), Debian("sid"):
        pass


def test_a_program_that_is_missing_is_named(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first of those that are needed."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(CannotBeHadError, match="debootstrap is not installed"), Debian("sid"):
        pass


def test_a_machine_without_apt_has_no_mirror(machine: Path) -> None:
    """It is not Debian."""
    with pytest.raises(CannotBeHadError, match="apt does not say"):
        matrix.debian_mirror()


def test_the_mirror_is_the_one_of_debians_own_archive(machine: Path) -> None:
    """Not one of security fixes, and not a vendor's."""
    lines = ("http://a|Debian-Security|main|x", "http://b|Vendor|main|x", "http://c|Debian|main|x")
    program(machine / "bin/apt-get", "\n".join(f"echo '{line}'" for line in lines))
    assert matrix.debian_mirror() == "http://c"
    program(machine / "bin/apt-get", f"echo '{lines[0]}'")
    with pytest.raises(CannotBeHadError, match="no Debian mirror"):
        matrix.debian_mirror()


def test_a_suite_that_does_not_unpack_leaves_nothing(
    machine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last line of debootstrap's is the reason, and its folder is gone."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name in ("debootstrap", "chroot"):
        program(machine / "bin" / name, "exit 1")
    program(machine / "bin/unshare", "echo started; echo E: no such suite; exit 1")
    program(machine / "bin/apt-get", "echo 'http://c|Debian|main|x'")
    with pytest.raises(CannotBeHadError, match=r"debootstrap of nosuch failed: E: no such suite"), Debian("nosuch"):
        pass
    assert list(tmp_path.glob("tb-matrix-*")) == []


def test_without_a_suite_what_is_not_here_is_in_the_table(
    machine: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It counts only if it was asked for by name."""
    monkeypatch.setattr(sys, "argv", ["matrix", "--no-suite"])
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    assert matrix.main() == 0
    lines = capsys.readouterr().out.strip().splitlines()
    assert [line.split()[0] for line in lines[1:]] == list(matrix.WANTED)
    assert all(line.endswith("not here: not on this machine") for line in lines[1:])
    monkeypatch.setattr(sys, "argv", ["matrix", "--no-suite", "--only", "3.14"])
    assert matrix.main() == 1


# What its tests said


@pytest.fixture
def report(tmp_path: Path) -> Path:
    path = tmp_path / "matrix.xml"
    path.write_text(REPORT)
    return path


def test_errors_count_as_failures(report: Path) -> None:
    """What is neither that nor skipped has passed."""
    assert matrix.read_result("3.14", "3.14.1", "here", report, 1) == Result(
        "3.14", "3.14.1", "here", passed=14, failed=3, skipped=3, seconds=12.5
    )


def test_an_end_that_no_failure_explains_is_trouble(report: Path) -> None:
    """Such as no tests (5), or a usage error (4)."""
    report.write_text(REPORT.replace('errors="1" failures="2"', 'errors="0" failures="0"'))
    assert matrix.read_result("3.14", "", "here", report, 0).trouble == ""
    assert matrix.read_result("3.14", "", "here", report, 5).trouble == "pytest ended with 5"


@pytest.mark.parametrize(
    "text", [None, "", "<testsuites><testsuite tests='1'/></testsuites>", REPORT.replace("20", "x")]
)
def test_a_run_that_broke_off_left_no_report(text: str | None, report: Path) -> None:
    """None, half of one, or one that is not pytest's."""
    if text is None:
        report.unlink()
    else:
        report.write_text(text)
    result = matrix.read_result("3.14", "3.14.1", "here", report, -11)
    assert result == Result("3.14", "3.14.1", "here", trouble="pytest ended with -11 and left no report")


def test_a_run_that_has_no_environment_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its tests are not begun."""
    began = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[bytes]:
        began.append(command[0])
        return subprocess.CompletedProcess(command, 2)

    monkeypatch.setattr(subprocess, "run", run)
    result = matrix.run_here(Python("3.12", "/usr/bin/python3.12", "3.12.1"), [])
    assert (result.trouble, result.missing, began) == ("its environment could not be made", False, ["make"])


# The table


def test_the_table_has_a_line_for_each() -> None:
    """Numbers where there are some, words where they do not say it."""
    results = [
        Result("3.10", "3.10.13", "here", 1461, 0, 2, 371.4),
        Result("3.11", "3.11.7", "here", 0, 3, 0, 1.0, "pytest ended with 2"),
        Result("pypy3.11", trouble="not here: only root", missing=True),
    ]
    assert list(matrix.table(results)) == [
        "interpreter  version   from          passed  failed skipped  seconds",
        "3.10         3.10.13   here            1461       0       2      371",
        "3.11         3.11.7    here               0       3       0        1  pytest ended with 2",
        "pypy3.11" + " " * 29 + "not here: only root",
    ]


GOOD = Result("3.10", passed=1)
BAD = Result("3.11", passed=1, failed=1)
BROKEN = Result("3.12", trouble="pytest ended with 4")
MISSING = Result("3.13", trouble="not here", missing=True)


@pytest.mark.parametrize(
    ("results", "asked", "code"),
    [
        ((GOOD,), False, 0),
        ((GOOD, MISSING), False, 0),
        ((GOOD, MISSING), True, 1),
        ((GOOD, BAD), False, 1),
        ((GOOD, BROKEN), False, 1),
    ],
)
def test_the_code_says_whether_all_is_well(results: tuple[Result, ...], asked: bool, code: int) -> None:
    """What is missing is no fault unless it was asked for."""
    assert matrix.exit_code(results, asked=asked) == code
