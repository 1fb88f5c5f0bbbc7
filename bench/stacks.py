"""Threads that stand still, a given number of frames deep, each in a request of the middleware.

``application`` is for uWSGI: the first request makes the threads and is answered when all of them stand still. As a
program, ``python -m bench.stacks``, it does the same without a server, says so, and ends with its input. Threads and
busy threads are given by ``BENCH_THREADS`` and ``BENCH_BUSY``.
"""

from __future__ import annotations

import _thread
import os
import sys
import threading
from typing import TYPE_CHECKING, Any, cast

from bench import environ
from wsgi_tracebacker import TracebackerMiddleware

if TYPE_CHECKING:
    from collections.abc import Iterable

    from _typeshed.wsgi import StartResponse, WSGIEnvironment

#: Of each stack, from the thread's first to its last.
FRAMES = 31

#: One for each thread that stands still.
ready = threading.Semaphore(0)
#: Held for ever.
gate = _thread.allocate_lock()
gate.acquire()


def stand_still(_: int) -> None:
    ready.release()
    gate.acquire()


# A few functions and not one that calls itself: the lines of a real stack differ.
def authenticate(left: int) -> None:
    (dispatch if left > 1 else stand_still)(left - 1)


def dispatch(left: int) -> None:
    (find_article if left > 1 else stand_still)(left - 1)


def find_article(left: int) -> None:
    (run_query if left > 1 else stand_still)(left - 1)


def run_query(left: int) -> None:
    (get_connection if left > 1 else stand_still)(left - 1)


def get_connection(left: int) -> None:
    (authenticate if left > 1 else stand_still)(left - 1)


def depth() -> int:
    frame, count = sys._getframe(1), 1
    while frame.f_back is not None:
        frame, count = frame.f_back, count + 1
    return count


def shop(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:  # noqa: ARG001
    # Less one for stand_still() itself.
    authenticate(FRAMES - depth() - 1)
    return []


wrapped = TracebackerMiddleware(shop)


def keep_busy() -> None:
    while True:
        sum(range(1_000))


def start() -> None:
    count = int(os.environ["BENCH_THREADS"])
    for _ in range(count):
        threading.Thread(target=wrapped, args=(environ.make(), cast("Any", None)), daemon=True).start()
    for _ in range(count):
        ready.acquire()
    for _ in range(int(os.environ["BENCH_BUSY"])):
        threading.Thread(target=keep_busy, name="busy", daemon=True).start()


def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:  # noqa: ARG001
    start()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "6")])
    return [b"ready\n"]


def main() -> None:
    start()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    main()
