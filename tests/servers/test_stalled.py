"""Real servers whose workers are in a C call that never lets the GIL go, or are dead."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.servers import asking
from tests.support import black_boxes, clients
from tests.support.programs import PROJECT
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import StartGunicorn
    from tests.servers.conftest import StartUwsgi
    from tests.support.servers import Gunicorn, Uwsgi

APPLICATION = "tests.programs.stalling:application"
WORKERS = 3
#: A second until a worker counts as one that does not answer, a second for the proof, the dump, and the command itself.
SECONDS_FOR_ALL = 4.0

SERVERS = {
    "gunicorn sync": ("gunicorn", "--workers", str(WORKERS)),
    "gunicorn gthread": ("gunicorn", "--workers", str(WORKERS), "--worker-class", "gthread", "--threads", "2"),
    "uWSGI": ("uwsgi", "--module", APPLICATION, "--processes", str(WORKERS)),
    "uWSGI threads": ("uwsgi", "--module", APPLICATION, "--processes", str(WORKERS), "--threads", "2"),
}


@pytest.fixture(params=list(SERVERS.values()), ids=list(SERVERS))
def server(request: pytest.FixtureRequest) -> Iterator[Gunicorn | Uwsgi]:
    kind, *arguments = request.param
    if kind == "uwsgi":
        start: StartUwsgi = request.getfixturevalue("uwsgi")
        started: Gunicorn | Uwsgi = start(*arguments)
    else:
        start_gunicorn: StartGunicorn = request.getfixturevalue("gunicorn")
        started = start_gunicorn(APPLICATION, *arguments)
    yield started
    # A stalled worker hears no signal but this one.
    for pid in (*started.workers(), started.pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def command(verb: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "wsgi_tracebacker", verb, *arguments]
    return subprocess.run(line, capture_output=True, text=True, cwd=PROJECT, check=False, timeout=60)


def stall_all(server: Gunicorn | Uwsgi, base: str, connections: contextlib.ExitStack) -> None:
    """Requests until each worker has one that stalls it: a thread of a stalled one may accept others, in vain.

    One by one: a second thread that stalls a worker while the first one opens its socket leaves that half open.
    """
    for number in range(4 * WORKERS):
        before = listening(base)
        connections.enter_context(clients.in_flight(server.address, f"/stall/{number}"))
        with contextlib.suppress(AssertionError):
            wait_until(lambda before=before: listening(base) != before, "a worker serves it", 2)  # type: ignore[misc]
        if len(listening(base)) == WORKERS:
            return
    raise AssertionError(f"not all are stalled: {asking.files(base)}; {server.log_text()}")


def listening(base: str) -> set[str]:
    """The sockets of workers that listen; a connection to each would stay in the backlog of one that is stalled."""
    sockets = [line.split() for line in Path("/proc/net/unix").read_text(encoding="utf-8").splitlines()]
    # Flags are the fourth field, __SO_ACCEPTCON is the only one; a path is the eighth.
    return {each[7] for each in sockets if len(each) == 8 and each[3] == "00010000" and each[7].startswith(base)}


def check_stalled(document: dict[str, Any], number: int, err: str = "") -> str:
    """That a snapshot shows a stalled worker with its request and the line; its request's path."""
    assert (document["state"], document["source"]) == ("stalled", "memory"), err
    assert document["worker"]["number"] == number
    serving = [thread for thread in document["threads"] if thread["request"]]
    [thread] = serving
    functions = [frame["function"] for frame in thread["frames"]]
    assert functions[-3:] == ["choose", "backtrack_for_ever", "match"]
    assert thread["frames"][-2]["source"].strip() == 're.match("(a+)+$", "a" * 40 + "b")'
    assert thread["request"]["age_seconds"] > 0
    assert thread["holds_gil"] is True
    path = thread["request"]["path"]
    assert isinstance(path, str)
    return path


@pytest.mark.alone
def test_three_stalled_workers_are_shown_at_once(server: Gunicorn | Uwsgi, base: str) -> None:
    """Each with its request and the line that calls re.match, within four seconds; list and top show them, too."""
    with contextlib.ExitStack() as connections:
        stall_all(server, base, connections)
        began = time.monotonic()
        result = command("read", base, "--format", "json", "--timeout", "10")
        took = time.monotonic() - began
        document = json.loads(result.stdout)
        assert len(document["workers"]) == WORKERS, result.stderr
        paths = {check_stalled(worker, number, result.stderr) for number, worker in enumerate(document["workers"], 1)}
        assert len(paths) == WORKERS
        assert all(path.startswith("/stall/") for path in paths)
        assert [worker["state"] for worker in document["unanswered"]] == ["stalled"] * WORKERS
        assert result.returncode == 1
        assert took < SECONDS_FOR_ALL
        listed = json.loads(command("list", base, "--format", "json", "--timeout", "10").stdout)["workers"]
        assert [worker["state"] for worker in listed] == ["stalled"] * WORKERS
        assert [worker["requests_in_flight"] for worker in listed] == [1] * WORKERS
        printed = command("top", base, "--once", "--format", "jsonl", "--timeout", "10").stdout
        rows = [json.loads(line) for line in printed.splitlines()]
        assert [(row["worker_state"], row["function"]) for row in rows] == [("stalled", "backtrack_for_ever")] * WORKERS


def test_a_stalled_hub_is_shown(gunicorn: StartGunicorn, base: str) -> None:
    """Under gevent all requests share one thread: the one that has stalled it is shown with the line."""
    server = gunicorn(APPLICATION, "--worker-class", "gevent")
    server.get("/")
    [pid] = server.workers()
    try:
        with clients.in_flight(server.address, "/stall/hub"):
            wait_until(lambda: _stalls(base), "it stalls")
            result = command("read", base, "--format", "json", "--timeout", "10")
            [document] = json.loads(result.stdout)["workers"]
            assert check_stalled(document, 1) == "/stall/hub"
    finally:
        os.kill(pid, signal.SIGKILL)


def _stalls(base: str) -> bool:
    listed = json.loads(command("list", base, "--format", "json", "--timeout", "5").stdout)["workers"]
    return [worker["state"] for worker in listed] == ["stalled"]


@pytest.mark.parametrize("path", ["/die/exit", "/die/fault", "/stall"])
def test_a_death_is_told_by_the_successor(path: str, gunicorn: StartGunicorn, base: str) -> None:
    """However a worker dies, the log of the one that takes its number, and the command, name its request."""
    server = gunicorn(APPLICATION)
    server.get("/")
    [pid] = server.workers()
    with contextlib.suppress(OSError), clients.in_flight(server.address, path) as connection:
        if path == "/stall":
            wait_until(lambda: "/stall" in command("read", base, "--no-signal", "--timeout", "1").stdout, "it stalls")
            os.kill(pid, signal.SIGKILL)
            # No successor has taken its number yet: none has served a request.
            untaken = wait_until(
                lambda: json.loads(command("postmortem", base, "--format", "json").stdout)["postmortems"], "it is dead"
            )
            assert [(each["pid"], each["requests"][0]["path"]) for each in untaken] == [(pid, path)]
        connection.getresponse()
    wait_until(lambda: server.workers() not in ([], [pid]), "there is another worker")
    server.get("/")
    server.wait_for_log(rf"worker 1, pid {pid}, died with 1 request in flight(?s:.*?)GET {path} ")
    kept = command("postmortem", base)
    assert (kept.returncode, kept.stderr) == (0, "")
    assert re.search(rf"worker 1, pid {pid}, died with 1 request in flight.*\n  GET {path}  \(core 0, ", kept.stdout)
    assert [file.name.rpartition(".")[2] for file in black_boxes.files_of(base)].count("postmortem") == 1
