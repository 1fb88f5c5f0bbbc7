"""A worker that keeps its own clock, for measurements of recordings: ``python -m bench.clocked CASE THREADS SECONDS``.

Each request goes through ``long_part`` three times for each time through ``short_part``; both do the same, as CASE
says, and each adds up its own wall clock. Prints ``ready``, waits for a line, serves for so many seconds, and prints
the share of ``long_part`` in both.
"""

from __future__ import annotations

import ctypes
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from bench import environ, served
from wsgi_tracebacker import TracebackerMiddleware

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_USLEEP = ctypes.PyDLL(None).usleep

#: Seconds of computing, or of sleeping without and with the GIL, in one part.
CASES: dict[str, tuple[str, float]] = {
    "bursts of 0.1 ms": ("compute", 0.0001),
    "bursts of 1 ms": ("compute", 0.001),
    "bursts of 30 ms": ("compute", 0.03),
    "C calls of 7 ms that keep the GIL": ("keep", 0.007),
    "C calls of 64 ms that keep the GIL": ("keep", 0.064),
    "sleeps of 5 ms": ("sleep", 0.005),
    "operators of 1 ms": ("operators", 0.001),
}

spent: dict[str, float] = {}
#: A request ends in the middle of nothing: its parts are added up under this.
adding = threading.Lock()


def keep(seconds: float) -> None:
    _USLEEP(int(seconds * 1e6))


def operators(seconds: float) -> None:
    ends, number = time.perf_counter() + seconds, 1
    while time.perf_counter() < ends:
        for step in range(200):
            number = number * 31 + step & 0xFFFF


DOES: dict[str, Callable[[float], Any]] = {
    "compute": served.compute,
    "keep": keep,
    "sleep": time.sleep,
    "operators": operators,
}


def long_part(do: Callable[[float], Any], seconds: float) -> float:
    began = time.perf_counter()
    do(seconds)
    do(seconds)
    do(seconds)
    return time.perf_counter() - began


def short_part(do: Callable[[float], Any], seconds: float) -> float:
    began = time.perf_counter()
    do(seconds)
    return time.perf_counter() - began


def main() -> None:
    name, seconds = CASES[sys.argv[1]]
    do, ends = DOES[name], [float("inf")]

    def application(_: Any, __: Any) -> Iterable[bytes]:
        long, short = long_part(do, seconds), short_part(do, seconds)
        with adding:
            spent["long"] = spent.get("long", 0.0) + long
            spent["short"] = spent.get("short", 0.0) + short
        return []

    wrapped = TracebackerMiddleware(application)

    def serve() -> None:
        while time.monotonic() < ends[0]:
            list(wrapped(environ.make(), lambda *_: lambda _: None))

    list(wrapped(environ.make(), lambda *_: lambda _: None))
    threads = [threading.Thread(target=serve, daemon=True) for _ in range(int(sys.argv[2]))]
    for thread in threads:
        thread.start()
    print("ready", flush=True)
    sys.stdin.readline()
    spent.clear()
    ends[0] = time.monotonic() + float(sys.argv[3])
    for thread in threads:
        thread.join()
    print(spent["long"] / (spent["long"] + spent["short"]), flush=True)


if __name__ == "__main__":
    main()
