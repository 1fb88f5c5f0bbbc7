"""What a request pays: over a middleware that only passes it on, beside other ways to notice a slow one.

Every contestant serves the same requests, each with an environ of its own, in a process of its own (run as a program,
this module is that process and prints samples as JSON). A sample is the mean of one round; what a contestant adds is
its sample less the pass-through's of the same round. With several threads it is the time that passes, shared by all
requests: they take turns with the GIL.

Whether requests are noted in the black box holds for a whole process: what is noted in private memory instead is
measured in processes of its own, beside a pass-through of theirs. (There is no option for that; it is what happens
where no shared memory is to be had.) dogslow is a middleware of Django's, so it is measured there, and we beside it.
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
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from bench import environ, processes
from bench.folders import scratch_folder
from bench.samples import Row, in_turns, missing, row
from wsgi_tracebacker import TracebackerMiddleware
from wsgi_tracebacker.worker.blackbox import table
from wsgi_tracebacker.worker.options import settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

TOPIC = "A request"
LIST, GENERATOR, FIRST = "list body", "generator body", "first request of a process"
FURTHER = "first request of a further thread"
OBJECT = "response object, as frameworks return"
CHUNKS = "generator of 1,000 chunks"
THREADED = ", 8 threads"
DJANGO = "under Django"
DJANGO_STREAM, DJANGO_CHUNKS = f"{DJANGO}, a stream of one chunk", f"{DJANGO}, a stream of 1,000 chunks"
PASS_THROUGH, OFF = "pass-through, itself", f"switched off ({settings.DISABLE_VARIABLE}), itself"
OURS = "wsgi_tracebacker adds"
#: Without the limit that is the default.
UNARMED = "with harakiri=0 adds"
ARMED, KILL = "the same with harakiri=30 adds", "with harakiri_action=kill adds"
RAISE = "with harakiri_action=raise adds"
MAPPING, CALLABLE = "with harakiri={prefix: seconds} adds", "with harakiri=callable adds"
UNBOXED = "without its black box adds"
ADDED_BY_US = (OURS, UNARMED, ARMED, MAPPING, CALLABLE, KILL, RAISE)
TIMER, LATER, PROFILER = "threading.Timer adds", "dump_traceback_later adds", "werkzeug's ProfilerMiddleware adds"
ALONE, DOGSLOW = "Django, itself", "dogslow adds"

#: Long enough that none ever fires.
TIMER_SECONDS = 60.0
CHUNK_COUNT = 1_000
THREADS = 8

#: Calls in one sample: about 20 ms of each. Those that start a thread for each request take a hundred times as long.
CALLS, CALLS_OF = 20_000, {TIMER: 200, LATER: 400, PROFILER: 1_000}
#: A body of 1,000 chunks takes that much longer.
_CALLS_OF_CHUNKS = {CHUNKS: 600}
DJANGO_CALLS = 200
#: Whether there is a quick run of them too.
DJANGO_CASES = {
    DJANGO: True,
    DJANGO + THREADED: False,
    DJANGO_STREAM: False,
    DJANGO_STREAM + THREADED: False,
    DJANGO_CHUNKS: False,
    DJANGO_CHUNKS + THREADED: False,
}

#: Of the prefixes, one is the path's.
PREFIXES = {"/": 30.0, "/shop": 20.0, "/api": 10.0, "/api/upload": 300.0}

#: Threads that serve one request each.
FURTHER_THREADS = 200

ROUNDS = 6
PROCESSES = 10
#: For those cases for which there are no targets.
FEWER_PROCESSES = 4


def list_body(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:  # noqa: ARG001
    return [b"x"]


def generator_body(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:  # noqa: ARG001
    yield b"x"


def chunks_body(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:  # noqa: ARG001
    for _ in range(CHUNK_COUNT):
        yield b"x"


class Response:
    """As Django's and werkzeug's: iterable, to be closed, and no generator."""

    def __init__(self, chunks: list[bytes]) -> None:
        self._chunks = chunks

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._chunks)

    def close(self) -> None:
        self._chunks = []


def object_body(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:  # noqa: ARG001
    return Response([b"x"])


class PassThrough:
    """A middleware that does nothing."""

    __slots__ = ("_app",)

    def __init__(self, app: WSGIApplication) -> None:
        self._app = app

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        return self._app(environ, start_response)


class WithTimer(PassThrough):
    """A timer a request, ended when the callable returns (in favour of the timer)."""

    __slots__ = ()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        timer = threading.Timer(TIMER_SECONDS, print)
        timer.start()
        try:
            return self._app(environ, start_response)
        finally:
            timer.cancel()


class WithLater(PassThrough):
    """faulthandler's timer, armed and disarmed for each request. There is one in a process: threads overwrite it."""

    __slots__ = ()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        faulthandler.dump_traceback_later(TIMER_SECONDS)
        try:
            return self._app(environ, start_response)
        finally:
            faulthandler.cancel_dump_traceback_later()


def switched_off(app: WSGIApplication) -> WSGIApplication:
    """Our middleware as it is made with the switch."""
    os.environ[settings.DISABLE_VARIABLE] = "1"
    try:
        return TracebackerMiddleware(app)
    finally:
        del os.environ[settings.DISABLE_VARIABLE]


def with_profiler(app: WSGIApplication) -> WSGIApplication:
    """werkzeug's profiler, which prints and writes nothing (in its favour)."""
    from werkzeug.middleware.profiler import ProfilerMiddleware  # noqa: PLC0415

    return ProfilerMiddleware(app, stream=None)


def serve_lists(app: WSGIApplication, calls: int) -> None:
    """Serve so many requests as a server would."""
    start_response: Any = _ignore
    template = environ.make()
    for _ in range(calls):
        for _chunk in app(template.copy(), start_response):
            pass


def serve_generators(app: WSGIApplication, calls: int) -> None:
    """The same for bodies that have to be closed, if they can be."""
    start_response: Any = _ignore
    template = environ.make()
    for _ in range(calls):
        body = cast("Any", app(template.copy(), start_response))
        for _chunk in body:
            pass
        # What the profiler makes of a generator is a list.
        close = getattr(body, "close", None)
        if close is not None:
            close()


def _ignore(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[[bytes], object]:  # noqa: ARG001
    return len


class Case(NamedTuple):
    serve: Callable[[WSGIApplication, int], None]
    app: WSGIApplication
    threads: int = 1
    processes: int = FEWER_PROCESSES
    is_quick: bool = False


CASES = {
    LIST: Case(serve_lists, list_body, processes=PROCESSES, is_quick=True),
    GENERATOR: Case(serve_generators, generator_body, processes=PROCESSES, is_quick=True),
    OBJECT: Case(serve_generators, object_body, processes=PROCESSES, is_quick=True),
    CHUNKS: Case(serve_generators, chunks_body),
    LIST + THREADED: Case(serve_lists, list_body, THREADS, is_quick=True),
    GENERATOR + THREADED: Case(serve_generators, generator_body, THREADS),
    CHUNKS + THREADED: Case(serve_generators, chunks_body, THREADS),
}


class Threads:
    """So many threads that serve together; without them it is the calling one."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._pool = ThreadPoolExecutor(count)
        self._begin = threading.Barrier(count + 1)

    def microseconds(self, serve: Callable[[WSGIApplication, int], None], app: WSGIApplication, calls: int) -> float:
        """For one of so many requests, all threads together."""
        if self._count == 1:
            started = time.perf_counter()
            serve(app, calls)
            return (time.perf_counter() - started) / calls * 1e6
        each = calls // self._count

        def serve_share() -> None:
            self._begin.wait()
            serve(app, each)

        # Each of them waits for all, so each has a thread of its own.
        shares = [self._pool.submit(serve_share) for _ in range(self._count)]
        self._begin.wait()
        started = time.perf_counter()
        for share in shares:
            share.result()
        return (time.perf_counter() - started) / (each * self._count) * 1e6


def added_microseconds(case: str, rounds: int) -> tuple[dict[str, list[float]], dict[str, str]]:
    """What each contestant adds, round by round, and why some could not be measured.

    The pass-through, and ours where it is switched off, are compared with the bare callable.
    """
    serve, app, threads = CASES[case][:3]
    wrapped: dict[str, WSGIApplication] = {
        "bare": app,
        "pass": PassThrough(app),
        OFF: switched_off(app),
        OURS: TracebackerMiddleware(app),
        UNARMED: TracebackerMiddleware(app, harakiri=0),
        ARMED: TracebackerMiddleware(app, harakiri=30),
        MAPPING: TracebackerMiddleware(app, harakiri=PREFIXES),
        CALLABLE: TracebackerMiddleware(app, harakiri=lambda _: 30.0),
        KILL: TracebackerMiddleware(app, harakiri=30, harakiri_action="kill"),
        RAISE: TracebackerMiddleware(app, harakiri=30, harakiri_action="raise"),
        TIMER: WithTimer(app),
        LATER: WithLater(app),
        PROFILER: with_profiler(app),
    }
    values, problems = _samples(serve, wrapped, threads, rounds, _CALLS_OF_CHUNKS.get(case.removesuffix(THREADED)))
    passed, bare = values["pass"], values["bare"]
    added = {PASS_THROUGH: _over(passed, bare), OFF: _over(values[OFF], bare)}
    added |= {name: _over(values[name], passed) for name in ADDED_BY_US if name in values}
    return added | {name: _over(values[name], passed) for name in (TIMER, LATER, PROFILER) if name in values}, problems


def added_without_black_box(case: str, rounds: int) -> tuple[dict[str, list[float]], dict[str, str]]:
    """What we add where no core has a row in shared memory, in a process of which that is true from now on."""
    serve, app, threads = CASES[case][:3]
    table.Table.row = lambda *_: None  # type: ignore[method-assign]
    wrapped: dict[str, WSGIApplication] = {"pass": PassThrough(app), UNBOXED: TracebackerMiddleware(app)}
    values, problems = _samples(serve, wrapped, threads, rounds, _CALLS_OF_CHUNKS.get(case.removesuffix(THREADED)))
    return {UNBOXED: _over(values[UNBOXED], values["pass"])}, problems


def added_under_django(case: str, rounds: int) -> tuple[dict[str, list[float]], dict[str, str]]:
    """What dogslow adds to a request of Django's, and what we add."""
    import django  # noqa: PLC0415
    from django.conf import settings as django_settings  # noqa: PLC0415
    from django.core.handlers.wsgi import WSGIHandler  # noqa: PLC0415
    from django.http import HttpResponse, StreamingHttpResponse  # noqa: PLC0415
    from django.urls import path  # noqa: PLC0415

    def article(request: Any) -> Any:  # noqa: ARG001
        if case.startswith(DJANGO_CHUNKS):
            return StreamingHttpResponse(b"x" for _ in range(CHUNK_COUNT))
        if case.startswith(DJANGO_STREAM):
            return StreamingHttpResponse(b"x" for _ in range(1))
        return HttpResponse(b"x")

    django_settings.configure(
        ALLOWED_HOSTS=["*"],
        ROOT_URLCONF=(path("shop/articles/", article),),
        DOGSLOW_TIMER=int(TIMER_SECONDS),
        DOGSLOW_LOG_TO_FILE=False,
    )
    django.setup()
    plain = WSGIHandler()
    django_settings.MIDDLEWARE = ["dogslow.WatchdogMiddleware"]
    wrapped: dict[str, WSGIApplication] = {
        ALONE: plain,
        OURS: TracebackerMiddleware(plain),
        ARMED: TracebackerMiddleware(plain, harakiri=30),
        DOGSLOW: WSGIHandler(),
    }
    threads = THREADS if case.endswith(THREADED) else 1
    values, problems = _samples(serve_generators, wrapped, threads, rounds, DJANGO_CALLS)
    added = {name: _over(values[name], values[ALONE]) for name in (OURS, ARMED, DOGSLOW) if name in values}
    return {ALONE: values[ALONE], **added}, problems


def _samples(
    serve: Callable[[WSGIApplication, int], None],
    wrapped: Mapping[str, WSGIApplication],
    threads: int,
    rounds: int,
    calls: int | None,
) -> tuple[dict[str, list[float]], dict[str, str]]:
    serving = Threads(threads)
    subjects: dict[str, Callable[[], float]] = {}
    problems: dict[str, str] = {}

    def sample(name: str, count: int) -> Callable[[], float]:
        return lambda: serving.microseconds(serve, wrapped[name], count)

    for name in wrapped:
        count = min(CALLS_OF.get(name, CALLS), calls or CALLS)
        try:
            serving.microseconds(serve, wrapped[name], 10 * threads)
            subjects[name] = sample(name, count)
        except Exception as error:
            problems[name] = f"does not work here: {type(error).__name__}: {error}"
    return in_turns(subjects, rounds), problems


def _over(samples: list[float], others: list[float]) -> list[float]:
    return [one - other for one, other in zip(samples, others, strict=True)]


def first_request_milliseconds() -> float:
    """How long the first request takes that a process serves: it opens the socket and starts the listener."""
    app = TracebackerMiddleware(list_body)
    started = time.perf_counter()
    app(environ.make(), cast("Any", None))
    return (time.perf_counter() - started) * 1e3


def further_thread_microseconds() -> tuple[list[float], list[float]]:
    """How long the first request of a thread takes where others have served: behind a pass-through, and what we add."""
    wrapped: tuple[WSGIApplication, ...] = (PassThrough(list_body), TracebackerMiddleware(list_body, harakiri=30))
    start_response: Any = _ignore
    for app in wrapped:
        serve_lists(app, 100)

    def microseconds(app: WSGIApplication) -> float:
        found: list[float] = []

        def serve() -> None:
            request = environ.make()
            started = time.perf_counter()
            app(request, start_response)
            found.append((time.perf_counter() - started) * 1e6)

        thread = threading.Thread(target=serve)
        thread.start()
        thread.join()
        return found[0]

    passed, ours = zip(*([microseconds(app) for app in wrapped] for _ in range(FURTHER_THREADS)), strict=True)
    return list(passed), _over(list(ours), list(passed))


def measure(quick: bool) -> list[Row]:
    rows: list[Row] = []
    for name, case in CASES.items():
        if quick and not case.is_quick:
            continue
        # Several processes: where the memory of one happens to lie makes a third of the whole.
        count = 2 if quick else case.processes
        rows += _rows(name, [(name, ROUNDS), (name, ROUNDS, "without black box")], count)
    for name, is_quick in DJANGO_CASES.items():
        if is_quick or not quick:
            rows += _rows(name, [(name, ROUNDS)], 1 if quick else FEWER_PROCESSES)
    further = [_in_a_process(FURTHER, 1)[0] for _ in range(2 if quick else PROCESSES)]
    for subject in (PASS_THROUGH, OURS):
        found = [value for values in further for value in values[subject]]
        passed = statistics.median(value for values in further for value in values[PASS_THROUGH])
        rows.append(row(TOPIC, FURTHER, subject, "µs", found, passed))
    firsts = [_in_a_process(FIRST, 1)[0][FIRST][0] for _ in range(5 if quick else 20)]
    rows.append(row(TOPIC, FIRST, OURS, "ms", firsts, None))
    return rows


def _rows(case: str, ways: list[tuple[Any, ...]], count: int) -> list[Row]:
    """The rows of a case, from so many processes for each way to measure it, compared with a pass-through.

    Under Django, where a pass-through is lost in the noise, they are compared with what we add.
    """
    samples: dict[str, list[float]] = {}
    problems: dict[str, str] = {}
    for _ in range(count):
        for way in ways:
            try:
                values, not_measured = _in_a_process(*way)
            except subprocess.CalledProcessError:
                # What it needs is not there.
                return [missing(TOPIC, case, DOGSLOW, "µs", processes.NOT_INSTALLED)]
            problems |= not_measured
            for name, found in values.items():
                samples.setdefault(name, []).extend(found)
    reference = samples.get(PASS_THROUGH, samples[OURS])
    # What is added to 1,000 chunks is less than the noise of them.
    is_noise = case.startswith((CHUNKS, DJANGO_CHUNKS)) or statistics.quantiles(reference, n=4)[0] <= 0
    compared = None if is_noise else statistics.median(reference)
    rows = [row(TOPIC, case, subject, "µs", values, compared) for subject, values in samples.items()]
    return rows + [missing(TOPIC, case, subject, "µs", why) for subject, why in problems.items()]


def _in_a_process(case: str, rounds: int, *how: str) -> tuple[dict[str, list[float]], dict[str, str]]:
    with scratch_folder() as folder:
        output = subprocess.run(
            [sys.executable, "-W", "ignore::DeprecationWarning", "-m", "bench.request_cost", case, str(rounds), *how],
            env={**os.environ, "WSGI_TB_SOCKET": f"{folder}/tb"},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            check=True,
        ).stdout
    samples, problems = json.loads(output)
    return samples, problems


def main() -> None:
    case, rounds = sys.argv[1], int(sys.argv[2])
    found: tuple[dict[str, list[float]], dict[str, str]]
    if case == FIRST:
        found = {FIRST: [first_request_milliseconds()]}, {}
    elif case == FURTHER:
        passed, ours = further_thread_microseconds()
        found = {PASS_THROUGH: passed, OURS: ours}, {}
    elif case.startswith(DJANGO):
        found = added_under_django(case, rounds)
    else:
        found = (added_without_black_box if sys.argv[3:] else added_microseconds)(case, rounds)
    sys.stdout.write(json.dumps(found))
    sys.stdout.flush()
    # Threads of peers are left, which would hold up the end.
    os._exit(0)


if __name__ == "__main__":
    main()
