"""What a request pays: over a middleware that only passes it on, beside two other ways to notice a slow one.

Every contestant serves the same requests, each with an environ of its own, in a process of its own (run as a program,
this module is that process and prints samples as JSON). A sample is the mean of one round; what a contestant adds is
its sample less the pass-through's of the same round.

Whether requests are noted in the black box holds for a whole process: what is noted in private memory instead is
measured in processes of its own, beside a pass-through of theirs.
"""

from __future__ import annotations

import faulthandler
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, cast

from bench import environ
from bench.folders import scratch_folder
from bench.samples import Row, in_turns, row
from wsgi_tracebacker import TracebackerMiddleware
from wsgi_tracebacker.worker import blackbox

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

TOPIC = "A request"
LIST, GENERATOR, FIRST = "list body", "generator body", "first request of a process"
PASS_THROUGH, OURS = "pass-through, itself", "wsgi_tracebacker adds"
ARMED = "the same with harakiri=30 adds"
UNBOXED = "without its black box adds"
TIMER, LATER = "threading.Timer adds", "dump_traceback_later adds"

#: Long enough that none ever fires.
TIMER_SECONDS = 60.0

#: Calls in one sample: about 20 ms each. The two that start a thread for each request take a hundred times as long.
CALLS = {OURS: 20_000, ARMED: 20_000, UNBOXED: 20_000, TIMER: 200, LATER: 400}

ROUNDS = 6
PROCESSES = 12


def list_body(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:  # noqa: ARG001
    return [b"x"]


def generator_body(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:  # noqa: ARG001
    yield b"x"


class PassThrough:
    """A middleware that does nothing."""

    __slots__ = ("_app",)

    def __init__(self, app: WSGIApplication) -> None:
        self._app = app

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        return self._app(environ, start_response)


class WithTimer(PassThrough):
    """A timer a request, as dogslow has it, ended when the callable returns (in favour of the timer)."""

    __slots__ = ()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        timer = threading.Timer(TIMER_SECONDS, print)
        timer.start()
        try:
            return self._app(environ, start_response)
        finally:
            timer.cancel()


class WithLater(PassThrough):
    """faulthandler's timer, armed and disarmed for each request."""

    __slots__ = ()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        faulthandler.dump_traceback_later(TIMER_SECONDS)
        try:
            return self._app(environ, start_response)
        finally:
            faulthandler.cancel_dump_traceback_later()


def serve_lists(app: WSGIApplication, calls: int) -> float:
    """Serve so many requests as a server would; microseconds for one."""
    start_response: Any = None
    template = environ.make()
    started = time.perf_counter()
    for _ in range(calls):
        for _chunk in app(template.copy(), start_response):
            pass
    return (time.perf_counter() - started) / calls * 1e6


def serve_generators(app: WSGIApplication, calls: int) -> float:
    """The same for bodies that have to be closed."""
    start_response: Any = None
    template = environ.make()
    started = time.perf_counter()
    for _ in range(calls):
        body = cast("Any", app(template.copy(), start_response))
        for _chunk in body:
            pass
        body.close()
    return (time.perf_counter() - started) / calls * 1e6


def added_microseconds(
    serve: Callable[[WSGIApplication, int], float], app: WSGIApplication, rounds: int
) -> dict[str, list[float]]:
    """What each contestant adds, round by round, and what the pass-through itself costs over the bare callable."""
    wrapped: dict[str, WSGIApplication] = {
        "bare": app,
        "pass": PassThrough(app),
        OURS: TracebackerMiddleware(app),
        ARMED: TracebackerMiddleware(app, harakiri=30),
        TIMER: WithTimer(app),
        LATER: WithLater(app),
    }

    def sample(name: str) -> Callable[[], float]:
        return lambda: serve(wrapped[name], CALLS.get(name, CALLS[OURS]))

    values = in_turns({name: sample(name) for name in wrapped}, rounds)
    passed = values["pass"]
    return {
        PASS_THROUGH: _over(passed, values["bare"]),
        **{name: _over(values[name], passed) for name in (OURS, ARMED, TIMER, LATER)},
    }


def added_without_black_box(
    serve: Callable[[WSGIApplication, int], float], app: WSGIApplication, rounds: int
) -> dict[str, list[float]]:
    """What we add where no core has a row in shared memory, in a process of which that is true from now on."""
    blackbox.Table.row = lambda *_: None  # type: ignore[method-assign]
    wrapped: dict[str, WSGIApplication] = {"pass": PassThrough(app), UNBOXED: TracebackerMiddleware(app)}

    def sample(name: str) -> Callable[[], float]:
        return lambda: serve(wrapped[name], CALLS[UNBOXED])

    values = in_turns({name: sample(name) for name in wrapped}, rounds)
    return {UNBOXED: _over(values[UNBOXED], values["pass"])}


def _over(samples: list[float], others: list[float]) -> list[float]:
    return [one - other for one, other in zip(samples, others, strict=True)]


CASES = {LIST: (serve_lists, list_body), GENERATOR: (serve_generators, generator_body)}


def first_request_milliseconds() -> float:
    """How long the first request takes that a process serves: it opens the socket and starts the listener."""
    app = TracebackerMiddleware(list_body)
    started = time.perf_counter()
    app(environ.make(), cast("Any", None))
    return (time.perf_counter() - started) * 1e3


def measure(quick: bool) -> list[Row]:
    rows: list[Row] = []
    for case in (LIST, GENERATOR):
        # Several processes: where the memory of one happens to lie makes a third of the whole.
        runs = [
            _in_a_process(case, ROUNDS) | _in_a_process(case, ROUNDS, "without black box")
            for _ in range(2 if quick else PROCESSES)
        ]
        samples = {name: [value for run in runs for value in run[name]] for name in runs[0]}
        reference = statistics.median(samples[PASS_THROUGH])
        rows += [row(TOPIC, case, subject, "µs", values, reference) for subject, values in samples.items()]
    firsts = [_in_a_process(FIRST, 1)[FIRST][0] for _ in range(5 if quick else 20)]
    rows.append(row(TOPIC, FIRST, OURS, "ms", firsts, None))
    return rows


def _in_a_process(case: str, rounds: int, *how: str) -> dict[str, list[float]]:
    with scratch_folder() as folder:
        output = subprocess.run(
            [sys.executable, "-m", "bench.request_cost", case, str(rounds), *how],
            env={**os.environ, "WSGI_TB_SOCKET": f"{folder}/tb"},
            stdout=subprocess.PIPE,
            check=True,
        ).stdout
    samples: dict[str, list[float]] = json.loads(output)
    return samples


def main() -> None:
    case, rounds = sys.argv[1], int(sys.argv[2])
    if case == FIRST:
        samples = {FIRST: [first_request_milliseconds()]}
    else:
        added = added_without_black_box if sys.argv[3:] else added_microseconds
        samples = added(*CASES[case], rounds)
    sys.stdout.write(json.dumps(samples))


if __name__ == "__main__":
    main()
