"""Raising into a request, and clearing what came too late. The races are in ``tests/integration``."""

from __future__ import annotations

import ctypes
import threading
from typing import TYPE_CHECKING, Any

from tests.support.interpreters import needs_raise
from tests.unit.worker.deadlines.raising.test_interruptible import OK, wrapped
from tests.unit.wsgi import environ, serve
from wsgi_tracebacker import HarakiriTimeout
from wsgi_tracebacker.worker import agent
from wsgi_tracebacker.worker.deadlines.raising import interrupt

if TYPE_CHECKING:
    import pytest
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

pytestmark = needs_raise


def test_nothing_is_raised_for_a_request_that_ended(base: str) -> None:
    """Its token is not the next request's, so neither that nor an idle thread gets the exception."""
    tokens: list[float] = []

    def noting(request: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        core = agent.serving_core()
        assert core is not None
        if tokens:
            assert not interrupt.raise_into(core, tokens[0])
        tokens.append(core.started)
        start_response(*OK)
        return [b"whole"]

    application = wrapped(noting, base)
    for _ in range(2):
        assert serve(application).chunks == [b"whole"]
    core = agent.serving_core()
    assert core is not None
    assert not interrupt.raise_into(core, tokens[1])
    assert serve(application).chunks == [b"whole"]


def test_what_is_pending_is_cleared_when_the_request_leaves(base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the thread that was inside, after the raising thread has released the lock, and only if it was marked."""
    calls: list[tuple[int, Any, bool]] = []

    def view(_: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        core = agent.serving_core()
        assert core is not None

        def note(ident: int, exception: Any) -> int:
            calls.append((ident, exception, core.lock.locked()))
            return 1

        for name in ("_raise_async", "_clear_async"):
            monkeypatch.setattr(interrupt, name, note)
        assert interrupt.raise_into(core, core.started)
        core.lock.acquire()
        threading.Timer(0.05, core.lock.release).start()
        start_response(*OK)
        return [b"whole"]

    ident = threading.get_ident()
    application = wrapped(view, base)
    assert b"".join(serve(application, environ()).chunks) == b"whole"
    assert calls[0] == (ident, HarakiriTimeout, True)
    assert {(called, locked) for called, _, locked in calls[1:]} == {(ident, False)}
    assert calls[-1] == (ident, None, False)
    calls.clear()
    serve(wrapped(lambda _, start_response: [] if start_response(*OK) is None else [b"unmarked"], base), environ())
    assert calls == []


def test_other_users_of_the_same_function_are_not_affected() -> None:
    """stopit and others call it with a ctypes.c_long, and ctypes.pythonapi has one function object for all of them."""
    interrupt.prepare()
    shared = ctypes.pythonapi.PyThreadState_SetAsyncExc
    assert not shared.argtypes
    assert shared(ctypes.c_long(0), ctypes.py_object(SystemExit)) == 0
