"""Core numbers and thread names."""

from __future__ import annotations

import _thread
import ctypes
import gc
import threading
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.interpreters import drop_what_nobody_has, needs_ends_of_foreign_threads, needs_reference_counts
from tests.support.waiting import wait_until
from tests.unit.wsgi import environ, serve, snapshot
from wsgi_tracebacker import TracebackerMiddleware
from wsgi_tracebacker.worker.tracking.core import APP, BODY, AbandonedCore, Core
from wsgi_tracebacker.worker.tracking.cores import Cores

if TYPE_CHECKING:
    from collections.abc import Callable


def cores() -> Cores:
    return Cores(_thread.allocate_lock)


@needs_reference_counts
def test_the_smallest_free_number_is_taken() -> None:
    """Numbers count from 0; one that was given back is taken before a new one."""
    pool = cores()
    taken = [pool.take(ident, None, None) for ident in range(5)]
    assert [core.number for core, _ in taken] == [0, 1, 2, 3, 4]
    del taken[1], taken[2]  # 1 and 3
    assert [core.number for core in pool.all()] == [0, 2, 4]
    assert [pool.take(9, None, None)[0].number for _ in range(1)] == [1]
    more = [pool.take(9, None, None) for _ in range(3)]
    assert [core.number for core, _ in more] == [1, 3, 5]


@needs_reference_counts
def test_a_servers_own_number_is_taken_if_it_is_free() -> None:
    """The others keep to the smallest free one; a number that is taken, or that no server has, is not waited for."""
    pool = cores()
    wanted = [2, None, 2, 5, None, None, None, 1, -1, 10**9]
    taken = [pool.take(ident, None, None, preferred=preferred) for ident, preferred in enumerate(wanted)]
    assert [core.number for core, _ in taken] == [2, 0, 1, 5, 3, 4, 6, 7, 8, 9]
    del taken[0], taken[3]  # 2 and 3
    assert pool.all()
    again = [pool.take(99, None, None, preferred=3), pool.take(99, None, None)]
    assert [core.number for core, _ in again] == [3, 2]


@needs_reference_counts
def test_a_core_in_flight_keeps_its_number() -> None:
    """A thread that ended while the body of its request lives: the number is free only when that has ended."""
    pool = cores()
    core, marker = pool.take(1, None, None)
    core.phase, core.begun, core.started = APP, 1.0, 5.0
    del marker
    assert pool.all() == [core]
    core.end(6.0)
    assert (pool.all(), pool.finished()) == ([], 1)


@needs_reference_counts
def test_what_a_dropped_request_held_is_let_go_outside_the_lock(request: pytest.FixtureRequest) -> None:
    """A destructor of the application that comes back into us meets no lock that is held."""
    pool = cores()
    free = []

    class Value:
        def __del__(self) -> None:
            free.append(pool._lock.acquire(blocking=False))
            if free[-1]:
                pool._lock.release()

    class Thread(threading.Thread):
        def __del__(self) -> None:
            Value()

    def drop() -> tuple[Core, object]:
        core, marker = pool.take(1, None, Thread())
        core.environ, core.phase, core.started = {"value": Value()}, BODY, 5.0
        inner = Core(None, 1, None, None)
        inner.environ, inner.phase, inner.started = {"value": Value()}, BODY, 5.0
        core.nested.append(inner)
        return core, marker

    gc.collect()
    request.addfinalizer(gc.enable)
    gc.disable()  # a collection may come at any moment; what is shown here is what reference counts do
    drop()  # its marker is gone at once: the core is freed too, with its thread
    looks: list[Callable[[], object]] = [pool.all, lambda: pool.take(2, None, None)]
    for look in looks:
        drop()
        look()
    core, marker = drop()
    pool.settle(core)
    assert marker is not None
    del core, marker
    pool.all()
    assert free
    assert all(free)
    assert len(free) >= 4 * 2


def test_a_request_that_begins_while_somebody_looks_is_not_ended() -> None:
    """Between two looks at a core its body is closed and the next request begins: that one goes on."""
    core = Core(0, 1, None, None)
    core.phase, core.started = BODY, 5.0

    started = vars(Core)["started"]

    class Tricky(Core):
        """The owner's thread gets its turn just when the lease is looked at."""

        __slots__ = ()

        def __getattribute__(self, name: str) -> Any:
            if name == "lease":
                started.__set__(self, 7.0)
                self.phase = APP
            return super().__getattribute__(name)

    core.__class__ = Tricky
    assert core.body_was_dropped() is False


def test_an_abandoned_core_stays_unusable() -> None:
    """A request in flight that ends after its core was abandoned does not make that core look idle."""
    pool = cores()
    core, _marker = pool.take(1, None, None)
    core.started = 5.0
    pool.abandon()
    core.end(6.0)
    core.started = 0.0
    assert (type(core), core.started) == (AbandonedCore, -1.0)


def void(_: object) -> None:
    """What a thread's target returns."""


def core_names(base: str) -> list[str]:
    drop_what_nobody_has()
    return [thread["name"] for thread in snapshot(base)["threads"] if thread["core"] is not None]


def serve_in_thread(wrapped: TracebackerMiddleware, names: list[str], **options: Any) -> None:
    def run() -> None:
        serve(wrapped)
        names.append(threading.current_thread().name)

    thread = threading.Thread(target=run, **options)
    thread.start()
    thread.join(30)


@needs_reference_counts
def test_threads_are_named_after_worker_and_core(base: str) -> None:
    """Threads that serve bear their worker's and core's number, on the Python thread too, the main thread first."""
    wrapped = TracebackerMiddleware(lambda *_: [], base)
    serve(wrapped)
    assert threading.main_thread().name == "WSGIWorker1Core0"
    names: list[str] = []
    for _ in range(3):  # each ends before the next one begins
        serve_in_thread(wrapped, names)
    assert names == ["WSGIWorker1Core1"] * 3
    wait_until(lambda: core_names(base) == ["WSGIWorker1Core0"], "the ended threads' core is free")


def test_naming_can_be_switched_off(base: str) -> None:
    """With name_threads=False every thread keeps the name it has; the snapshot still knows the cores."""
    main = threading.main_thread().name
    wrapped = TracebackerMiddleware(lambda *_: [], base, name_threads=False)
    names: list[str] = []
    serve(wrapped)
    serve_in_thread(wrapped, names, name="mine")
    assert (names, threading.main_thread().name) == (["mine"], main)
    assert [thread["name"] for thread in snapshot(base)["threads"] if thread["core"] == 0] == [main]


def foreign_by_start_new_thread(work: Callable[[], None]) -> None:
    done = _thread.allocate_lock()
    done.acquire()

    def run() -> None:
        try:
            work()
        finally:
            done.release()

    _thread.start_new_thread(run, ())
    assert done.acquire(timeout=30)


def foreign_by_pthread(work: Callable[[], None]) -> None:
    def run(_: object) -> int:
        work()
        return 0

    libc = ctypes.CDLL(None)
    callback = ctypes.CFUNCTYPE(ctypes.c_size_t, ctypes.c_void_p)(run)
    thread = ctypes.c_ulong()
    assert libc.pthread_create(ctypes.byref(thread), None, callback, None) == 0
    assert libc.pthread_join(thread, None) == 0


@pytest.mark.parametrize("start", [foreign_by_start_new_thread, foreign_by_pthread])
def test_a_thread_that_python_did_not_start_gets_no_dummy(
    base: str, start: Callable[[Callable[[], None]], None]
) -> None:
    """A server's own thread serves, is seen under its core's name, and no dummy Thread object stays behind."""
    found: list[dict[str, Any]] = []

    def application(request: Any, start_response: Any) -> Any:
        found.append(snapshot(base))
        return []

    wrapped = TracebackerMiddleware(application, base)
    serve(wrapped)
    before = set(threading._active)  # type: ignore[attr-defined]
    start(lambda: void(serve(wrapped, environ("/foreign"))))
    assert set(threading._active) == before  # type: ignore[attr-defined]
    (thread,) = [thread for thread in found[-1]["threads"] if thread["request"]]
    assert (thread["name"], thread["kind"], thread["daemon"], thread["request"]["path"]) == (
        "WSGIWorker1Core1",
        "foreign",
        None,
        "/foreign",
    )


@pytest.mark.parametrize(
    "start", [foreign_by_start_new_thread, pytest.param(foreign_by_pthread, marks=needs_ends_of_foreign_threads)]
)
def test_the_core_of_such_a_thread_is_free_at_its_end(base: str, start: Callable[[Callable[[], None]], None]) -> None:
    """Its number is given to the next thread that serves."""
    wrapped = TracebackerMiddleware(lambda *_: [], base)
    serve(wrapped)
    start(lambda: void(serve(wrapped, environ("/foreign"))))
    wait_until(lambda: core_names(base) == ["WSGIWorker1Core0"], "its core is free")
