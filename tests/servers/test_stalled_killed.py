"""Harakiri kill of workers in which Python cannot run, in real servers, and uWSGI's own harakiri beside it."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.programs import stalling
from tests.servers import asking
from tests.support import clients
from tests.support.programs import PROJECT
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from tests.conftest import StartGunicorn
    from tests.servers.conftest import StartUwsgi
    from tests.support.servers import Gunicorn, Uwsgi

LIMIT_SECONDS = 1
#: The default margin, and half of it.
EXTRA_SECONDS = 1.0 + 0.5
#: More than that, on a machine that does much else.
LATE_SECONDS = 5.0

#: So many are stalled at once, on as few CPUs as there are; all of them before the first one is overdue.
WORKERS = 3
LIMIT_OF_THREE_SECONDS = 2
#: As many as are wanted, with a few to spare: a worker with two threads may take two.
REQUESTS = 4 * WORKERS

FUNCTION, LINE = "backtrack_for_ever", 're.match("(a+)+$", "a" * 40 + "b")'


@contextlib.contextmanager
def ended_at_last(pids: set[int]) -> Iterator[None]:
    """A stalled worker that nobody has killed hears no signal but this one."""
    try:
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def seconds_until_dropped(address: clients.Address, path: str) -> float:
    """How long a request lasts whose worker is killed for it."""
    began = time.monotonic()
    with clients.in_flight(address, path) as connection:
        try:
            connection.getresponse()
        except (http.client.HTTPException, OSError):
            return time.monotonic() - began
    raise AssertionError("it was answered")


@pytest.mark.alone
def test_kill_ends_a_stall_and_the_successor_tells(gunicorn: StartGunicorn, uwsgi: StartUwsgi, base: str) -> None:
    """On time plus the margin, without the GIL; the successor has the number, and its log names the request, with the
    stack that was taken before the end. uWSGI's harakiri of the same limit, with its tracebacker, logs no such stack.
    """
    ours = gunicorn(
        "tests.programs.stalling:application",
        *("--worker-class", "gthread", "--threads", "4"),
        env={"WSGI_TB_HARAKIRI": str(LIMIT_SECONDS), "WSGI_TB_HARAKIRI_ACTION": "kill"},
    )
    ours.get("/quick")
    pid = asking.pids(base)[1]
    with ended_at_last({pid}):
        took = seconds_until_dropped(ours.address, "/stall/ours")
    assert LIMIT_SECONDS <= took < LIMIT_SECONDS + EXTRA_SECONDS + LATE_SECONDS
    wait_until(lambda: pid not in ours.workers() and ours.workers(), "there is another worker")
    ours.get("/quick")
    wait_until(lambda: asking.pids(base).get(1) not in (None, pid), "it has the same number")
    assert asking.numbers(base) == [1]
    told = ours.wait_for_log(
        rf"postmortem: worker 1, pid {pid}, died with 1 request in flight(?s:.*?)\n  GET /stall/ours  \((?s:.*)"
        rf":\d+ {FUNCTION}\n"
    )[0]
    assert re.search(rf"{re.escape(os.path.basename(stalling.__file__))}:\d+ {FUNCTION}$", told, re.MULTILINE)
    line = [sys.executable, "-m", "wsgi_tracebacker", "postmortem", base, "--format", "json"]
    document = json.loads(subprocess.run(line, capture_output=True, check=True, cwd=PROJECT, timeout=30).stdout)
    [kept] = document["postmortems"]
    assert (kept["pid"], [request["path"] for request in kept["requests"]]) == (pid, ["/stall/ours"])
    assert f"in {FUNCTION}" in kept["stacks"]

    theirs = uwsgi(
        *("--module", "tests.programs.stalling:choose", "--harakiri", str(LIMIT_SECONDS)),
        *("--py-tracebacker", f"{base}-uwsgi."),
    )
    clients.request(theirs.address, "/quick")
    stalled = theirs.worker_pids()[1]
    with ended_at_last({stalled}):
        theirs_took = seconds_until_dropped(theirs.address, "/stall/theirs")
    theirs.wait_for_log("Respawned uWSGI worker 1")
    # Its new worker serves, so that it hears the end of the test: one that has just begun does not.
    assert clients.request(theirs.address, "/quick").status == 200
    log = theirs.log_text()
    assert "HARAKIRI" in log
    assert "/stall/theirs" in log
    assert FUNCTION not in log
    assert LINE not in log
    sys.stdout.write(f"limit {LIMIT_SECONDS} s: ours ended after {took:.2f} s, uWSGI's after {theirs_took:.2f} s\n")


def stall_all(server: Gunicorn | Uwsgi, base: str, connections: contextlib.ExitStack) -> tuple[dict[int, int], float]:
    """Requests until each worker has one that stalls it: the workers' pids, by number, and when the last one began."""
    for number in range(REQUESTS):
        before, began = cards(base), time.monotonic()
        connections.enter_context(clients.in_flight(server.address, f"/stall/{number}"))
        with contextlib.suppress(AssertionError):
            wait_until(lambda before=before: cards(base) != before, "a worker serves it", 0.5)  # type: ignore[misc]
        if len(cards(base)) == WORKERS:
            return cards(base), began
    raise AssertionError(f"not all are stalled: {cards(base)}; {server.log_text()}")


def seconds_until_gone(pids: Collection[int], began: float) -> list[float]:
    """How long after ``began`` each of these processes is gone."""
    took: list[float] = []
    left = set(pids)
    while left:
        assert time.monotonic() - began < clients.TIMEOUT_SECONDS, left
        for pid in [pid for pid in left if not os.path.exists(f"/proc/{pid}")]:
            left.remove(pid)
            took.append(time.monotonic() - began)
        time.sleep(0.01)
    return took


def cards(base: str) -> dict[int, int]:
    """The pids of the workers that have begun to serve, by number; they need not answer for that."""
    names = [name for name in asking.files(base) if name.endswith(".worker")]
    written = [json.loads(Path(f"{base}{name}").read_bytes() or b"{}") for name in names]
    return {card["number"]: card["pid"] for card in written if card}


SERVERS = {
    "gunicorn sync": ("gunicorn", "--workers", str(WORKERS)),
    # No more connections than threads, so that a worker that has its hands full leaves the next one to the others.
    "gunicorn gthread": (
        *("gunicorn", "--workers", str(WORKERS), "--worker-class", "gthread"),
        *("--threads", "2", "--worker-connections", "2"),
    ),
    "uWSGI": ("uwsgi", "--processes", str(WORKERS)),
}


@pytest.mark.alone
@pytest.mark.parametrize("arguments", SERVERS.values(), ids=SERVERS)
def test_three_that_are_stalled_at_once_are_killed_in_time(
    request: pytest.FixtureRequest, base: str, arguments: tuple[str, ...]
) -> None:
    """With less than a CPU for each, on time plus the margin; each successor's log names the
    request that its predecessor was stalled by.
    """
    kind, *more = arguments
    application = "tests.programs.stalling:application"
    settings = {"WSGI_TB_HARAKIRI": str(LIMIT_OF_THREE_SECONDS), "WSGI_TB_HARAKIRI_ACTION": "kill"}
    server: Gunicorn | Uwsgi
    if kind == "uwsgi":
        start_uwsgi: StartUwsgi = request.getfixturevalue("uwsgi")
        options = [f"{name}={value}" for name, value in settings.items()]
        server = start_uwsgi("--module", application, *more, *(word for pair in options for word in ("--env", pair)))
    else:
        start_gunicorn: StartGunicorn = request.getfixturevalue("gunicorn")
        server = start_gunicorn(application, *more, env=settings)
    with contextlib.ExitStack() as connections:
        pids, began = stall_all(server, base, connections)
        connections.enter_context(ended_at_last(set(pids.values())))
        took = seconds_until_gone(pids.values(), began)
        # Each new worker says it with its first request; one that waits is not given another.
        for number in range(REQUESTS):
            connections.enter_context(clients.in_flight(server.address, f"/wait/{number}"))
            with contextlib.suppress(AssertionError):
                wait_until(lambda: not untold(server, pids), "all are told of", 0.25)
                break
        assert untold(server, pids) == {}
    sys.stdout.write(f"limit {LIMIT_OF_THREE_SECONDS} s, {WORKERS} stalled: ours ended after {rounded(took)} s\n")
    assert LIMIT_OF_THREE_SECONDS <= took[-1] < LIMIT_OF_THREE_SECONDS + EXTRA_SECONDS + LATE_SECONDS


def untold(server: Gunicorn | Uwsgi, pids: dict[int, int]) -> dict[int, int]:
    """Those of whose end no successor has told yet, with the request and the stack."""
    log = server.log_text()
    return {
        number: pid
        for number, pid in pids.items()
        if not re.search(
            rf"postmortem: worker {number}, pid {pid}, died with [12] requests? in flight(?s:.*?)\n  GET /stall/\d+  \("
            rf"(?s:.*?):\d+ {FUNCTION}\n",
            log,
        )
    }


def rounded(seconds: list[float]) -> str:
    return ", ".join(f"{each:.2f}" for each in seconds)


def test_a_kill_of_a_stall_takes_its_neighbours_along_by_name(gunicorn: StartGunicorn, base: str) -> None:
    """Other requests of the same worker die with it; each of them is named too."""
    server = gunicorn(
        "tests.programs.stalling:application",
        *("--worker-class", "gthread", "--threads", "4"),
        env={"WSGI_TB_HARAKIRI": str(LIMIT_SECONDS), "WSGI_TB_HARAKIRI_ACTION": "kill"},
    )
    server.get("/quick")
    pid = asking.pids(base)[1]
    with ended_at_last({pid}), clients.in_flight(server.address, "/wait"):
        wait_until(lambda: asking.serving(base, "/wait"), "it waits")
        seconds_until_dropped(server.address, "/stall")
    wait_until(lambda: pid not in server.workers() and server.workers(), "there is another worker")
    server.get("/quick")
    told = server.wait_for_log(rf"worker 1, pid {pid}, died with 2 requests in flight(?s:.*?)GET /stall  \(core")[0]
    assert "\n  GET /wait  (core" in told
