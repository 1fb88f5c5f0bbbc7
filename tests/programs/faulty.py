"""What the tests of faults serve: pages that answer the same whatever happens, and one that does harm to its worker.

The answer to ``/ANY/PATH`` is that path, from a list; to ``/stream/PATH`` from a generator; to ``/wait/PATH`` it comes
when the file named by the query is there. At ``/do/execute`` the worker becomes another program.

``FAULTY_TICK`` is how often the worker looks after its files, in seconds.
"""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING

from wsgi_tracebacker import TracebackerMiddleware
from wsgi_tracebacker.worker import agent

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from _typeshed.wsgi import StartResponse, WSGIEnvironment

if "FAULTY_TICK" in os.environ:
    vars(agent)["TICK_SECONDS"] = float(os.environ["FAULTY_TICK"])


def execute() -> None:
    """Become another program, that says which files it has inherited and waits to be killed."""
    script = (
        "import os, time; print('inherited', [os.readlink(f'/proc/self/fd/{n}') for n in os.listdir('/proc/self/fd')"
    )
    script += " if os.path.lexists(f'/proc/self/fd/{n}')], flush=True); time.sleep(60)"
    os.execv(sys.executable, [sys.executable, "-S", "-c", script])


def chunks(path: str) -> Iterator[bytes]:
    for character in path:
        yield character.encode()


def page(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    path = environ["PATH_INFO"]
    if path == "/do/execute":
        execute()
    gate = environ.get("QUERY_STRING", "")
    while gate and not os.path.exists(gate):
        time.sleep(0.02)
    start_response("200 OK", [("Content-Type", "text/plain"), ("X-Faulty", "no")])
    return chunks(path) if path.startswith("/stream") else [path.encode()]


application = TracebackerMiddleware(page)
