"""For a while the system has no descriptor or no thread left: requests are served, and afterwards all is as ever."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.interpreters import needs_raise
from tests.support.programs import PROJECT
from tests.support.strangers import needs_root

if TYPE_CHECKING:
    from pathlib import Path

PATIENCE_SECONDS = 60.0


def told(base: str, *story: str) -> str:
    """All that the worker said and logged; it has ended in order."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.programs.starved", base, *story],
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert done.stdout.endswith("ended\n"), done.stdout
    return done.stdout


@needs_raise
def test_without_a_descriptor_the_first_report_is_made_and_all_later_ones(base: str) -> None:
    """Each request is interrupted at its limit, before and after descriptors are to be had again, and reported."""
    said = told(base, "later")
    for path in ("/5.1", "/5.2", "/5.3"):
        assert f"answered {path} 504" in said
    # The three stand in the same place, so what is the same but for the path is reported too.
    assert [f"harakiri: GET {path} 0.3" in said for path in ("/5.1", "/5.2", "/5.3")] == [True] * 3, said


def test_who_had_all_its_descriptors_closed_reports_again_when_there_are_some(base: str) -> None:
    """Neither watchdog nor reporter ends for want of one."""
    said = told(base, "closed")
    assert "answered /0.7 200" in said
    assert "harakiri: GET /0.7 0.3" in said, said


@pytest.mark.parametrize("left", range(8))
def test_what_could_not_be_had_at_the_first_request_is_had_later(base: str, left: int) -> None:
    """However many descriptors were left then: the limit holds, and what the dead one was serving is told once."""
    said = told(base, "few", str(left))
    assert "answered /0.6 200" in said
    assert "harakiri: GET /0.6 0.3" in said, said
    assert said.count("died with 1 request in flight") == 1, said
    assert "  GET /60  " in said


def test_a_thread_that_could_not_be_had_at_the_first_request_is_had_later(base: str, short_path: Path) -> None:
    """There was one for the listener, and none for the watchdog."""
    needs_root()
    short_path.chmod(0o777)
    said = told(base, "threads")
    assert "answered /0.6 200" in said
    assert "harakiri: GET /0.6 0.3" in said, said
