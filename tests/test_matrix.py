"""The tests on every Python: what is made of what its tests said."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from tests import matrix
from tests.matrix import Python, Result

if TYPE_CHECKING:
    from pathlib import Path

REPORT = """<?xml version="1.0" encoding="utf-8"?>
<testsuites><testsuite name="pytest" errors="1" failures="2" skipped="3" tests="20" time="12.5">
</testsuite></testsuites>
"""


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
