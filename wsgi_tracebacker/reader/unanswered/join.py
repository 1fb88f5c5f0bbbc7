"""Joins what faulthandler dumped with the requests that the table names, and finds the thread that holds the GIL."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

    from wsgi_tracebacker.model.snapshot import Stack
    from wsgi_tracebacker.wire.faulthandler_text import Dump

#: Where threads of the standard library wait: none of these functions calls anything that sleeps without letting go of
#: the GIL first. Of a call in C that the application makes that cannot be said.
_WAITS = re.compile(
    r".*/(?:python|pypy)3\.\d+t?/"
    r"(?:threading\.py:wait|concurrent/futures/thread\.py:_worker|selectors\.py:select|socket\.py:(?:accept|readinto)|"
    r"ssl\.py:read)",
    re.DOTALL,
)
#: The same goes for all code of ours; but a thread of ours may be in a handler or callable of the application's.
_OWN_PACKAGE = f"/{__name__.partition('.')[0]}/"


def join(
    serving: Collection[Stack],
    owners: dict[int, tuple[int, int]],
    own_idents: Collection[int],
    dumped: Dump,
    alive: Collection[int],
    running: Collection[int],
    waiting: Collection[int],
) -> list[Stack]:
    """The stacks of a dump on the threads of a table.

    ``owners`` are ident and native id of each core's thread; ``own_idents`` are the worker's threads of ours, which are
    left out, as the worker does itself; ``alive`` are the process's threads, ``running`` those that were on a CPU all
    the time, ``waiting`` those that wait for the GIL. If just one runs, and it serves a request, it may hold the GIL;
    that is proven if no other thread can be the one, asleep.
    """
    left = {stack.ident: stack for stack in dumped.stacks}
    idents = [stack.ident for stack in serving]
    suspects = [stack for stack in serving if len(running) == 1 and stack.native_id in running]
    # Greenlets share a thread: which of their requests runs is not known.
    suspect = suspects[0] if len(suspects) == 1 else None
    by_ident = {ident: (core, native_id) for core, (ident, native_id) in owners.items() if native_id in alive}
    # One that was left out of the dump could be anywhere.
    is_proven = not dumped.is_cut and all(
        (suspect is not None and stack.ident == suspect.ident)
        or by_ident.get(stack.ident or 0, (0, 0))[1] in waiting
        or _has_let_go(stack, own_idents)
        for stack in dumped.stacks
    )
    holder = suspect if is_proven else None
    joined = []
    for stack in serving:
        # Greenlets share their thread's ident, and a dump does not say which of them runs.
        own = left.pop(stack.ident, None) if idents.count(stack.ident) == 1 else None
        if own is not None:
            stack = stack._replace(frames=own.frames, frames_omitted=own.frames_omitted)  # noqa: PLW2901
        joined.append(stack._replace(holds_gil=None if holder is None else stack.core == holder.core))
    number = joined[0].name.partition("Core")[0] if joined else ""
    # The oldest thread stands last, and that is the main thread.
    main = dumped.stacks[-1].ident if dumped.stacks and not dumped.is_cut else None
    for ident, stack in left.items():
        # No frames: it was started by Python, and has not yet run any.
        if not stack.frames or ident in own_idents:
            continue
        core, native_id = by_ident.get(ident or 0, (None, None))
        if core is not None and number and ident not in idents:
            stack = stack._replace(name=f"{number}Core{core}", core=core, native_id=native_id)  # noqa: PLW2901
        elif ident == main:
            stack = stack._replace(name="MainThread", kind="main")  # noqa: PLW2901
        joined.append(stack)
    return joined


def _has_let_go(stack: Stack, own_idents: Collection[int]) -> bool:
    """Whether a thread that sleeps there sleeps without the GIL."""
    if not stack.frames:
        return False
    innermost = stack.frames[-1]
    if stack.ident in own_idents and _OWN_PACKAGE in innermost.filename:
        return True
    return _WAITS.fullmatch(f"{innermost.filename}:{innermost.function.rpartition('.')[2]}") is not None
