"""The command as an operator runs it: a process, on the sockets of real gunicorn."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.servers import asking
from tests.support import clients
from tests.support.programs import PROJECT
from tests.support.waiting import wait_until
from wsgi_tracebacker.wire import uwsgi_text as uwsgi_format

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import StartGunicorn
    from tests.support.servers import Gunicorn


def wsgi_tb(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "wsgi_tracebacker", *arguments],
        capture_output=True,
        stdin=subprocess.DEVNULL,
        cwd=PROJECT,
        env={**os.environ, **(env or {})},
        check=False,
        timeout=30,
    )


@pytest.fixture
def server(gunicorn: StartGunicorn, base: str) -> Iterator[Gunicorn]:
    """Two sync workers, each asleep in a slow request."""
    started = gunicorn("example_app.wsgi:application", "--workers", "2")
    with contextlib.ExitStack() as connections:
        for _ in range(2):
            connections.enter_context(clients.in_flight(started.address, "/slow?seconds=60&token=secret"))

        def all_asleep() -> bool:
            threads = asking.serving(base, "/slow")
            return len(threads) == 2 and all(map(asking.sleeps_six_calls_deep, threads))

        wait_until(all_asleep, lambda: f"both sleep: {asking.serving(base)}")
        yield started


def test_for_people(server: Gunicorn, base: str) -> None:
    """Exit code 0; each worker's request, and every line of the slow page's chain, once; no query, no colour."""
    shown = wsgi_tb("read", base)
    assert (shown.returncode, shown.stderr) == (0, b"")
    text = shown.stdout.decode()
    for number, pid in asking.pids(base).items():
        assert re.search(rf"^  worker {number} core 0, pid {pid}  GET /slow  [0-9.]+ s", text, re.MULTILINE)
    assert text.startswith("2 requests in 2 workers, 2 of ")
    assert "\n1  2 requests sleep" in text
    lines = [line.strip() for line in text.splitlines()]
    for function, source in zip(asking.CHAIN, asking.CHAIN_LINES, strict=True):
        found = [
            lines[n + 1]
            for n, line in enumerate(lines)
            if line.startswith("example_app/slow.py:") and line.endswith(f" {function}")
        ]
        assert found == [source]
    assert "secret" not in text
    assert "\x1b" not in text
    # The base can come from the environment, and a socket alone can be named.
    again = wsgi_tb("read", env={"WSGI_TB_SOCKET": base})
    assert again.stdout.count(b"\n  worker 2 core 0, pid ") == 1
    assert wsgi_tb("read", f"{base}2").stdout.startswith(b"worker 2  pid ")


def test_for_programs(server: Gunicorn, base: str) -> None:
    """--format json gives each worker's snapshot whole; --format uwsgi gives what stands on the sockets."""
    shown = wsgi_tb("read", "--format", "json", base)
    assert (shown.returncode, shown.stderr) == (0, b"")
    document = json.loads(shown.stdout)
    assert document["unanswered"] == []
    assert [worker["worker"]["number"] for worker in document["workers"]] == [1, 2]
    for worker in document["workers"]:
        [thread] = worker["threads"]
        asking.check_chain(thread)

    shown = wsgi_tb("read", "--format", "uwsgi", base)
    assert (shown.returncode, shown.stderr) == (0, b"")
    assert shown.stdout == clients.read_to_end(f"{base}1") + clients.read_to_end(f"{base}2")
    assert shown.stdout.count(uwsgi_format.HEADER) == 2


def test_one_worker(server: Gunicorn, base: str) -> None:
    """--worker asks the one that is named; one that is not there is exit code 1, and said so."""
    shown = wsgi_tb("read", "--worker", "2", base)
    assert (shown.returncode, shown.stderr) == (0, b"")
    assert shown.stdout.startswith(b"worker 2  pid ")
    assert b"worker 1" not in shown.stdout
    shown = wsgi_tb("read", "--worker", "2", "--worker", "7", base)
    assert shown.returncode == 1
    assert shown.stdout.startswith(b"worker 2  pid ")
    assert b"no worker 7" in shown.stderr


def test_older_tells_requests_of_one_worker_apart(gunicorn: StartGunicorn, base: str) -> None:
    """Of two requests in one worker, only the one that has been there for long is shown."""
    server = gunicorn("example_app.wsgi:application", "--worker-class", "gthread", "--threads", "2")
    with clients.in_flight(server.address, "/slow?seconds=61"):
        wait_until(
            lambda: [t for t in asking.serving(base) if t["request"]["age_seconds"] > 3], "one is three seconds old"
        )
        with clients.in_flight(server.address, "/stream?seconds=62"):
            wait_until(lambda: asking.serving(base, "/stream"), "the other one has begun")
            shown = wsgi_tb("read", "--older", "3", base)
    assert shown.returncode == 0
    assert b"GET /slow" in shown.stdout
    assert b"GET /stream" not in shown.stdout
    assert b"1 request not shown" in shown.stdout


def test_the_list(server: Gunicorn, base: str) -> None:
    """One line for each worker, with its pid, state and requests; the same as JSON."""
    pids = asking.pids(base)
    shown = wsgi_tb("list", base)
    assert (shown.returncode, shown.stderr) == (0, b"")
    _, *rows = (line.split() for line in shown.stdout.decode().splitlines())
    assert [row[:4] for row in rows] == [[str(number), str(pids[number]), "alive", "1/1"] for number in (1, 2)]
    assert [row[4] for row in rows] == ["0/2048", '"']
    assert all(re.fullmatch(r"\d+M", row[-3]) and re.fullmatch(r"\d+%", row[-2]) for row in rows)
    assert all(row[-1] == "example_app.pages:application" for row in rows)
    shown = wsgi_tb("list", "--format", "json", base)
    workers = json.loads(shown.stdout)["workers"]
    assert [(w["number"], w["pid"], w["state"]) for w in workers] == [(n, pids[n], "alive") for n in (1, 2)]
    assert all(0 < worker["oldest_request_seconds"] < 60 for worker in workers)


@pytest.mark.parametrize(
    ("arguments", "redirected", "code", "said"),
    [
        (["read"], ">/dev/full", 4, "wsgi-tb: stdout cannot be written: No space left on device\n"),
        (["list"], ">/dev/full", 4, "wsgi-tb: stdout cannot be written: No space left on device\n"),
        (["--help"], ">/dev/full", 4, "wsgi-tb: stopped by the system: [Errno 28] No space left on device\n"),
        (["read"], ">&-", 0, ""),
        (["list", "--format", "json"], ">&-", 0, ""),
        (["read", "/nowhere/tb"], "2>&-", 3, ""),
        (["read", "/nowhere/tb"], "2>/dev/full", 3, ""),
        (["read", "/nowhere/tb"], ">&- 2>&-", 3, ""),
    ],
)
def test_streams_that_are_closed_or_full(
    server: Gunicorn, base: str, arguments: list[str], redirected: str, code: int, said: str
) -> None:
    """One line where there is somebody to tell, the exit code that it would have, and never a traceback of ours."""
    done = subprocess.run(
        ["sh", "-c", f'"$@" {redirected}', "sh", sys.executable, "-m", "wsgi_tracebacker", *arguments],
        capture_output=True,
        text=True,
        cwd=PROJECT,
        env={**os.environ, "WSGI_TB_SOCKET": base},
        check=False,
        timeout=30,
    )
    assert (done.returncode, done.stderr) == (code, said)
