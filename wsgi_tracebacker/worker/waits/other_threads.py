"""Finds the threads that work for others: the result that one waits for is the one that the other is making.

Both have the same future in their frames: ``Future.result()`` and the executor's thread, or a request of asgiref (which
runs async views of Django and Flask on a thread of an executor) and that thread.
"""

from __future__ import annotations

import threading
from concurrent import futures
from typing import TYPE_CHECKING, NamedTuple

from wsgi_tracebacker.worker.waits import held_frames
from wsgi_tracebacker.worker.waits.expressions import path_of
from wsgi_tracebacker.worker.waits.values import MISSING

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from types import CodeType

    from wsgi_tracebacker.worker.waits.expressions import Expression
    from wsgi_tracebacker.worker.waits.held_frames import HeldFrame

    Stack = list[tuple[CodeType, int]]


class _Known(NamedTuple):
    """A function, and which of its variables is the future."""

    file: str
    function: str
    future: Expression


_FUTURES_FOLDER = futures.__file__.rpartition("/")[0]
_WAITING = (
    _Known(f"{_FUTURES_FOLDER}/_base.py", "result", path_of("self")),
    _Known(f"{_FUTURES_FOLDER}/_base.py", "exception", path_of("self")),
    _Known("/asgiref/current_thread_executor.py", "run_until_future", path_of("future")),
)
_WORKING = (
    _Known(f"{_FUTURES_FOLDER}/thread.py", "run", path_of("self.future")),
    _Known("/asgiref/current_thread_executor.py", "run", path_of("self.future")),
)
#: How many calls the wait itself is below the function that waits for a future.
_MAX_DEPTH = 3
_CONDITION_FILE = threading.__file__


def find(stacks: Mapping[int, Stack], wanted: Collection[int]) -> dict[int, int]:
    """The idents of the threads that others wait for, by theirs. ``stacks``: of all threads, a moment ago."""
    waiting = {ident for ident in wanted if ident in stacks and _waits(stacks[ident])}
    working = {ident for ident, stack in stacks.items() if _depths(stack, is_waiting=False)} if waiting else set()
    if not working:
        return {}
    found: dict[int, int] = {}
    held = held_frames.hold(waiting | working)
    try:
        workers: dict[int, int] = {}
        for ident in working & held.keys():
            workers.update((future, ident) for future in _futures(held[ident], is_waiting=False))
        for ident in waiting & held.keys():
            frames = held[ident]
            if not _waits([(frame.code, frame.lasti) for frame in frames]):
                continue
            for future in _futures(frames[: _MAX_DEPTH + 1], is_waiting=True)[:1]:
                if workers.get(future, ident) != ident:
                    found[ident] = workers[future]
    finally:
        held.clear()
    return found


def _waits(stack: Stack) -> bool:
    is_blocked = bool(stack) and stack[0][0].co_filename == _CONDITION_FILE
    return is_blocked and bool(_depths(stack[: _MAX_DEPTH + 1], is_waiting=True))


def _depths(stack: Stack, *, is_waiting: bool) -> list[int]:
    return [depth for depth, (code, _) in enumerate(stack) if _match(code, is_waiting=is_waiting) is not None]


def _match(code: CodeType, *, is_waiting: bool) -> _Known | None:
    for known in _WAITING if is_waiting else _WORKING:
        if code.co_name == known.function and code.co_filename.endswith(known.file):
            return known
    return None


def _futures(frames: list[HeldFrame], *, is_waiting: bool) -> list[int]:
    """The ids of the futures in a thread's frames: they tell them apart as long as the frames are held."""
    found = []
    for frame in frames:
        known = _match(frame.code, is_waiting=is_waiting)
        if known is not None:
            future = frame.evaluate(known.future)
            if future is not MISSING:
                found.append(id(future))
    return found
