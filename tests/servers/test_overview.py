"""The overview of real workers that hang in seven places, under Flask and Django."""

from __future__ import annotations

import contextlib
import re
from typing import TYPE_CHECKING

import pytest

from tests.programs import seven_places
from tests.programs.seven_places import PLACES
from tests.servers import asking
from tests.servers.test_command import wsgi_tb
from tests.support import clients
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from tests.conftest import StartGunicorn

CLIENTS = 40
#: Lines of a terminal.
SCREEN = 50


def all_hang(base: str) -> bool:
    """Whether no client is left out of what the workers say, and every request has reached the call in which it hangs.

    A client's request is in flight, or its connection waits: inside a server for a thread, or to be accepted.
    """
    documents = asking.snapshots(base)
    workers = [document["worker"] for document in documents]
    inside = sum(worker["requests_in_flight"] + (worker["inner_queue"] or 0) for worker in workers)
    waiting = {listen["inode"]: listen["waiting"] for worker in workers for listen in worker["listen"]}
    serving = [thread for document in documents for thread in document["threads"] if thread["request"] is not None]
    if inside + sum(waiting.values()) != CLIENTS:
        return False
    own = [[frame for frame in thread["frames"] if frame["filename"] == seven_places.__file__] for thread in serving]
    if not all(frames and frames[-1]["function"] != "hang" and "Popen" not in frames[-1]["source"] for frames in own):
        return False
    # One that has not got the GIL for that call yet waits for something else than those in the same place.
    waits = {(frames[-1]["function"], thread["wait_channel"]) for frames, thread in zip(own, serving, strict=True)}
    return len(waits) == len({function for function, _ in waits})


def is_old(base: str, path: str) -> bool:
    """Whether a request is older than two workers' answers may lie apart: each counts ages until its own."""
    return any(thread["request"]["age_seconds"] > 0.3 for thread in asking.serving(base, path))


@pytest.mark.parametrize("framework", ["flask", "django"])
@pytest.mark.parametrize("workers", [1, 4, 16])
def test_forty_clients_in_seven_places_fit_a_screen(
    gunicorn: StartGunicorn, base: str, workers: int, framework: str
) -> None:
    """Each place has its row, the one that was first the first, with route and source; its stack follows."""
    server = gunicorn(
        f"tests.programs.seven_places_{framework}:application",
        *("--workers", str(workers), "--worker-class", "gthread", "--threads", "8", "--graceful-timeout", "1"),
    )
    with contextlib.ExitStack() as connections:
        for number in range(CLIENTS):
            place = [*PLACES][number % len(PLACES)]
            path = f"/{place}/{1000 + number}"
            connections.enter_context(clients.in_flight(server.address, path))
            if number < len(PLACES):
                wait_until(lambda path=path: is_old(base, path), f"{path} is in flight")  # type: ignore[misc]
        wait_until(lambda: all_hang(base), "every client waits, and every request hangs in its place")
        shown = wsgi_tb("read", base)
        full = wsgi_tb("read", "--full", "--limit", "0", base)
    assert (shown.returncode, shown.stderr) == (0, b"")
    text = shown.stdout.decode()
    overview, _, stacks = text.partition("\n\n1  ")
    lines = overview.splitlines()
    assert len(lines) <= SCREEN
    # The line of a single worker names its application, which may be long.
    assert max(len(line) for line in lines if not line.startswith("worker 1  pid ")) <= 80
    if workers == 1:
        assert re.match(r"8 requests in 1 worker, 8 of 8 threads busy, \d+ connections wait,\s+oldest ", text)
    routes = [found for line in lines if (found := re.search(r"GET /(\w+)/:", line))]
    assert [found[1] for found in routes] == [*PLACES]
    functions = [function.__name__ for function in PLACES.values()]
    in_order = [name for line in lines for name in functions if re.search(rf"\b{name}\b", line)]
    assert in_order == functions
    assert [name for name in functions if f" {name}\n" in stacks] == functions
    for number, place in enumerate(PLACES):
        assert f"GET /{place}/{1000 + number} " in full.stdout.decode()
