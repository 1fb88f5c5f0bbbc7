"""What the tests of faults serve: pages that answer the same whatever happens, and pages that do harm to their worker.

The answer to ``/ANY/PATH`` is that path, from a list; to ``/stream/PATH`` from a generator; to ``/wait/PATH`` it comes
when the file named by the query is there. ``/do/NAME`` does what the function of that name says first.

``FAULTY_TICK`` is how often the worker looks after its files, in seconds; ``FAULTY_LOGGING`` is ``blocks`` or
``raises``, for a handler of the application that does so.
"""

from __future__ import annotations

import logging
import os
import resource
import sys
import threading
import time
from typing import TYPE_CHECKING

from wsgi_tracebacker import TracebackerMiddleware
from wsgi_tracebacker.worker import agent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from _typeshed.wsgi import StartResponse, WSGIEnvironment

if "FAULTY_TICK" in os.environ:
    vars(agent)["TICK_SECONDS"] = float(os.environ["FAULTY_TICK"])


class _Hostile(logging.Handler):
    """Blocks for ever, or raises."""

    def emit(self, record: logging.LogRecord) -> None:
        if os.environ["FAULTY_LOGGING"] == "blocks":
            threading.Event().wait()
        raise RuntimeError("a handler of the application raises")


if "FAULTY_LOGGING" in os.environ:
    logging.getLogger("wsgi_tracebacker").addHandler(_Hostile())


class _Garbage:
    """Instead of a stream: everything one does with it fails."""

    def __getattr__(self, name: str) -> object:
        raise RuntimeError(f"sys.stderr has no {name} any more")


def replace_stderr() -> None:
    sys.stderr = _Garbage()


def rename_threads() -> None:
    for number, thread in enumerate(threading.enumerate()):
        thread.name = "\x1b[2J\nthread_id = evil filename = x lineno = 1 \udcff" * (number + 1)


def allow_threads() -> None:
    resource.setrlimit(resource.RLIMIT_NPROC, (100, 100))


def execute() -> None:
    """Become another program, that says which files it has inherited and waits to be killed."""
    script = (
        "import os, time; print('inherited', [os.readlink(f'/proc/self/fd/{n}') for n in os.listdir('/proc/self/fd')"
    )
    script += " if os.path.lexists(f'/proc/self/fd/{n}')], flush=True); time.sleep(60)"
    os.execv(sys.executable, [sys.executable, "-S", "-c", script])


ACTS: dict[str, Callable[[], object]] = {
    act.__name__: act for act in (replace_stderr, rename_threads, allow_threads, execute)
}


def chunks(path: str) -> Iterator[bytes]:
    for character in path:
        yield character.encode()


def page(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    path = environ["PATH_INFO"]
    if path.startswith("/do/"):
        ACTS[path.removeprefix("/do/")]()
    gate = environ.get("QUERY_STRING", "")
    while gate and not os.path.exists(gate):
        time.sleep(0.02)
    start_response("200 OK", [("Content-Type", "text/plain"), ("X-Faulty", "no")])
    return chunks(path) if path.startswith("/stream") else [path.encode()]


application = TracebackerMiddleware(page)
