"""Finds the threads that others wait for: the one that is joined, or the one that makes a result.

A result and the thread that makes it have the same future in their frames: ``Future.result()`` and the executor's
thread, or a request of asgiref (which runs async views of Django and Flask on a thread of an executor) and that thread.
"""

from __future__ import annotations

import threading
from concurrent import futures
from typing import TYPE_CHECKING, NamedTuple

from wsgi_tracebacker.worker.waits.frames.expressions import path_of
from wsgi_tracebacker.worker.waits.frames.values import MISSING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from types import CodeType

    from wsgi_tracebacker.worker.waits.frames.expressions import Expression
    from wsgi_tracebacker.worker.waits.frames.held_frames import HeldFrame
    from wsgi_tracebacker.worker.waits.look import Look


class _Known(NamedTuple):
    """A function, and which of its variables is the future, or the ident of the thread."""

    file: str
    function: str
    variable: Expression


_FUTURES_FOLDER = futures.__file__.rpartition("/")[0]
_THREADING_FILE = threading.__file__
_WAITING = (
    _Known(f"{_FUTURES_FOLDER}/_base.py", "result", path_of("self")),
    _Known(f"{_FUTURES_FOLDER}/_base.py", "exception", path_of("self")),
    _Known("/asgiref/current_thread_executor.py", "run_until_future", path_of("future")),
    _Known(_THREADING_FILE, "join", path_of("self._ident")),
)
_WORKING = (
    _Known(f"{_FUTURES_FOLDER}/thread.py", "run", path_of("self.future")),
    _Known("/asgiref/current_thread_executor.py", "run", path_of("self.future")),
)
#: How many calls the wait itself is below the function that waits.
_MAX_DEPTH = 3


class OtherThread(NamedTuple):
    """A thread that another one waits for."""

    ident: int
    #: Whether its end is waited for; otherwise its result is.
    is_joined: bool


def find(look: Look, wanted: Iterable[int]) -> dict[int, OtherThread]:
    """The threads that these wait for, by their idents."""
    waiting = {
        ident
        for ident in wanted
        if ident in look.stacks and _waits(look.stacks[ident]) and look.is_blocked(ident) is not False
    }
    if not waiting:
        return {}
    working = {ident for ident, stack in look.stacks.items() if any(_match(code, _WORKING) for code, _ in stack)}
    found: dict[int, OtherThread] = {}
    held = look.hold(waiting | working)
    try:
        # By the id of the future, which tells it from others as long as the frames are held.
        workers = {id(future): ident for ident in working for future in _variables(held.get(ident, ()), _WORKING)}
        for ident in waiting & held.keys():
            frames = held[ident][: _MAX_DEPTH + 1]
            if not _waits([(frame.code, frame.lasti) for frame in frames]):
                continue
            variable = next(_variables(frames, _WAITING), None)
            is_joined = type(variable) is int
            other = variable if isinstance(variable, int) else workers.get(id(variable))
            if other is not None and other != ident and other in look.stacks:
                found[ident] = OtherThread(other, is_joined)
    finally:
        held.clear()
    return found


def _waits(stack: Sequence[tuple[CodeType, int]]) -> bool:
    if not stack or stack[0][0].co_filename != _THREADING_FILE:
        return False
    return any(_match(code, _WAITING) for code, _ in stack[: _MAX_DEPTH + 1])


def _match(code: CodeType, table: tuple[_Known, ...]) -> _Known | None:
    for known in table:
        if code.co_name == known.function and code.co_filename.endswith(known.file):
            return known
    return None


def _variables(frames: Iterable[HeldFrame], table: tuple[_Known, ...]) -> Iterator[object]:
    for frame in frames:
        known = _match(frame.code, table)
        if known is not None:
            value = frame.evaluate(known.variable)
            if value is not MISSING:
                yield value
