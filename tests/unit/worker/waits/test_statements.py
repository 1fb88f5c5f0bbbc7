"""The statement that a request runs, and which call of the library it is."""

from __future__ import annotations

import contextlib
import sys
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.waiting import wait_until
from tests.unit.worker.waits.waiting_threads import look, running
from wsgi_tracebacker.model.code_ownership import CodeOwnership
from wsgi_tracebacker.worker.waits.calls import Calls, Statement, Subject
from wsgi_tracebacker.worker.waits.frames import frame_texts
from wsgi_tracebacker.worker.waits.frames.expressions import Expressions
from wsgi_tracebacker.worker.waits.look import Look

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.skipif(not frame_texts.IS_SUPPORTED, reason="variables of frames are read on CPython only")

TEXT = "SELECT total FROM orders WHERE id = 4711"


def django(source: str) -> Callable[..., Any]:
    """A function in the place of Django's that gets the statement."""
    names: dict[str, Any] = {}
    exec(compile(source, "/srv/site-packages/django/db/backends/utils.py", "exec"), names)
    found: Callable[..., Any] = names["_execute"]
    return found


def statement(ident: int, **options: Any) -> Statement | None:
    with look() as taken:
        subject = Subject(ident, None, None, taken.stacks[ident], **options)
        return Calls(Expressions(None), CodeOwnership()).statement(taken, subject)


def test_a_call_is_the_same_one_until_it_ends() -> None:
    """A new call of the same statement from the same line is another one, unless it gets the memory of the first."""
    execute = django("def _execute(self, sql, wait): wait()")
    gates = [threading.Event(), threading.Event()]

    def ask() -> None:
        kept = []
        for gate in gates:
            execute(None, TEXT, gate.wait)
            kept.append([bytes(size) for size in range(512) for _ in range(20)])

    with running(ask) as [ident]:
        try:
            first = statement(ident)
            assert first is not None
            assert first.text == "SELECT total FROM orders WHERE id = ?"
            assert statement(ident) == first
            assert statement(ident, reads_frames=False) == Statement("", ())
            gates[0].set()
            # CPython 3.10 keeps the frame for the next call.
            if sys.version_info >= (3, 11):
                wait_until(lambda: statement(ident) not in (None, first, Statement("", ())), "it is in another call")
        finally:
            for gate in gates:
                gate.set()


def test_a_request_that_asks_no_database_runs_no_statement() -> None:
    """That is known, unlike what a thread without a stack runs."""
    gate = threading.Event()
    with running(gate.wait) as [ident]:
        assert statement(ident) == Statement("", ())
        gate.set()
    with look() as taken:
        assert Calls(Expressions(None), CodeOwnership()).statement(taken, Subject(1, None, None, [])) is None


def test_the_statement_of_a_suspended_greenlet() -> None:
    """Its frames are those of the greenlet."""
    generator = django("def _execute(sql): yield")(TEXT)
    next(generator)
    frame = generator.gi_frame
    stack = [(frame.f_code, frame.f_lasti)]
    greenlet = SimpleNamespace(gr_frame=frame)
    with contextlib.closing(Look({}, {7: (greenlet, stack)})) as taken:
        subject = Subject(7, None, greenlet, stack)
        ran = Calls(Expressions(None), CodeOwnership()).statement(taken, subject)
    assert ran == Statement("SELECT total FROM orders WHERE id = ?", (id(frame),))
