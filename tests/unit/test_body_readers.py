"""Bodies that are not read as servers read them: by a bare ``for``, and by several threads in turn."""

from __future__ import annotations

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.interpreters import drop_what_nobody_has, needs_raise, needs_reference_counts
from tests.unit.wsgi import environ, requests_in, snapshot
from wsgi_tracebacker import TracebackerMiddleware

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from _typeshed.wsgi import WSGIApplication

    from wsgi_tracebacker.model.report import HarakiriReport


def ignore(*_: Any) -> Any:
    return lambda _: None


def rows() -> Iterator[bytes]:
    yield b"first"
    yield b"last"


class Response:
    """An iterable whose iterator is not itself."""

    def __iter__(self) -> Iterator[bytes]:
        return rows()


class Iterator_:  # noqa: N801  (beside typing's)
    """An iterator that is no generator."""

    def __init__(self) -> None:
        self._rows = rows()

    def __iter__(self) -> Iterator_:
        return self

    def __next__(self) -> bytes:
        return next(self._rows)


BODIES: dict[str, Callable[[], Any]] = {
    "generator": rows,
    "map": lambda: map(bytes, rows()),
    "iterator": Iterator_,
    "response": Response,
}


def by_for(application: WSGIApplication) -> Iterator[bytes]:
    for chunk in application(environ(), ignore):
        yield chunk.strip()


def by_yield_from(application: WSGIApplication) -> Iterator[bytes]:
    yield from application(environ(), ignore)


def by_map(application: WSGIApplication) -> Iterator[bytes]:
    return map(bytes, application(environ(), ignore))


def by_chain(application: WSGIApplication) -> Iterator[bytes]:
    return itertools.chain(application(environ(), ignore), [b"footer"])


@pytest.mark.parametrize("action", ["log", pytest.param("raise", marks=needs_raise)])
@pytest.mark.parametrize("read", [by_for, by_yield_from, by_map, by_chain])
@pytest.mark.parametrize("kind", BODIES)
def test_who_reads_by_a_bare_for_keeps_the_request_in_flight(
    base: str, kind: str, read: Callable[[WSGIApplication], Iterator[bytes]], action: str
) -> None:
    """Between two chunks it is in flight, in its body; after the last one it is over."""
    wrapped = TracebackerMiddleware(
        lambda _request, _start: BODIES[kind](), base, harakiri=3600, harakiri_action=action
    )
    for _ in range(2):
        chunks = read(wrapped)
        assert next(chunks) == b"first"
        assert [request["phase"] for request in requests_in(snapshot(base))] == ["body"]
        assert next(chunks) == b"last"
        list(chunks)
        del chunks
        drop_what_nobody_has()
        assert requests_in(snapshot(base)) == []


@pytest.mark.parametrize("kind", BODIES)
def test_who_stops_reading_ends_the_request(base: str, kind: str) -> None:
    """The iterator is dropped half-way, as by break."""
    wrapped = TracebackerMiddleware(lambda _request, _start: BODIES[kind](), base)
    chunks = iter(wrapped(environ(), ignore))
    assert next(chunks) == b"first"
    assert len(requests_in(snapshot(base))) == 1
    del chunks
    drop_what_nobody_has()
    assert requests_in(snapshot(base)) == []


def test_an_exhausted_generator_that_is_kept_is_no_request(base: str) -> None:
    """The last chunk has been read, so the request is over, whoever holds the iterator."""
    wrapped = TracebackerMiddleware(lambda _request, _start: rows(), base)
    chunks = iter(wrapped(environ(), ignore))
    assert list(chunks) == [b"first", b"last"]
    drop_what_nobody_has()
    assert requests_in(snapshot(base)) == []


@needs_reference_counts
def test_a_dropped_generator_is_finalised_by_the_thread_that_drops_it(base: str) -> None:
    """Beside a reader of the socket: its ``finally`` never runs on a thread of ours."""
    finalised: set[int] = set()

    def guarded() -> Iterator[bytes]:
        try:
            yield b"x"
            yield b"y"
        finally:
            finalised.add(threading.get_ident())

    wrapped = TracebackerMiddleware(lambda _request, _start: guarded(), base)
    next(iter(wrapped(environ(), ignore)))
    is_over = threading.Event()

    def read_and_drop() -> None:
        while not is_over.is_set():
            for _ in wrapped(environ(), ignore):
                break

    reading = threading.Thread(target=read_and_drop)
    reading.start()
    try:
        for _ in range(300):
            snapshot(base)
    finally:
        is_over.set()
        reading.join()
    assert finalised == {reading.ident, threading.get_ident()}


class Gate:
    """A body that waits in its second chunk until it is let go."""

    def __init__(self) -> None:
        self.is_waiting, self.goes_on = threading.Event(), threading.Event()

    def rows(self) -> Iterator[bytes]:
        yield b"first"
        self.is_waiting.set()
        assert self.goes_on.wait(30)
        yield b"last"


@pytest.mark.parametrize("action", ["log", pytest.param("raise", marks=needs_raise)])
def test_the_stack_is_that_of_the_thread_that_runs_the_body(base: str, action: str) -> None:
    """A server with a loop calls iter() on one thread, and next() on those of a pool."""
    gate = Gate()
    wrapped = TracebackerMiddleware(lambda _request, _start: gate.rows(), base, harakiri=3600, harakiri_action=action)
    body: Any = wrapped(environ("/export"), ignore)
    chunks = iter(body)
    with ThreadPoolExecutor(1, "pool-one") as one, ThreadPoolExecutor(1, "pool-other") as other:
        assert one.submit(next, chunks).result() == b"first"
        last = other.submit(next, chunks)
        assert gate.is_waiting.wait(30)
        [thread] = [thread for thread in snapshot(base)["threads"] if thread["request"] is not None]
        gate.goes_on.set()
        assert last.result() == b"last"
    body.close()
    assert thread["name"].startswith("pool-other")
    assert any(frame["function"].endswith("Gate.rows") or frame["function"] == "rows" for frame in thread["frames"])
    assert requests_in(snapshot(base)) == []


def test_what_a_body_waits_for_is_asked_of_the_thread_that_runs_it(base: str) -> None:
    """Not of the thread that called the application, which waits for something else."""
    lock, reports = threading.Lock(), []
    is_at_lock, is_reported = threading.Event(), threading.Event()

    def locked() -> Iterator[bytes]:
        yield b"first"
        is_at_lock.set()
        with lock:
            yield b"last"

    def keep(report: HarakiriReport) -> None:
        reports.append(report)
        is_reported.set()

    wrapped = TracebackerMiddleware(lambda _request, _start: locked(), base, on_harakiri=keep)
    request = environ("/export")
    body: Any = wrapped(request, ignore)
    chunks = iter(body)
    assert next(chunks) == b"first"
    lock.acquire()
    with ThreadPoolExecutor(1, "pool") as pool:
        last = pool.submit(next, chunks)
        try:
            assert is_at_lock.wait(30)
            request["wsgi_tracebacker.request"].set_harakiri(0.3)
            assert is_reported.wait(30)
        finally:
            lock.release()
        assert last.result() == b"last"
    body.close()
    waits_for = reports[0].request.waits_for
    assert waits_for is not None
    assert (waits_for.kind, waits_for.lock) == ("lock", "lock")


@pytest.mark.parametrize("kind", BODIES)
def test_an_open_body_has_no_stack_while_its_thread_serves_another_request(base: str, kind: str) -> None:
    """A server with a pool of threads reads the next chunk when the client has taken the one before."""
    is_called, goes_on = threading.Event(), threading.Event()

    def app(request: dict[str, Any], _start: Any) -> Any:
        if request["PATH_INFO"] == "/export":
            return BODIES[kind]()
        is_called.set()
        assert goes_on.wait(30)
        return [b"done"]

    wrapped = TracebackerMiddleware(app, base)
    with ThreadPoolExecutor(1, "pool") as pool:
        body: Any = pool.submit(wrapped, environ("/export"), ignore).result()
        chunks = pool.submit(iter, body).result()
        assert pool.submit(next, chunks).result() == b"first"
        other = pool.submit(wrapped, environ("/other"), ignore)
        assert is_called.wait(30)
        seen = {thread["request"]["path"]: thread for thread in snapshot(base)["threads"] if thread["request"]}
        goes_on.set()
        assert list(other.result()) == [b"done"]
        # Its thread is free again.
        [again] = [thread for thread in snapshot(base)["threads"] if thread["request"]]
        body.close()
    assert (seen["/export"]["kind"], seen["/export"]["frames"]) == ("unread", [])
    assert seen["/export"]["ident"] is seen["/export"]["native_id"] is None
    assert any(frame["function"].endswith("app") for frame in seen["/other"]["frames"])
    assert (again["request"]["path"], again["kind"]) == ("/export", "thread")


def test_of_two_bodies_of_one_function_each_has_its_own_thread(base: str) -> None:
    """What tells them apart is the generator, not its code."""
    gates = [Gate(), Gate()]
    paths = iter(gates)
    wrapped = TracebackerMiddleware(lambda _request, _start: next(paths).rows(), base)
    # The second request begins on the same thread while the first one's body is open.
    bodies: list[Any] = [wrapped(environ(path), ignore) for path in ("/one", "/two")]
    iterators = [iter(body) for body in bodies]
    with ThreadPoolExecutor(1, "reads-one") as one, ThreadPoolExecutor(1, "reads-two") as two:
        pools = {"/one": one, "/two": two}
        last = []
        for pool, chunks, gate in zip(pools.values(), iterators, gates, strict=True):
            next(chunks)
            last.append(pool.submit(next, chunks))
            assert gate.is_waiting.wait(30)
        seen = {
            thread["request"]["path"]: thread["name"].partition("_")[0]
            for thread in snapshot(base)["threads"]
            if thread["request"] is not None
        }
        for gate in gates:
            gate.goes_on.set()
        assert [future.result() for future in last] == [b"last"] * 2
    for body in bodies:
        body.close()
    assert seen == {"/one": "reads-one", "/two": "reads-two"}
