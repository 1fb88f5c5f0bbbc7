"""One worker without a server whose threads serve requests all the time: ``recorded.py BASE [PATH...]``.

Each thread serves one route: half of the time of ``/half/N`` is sleep, ``/lock/N`` waits for a
lock that ``/hold`` has, ``/peer/N`` for an answer on a connection, ``/fork/N`` for a child that ends at once,
``/turns/N`` sleeps in two functions in turn, ``/alone/N`` computes for 0.1 s in a thread of its own, ``/long`` just
sleeps. A line on stdin makes it run another program, which is no worker; the line ``fork`` makes a child that serves
``/long`` as a worker of its own, and writes its pid; after the line ``serve`` the main thread serves ``/long``, too.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from typing import TYPE_CHECKING

from wsgi_tracebacker import TracebackerMiddleware

if TYPE_CHECKING:
    from collections.abc import Iterable

    from _typeshed.wsgi import StartResponse, WSGIEnvironment

lock = threading.Lock()
LISTENING = socket.create_server(("127.0.0.1", 0))


def compute(seconds: float) -> None:
    ends = time.thread_time() + seconds
    while time.thread_time() < ends:
        sum(range(50))


def wait_for_lock() -> None:
    with lock:
        pass


def wait_for_peer() -> None:
    with socket.create_connection(LISTENING.getsockname()) as connection:
        connection.recv(1)


def sleep_here() -> None:
    time.sleep(0.02)


def sleep_there() -> None:
    time.sleep(0.02)


def fork_a_child() -> None:
    child = os.fork()
    if not child:
        time.sleep(0.01)
        os._exit(0)
    os.waitpid(child, 0)


def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    path = environ["PATH_INFO"]
    if path.startswith("/half"):
        time.sleep(0.02)
        compute(0.02)
    elif path.startswith("/alone"):
        compute(0.1)
    elif path.startswith("/lock"):
        wait_for_lock()
    elif path.startswith("/peer"):
        wait_for_peer()
    elif path.startswith("/turns"):
        for _ in range(10):
            sleep_here()
            sleep_there()
    elif path.startswith("/fork"):
        fork_a_child()
    elif path == "/hold":
        with lock:
            time.sleep(3600)
    else:
        time.sleep(3600)
    start_response("200 OK", [])
    return []


def main() -> None:
    wrapped = TracebackerMiddleware(application, socket=sys.argv[1])

    def serve_one(environ: WSGIEnvironment) -> None:
        list(wrapped(environ, lambda *_: lambda _: None))

    def serve(path: str) -> None:
        for number in range(1_000_000):
            environ = {"REQUEST_METHOD": "GET", "SCRIPT_NAME": "", "PATH_INFO": path.format(number)}
            if path.startswith("/alone"):
                thread = threading.Thread(target=serve_one, args=(environ,))
                thread.start()
                thread.join()
            else:
                serve_one(environ)

    for path in sys.argv[2:] or ("/hold", "/long", "/lock/{}", "/peer/{}", "/half/{}"):
        threading.Thread(target=serve, args=(path,), daemon=True).start()
        time.sleep(0.1)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    wanted = sys.stdin.readline()
    if wanted == "serve\n":
        serve("/long")
    if wanted == "fork\n":
        pid = os.fork()
        if pid == 0:
            serve("/long")
        sys.stdout.write(f"{pid}\n")
        sys.stdout.flush()
        sys.stdin.readline()
    os.execvp("sleep", ["sleep", "3600"])


if __name__ == "__main__":
    main()
