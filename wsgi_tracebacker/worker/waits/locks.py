"""Finds the locks that threads wait for, who has them, and deadlocks.

What a thread waits for is the expression of its ``with`` or ``.acquire()``. It counts only if it is a lock or an RLock
of the interpreter, or a Condition with one. An RLock knows its owner; a lock does not, so whoever is inside a ``with``
on the same object has it. Nothing is wrapped and no code of the application runs.
"""

from __future__ import annotations

import re
import threading
from typing import TYPE_CHECKING, Any, NamedTuple

from wsgi_tracebacker.worker.threads import primitives
from wsgi_tracebacker.worker.waits import held_frames, values

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping
    from types import CodeType

    from wsgi_tracebacker.linux.source import SourceFile
    from wsgi_tracebacker.worker.waits.expressions import Expressions, Waiting
    from wsgi_tracebacker.worker.waits.held_frames import HeldFrame

    Stack = list[tuple[CodeType, int]]

#: The text of a held RLock, which C code makes.
_OWNER = re.compile(r"<locked \S+ object owner=(\d+) ")

_CONDITION_FILE = threading.__file__


class _Kinds(NamedTuple):
    """The interpreter's own classes of locks."""

    lock: Any
    rlock: Any


def _kinds() -> _Kinds:
    # Not at the import: gevent and eventlet may replace both before it, and after it.
    return _Kinds(type(primitives.original("_thread", "allocate_lock")()), primitives.original("_thread", "RLock"))


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


def find(
    stacks: Mapping[int, Stack],
    wanted: Collection[int],
    expressions: Expressions,
    files: dict[str, SourceFile | None],
) -> dict[int, LockWait]:
    """The locks that threads wait for, by ident.

    :param stacks: of all threads, a moment ago: they tell whose frames to look at, and which functions to parse.
    :param wanted: the threads that are asked for. Others are looked at only as far as a lock of these needs it.
    """
    waiting = [ident for ident in wanted if ident in stacks and _acquiring(stacks[ident], expressions, files)]
    if not waiting:
        return {}
    inside = []
    for ident, stack in stacks.items():
        # Every place is asked, so that nothing has to be parsed while the frames are held.
        places = [expressions.at(code, lasti, files) for code, lasti in stack]
        if any(place.inside for place in places):
            inside.append(ident)
    return _look({*waiting, *inside}, set(waiting), expressions)


def _acquiring(
    stack: Stack, expressions: Expressions, files: dict[str, SourceFile | None]
) -> tuple[int, Waiting] | None:
    """The frame that acquires a lock, counted from the innermost one, and what."""
    for depth, (code, lasti) in enumerate(stack[:2]):
        found = expressions.at(code, lasti, files).acquires
        if code.co_filename != _CONDITION_FILE:
            return (depth, found) if found is not None else None
        if code.co_name != "__enter__":
            # Other functions of threading wait for what happens, with a lock of their own: not for one of somebody.
            return None
    return None


def _look(idents: Iterable[int], waiting: set[int], expressions: Expressions) -> dict[int, LockWait]:
    """Look at the frames of these threads, all of one instant."""
    kinds = _kinds()
    wanted: dict[int, tuple[int, _Taken]] = {}
    taken: dict[int, list[_Taken]] = {}
    owners: dict[int, int | None] = {}
    held = held_frames.hold(list(idents))
    try:
        for ident in waiting & held.keys():
            frames = held[ident]
            # Only what was parsed before: parsing takes time, and frames are held.
            acquiring = _acquiring([(frame.code, frame.lasti) for frame in frames], expressions, {})
            lock = _lock_of(frames[acquiring[0]].evaluate(acquiring[1].expression), kinds) if acquiring else None
            if acquiring is None or lock is None:
                continue
            is_locked, owner = _state_of(lock, kinds)
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
    return value if type(value) is kinds.lock or type(value) is kinds.rlock else None


def _state_of(lock: Any, kinds: _Kinds) -> tuple[bool, int | None]:
    """Whether a lock is held, and the thread that owns it, where that is known."""
    if type(lock) is kinds.rlock:
        owner = _OWNER.match(repr(lock))
        return owner is not None, int(owner[1]) if owner is not None else None
    return kinds.lock.locked(lock), None


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
