"""An application that no server survives, and we have to: ``hostile.py BASE STORY``, without a server.

Says ``ready`` on stdout when it has done its harm and its first request since was served; goes on serving, a request
for each line that it is sent, whose answer it prints.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from wsgi_tracebacker import TracebackerMiddleware, set_harakiri, stop
from wsgi_tracebacker.worker import agent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from _typeshed.wsgi import StartResponse, WSGIEnvironment

#: More than we and Python have open.
MANY = 64

vars(agent)["TICK_SECONDS"] = 0.1
_clock, _sleep = time.monotonic, time.sleep


def fail(*_: object, **__: object) -> object:
    raise RuntimeError("patched")


def patch() -> None:
    """As a test tool of the application might, only worse: what was a function raises, or answers nonsense."""
    time.monotonic = lambda: "garbage"  # type: ignore[assignment,return-value]
    for name in ("time", "sleep", "strftime", "clock_gettime", "process_time", "localtime", "perf_counter", "time_ns"):
        setattr(time, name, fail)
    for name in ("get_ident", "current_thread", "main_thread", "enumerate", "Lock", "Thread", "get_native_id"):
        setattr(threading, name, fail)


class _Mine:
    """What the application opened when it had closed everything: our numbers are among these."""

    files: list[int] = []  # noqa: RUF012
    listening: list[socket.socket] = []  # noqa: RUF012
    callers: list[socket.socket] = []  # noqa: RUF012
    readable: list[tuple[socket.socket, socket.socket]] = []  # noqa: RUF012


def switches() -> dict[str, str]:
    """How often each other thread has gone to sleep and woken up, as the kernel counts it."""
    counted = {}
    for task in os.listdir("/proc/self/task"):
        with contextlib.suppress(OSError):  # it has ended
            lines = Path(f"/proc/self/task/{task}/status").read_text().splitlines()
            counted[task] = "".join(line for line in lines if "ctxt" in line)
    del counted[str(threading.get_native_id())]
    return counted


def wait_until_all_wait() -> None:
    """Until most likely no thread of ours is between its open() and its close() of a file: whoever closes that number
    under it and opens another there has it closed, and nobody can help that.
    """
    before = None
    for _ in range(100):
        now = switches()
        if now == before:
            return
        before = now
        # Between two looks.
        _sleep(0.02)
    raise RuntimeError("some thread never waits")


def close_all() -> None:
    """Close all descriptors and open others: files, sockets with a caller, pipes with something in them."""
    folder = tempfile.mkdtemp(prefix="hostile-", dir=os.path.dirname(sys.argv[1]))
    wait_until_all_wait()
    os.closerange(3, 256)
    for number in range(MANY):
        # In turns, so that each of our numbers may become any of them; which, the seed of the caller decides.
        kind = (number + int(sys.argv[3])) % 3
        if kind == 0:
            _Mine.files.append(os.open(f"{folder}/{number}", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        elif kind == 1:
            listening = socket.socket(socket.AF_UNIX)
            listening.bind(f"{folder}/{number}")
            listening.listen()
            listening.setblocking(False)
            _Mine.listening.append(listening)
        else:
            ours, theirs = socket.socketpair()
            theirs.send(b"precious")
            _Mine.readable.append((ours, theirs))
    for listening in _Mine.listening:
        caller = socket.socket(socket.AF_UNIX)
        caller.connect(listening.getsockname())
        _Mine.callers.append(caller)


def check_untouched() -> str:
    """What of its own was written to, read from, accepted on or closed."""
    wrong = []
    for descriptor in _Mine.files:
        try:
            if os.fstat(descriptor).st_size:
                wrong.append(f"descriptor {descriptor} holds {os.pread(descriptor, 100, 0)!r}")
        except OSError as error:
            wrong.append(f"descriptor {descriptor}: {error}")
    for listening in _Mine.listening:
        try:
            listening.accept()[0].close()
        except OSError as error:
            wrong.append(f"a caller was taken away: {error}")
    for ours, theirs in _Mine.readable:
        try:
            if (found := ours.recv(100)) != b"precious":
                wrong.append(f"{found!r} instead of precious")
            theirs.setblocking(False)
            if select.select([theirs], [], [], 0)[0]:
                wrong.append(f"{theirs.recv(100)!r} was written to a socket")
        except OSError as error:
            wrong.append(f"a socket: {error}")
    return "; ".join(wrong)


STORIES: dict[str, Callable[[], object]] = {"patch": patch, "close_all": close_all}


def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    path = environ["PATH_INFO"]
    if path == "/harm":
        STORIES[sys.argv[2]]()
    elif path.startswith("/overdue"):
        set_harakiri(0.2)
        until = _clock() + 0.6
        while _clock() < until:
            _sleep(0.01)
    start_response("200 OK", [])
    return [path.encode()]


def main() -> None:
    logging.basicConfig(stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
    wrapped = TracebackerMiddleware(application, sys.argv[1], harakiri=0.4)

    def request(path: str) -> str:
        environ = {"REQUEST_METHOD": "GET", "SCRIPT_NAME": "", "PATH_INFO": path}
        return b"".join(wrapped(environ, lambda *_: lambda _: None)).decode()

    for path in ("/overdue/first", "/harm", "/after"):
        assert request(path) == path
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while path := sys.stdin.readline().strip():
        sys.stdout.write(f"{request(path)}\n")
        sys.stdout.flush()
    stop()
    sys.stdout.write(f"untouched: {check_untouched()}\n")
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
