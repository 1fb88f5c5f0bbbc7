"""Finds the pools of connections that threads wait for, and how full they are.

A pool is read by its attributes only, in the frame that waits for it: how many connections it may have, how many it
has, and how many of these are free. Nothing of it is called.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

from wsgi_tracebacker.worker.waits.frames.expressions import path_of
from wsgi_tracebacker.worker.waits.frames.values import class_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from types import CodeType

    from wsgi_tracebacker.worker.waits.frames.expressions import Expression
    from wsgi_tracebacker.worker.waits.frames.held_frames import HeldFrame
    from wsgi_tracebacker.worker.waits.look import Look


class _Known(NamedTuple):
    """A function of a library that waits for a free connection of the pool ``self``."""

    file: str
    function: str
    #: Attributes whose sum is how many connections there may be, and how many there are.
    most: tuple[Expression, ...]
    opened: tuple[Expression, ...]
    #: The collection of the free ones.
    free: Expression


def _known(file: str, function: str, *, most: str, opened: str, free: str) -> _Known:
    return _Known(file, function, _paths(most), _paths(opened), path_of(free))


def _paths(text: str) -> tuple[Expression, ...]:
    return tuple(path_of(path) for path in text.split(" + "))


_POOLS = (
    _known(
        "sqlalchemy/pool/impl.py",
        "_do_get",
        most="self._pool.maxsize + self._max_overflow",
        opened="self._pool.maxsize + self._overflow",
        free="self._pool.queue",
    ),
    _known("psycopg_pool/pool.py", "getconn", most="self._max_size", opened="self._nconns", free="self._pool"),
    _known(
        "urllib3/connectionpool.py",
        "_get_conn",
        most="self.pool.maxsize",
        opened="self.pool.maxsize",
        free="self.pool.queue",
    ),
    _known(
        "redis/connection.py",
        "get_connection",
        most="self.max_connections",
        opened="self.max_connections",
        free="self.pool.queue",
    ),
)
_BY_FUNCTION = {known.function: known for known in _POOLS}

#: How many calls the wait itself is below the pool's function: a queue's, a condition's, and a few of the library.
_MAX_DEPTH = 6
#: The names of the functions in which a thread waits for another one.
_CONDITION_FILE = threading.__file__
_SELF = path_of("self")


class PoolWait(NamedTuple):
    """A thread that waits for a connection of a pool."""

    #: The pool's class.
    pool: str
    size: int | None
    in_use: int | None


def find(look: Look, wanted: Iterable[int]) -> dict[int, PoolWait]:
    """The pools that threads and suspended greenlets wait for, by ident."""
    waiting = [
        ident
        for ident in wanted
        if _depth(look.stacks.get(ident, ()), look.is_suspended(ident)) is not None
        and look.is_blocked(ident) is not False
    ]
    found = {}
    held = look.hold(waiting) if waiting else {}
    try:
        for ident, frames in held.items():
            stack = [(frame.code, frame.lasti) for frame in frames[: _MAX_DEPTH + 1]]
            depth = _depth(stack, look.is_suspended(ident))
            wait = _read(frames[depth]) if depth is not None else None
            if wait is not None:
                found[ident] = wait
    finally:
        held.clear()
    return found


def _depth(stack: Sequence[tuple[CodeType, int]], is_suspended: bool) -> int | None:
    """How many calls are inside the pool's function, if the thread waits within it."""
    # A greenlet that is suspended waits in any case: queues of gevent are in C, and have no frames.
    if not stack or not (is_suspended or stack[0][0].co_filename == _CONDITION_FILE):
        return None
    for depth, (code, _) in enumerate(stack[: _MAX_DEPTH + 1]):
        known = _BY_FUNCTION.get(code.co_name)
        if known is not None and code.co_filename.endswith(f"/{known.file}"):
            return depth
    return None


def _read(held: HeldFrame) -> PoolWait | None:
    known = _BY_FUNCTION[held.code.co_name]
    name = class_name(held.evaluate(_SELF))
    if name is None:
        return None
    size, opened = _sum(held, known.most), _sum(held, known.opened)
    free = held.evaluate(known.free)
    free_count = len(free) if type(free) is deque or type(free) is list else None
    in_use = opened - free_count if opened is not None and free_count is not None else None
    if size is None or in_use is None or not 0 <= in_use <= size:
        # The library has changed, or the pool while it was read.
        return PoolWait(name, None, None)
    return PoolWait(name, size, in_use)


def _sum(held: HeldFrame, paths: tuple[Expression, ...]) -> int | None:
    total = 0
    for path in paths:
        value: Any = held.evaluate(path)
        if type(value) is not int:
            return None
        total += value
    return total
