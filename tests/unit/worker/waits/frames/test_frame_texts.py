"""Texts of variables of other threads' frames: which ones come out, and that nothing else happens."""

from __future__ import annotations

import gc
import sys
import threading
import weakref
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from tests.unit.worker.waits.waiting_threads import running, stacks
from wsgi_tracebacker.worker.waits.frames import frame_texts
from wsgi_tracebacker.worker.waits.frames.expressions import path_of
from wsgi_tracebacker.worker.waits.frames.frame_texts import Wanted, read

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.skipif(not frame_texts.IS_SUPPORTED, reason="variables of frames are read on CPython only")


STATEMENT = (path_of("statement"),)


class Text(str):
    """Not an exact str: its methods would be the application's code."""

    __slots__ = ()

    def __getitem__(self, _: Any) -> str:
        raise AssertionError

    __str__ = __repr__ = __len__ = __hash__ = __eq__ = __getitem__  # type: ignore[assignment]


class Hostile:
    """Everything that is read of it is seen."""

    def __getattribute__(self, name: str) -> Any:
        raise AssertionError(name)


class Plain:
    def __init__(self, host: object) -> None:
        self.host = host


def execute(gate: threading.Event, statement: object, parameters: object) -> None:
    gate.wait()


def wanted(ident: int, *paths: str, function: Callable[..., object] = execute) -> Wanted:
    for depth, (code, lasti) in enumerate(stacks()[ident]):
        if code is function.__code__:
            return Wanted(ident, None, depth, code, lasti, tuple(path_of(path) for path in paths))
    raise AssertionError(stacks()[ident])


def waits_with(statement: object, *paths: str) -> tuple[Any, ...] | None:
    gate = threading.Event()
    with running(lambda: execute(gate, statement, "secret")) as [ident]:
        [found] = read([wanted(ident, *paths)])
        gate.set()
    return found


def test_only_what_is_asked_for_and_is_a_text_comes_out() -> None:
    """An exact str, bytes or int; of anything else nothing, and no code of it runs."""
    assert waits_with("SELECT 1", "statement") == ("SELECT 1",)
    assert waits_with(b"SELECT 1", "statement") == (b"SELECT 1",)
    assert waits_with(7, "statement", "none") == (7, None)
    assert waits_with(Plain("bank"), "statement", "statement.host") == (None, "bank")
    assert waits_with(Plain(Text("bank")), "statement.host") == (None,)
    assert waits_with(Text("SELECT 1"), "statement") == (None,)
    assert waits_with(Hostile(), "statement", "statement.host") == (None, None)


def test_a_frame_that_went_on_says_nothing() -> None:
    """Nor does one that has ended, or whose thread never was."""
    gate, later = threading.Event(), threading.Event()

    def twice() -> None:
        execute(gate, "one", None)
        execute(later, "two", None)

    with running(twice) as [ident]:
        seen = wanted(ident, function=twice)
        assert read([seen, seen._replace(depth=seen.depth + 1), seen._replace(ident=1)])[1:] == [None, None]
        assert read([seen]) == [()]
        gate.set()
        while read([seen]) != [None]:
            pass
        later.set()
    assert read([seen]) == [None]
    assert read([]) == []


def test_a_function_that_is_traced_is_not_read_where_that_would_change_it() -> None:
    """Up to 3.12: what is copied out of it would be written back."""
    gate = threading.Event()

    def traced() -> None:
        sys.settrace(lambda *_: trace)
        execute(gate, "SELECT 1", None)

    def trace(*_: Any) -> Any:
        return trace

    with running(traced) as [ident]:
        [found] = read([wanted(ident, "statement")])
        gate.set()
    assert found == ((None,) if sys.version_info < (3, 13) else ("SELECT 1",))


def test_no_object_lives_longer_because_it_was_looked_at() -> None:
    """It is gone when the function has ended, as without us."""
    thing = Plain("bank")
    seen = weakref.ref(thing)
    gate = threading.Event()
    things = [thing]
    del thing
    with running(lambda: execute(gate, things.pop(), None)) as [ident]:
        gc.disable()
        try:
            assert read([wanted(ident, "statement.host")]) == [("bank",)]
        finally:
            gc.enable()
        assert seen() is not None
        gate.set()
    assert seen() is None


def test_texts_of_greenlets_and_threads_stand_where_they_were_asked_for() -> None:
    """A suspended greenlet has its frame itself; here a generator's stands for it."""

    def suspended(statement: str) -> Iterator[None]:
        yield

    generators: list[Any] = [suspended("first"), suspended("third")]
    for each in generators:
        next(each)
    gate = threading.Event()
    with running(lambda: execute(gate, "second", None)) as [ident]:
        try:
            stack = stacks()[ident]
            depth = next(number for number, (code, _) in enumerate(stack) if code is execute.__code__)
            first, third = [
                Wanted(0, SimpleNamespace(gr_frame=each.gi_frame), 0, each.gi_code, each.gi_frame.f_lasti, STATEMENT)
                for each in generators
            ]
            second = Wanted(ident, None, depth, *stack[depth], STATEMENT)
            found = [read(each) for each in ([first, second, third], [second, first], [third], [second])]
        finally:
            gate.set()
    assert found == [[("first",), ("second",), ("third",)], [("second",), ("first",)], [("third",)], [("second",)]]
