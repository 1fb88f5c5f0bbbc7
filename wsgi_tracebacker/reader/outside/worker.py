"""Reads the stacks of a worker from its memory, and puts them to the requests of its black box.

Before anything is shown the listener's thread has to be found in its own code, or a request in the middleware's: then
the layout is the right one. A worker that answers has to be where it says itself too: ``agrees_with``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from wsgi_tracebacker.errors import MemoryUnreadable
from wsgi_tracebacker.model.code_ownership import is_this_package
from wsgi_tracebacker.model.recording import EXACT
from wsgi_tracebacker.model.snapshot import UNKNOWN_KIND, Stack
from wsgi_tracebacker.reader.outside.interpreter import attach
from wsgi_tracebacker.reader.outside.unwind import Look, Paths, ThreadStack

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from wsgi_tracebacker.model.card import Card
    from wsgi_tracebacker.model.snapshot import Snapshot
    from wsgi_tracebacker.reader.finding.processes import Processes
    from wsgi_tracebacker.reader.outside.interpreter import ThreadState
    from wsgi_tracebacker.reader.table import Reading
    from wsgi_tracebacker.wire.black_box.table_header import Header

#: Where the listener's thread always is.
_LISTENING = "/worker/listening/"

#: The listener runs for some microseconds when somebody asks it.
_CHECKS = 20
#: Threads of which it is remembered where their frames were; some servers start one for each request.
_MAX_STACKS = 1000
#: How often a stack is read again that was not exact: a person looks once, and wants all of it.
_LOOKS = 10

#: How often, and how far apart, the GIL's holder is read to prove that it never lets go. The listener, which was asked
#: for an answer, has its turn within milliseconds of any release.
_HOLDER_LOOKS = 20
_HOLDER_SECONDS = 0.3


class MemoryOfWorker:
    """The threads of one worker that runs. Close it when done."""

    def __init__(self, card: Card, reading: Reading, processes: Processes) -> None:
        """``card`` has to be of a process that can be seen from here, and ``reading`` its table.

        Raises MemoryUnreadable, with the reason.
        """
        self.interpreter = attach(card.pid)
        self._paths = Paths()
        self._stacks: dict[ThreadState, ThreadStack] = {}
        try:
            # Its memory may be that of a process that was given the pid meanwhile.
            if not processes.runs(card.pid, card.start_ticks):
                raise MemoryUnreadable("its process has ended")
            self._check(reading)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the memory; safe to call twice."""
        self.interpreter.close()

    def look(self, thread: ThreadState, mark_at: tuple[int, int] | None = None) -> Look:
        """The stack of one thread, as it is now; ``mark_at`` is that of ``ThreadStack.look``."""
        if thread not in self._stacks:
            if len(self._stacks) >= _MAX_STACKS:
                self._stacks.clear()
            self._stacks[thread] = ThreadStack(self.interpreter, thread.address, self._paths)
        return self._stacks[thread].look(mark_at)

    def _check(self, reading: Reading) -> None:
        header = reading.header
        # If the first request has held the GIL ever since, the listener never got there. But a request is in our code.
        expected = dict.fromkeys((row.ident for row in reading.rows), "")
        expected |= {ident: _LISTENING for ident, native_id in header.own_threads if native_id == header.listener}
        for _ in range(_CHECKS):
            for thread in self.interpreter.threads():
                where = expected.get(thread.ident)
                # Not its native id: in a worker that uWSGI forked, it is the parent's.
                if where is not None:
                    frames = self.look(thread).frames
                    if any(is_this_package(each.filename) and where in each.filename for each in frames):
                        return
        raise MemoryUnreadable(
            "neither the thread that listens in it nor a request is found where it is: what is read would not be right"
        )

    def agrees_with(self, snapshot: Snapshot) -> bool:
        """Whether some thread has the outermost call, with its line, that the worker's own snapshot has of it.

        That call lasts as long as its thread, so it is there in both, although the worker runs meanwhile. Also true if
        there is nothing to compare: under uWSGI, threads that serve no request are in no Python.
        """
        said: dict[int, set[tuple[str, int | None]]] = {}
        for stack in snapshot.stacks:
            if stack.ident and stack.frames:
                said.setdefault(stack.ident, set()).add((stack.frames[0].function, stack.frames[0].lineno))
        found = []
        for thread in self.interpreter.threads():
            frames = self.look(thread).frames if thread.ident in said else ()
            if frames:
                found.append((frames[0].function, frames[0].lineno) in said[thread.ident])
        return any(found) or not found

    def keeps_gil(self) -> Generator[float, int, bool]:
        """Whether one thread holds the GIL all the time. Yields the seconds until its next look."""
        holder = self.interpreter.gil_holder()
        for _ in range(_HOLDER_LOOKS):
            if not holder or self.interpreter.gil_holder() != holder:
                return False
            yield _HOLDER_SECONDS / _HOLDER_LOOKS
        return self.interpreter.gil_holder() == holder

    def with_stacks(self, snapshot: Snapshot, before: Reading, read_again: Callable[[], Reading]) -> Snapshot:
        """The snapshot of a table, with the stack of every thread except our own ones.

        :param before: the table that the snapshot was made of.
        :param read_again: reads it once more: a request that ended meanwhile is left out.
        """
        holder = self.interpreter.gil_holder()
        own = {ident for ident, _ in before.header.own_threads}
        looks = {each.ident: (each, self._best(each)) for each in self.interpreter.threads() if each.ident not in own}
        still = {(row.core, row.started) for row in read_again().rows}
        if holder != self.interpreter.gil_holder():
            holder = 0
        idents = [row.ident for row in before.rows]
        stacks = []
        for row, stack in zip(before.rows, snapshot.stacks, strict=True):
            # Several requests of one thread are greenlets': which of them runs is not known.
            if (row.core, row.started) not in still:
                continue
            if row.ident in looks and idents.count(row.ident) == 1:
                stack = _with_look(stack, *looks.pop(row.ident), holder)  # noqa: PLW2901
            stacks.append(stack)
        cores = {ident: (core, native_id) for core, (ident, native_id) in before.owners.items()}
        for ident, (thread, look) in looks.items():
            core, native_id = cores.get(ident, (None, thread.native_id or None))
            stack = Stack(
                name=_name(before.header, core, native_id),
                ident=ident,
                native_id=native_id,
                core=core,
                kind="main" if native_id == before.header.pid else UNKNOWN_KIND,
            )
            if look.frames:
                stacks.append(_with_look(stack, thread, look, holder))
        return snapshot._replace(stacks=tuple(stacks), source="memory")

    def _best(self, thread: ThreadState) -> Look:
        """The first exact look at a thread, or else the deepest."""
        best = self.look(thread)
        for _ in range(_LOOKS):
            if best.outcome == EXACT:
                break
            best = max(best, self.look(thread), key=lambda look: (look.outcome == EXACT, len(look.frames)))
        return best


def _with_look(stack: Stack, thread: ThreadState, look: Look, holder: int) -> Stack:
    return stack._replace(
        frames=look.frames,
        is_cut=look.outcome != EXACT,
        holds_gil=thread.address == holder if holder else None,
    )


def _name(header: Header, core: int | None, native_id: int | None) -> str:
    if core is not None:
        return f"WSGIWorker{header.number}Core{core}"
    return "MainThread" if native_id == header.pid else f"Thread-{native_id or '?'}"
