"""Finds the locks that threads wait for, who has them, and deadlocks.

What a thread waits for is the expression of its ``with`` or ``.acquire()``. It counts only if it is a lock or an RLock
of the interpreter, or a Condition with one. An RLock knows its owner; a lock does not, so whoever is inside a ``with``
on the same object has it. Nothing is wrapped and no code of the application runs.
"""

from __future__ import annotations

import re
import sys
import threading
from typing import TYPE_CHECKING, Any, NamedTuple

from wsgi_tracebacker.worker.threads import primitives
from wsgi_tracebacker.worker.waits.frames import values

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from types import CodeType

    from wsgi_tracebacker.linux.source import SourceFile
    from wsgi_tracebacker.worker.waits.frames.expressions import Expressions, Waiting
    from wsgi_tracebacker.worker.waits.frames.held_frames import HeldFrame
    from wsgi_tracebacker.worker.waits.look import Look

    Stack = list[tuple[CodeType, int]]

#: The text of a held RLock, which C code makes.
_OWNER = re.compile(r"<locked \S+ object owner=(\d+) ")

_CONDITION_FILE = threading.__file__


#: A greenlet that waits for a lock is in this function of gevent, and in the one below; both call nothing in Python.
_GEVENT_FILE = "/gevent/thread.py"
_PY_RLOCK: Any = threading._PyRLock  # type: ignore[attr-defined]  # noqa: SLF001  (what RLock() makes under gevent)
_PY_ACQUIRE = _PY_RLOCK.acquire.__code__
#: The frame that acquires is among so many of the innermost ones.
_MAX_DEPTH = 4


class _Kinds(NamedTuple):
    """The classes of locks that are known: the interpreter's own, and gevent's."""

    locks: tuple[Any, ...]
    rlock: Any


def _kinds() -> _Kinds:
    # Not at the import: gevent and eventlet may replace both before it, and after it.
    gevent = sys.modules.get("gevent.thread")
    own = type(primitives.original("_thread", "allocate_lock")())
    return _Kinds((own,) if gevent is None else (own, gevent.LockType), primitives.original("_thread", "RLock"))


class LockWait(NamedTuple):
    """A thread that waits for a lock."""

    ident: int
    #: As the source names it, and where it is acquired.
    lock: str
    filename: str
    lineno: int
    #: The threads that have it, and how the source of each names it; none if that is not known.
    holders: tuple[tuple[int, str | None], ...]


class _Taken(NamedTuple):
    """A thread that waits for, or is inside, a lock."""

    ident: int
    waiting: Waiting
    filename: str


def find(look: Look, expressions: Expressions, files: dict[str, SourceFile | None]) -> dict[int, LockWait]:
    """The locks that threads and suspended greenlets wait for, by ident.

    :param look: their stacks tell at whose frames to look, and which functions to parse.
    """
    waiting = set()
    for ident, stack in look.stacks.items():
        found = _acquiring(stack, expressions, files)
        # Where the kernel does not say what a thread waits for, the instruction has to prove it.
        if found is not None and (blocked := look.is_blocked(ident)) is not False and (blocked or not found[1].by_call):
            waiting.add(ident)
    if not waiting:
        return {}
    inside = []
    for ident, stack in look.stacks.items():
        # Every place is asked, so that nothing has to be parsed while the frames are held.
        places = [expressions.at(code, lasti, files) for code, lasti in stack]
        if any(place.inside for place in places):
            inside.append(ident)
    return _look_at({*waiting, *inside}, waiting, look, expressions)


def _acquiring(
    stack: Stack, expressions: Expressions, files: dict[str, SourceFile | None]
) -> tuple[int, Waiting] | None:
    """The frame that acquires a lock, counted from the innermost one, and what."""
    for depth, (code, lasti) in enumerate(stack[:_MAX_DEPTH]):
        if _is_acquire(code):
            continue
        found = expressions.at(code, lasti, files).acquires
        if code.co_filename != _CONDITION_FILE:
            return (depth, found) if found is not None else None
        if code.co_name != "__enter__":
            # Other functions of threading wait for what happens, with a lock of their own: not for one of somebody.
            return None
    return None


def _is_acquire(code: CodeType) -> bool:
    """Whether it is the method of a lock whose class is in Python, as those of gevent are."""
    return code is _PY_ACQUIRE or (code.co_name == "acquire" and code.co_filename.endswith(_GEVENT_FILE))


def _look_at(idents: Iterable[int], waiting: set[int], look: Look, expressions: Expressions) -> dict[int, LockWait]:
    """Look at the frames of these threads and greenlets, all of one instant."""
    kinds = _kinds()
    wanted: dict[int, tuple[int, _Taken]] = {}
    taken: dict[int, list[_Taken]] = {}
    owners: dict[int, int | None] = {}
    held = look.hold(idents)
    try:
        for ident in waiting & held.keys():
            frames = held[ident]
            # Only what was parsed before: parsing takes time, and frames are held.
            acquiring = _acquiring([(frame.code, frame.lasti) for frame in frames], expressions, {})
            lock = _lock_of(frames[acquiring[0]].evaluate(acquiring[1].expression), kinds) if acquiring else None
            if acquiring is None or lock is None:
                continue
            is_locked, owner = _state_of(lock, kinds)
            owner = look.owner(owner) if owner is not None else None
            if is_locked and owner != ident:
                wanted[ident] = id(lock), _Taken(ident, acquiring[1], frames[acquiring[0]].code.co_filename)
                owners[id(lock)] = owner
            del lock
        for ident, frames in held.items():
            for found, lock_id in _inside(frames, expressions, kinds):
                if lock_id in owners:
                    taken.setdefault(lock_id, []).append(_Taken(ident, found, ""))
    finally:
        held.clear()
    return {
        ident: LockWait(
            ident,
            str(each.waiting.expression),
            each.filename,
            each.waiting.lineno,
            _holders(owners[lock_id], taken.get(lock_id, ())),
        )
        for ident, (lock_id, each) in wanted.items()
    }


def _inside(frames: list[HeldFrame], expressions: Expressions, kinds: _Kinds) -> Iterable[tuple[Waiting, int]]:
    """The locks that a thread is inside, by their id."""
    for frame in frames:
        known = expressions.known(frame.code, frame.lasti)
        for each in known.inside if known is not None else ():
            lock = _lock_of(frame.evaluate(each.expression), kinds)
            if lock is not None:
                yield each, id(lock)


def _holders(owner: int | None, taken: Iterable[_Taken]) -> tuple[tuple[int, str | None], ...]:
    names = {each.ident: str(each.waiting.expression) for each in taken}
    if owner is not None:
        return ((owner, names.get(owner)),)
    return tuple(names.items())


def _lock_of(value: Any, kinds: _Kinds) -> Any:
    """The lock that a value is, or that a Condition has; None if it is none of the interpreter's own."""
    if type(value) is threading.Condition:
        value = values.attribute(value, "_lock")
    is_lock = type(value) is kinds.rlock or type(value) is _PY_RLOCK or any(type(value) is one for one in kinds.locks)
    return value if is_lock else None


def _state_of(lock: Any, kinds: _Kinds) -> tuple[bool, int | None]:
    """Whether a lock is held, and the thread that owns it, where that is known."""
    if type(lock) is kinds.rlock:
        shown = _OWNER.match(repr(lock))
        return shown is not None, int(shown[1]) if shown is not None else None
    if type(lock) is _PY_RLOCK:
        owner = values.attribute(lock, "_owner")
        return type(owner) is int, owner if type(owner) is int else None
    return type(lock).locked(lock), None


# ------------------------------------------------------------------------------------------------------------- cycles


def cycles(waits: Mapping[int, LockWait]) -> dict[int, tuple[int, ...]]:
    """The deadlocks: for each thread that is in one, all threads of it in the order in which they wait."""
    found: dict[int, tuple[int, ...]] = {}
    for start in waits:
        path: list[int] = []
        ident = start
        while ident in waits and ident not in path and len(waits[ident].holders) == 1:
            path.append(ident)
            ident = waits[ident].holders[0][0]
        if ident == start and path:
            found[start] = tuple(path)
    return found
