"""How costs grow: a dump's with threads and with frames, the command's with workers, a request's with those in flight.

Each is measured at several sizes, in turns, and told as what one more costs. The
exponent is that of the steepest part of the curve: 1 is a straight line, 0 no growth at all, 2 a square.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import statistics
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, cast

from bench import dump_latency, environ, processes, reader_process
from bench.dump_latency import JSON_QUESTION, TEXT_QUESTION, Case
from bench.folders import scratch_folder
from bench.samples import Row, in_turns, number, row
from wsgi_tracebacker import TracebackerMiddleware

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from _typeshed.wsgi import StartResponse, WSGIEnvironment

TOPIC = "How cost grows"
WITH_THREADS = "a dump, with threads of 40 frames"
WITH_FRAMES = "a dump, with frames of 64 threads"
WITH_WORKERS = "wsgi-tb read, with workers"
WITH_REQUESTS = "a request, with others in flight"

#: By case: sizes, and those of a quick run.
THREADS, QUICK_THREADS = (4, 16, 64, 256, 500), (4, 64, 256)
FRAMES, QUICK_FRAMES = (10, 50, 200, 800), (10, 200)
WORKERS, QUICK_WORKERS = (1, 8, 32, 128), (1, 16)
REQUESTS, QUICK_REQUESTS = (0, 8, 64, 500), (0, 64)

ROUNDS, QUICK_ROUNDS = 20, 4
BUDGET_SECONDS = 3.0
CALLS = 10_000

#: Sizes that differ by less say little of the curve.
_APART = 4
#: The largest exponent of what grows in proportion, with room for noise and for caches that are too small.
STRAIGHT = 1.15


def measure(quick: bool) -> list[Row]:
    rounds = QUICK_ROUNDS if quick else ROUNDS
    rows: list[Row] = []
    threads = {count: Case(count, 40) for count in (QUICK_THREADS if quick else THREADS)}
    frames = {count: Case(64, count) for count in (QUICK_FRAMES if quick else FRAMES)}
    for case, sizes in ((WITH_THREADS, threads), (WITH_FRAMES, frames)):
        for kind, question in (("text", TEXT_QUESTION), ("JSON", JSON_QUESTION)):
            values = _dumps(sizes, question, rounds)
            rows += _rows(f"{case}, {kind}", values, "ms", "threads" if sizes is threads else "frames")
    rows += _rows(WITH_WORKERS, _reads(QUICK_WORKERS if quick else WORKERS, rounds), "ms", "workers")
    rows += _rows(WITH_REQUESTS, _requests(QUICK_REQUESTS if quick else REQUESTS, rounds), "µs", "in flight")
    return rows


def _rows(case: str, values: dict[int, list[float]], unit: str, of: str) -> list[Row]:
    medians = {size: statistics.median(found) for size, found in values.items()}
    first = min(medians)
    rows = []
    for size, found in values.items():
        note = ""
        if size != first:
            each = (medians[size] - medians[first]) / (size - first)
            note = f"{number(each * 1e3)} {_SMALLER[unit]} for each more"
        rows.append(row(TOPIC, case, f"{size} {of}", unit, found, medians[first], note))
    return rows


_SMALLER = {"ms": "µs", "µs": "ns"}


def exponent(medians: Sequence[tuple[int, float]]) -> float | None:
    """How steep the curve is where it is steepest, between two sizes that are far enough from each other."""
    steep = [
        math.log(cost / before_cost) / math.log(size / before)
        for index, (size, cost) in enumerate(medians)
        for before, before_cost in medians[:index]
        if before > 0 and before_cost > 0 and cost > 0 and size >= _APART * before
    ]
    return max(steep, default=None)


def _dumps(sizes: dict[int, Case], question: bytes, rounds: int) -> dict[int, list[float]]:
    with contextlib.ExitStack() as started:
        sockets = {count: started.enter_context(dump_latency.worker(case)).socket for count, case in sizes.items()}

        def sample(count: int) -> float:
            began = time.perf_counter()
            processes.ask(sockets[count], question)
            return (time.perf_counter() - began) * 1e3

        return _in_turns({count: (lambda count=count: sample(count)) for count in sizes}, rounds)  # type: ignore[misc]


def _in_turns(samples: dict[int, Callable[[], float]], rounds: int) -> dict[int, list[float]]:
    values = in_turns({str(count): sample for count, sample in samples.items()}, rounds, BUDGET_SECONDS)
    return {int(count): found for count, found in values.items()}


def _reads(counts: Iterable[int], rounds: int) -> dict[int, list[float]]:
    with contextlib.ExitStack() as started:
        found = {count: started.enter_context(reader_process.workers(count)) for count in counts}
        bytecode = started.enter_context(scratch_folder())

        def read(count: int) -> Callable[[], float]:
            command = reader_process.commands(found[count], bytecode)[reader_process.READ]
            return lambda: processes.milliseconds(command)

        return _in_turns({count: read(count) for count in found}, rounds)


def _requests(counts: Iterable[int], rounds: int) -> dict[int, list[float]]:
    samples: dict[int, list[float]] = {count: [] for count in counts}
    for _ in range(max(2, rounds // 4)):
        for count, values in samples.items():
            with scratch_folder() as folder:
                output = subprocess.run(
                    [sys.executable, "-m", "bench.growth", str(count)],
                    env={**os.environ, "WSGI_TB_SOCKET": f"{folder}/tb"},
                    stdout=subprocess.PIPE,
                    check=True,
                ).stdout
            values.extend(json.loads(output))
    return samples


def request_microseconds(in_flight: int) -> list[float]:
    """What a request costs while so many others wait on threads of their own."""
    waiting, go_on = threading.Semaphore(0), threading.Event()

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:  # noqa: ARG001
        if environ["PATH_INFO"] == "/wait":
            waiting.release()
            go_on.wait()
        return []

    wrapped = TracebackerMiddleware(application, harakiri=60)
    waits = {**environ.make(), "PATH_INFO": "/wait"}
    for _ in range(in_flight):
        threading.Thread(target=wrapped, args=(waits.copy(), cast("Any", None)), daemon=True).start()
    for _ in range(in_flight):
        waiting.acquire()
    template = environ.make()
    start_response: Any = None

    def sample() -> float:
        started = time.perf_counter()
        for _ in range(CALLS):
            wrapped(template.copy(), start_response)
        return (time.perf_counter() - started) / CALLS * 1e6

    return in_turns({"": sample}, 6)[""]


if __name__ == "__main__":
    sys.stdout.write(json.dumps(request_microseconds(int(sys.argv[1]))))
    sys.stdout.flush()
    # Requests that wait are left.
    os._exit(0)
