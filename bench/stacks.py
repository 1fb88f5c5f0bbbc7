"""Threads that stand still, a given number of frames deep, each in a request of the middleware.

``application`` is for uWSGI: the first request makes the threads and is answered when all of them stand still. As a
program, ``python -m bench.stacks``, it does the same without a server, says so, and ends with its input. Threads,
their frames and busy threads are given by ``BENCH_THREADS``, ``BENCH_FRAMES`` and ``BENCH_BUSY``.

With ``BENCH_PEERS``, the folder for their sockets, others that live in the process they show are there too: manhole,
and a thread that has faulthandler write to whoever asks it. With ``BENCH_PAUSES`` one more request is busy, and notes
each time that it had to wait.
"""

from __future__ import annotations

import _thread
import faulthandler
import json
import os
import socket
import sys
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any, cast

from bench import environ
from wsgi_tracebacker import TracebackerMiddleware

if TYPE_CHECKING:
    from collections.abc import Iterable

    from _typeshed.wsgi import StartResponse, WSGIEnvironment

#: Of each stack, from the thread's first to its last.
FRAMES = int(os.environ.get("BENCH_FRAMES", "31"))

#: Where the busy request is.
BUSY_PATH = "/busy"
#: What a busy request does not notice, in seconds: a loop of its own takes a hundredth of it.
SHORTEST_PAUSE = 20e-6

#: Begin and end of each pause of the busy request, in seconds of time.perf_counter(), which is one clock for all
#: processes here.
pauses: deque[tuple[float, float]] = deque(maxlen=200_000)
#: When it looked at the clock last.
looked_at = 0.0

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
    if environ["PATH_INFO"] == BUSY_PATH:
        note_pauses()
    # Less one for stand_still() itself.
    authenticate(FRAMES - depth() - 1)
    return []


wrapped = TracebackerMiddleware(shop)


def keep_busy() -> None:
    while True:
        sum(range(1_000))


def note_pauses() -> None:
    global looked_at
    last = time.perf_counter()
    while True:
        now = time.perf_counter()
        if now - last > SHORTEST_PAUSE:
            pauses.append((last, now))
        looked_at = last = now


def answer_peers(path: str) -> None:
    """faulthandler for whoever asks, and the pauses of the busy request, which are forgotten then."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        while True:
            connection, _ = listening.accept()
            with connection:
                if connection.recv(100) == b"pauses":
                    # The last pause is noted when it is over.
                    asked_at = time.perf_counter()
                    while looked_at < asked_at:
                        # Between two looks.
                        time.sleep(0.001)
                    found = [pauses.popleft() for _ in range(len(pauses))]
                    connection.sendall(json.dumps(found).encode())
                else:
                    faulthandler.dump_traceback(connection.fileno(), all_threads=True)


def start_peers(folder: str) -> None:
    threading.Thread(target=answer_peers, args=(f"{folder}/peers",), daemon=True).start()
    try:
        import manhole  # noqa: PLC0415
    except ImportError:
        return
    manhole.install(verbose=False, socket_path=f"{folder}/manhole", daemon_connection=True)


def start() -> None:
    count = int(os.environ["BENCH_THREADS"])
    for _ in range(count):
        threading.Thread(target=wrapped, args=(environ.make(), cast("Any", None)), daemon=True).start()
    for _ in range(count):
        ready.acquire()
    if folder := os.environ.get("BENCH_PEERS"):
        start_peers(folder)
    if os.environ.get("BENCH_PAUSES"):
        busy = {**environ.make(), "PATH_INFO": BUSY_PATH}
        threading.Thread(target=wrapped, args=(busy, cast("Any", None)), daemon=True).start()
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
