"""A wrapped WSGI callable for servers with greenlets: it waits, computes, streams and blocks, each in its own function.

The path says how. ``HARAKIRI_LOG`` is a file for the log. Run as a module it is gevent's own server, which patches
nothing unless its argument is ``patched``; it prints ``listens on`` and its port.
"""

from __future__ import annotations

import sys

if __name__ == "__main__" and sys.argv[1:] == ["patched"]:
    from gevent import monkey

    monkey.patch_all()

import ctypes
import json
import logging
import os
import resource
import threading
import time
from typing import TYPE_CHECKING

from wsgi_tracebacker import TracebackerMiddleware, note, set_harakiri
from wsgi_tracebacker.worker import agent
from wsgi_tracebacker.worker.threads import primitives

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from _typeshed.wsgi import StartResponse, WSGIEnvironment

if "HARAKIRI_LOG" in os.environ:
    logging.basicConfig(filename=os.environ["HARAKIRI_LOG"], format="%(levelname)s %(name)s %(process)d %(message)s")

#: Longer than any test waits.
FOR_EVER_SECONDS = 60.0


def give_way(seconds: float) -> None:
    """Wait as a greenlet does."""
    if primitives.threads_are_patched():
        time.sleep(seconds)
    else:
        import gevent

        gevent.sleep(seconds)


def wait_for_ever() -> None:
    give_way(FOR_EVER_SECONDS)


def compute(seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass


def compute_in_c(seconds: float) -> None:
    """Keep the GIL: a C function that calls others has no step at which Python would hand it over."""
    until = time.monotonic() + seconds
    any(map(until.__lt__, iter(time.monotonic, None)))


def sleep_in_c(seconds: float) -> None:
    """Keep the GIL and use no CPU: PyDLL does not give it up."""
    ctypes.PyDLL(None).usleep(int(seconds * 1e6))


def sleep_unpatched(gate: str) -> None:
    """Block the hub until there is such a file."""
    while not os.path.exists(gate):
        primitives.original("time", "sleep")(0.05)


def compute_in_the_background(gate: str) -> None:
    give_way(0.3)
    while not os.path.exists(gate):
        compute(0.05)


def spawn_background(gate: str) -> None:
    if "eventlet" in sys.modules:
        import eventlet

        eventlet.spawn_n(compute_in_the_background, gate)
    else:
        import gevent

        gevent.spawn(compute_in_the_background, gate)


def stream_slowly() -> Iterator[bytes]:
    yield b"first\n"
    wait_for_ever()
    yield b"last\n"


def fork() -> None:
    if "gevent" in sys.modules:
        import gevent

        # gevent's fork() does it only afterwards: a child that has ended by then is waited for for ever.
        gevent.get_hub().loop.install_sigchld()
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


def holdings() -> bytes:
    own = agent.running()
    return json.dumps(
        {
            "threads": len(threading._active),  # type: ignore[attr-defined]
            "cores": len(own.cores.all()) if own is not None else 0,
            "descriptors": len(os.listdir("/proc/self/fd")),
            "kilobytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        }
    ).encode()


def serve(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    path, query = environ["PATH_INFO"], environ.get("QUERY_STRING", "")
    body = b"done\n"
    note(f"serving {path}")
    if path == "/wait":
        wait_for_ever()
    elif path == "/about":
        give_way(float(query) / 1000)
    elif path == "/innocent":
        # However slow the machine is, it is never overdue itself.
        set_harakiri(0)
        give_way(0.001)
    elif path == "/own":
        set_harakiri(0.2)
        wait_for_ever()
    elif path == "/handle":
        environ["wsgi_tracebacker.request"].set_harakiri(0.2)
        wait_for_ever()
    elif path == "/compute":
        compute(float(query))
    elif path == "/wait-and-compute-in-c":
        give_way(0.5)
        compute_in_c(float(query))
    elif path in ("/compute-in-c", "/compute-in-c-then-wait"):
        compute_in_c(float(query))
    elif path in ("/sleep-in-c", "/sleep-in-c-then-wait"):
        sleep_in_c(float(query))
    elif path == "/unpatched":
        sleep_unpatched(query)
    elif path == "/background":
        spawn_background(query)
    elif path == "/fork":
        fork()
    elif path == "/holdings":
        body = holdings()
    if path.endswith("-then-wait"):
        # In flight until the watchdog, which waits for the GIL, has had its turn.
        give_way(0.3)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return stream_slowly() if path == "/stream" else [body]


application = TracebackerMiddleware(serve)


def main() -> None:
    from gevent.pywsgi import WSGIServer

    server = WSGIServer(("127.0.0.1", 0), application, log=None)
    server.start()
    sys.stdout.write(f"listens on {server.server_port}\n")
    sys.stdout.flush()
    server.serve_forever()


if __name__ == "__main__":
    main()
