"""HarakiriTimeout lands in the request that it is raised into or nowhere, whatever the request does at that moment."""

from __future__ import annotations

import contextlib
import functools
import gc
import itertools
import operator
import random
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.interpreters import needs_raise
from tests.support.logs import messages
from tests.support.own_threads import running
from tests.support.programs import PROJECT
from tests.support.waiting import wait_until
from tests.unit.wsgi import Served, environ, serve
from wsgi_tracebacker import HarakiriTimeout, RequestTimedOut, TracebackerMiddleware
from wsgi_tracebacker.worker import agent
from wsgi_tracebacker.worker.deadlines.raising import interrupt
from wsgi_tracebacker.worker.reporting import faults
from wsgi_tracebacker.worker.tracking.core import BODY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment
    from typing_extensions import Self

    from wsgi_tracebacker.worker.tracking.core import Core

pytestmark = needs_raise

#: No request of these tests becomes overdue: a Striker raises in place of the watchdog.
LIMIT_SECONDS = 3600.0

#: How often the exception must land in a request, and how often come too late, before a test ends.
STRIKES = 250

OK: Any = ("200 OK", [("Content-Type", "text/plain")])


def wrapped(application: WSGIApplication, base: str) -> TracebackerMiddleware:
    return TracebackerMiddleware(application, base, harakiri=LIMIT_SECONDS, harakiri_action="raise")


def core_of_this_thread(application: WSGIApplication) -> Core:
    serve(application)
    # CPython 3.10 and 3.11 take a thread that was started and does not run yet for the one that started it.
    wait_until(lambda: len(running()) == 2, "listener and watchdog run")
    core = agent.serving_core()
    assert core is not None
    return core


def let_pending_land() -> None:
    """Run Python code, in which a pending exception would be raised."""
    for number in range(10):
        operator.neg(number)


class Striker:
    """A thread that raises into the requests of one core, one strike a request."""

    def __init__(self, core: Core, wait: Callable[[float], object]) -> None:
        """``wait`` is given the request's token and returns when it is to be struck."""
        self.core = core
        self.strikes = 0
        self.landed = 0
        self._wait = wait
        self._is_over = False
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        last = 0.0
        while not self._is_over:
            token = self.core.started
            if token == last or token <= 0.0:
                # Only lets the request's thread run.
                time.sleep(0)
                continue
            last = token
            self._wait(token)
            self.strikes += 1
            self.landed += interrupt.raise_into(self.core, token)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over = True
        self._thread.join()


@contextlib.contextmanager
def no_collector() -> Iterator[None]:
    """The interpreter swallows an exception in a callback of the collector, and hypothesis has such a callback."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@contextlib.contextmanager
def switching_often() -> Iterator[None]:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with no_collector():
            yield
    finally:
        sys.setswitchinterval(interval)


# --- the last act is a blocking C iterator


class Gate:
    """An application whose body is C code that waits, and then is at its end: no bytecode of its own runs after it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.lock.acquire()

    def __call__(self, _: WSGIEnvironment, start_response: StartResponse) -> Iterator[Any]:
        start_response(*OK)
        # Calls acquire(), which waits, and is at its end because that returned True.
        return iter(self.lock.acquire, True)


def struck_in_its_last_act(gate: Gate, application: WSGIApplication, rounds: int) -> int:
    """How many requests of the calling thread, each struck when it only waits in C, did not end in order.

    They are complete by then, so none is the right number.
    """
    gate.lock.release()
    core = core_of_this_thread(application)
    next_round = threading.Barrier(2)
    wrong = 0

    def strike_and_let_go() -> None:
        for _ in range(rounds):
            while core.phase != BODY or not core.inside_token:
                # Only lets the request's thread run.
                time.sleep(0)
            # It is in C by now, or about to be: the exception is pending when it gets the lock.
            time.sleep(0.0002)
            interrupt.raise_into(core, core.started)
            gate.lock.release()
            next_round.wait()

    thread = threading.Thread(target=strike_and_let_go)
    thread.start()
    for _ in range(rounds):
        served = serve(application)
        let_pending_land()
        wrong += served.error is not None
        next_round.wait()
    thread.join()
    return wrong


def test_no_stray_when_the_last_act_is_a_blocking_c_iterator(base: str) -> None:
    """The exception is set while C code runs, which then ends without checking: the exception is cleared."""
    gate = Gate()
    with no_collector():
        assert struck_in_its_last_act(gate, wrapped(gate, base), 1_000) == 0


def test_what_is_cleared_leaves_no_trace_in_the_interpreter(base: str) -> None:
    """A traced thread goes on afterwards: on CPython 3.11 a flag that is left behind would block it for ever.

    In a process of its own, because then no signal handler runs either.
    """
    traced = """
import sys
from tests.integration import test_harakiri_raise as tests

gate = tests.Gate()
application = tests.wrapped(gate, sys.argv[1])
wrong = tests.struck_in_its_last_act(gate, application, 20)

def called():
    return "went on"

sys.settrace(lambda *event: None)
answer = called()
sys.settrace(None)
print(wrong, answer)
"""
    command = [sys.executable, "-c", traced, base]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "0 went on\n"
    # There is a warning on 3.14.
    assert done.stderr.count("\n") == interrupt.LEAVES_LOCKS


def test_the_lock_that_a_request_waits_for_is_released(base: str, caplog: pytest.LogCaptureFixture) -> None:
    """The exception lands when the request gets the lock; CPython 3.14 does not release it, and we warn of that."""
    faults.forget()
    lock = threading.Lock()
    lock.acquire()
    waits = threading.Event()

    def waiting(_: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        start_response(*OK)
        waits.set()
        with lock:
            return [b"whole"]

    def strike_and_let_go() -> None:
        waits.wait()
        # The event is set just before it waits.
        wait_until(lambda: "futex" in Path(f"/proc/self/task/{core.native_id}/wchan").read_text(), "it waits")
        interrupt.raise_into(core, core.started)
        lock.release()

    application = wrapped(waiting, base)
    core = core_of_this_thread(wrapped(quick, base))
    striker = threading.Thread(target=strike_and_let_go)
    striker.start()
    served = serve(application)
    striker.join()
    assert served.status == "504 Gateway Timeout"
    assert lock.locked() is interrupt.LEAVES_LOCKS
    assert ("CPython 3.14 does not give back the lock" in "".join(messages(caplog))) is interrupt.LEAVES_LOCKS


# --- anywhere


class Closing:
    """An iterable that must be closed, whatever happens."""

    def __init__(self, chunks: Iterator[bytes], number: int) -> None:
        self.chunks = chunks
        # C code: the exception cannot land before the call is noted.
        self.close = functools.partial(closed.append, number)

    def __iter__(self) -> Iterator[bytes]:
        return self.chunks


#: The numbers of the bodies that were returned, and of those that were closed.
made: dict[int, bool] = {}
closed: list[int] = []
numbers = itertools.count()


def work() -> None:
    for _ in range(random.randrange(200)):
        threading.get_ident()


def quick(_: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
    work()
    start_response(*OK)
    return [b"whole"]


def streaming(_: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
    start_response(*OK)
    for _part in range(3):
        work()
        yield b"part"


def closing(_: WSGIEnvironment, start_response: StartResponse) -> Closing:
    def chunks() -> Iterator[bytes]:
        for _ in range(3):
            work()
            yield b"part"

    start_response(*OK)
    work()
    number = next(numbers)
    body = Closing(chunks(), number)
    # Calls nothing, so that the exception cannot land between here and the end.
    made[number] = True
    return body


def writing(_: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
    write = start_response(*OK)
    work()
    write(b"part")
    work()
    return [b"part", b"part"]


def swallowing(_: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
    try:
        work()
        start_response(*OK)
        work()
    except BaseException:
        start_response("200 OK", [], sys.exc_info())
    return [b"whole"]


def failing(_: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
    start_response(*OK)
    work()
    raise OSError


def waiting_in_c(_: WSGIEnvironment, start_response: StartResponse) -> Iterator[Any]:
    start_response(*OK)
    # Ends when acquire() returned False, after a while.
    return iter(functools.partial(threading.Lock().acquire, False), True) if random.random() < 0.5 else slow_in_c()


def slow_in_c() -> Iterator[Any]:
    lock = threading.Lock()
    lock.acquire()
    return iter(functools.partial(lock.acquire, True, 0.0003), False)


class Object:
    """An object, as Flask's and Django's applications are: its result passes through C code."""

    __call__ = staticmethod(closing)


APPLICATIONS: dict[str, WSGIApplication] = {
    "list": quick,
    "generator": streaming,
    "closing": closing,
    "object": Object(),
    "partial": functools.partial(closing),
    "write": writing,
    "swallowing": swallowing,
    "failing": failing,
    "C": waiting_in_c,
}


def check(served: Served, name: str) -> None:
    """Each response is the application's, a whole 504, or an ordinary exception."""
    body = b"".join(served.chunks)
    if served.error is not None:
        assert isinstance(served.error, (RequestTimedOut, OSError)), repr(served.error)
        return
    if served.status == "504 Gateway Timeout":
        assert (served.written, body) == ([], b"The request took too long.\n")
        assert ("Content-Length", str(len(body))) in served.headers
    else:
        assert served.status == "200 OK"
        whole = b"" if name == "C" else b"whole" if name in ("list", "swallowing") else b"partpartpart"
        assert b"".join(served.written) + body == whole
    assert served.started == 1


@pytest.mark.parametrize("name", APPLICATIONS)
def test_it_may_land_anywhere(name: str, base: str) -> None:
    """In the application, in its iterator, in close(), in our own code, or too late: no stray, and all is closed."""
    application = wrapped(APPLICATIONS[name], base)
    core = core_of_this_thread(application)
    made.clear()
    closed.clear()
    strays = 0
    outcomes = set()
    pause = 0.0

    def wait(token: float) -> None:
        until = token + random.uniform(0.0, 2 * pause)
        while time.monotonic() < until:
            # Only lets the request's thread run, at a random moment.
            time.sleep(0)

    with switching_often(), Striker(core, wait) as striker:
        # Until both sides of the race have been seen often enough.
        while min(striker.landed, striker.strikes - striker.landed) < STRIKES:
            began = time.monotonic()
            try:
                served = serve(application, environ())
                took = time.monotonic() - began
                let_pending_land()
            except HarakiriTimeout:
                strays += 1
                continue
            pause = 0.9 * pause + 0.1 * min(took, 0.001)
            check(served, name)
            outcomes.add(type(served.error).__name__ if served.error else served.status)
    assert strays == 0
    assert closed == list(made)
    assert core.started == 0.0
