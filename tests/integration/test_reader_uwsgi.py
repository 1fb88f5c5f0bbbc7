"""The reader on real uWSGI's own tracebacker sockets."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import clients
from tests.support.programs import PROJECT, require_program
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CALLS = ["application", "take_the_order", "ask_the_kitchen", "wait_for_the_dish"]


def read(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "wsgi_tracebacker", "read", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=PROJECT, check=False, timeout=30)


@pytest.fixture
def uwsgi(short_path: Path) -> Iterator[str]:
    """The base of a uWSGI's tracebacker sockets: one worker with two threads and a request in flight, one idle."""
    http, base = str(short_path / "http"), str(short_path / "tb.")
    command = [
        *(require_program("uwsgi"), "--http-socket", http, "--master", "--processes", "2", "--threads", "2"),
        *("--py-tracebacker", base, "--wsgi-file", str(PROJECT / "tests/programs/nested_calls.py"), "--die-on-term"),
    ]
    log = short_path / "log"
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output, cwd=short_path) as server:
        try:
            wait_until(lambda: "spawned 2 http workers" in log.read_text() or _connectable(http), log.read_text)
            dish = short_path / "dish"
            with clients.in_flight(http, f"/wait?path={dish}") as connection:
                yield base
                dish.touch()
                assert connection.getresponse().read() == b"done\n"
        finally:
            server.terminate()
            server.wait(20)


def _connectable(path: str) -> bool:
    with contextlib.suppress(OSError), clients.connect(path):
        return True
    return False


def serving_thread(base: str) -> dict[str, Any]:
    """The thread that waits for the dish, nothing before it is there."""
    document = json.loads(read("--format", "json", base).stdout or '{"workers":[]}')
    threads = [thread for worker in document["workers"] for thread in worker["threads"]]
    return next((thread for thread in threads if thread["frames"][3:]), {})


def test_every_frame_of_uwsgis_dump_is_shown(uwsgi: str) -> None:
    """Both workers answer, and the request's calls are there with their lines, in order."""
    thread = wait_until(lambda: serving_thread(uwsgi), "the request is in flight")
    assert [frame["function"] for frame in thread["frames"]] == CALLS
    assert thread["frames"][1]["source"] == "ask_the_kitchen(path)"
    shown = read("--full", uwsgi)
    assert shown.returncode == 0
    assert shown.stderr == ""
    assert shown.stdout.startswith("1 request in 2 workers\n")
    lines = [line.rpartition(" in ")[2] for line in shown.stdout.splitlines() if line.startswith('    File "')]
    assert lines == CALLS
    assert re.search(r"^  worker \d core \d, pid \d+  a request, uWSGI does not say which", shown.stdout, re.MULTILINE)


def test_the_uwsgi_format_gives_uwsgis_own_lines(uwsgi: str) -> None:
    """--format uwsgi gives each frame line of uWSGI's own dump unchanged."""
    wait_until(lambda: serving_thread(uwsgi), "the request is in flight")

    def frame_lines(text: str) -> list[str]:
        # The last frame goes round a loop.
        return [line for line in text.splitlines() if " = application" in line or "kitchen(path)" in line]

    own = "".join(clients.read_to_end(f"{uwsgi}{number}").decode() for number in (1, 2))
    assert len(frame_lines(own)) == 2
    assert frame_lines(read("--format", "uwsgi", uwsgi).stdout) == frame_lines(own)
