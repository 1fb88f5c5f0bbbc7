"""Joins the stacks of a dump with the requests of the table, and finds the thread that holds the GIL."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

    from wsgi_tracebacker.model.snapshot import Stack
    from wsgi_tracebacker.wire.black_box.faulthandler_text import Dump

#: Where threads of the standard library wait: these functions release the GIL before they sleep. A C function that the
#: application calls may not.
_WAITS = re.compile(
    r".*/(?:python|pypy)3\.\d+t?/"
    r"(?:threading\.py:wait|concurrent/futures/thread\.py:_worker|selectors\.py:select|socket\.py:(?:accept|readinto)|"
    r"ssl\.py:read)",
    re.DOTALL,
)
#: All our own code releases the GIL too; but our threads also call logging handlers and callables of the application.
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
    """Return the requests of a table with their stacks, then the stacks of the other threads.

    ``owners``: ident and native id of each core's thread. ``own_idents``: our own threads, which are left out, as in a
    worker's own snapshot. ``alive``: native ids of all threads, ``running``: of the one that wanted a CPU all the time,
    ``waiting``: of those that wait for the GIL. If exactly one thread runs, and it serves a request, it may hold the
    GIL; that is proven if none of the others can hold it while it sleeps.
    """
    left = {stack.ident: stack for stack in dumped.stacks}
    idents = [stack.ident for stack in serving]
    suspects = [stack for stack in serving if len(running) == 1 and stack.native_id in running]
    # Several requests in one thread are greenlets'; which of them runs is not known.
    suspect = suspects[0] if len(suspects) == 1 else None
    by_ident = {ident: (core, native_id) for core, (ident, native_id) in owners.items() if native_id in alive}
    # A thread that was left out of the dump could hold it.
    is_proven = not dumped.is_cut and all(
        (suspect is not None and stack.ident == suspect.ident)
        or by_ident.get(stack.ident or 0, (0, 0))[1] in waiting
        or _released_gil(stack, own_idents)
        for stack in dumped.stacks
    )
    holder = suspect if is_proven else None
    joined = []
    for stack in serving:
        own = left.pop(stack.ident, None) if idents.count(stack.ident) == 1 else None
        if own is not None:
            stack = stack._replace(frames=own.frames, frames_omitted=own.frames_omitted)  # noqa: PLW2901
        joined.append(stack._replace(holds_gil=None if holder is None else stack.core == holder.core))
    number = joined[0].name.partition("Core")[0] if joined else ""
    # The last stack is the oldest thread's, which is the main thread.
    main = dumped.stacks[-1].ident if dumped.stacks and not dumped.is_cut else None
    for ident, stack in left.items():
        # A thread without frames was only just started.
        if not stack.frames or ident in own_idents:
            continue
        core, native_id = by_ident.get(ident or 0, (None, None))
        if core is not None and number and ident not in idents:
            stack = stack._replace(name=f"{number}Core{core}", core=core, native_id=native_id)  # noqa: PLW2901
        elif ident == main:
            stack = stack._replace(name="MainThread", kind="main")  # noqa: PLW2901
        joined.append(stack)
    return joined


def _released_gil(stack: Stack, own_idents: Collection[int]) -> bool:
    """Whether a thread that sleeps in this place has released the GIL."""
    if not stack.frames:
        return False
    innermost = stack.frames[-1]
    if stack.ident in own_idents and _OWN_PACKAGE in innermost.filename:
        return True
    return _WAITS.fullmatch(f"{innermost.filename}:{innermost.function.rpartition('.')[2]}") is not None
