"""One look at the threads and suspended greenlets of this process, for everybody who wants to know what they wait for.

A thread whose frames stand in ``lock.acquire()`` need not wait for that lock. If the call has returned and the thread
has not run since, because another one has the GIL, its frames are the same. So the kernel is asked as well: it says in
which system call a thread is. Whoever waits for the GIL is in a futex, as whoever waits for a lock is. But that futex
is among the interpreter's own variables, and a lock's is on the heap or on a stack. What was found counts if the thread
was in the same call before and after it.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from wsgi_tracebacker.linux import own_memory
from wsgi_tracebacker.linux.system_calls import SystemCallFile, parse
from wsgi_tracebacker.worker.threads.signal_handlers import IN_HANDLER
from wsgi_tracebacker.worker.tracking.cores import known_thread, native_id_of
from wsgi_tracebacker.worker.waits.frames import held_frames

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from types import CodeType

    from wsgi_tracebacker.linux.system_calls import SystemCall
    from wsgi_tracebacker.worker.waits.frames.held_frames import HeldFrame

    Stack = list[tuple[CodeType, int]]


class Look:
    """The stacks of one instant, and what the kernel says of their threads; for one snapshot or report."""

    def __init__(
        self,
        threads: Mapping[int, Stack],
        greenlets: Mapping[int, tuple[object, Stack]] | None = None,
        running: Mapping[int, int] | None = None,
        native_ids: Mapping[int, int] | None = None,
    ) -> None:
        """Nothing is read before it is asked for.

        :param threads: the stacks of threads by ident, innermost frame first.
        :param greenlets: the suspended ones with their stacks, by the ident that gevent gives them.
        :param running: by that ident of greenlets that run: the ident of their thread.
        :param native_ids: of threads, where they are known better than from ``threading``.
        """
        self._greenlets = {ident: greenlet for ident, (greenlet, _) in (greenlets or {}).items()}
        #: Of threads and greenlets by ident.
        self.stacks: dict[int, Stack] = dict(threads)
        self.stacks.update((ident, stack) for ident, (_, stack) in (greenlets or {}).items())
        self._running = running or {}
        self._native_ids = native_ids or {}
        self._files: dict[int, SystemCallFile] = {}
        #: The first line that was read of each thread.
        self._lines: dict[int, bytes] = {}

    def close(self) -> None:
        """Close what was opened, and let go of the greenlets."""
        for file in self._files.values():
            file.close()
        self._greenlets.clear()

    def owner(self, ident: int) -> int | None:
        """Whose ident this is, as a lock has it, among ``stacks``; None if it is none of those."""
        ident = self._running.get(ident, ident)
        return ident if ident in self.stacks else None

    def is_suspended(self, ident: int) -> bool:
        """Whether it is a greenlet that is suspended: its thread does something else."""
        return ident in self._greenlets

    def hold(self, idents: Iterable[int]) -> dict[int, list[HeldFrame]]:
        """The frames of these, see held_frames."""
        wanted = list(idents)
        suspended = {ident: self._greenlets[ident] for ident in wanted if ident in self._greenlets}
        return held_frames.hold([ident for ident in wanted if ident not in suspended], suspended)

    def greenlet(self, ident: int) -> object | None:
        """The suspended greenlet of this ident."""
        return self._greenlets.get(ident)

    def native_id(self, ident: int) -> int | None:
        """The kernel's id of a thread; None for a suspended greenlet, and if it is not known."""
        if ident in self._greenlets:
            return None
        return self._native_ids.get(ident) or native_id_of(known_thread(ident))

    def line(self, ident: int) -> bytes:
        """What the kernel said of a thread's system call when it was first asked; empty if it does not say."""
        known = self._lines.get(ident)
        if known is None:
            native_id = self.native_id(ident)
            if native_id is not None:
                self._files[ident] = SystemCallFile(native_id)
            known = self._lines[ident] = self._files[ident].line() if native_id is not None else b""
        return known

    def has_stayed(self, ident: int) -> bool:
        """Whether a thread is still in the same system call."""
        file = self._files.get(ident)
        return file is None or file.line() == self._lines[ident]

    def is_blocked(self, ident: int) -> bool | None:
        """Whether a thread or greenlet waits for another one, and not for the GIL; None if the kernel does not say."""
        if ident in self._greenlets:
            return True
        if ident in IN_HANDLER:
            return False
        line = self.line(ident)
        if not line:
            return None
        call = parse(line)
        return call is not None and call.name.startswith("futex") and not waits_for_gil(call)


def waits_for_gil(call: SystemCall) -> bool:
    """Whether a thread in this futex waits for the GIL, or for something else of the interpreter's own."""
    return call.arguments[0] in interpreter_data()


@functools.cache
def interpreter_data() -> range:
    """Where the interpreter's own variables are: beside its classes. A forked process has them at the same place."""
    return own_memory.image_around(id(int))
