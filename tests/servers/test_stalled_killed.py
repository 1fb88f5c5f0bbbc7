"""Harakiri kill of a worker in which Python cannot run, in real gunicorn, and what uWSGI's own harakiri says of it."""

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
from typing import TYPE_CHECKING

from tests.programs import stalling
from tests.servers import asking
from tests.support import clients
from tests.support.programs import PROJECT
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import StartGunicorn
    from tests.servers.conftest import StartUwsgi

LIMIT_SECONDS = 1
#: The default margin, the time between two looks of the watchdog, and the one for the dump.
EXTRA_SECONDS = 1.0 + LIMIT_SECONDS / 4 + 0.3
#: More than that, on a machine that does much else.
LATE_SECONDS = 5.0

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
        rf", line \d+ in {FUNCTION}\n"
    )[0]
    assert re.search(rf'File "{re.escape(stalling.__file__)}", line \d+ in {FUNCTION}$', told, re.MULTILINE)
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
