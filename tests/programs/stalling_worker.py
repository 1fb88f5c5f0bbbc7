"""One worker without a server, for readers to look at: ``stalling_worker.py BASE STORY``.

Serves one request in its main thread and says ``ready`` when that has begun to be told: ``backtrack`` holds the GIL
and burns CPU, ``deadlock`` holds the GIL and sleeps, ``beside`` does so beside a request that computes without it,
``unproven`` does so beside threads that compute without it,
``nap`` does that and ends some seconds later, ``spin`` runs 64 CPU-bound threads beside a request that waits, and with
any other the request just waits.
"""

from __future__ import annotations

import ctypes
import hashlib
import re
import sys
import threading
import time
from typing import TYPE_CHECKING

from wsgi_tracebacker import TracebackerMiddleware

if TYPE_CHECKING:
    from collections.abc import Iterable

    from _typeshed.wsgi import StartResponse, WSGIEnvironment


SPINNING_THREADS = 64

#: Set when all of them have been started: beside threads that burn CPU that would take seconds.
may_spin = threading.Event()


def tell(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    if environ["PATH_INFO"] == "/first":
        return []
    if environ["PATH_INFO"] == "/compute":
        compute_without_the_gil()
    # The listener gets its turn before there is none.
    time.sleep(0.2)
    if environ["PATH_INFO"] == "/spin":
        for _ in range(SPINNING_THREADS):
            threading.Thread(target=spin, daemon=True).start()
    elif environ["PATH_INFO"] in ("/unproven", "/nap"):
        # So many that none has most of the CPU time, not even where a busy machine favours one of them.
        for _ in range(4):
            threading.Thread(target=compute_without_the_gil, daemon=True).start()
        # Until they are in their calls.
        time.sleep(0.2)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    may_spin.set()
    if environ["PATH_INFO"] == "/backtrack":
        backtrack_for_ever()
    elif environ["PATH_INFO"] in ("/deadlock", "/beside", "/unproven"):
        lock_itself_out()
    elif environ["PATH_INFO"] == "/nap":
        nap_with_the_gil()
    else:
        time.sleep(3600)
    return []


def spin() -> None:
    may_spin.wait()
    while True:
        pass


def backtrack_for_ever() -> None:
    re.match("(a+)+$", "a" * 40 + "b")


def compute_without_the_gil() -> None:
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)


def nap_with_the_gil() -> None:
    ctypes.PyDLL(None).usleep(6_000_000)
    time.sleep(3600)


def lock_itself_out() -> None:
    # PyDLL calls with the GIL held, as a careless extension does. Not sleep(3): a signal would wake it up.
    library, mutex = ctypes.PyDLL(None), ctypes.create_string_buffer(64)
    library.pthread_mutex_lock(mutex)
    library.pthread_mutex_lock(mutex)


def main() -> None:
    base, story = sys.argv[1:]
    wrapped = TracebackerMiddleware(tell, socket=base)

    def serve(path: str) -> None:
        environ = {"REQUEST_METHOD": "GET", "SCRIPT_NAME": "", "PATH_INFO": path}
        list(wrapped(environ, lambda *_: lambda _: None))

    serve("/first")
    if story == "beside":
        threading.Thread(target=serve, args=("/compute",), daemon=True).start()
    serve(f"/{story}")


if __name__ == "__main__":
    main()
