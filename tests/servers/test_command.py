"""The command as an operator runs it: a process, on the sockets of real gunicorn."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
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
    from pathlib import Path

    from tests.conftest import StartGunicorn
    from tests.support.servers import Gunicorn

#: Erases the screen, sets a title, breaks the line, turns the text round, and starts an 8-bit control sequence: as
#: percent-escapes of a URL, which servers decode.
HOSTILE_PATH = "/%1b[2J%1b]0;owned%07%0d%0aworker%209%20%e2%80%ae%c2%9b31m%ff%00"


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
    """Exit code 0; each worker's line, its request, and every line of the slow page's chain; no query, no colour."""
    shown = wsgi_tb("read", base)
    assert (shown.returncode, shown.stderr) == (0, b"")
    text = shown.stdout.decode()
    for number, pid in asking.pids(base).items():
        assert re.search(
            rf"^worker {number}  pid {pid}  gunicorn/\S+  example_app\.pages:application  up ", text, re.MULTILINE
        )
        assert re.search(rf"^  WSGIWorker{number}Core0  GET /slow  [0-9.]+ s  in app, sleeping", text, re.MULTILINE)
    lines = [line.strip() for line in text.splitlines()]
    for function, source in zip(asking.CHAIN, asking.CHAIN_LINES, strict=True):
        found = [
            lines[n + 1] for n, line in enumerate(lines) if line.endswith(f", in {function}") and "slow.py" in line
        ]
        assert found == [source, source]
    assert "secret" not in text
    assert "\x1b" not in text
    # The base can come from the environment, and a socket alone can be named.
    again = wsgi_tb("read", env={"WSGI_TB_SOCKET": base})
    assert again.stdout.count(b"\nworker 2  pid ") == 1
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


def test_only_old_requests(server: Gunicorn, base: str) -> None:
    """--older leaves out what is younger, in every format, and says how much it left out."""
    assert b"GET /slow" in wsgi_tb("read", "--older", "0.001", base).stdout
    shown = wsgi_tb("read", "--older", "3000", base)
    assert shown.returncode == 0
    assert b"GET /slow" not in shown.stdout
    assert shown.stdout.count(b"1 younger request not shown") == 2
    document = json.loads(wsgi_tb("read", "--older", "3000", "--format", "json", base).stdout)
    assert [worker["threads"] for worker in document["workers"]] == [[], []]
    assert wsgi_tb("read", "--older", "3000", "--format", "uwsgi", base).stdout == uwsgi_format.HEADER * 2


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
    assert b"1 younger request not shown" in shown.stdout


def test_the_list(server: Gunicorn, base: str) -> None:
    """One line for each worker, with its pid, state and requests; the same as JSON."""
    pids = asking.pids(base)
    shown = wsgi_tb("list", base)
    assert (shown.returncode, shown.stderr) == (0, b"")
    _, *rows = (line.split() for line in shown.stdout.decode().splitlines())
    assert [row[:4] for row in rows] == [[str(number), str(pids[number]), "alive", "1"] for number in (1, 2)]
    assert all("example_app.pages:application" in row and f"{base}{row[0]}" in row for row in rows)
    shown = wsgi_tb("list", "--format", "json", base)
    workers = json.loads(shown.stdout)["workers"]
    assert [(w["number"], w["pid"], w["state"]) for w in workers] == [(n, pids[n], "alive") for n in (1, 2)]
    assert all(0 < worker["oldest_request_seconds"] < 60 for worker in workers)


def test_a_stopped_worker_is_named(server: Gunicorn, base: str) -> None:
    """Exit code 1; the others are shown, this one stands on stderr with its pid and its state."""
    pid = asking.pids(base)[1]
    os.kill(pid, signal.SIGSTOP)
    try:
        shown = wsgi_tb("read", "--timeout", "1", base)
        listed = wsgi_tb("list", "--timeout", "1", base)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert (shown.returncode, listed.returncode) == (1, 1)
    # From its black box, which needs nobody to run.
    assert re.search(rb"^worker 1  pid .*  stopped, no answer$", shown.stdout, re.MULTILINE)
    assert re.search(rb"^worker 2  pid ", shown.stdout, re.MULTILINE)
    [line] = shown.stderr.decode().splitlines()
    assert line.startswith("wsgi-tb: worker 1 ")
    assert f"pid {pid}" in line
    assert "stopped" in line
    assert listed.stdout.decode().splitlines()[1].split()[:3] == ["1", str(pid), "stopped"]
    assert wsgi_tb("read", base).returncode == 0


def test_a_dead_worker_is_named(server: Gunicorn, base: str) -> None:
    """Killed, and its successor has served nothing yet: exit code 1, and it is called dead."""
    pid = asking.pids(base)[2]
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: pid not in server.workers(), "it has died")
    shown = wsgi_tb("read", base)
    assert shown.returncode == 1
    assert shown.stdout.startswith(b"worker 1  pid ")
    assert b"worker 2" not in shown.stdout
    [line] = shown.stderr.decode().splitlines()
    assert f"pid {pid}" in line
    assert "dead" in line
    listed = wsgi_tb("list", base)
    assert listed.returncode == 1
    assert listed.stdout.decode().splitlines()[2].split()[:3] == ["2", str(pid), "dead"]


def test_what_is_not_understood(base: str) -> None:
    """Exit code 2, nothing on stdout, one line that names the mistake."""
    for arguments, named in (
        (["read", "--no-such-option"], b"--no-such-option"),
        (["read", "--format", "xml", base], b"xml"),
        (["read", "--worker", "0", base], b"--worker"),
        (["read", "--older", "soon", base], b"--older"),
        (["list", "--timeout", "0", base], b"--timeout"),
        (["write"], b"write"),
    ):
        shown = wsgi_tb(*arguments)
        assert (shown.returncode, shown.stdout) == (2, b""), arguments
        assert named in shown.stderr


def test_nobody_there(gunicorn: StartGunicorn, base: str) -> None:
    """Exit code 3, for a folder that is empty and for a server that has served nothing yet."""
    gunicorn()
    for verb in ("read", "list"):
        shown = wsgi_tb(verb, base)
        assert (shown.returncode, shown.stdout) == (3, b"")
        assert base.encode() in shown.stderr


@pytest.mark.parametrize("colour", ["never", "always"])
def test_no_control_character_of_a_path_gets_out(
    colour: str, gunicorn: StartGunicorn, base: str, tmp_path: Path
) -> None:
    """A client that puts terminal escapes into its path sees the operator's terminal unharmed, in every format."""
    gate = tmp_path / "gate"
    server = gunicorn("tests.programs.waiting_room:application")
    with clients.in_flight(server.address, f"{HOSTILE_PATH}?{gate}"):
        wait_until(lambda: asking.serving(base), "it is in flight")
        outputs = [
            wsgi_tb("read", "--color", colour, base),
            wsgi_tb("read", "--color", colour, "--all", base),
            wsgi_tb("read", "--format", "json", base),
            wsgi_tb("read", "--format", "uwsgi", base),
            wsgi_tb("list", base),
        ]
        gate.touch()
    assert all((output.returncode, output.stderr) == (0, b"") for output in outputs)
    for output in outputs:
        # Colour is the only thing that may bring escapes, and only such as set or reset it.
        text = re.sub(r"\x1b\[[0-9;]*m", "", output.stdout.decode()) if colour == "always" else output.stdout.decode()
        assert not [c for c in text if c != "\n" and (ord(c) < 32 or 127 <= ord(c) < 160 or c in "\u202e\u2028")]
        assert not re.search(r"^worker 9", text, re.MULTILINE)
    assert r"\x1b[2J" in outputs[0].stdout.decode()
    assert "owned" in outputs[0].stdout.decode()


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
