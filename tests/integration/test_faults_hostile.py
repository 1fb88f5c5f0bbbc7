"""Applications that no server survives: they patch the standard library, or close everything that is open."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from tests.servers import asking
from tests.support import clients
from tests.support.programs import PROJECT
from tests.support.waiting import wait_until
from wsgi_tracebacker.wire import uwsgi_text as uwsgi_format

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Hostile:
    """The program at its ``ready``."""

    def __init__(self, process: subprocess.Popen[str], errors: Path) -> None:
        self.process = process
        self.errors = errors

    def send(self, path: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{path}\n")
        self.process.stdin.flush()

    def answer(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def said(self) -> list[str]:
        """The lines of ours, first lines only."""
        lines = self.errors.read_text(encoding="utf-8").splitlines()
        return [line for line in lines if line.startswith(("WARNING wsgi_tr", "ERROR wsgi_tr"))]


@contextlib.contextmanager
def hostile(base: str, story: str, errors: Path, seed: int = 0) -> Iterator[Hostile]:
    with errors.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.programs.hostile", base, story, str(seed)],
            cwd=PROJECT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=file,
            text=True,
        )
    try:
        found = Hostile(process, errors)
        assert found.answer() == "ready", errors.read_text()
        yield found
    finally:
        process.kill()
        process.communicate()


def test_it_patches_time_and_threading(base: str, tmp_path: Path) -> None:
    """With functions that raise or answer nonsense: dumps, and the report on an overdue request, are what they were."""
    with hostile(base, "patch", tmp_path / "errors") as worker:
        worker.send("/overdue/patched")
        [thread] = wait_until(lambda: asking.serving(base, "/overdue/patched"), "it is in flight")
        assert 0 <= thread["request"]["age_seconds"] < 30
        assert thread["kind"] == "main"
        assert uwsgi_format.parse(clients.request(f"{base}1", "/").body)
        assert worker.answer() == "/overdue/patched"
        wait_until(lambda: any("/overdue/patched" in line for line in worker.said()), lambda: str(worker.said()))
        assert asking.ask(base, 1, "/worker")["counters"]["faults"] == 0
        said = worker.said()
        assert {line.split()[1] for line in said} == {"wsgi_tracebacker.harakiri:", "wsgi_tracebacker.slow:"}, said


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_it_closes_all_descriptors(base: str, tmp_path: Path, seed: int) -> None:
    """And opens its own in their place: nothing of that is written to, read from, accepted on or closed; nothing
    spins; and what is overdue is still reported.
    """
    with hostile(base, "close_all", tmp_path / "errors", seed) as worker:
        worker.send("/overdue/closed")
        assert worker.answer() == "/overdue/closed"
        wait_until(lambda: any("/overdue/closed" in line for line in worker.said()), lambda: str(worker.said()))
        ticks = cpu_seconds(worker.process.pid), time.monotonic()
        wait_until(lambda: time.monotonic() - ticks[1] > 0.5, "half a second has passed")
        assert cpu_seconds(worker.process.pid) - ticks[0] < 0.25
        worker.send("/again")
        assert worker.answer() == "/again"
        said = worker.said()
        assert {line.split()[1] for line in said} == {"wsgi_tracebacker.harakiri:", "wsgi_tracebacker.slow:"}, said
        worker.send("")
        assert worker.answer() == "untouched:"


def cpu_seconds(pid: int) -> float:
    with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
