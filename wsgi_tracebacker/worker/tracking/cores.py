"""The cores of one process: which numbers are free, and the names of the threads.

A core belongs to a thread for as long as that lives (a thread pool keeps its numbers; a server that starts a thread
for each request reuses them). It is freed when its marker, a thread-local value, is collected with the thread.
"""

from __future__ import annotations

import heapq
import os
import threading
from collections import deque
from threading import main_thread
from typing import TYPE_CHECKING, Any

from wsgi_tracebacker.linux.clock import monotonic
from wsgi_tracebacker.wire.black_box.table_rows import ROWS
from wsgi_tracebacker.worker.blackbox.table import scratch_row
from wsgi_tracebacker.worker.tracking.core import AbandonedCore, Core

if TYPE_CHECKING:
    import _thread
    import weakref
    from collections.abc import Callable

    from wsgi_tracebacker.worker.blackbox.table import Table
    from wsgi_tracebacker.worker.tracking.core import Watcher

#: A server's own number for a core is used up to here: far more threads than any process serves with.
_MAX_PREFERRED = 4_096


class Marker:
    """Stored in a thread's local storage; when it is collected, the thread has ended, and its core is free.

    The finaliser can run anywhere, also inside our own lock: so it only appends to a deque, which is atomic.
    """

    __slots__ = ("_core", "_freed")

    def __init__(self, core: Core, freed: deque[Core]) -> None:
        self._core = core
        self._freed = freed

    def __del__(self) -> None:
        self._freed.append(self._core)


class Cores:
    """The cores of one process."""

    def __init__(self, allocate_lock: Callable[[], _thread.LockType]) -> None:
        """``allocate_lock``: makes a lock that is real also under monkey patching."""
        self._allocate_lock = allocate_lock
        self._lock = allocate_lock()
        #: Of every core.
        self.watcher: Watcher | None = None
        self._numbers: list[int] = []  # free ones below _next, as a heap
        self._next = 0
        self._taken: dict[int, Core] = {}
        self._freed: deque[Core] = deque()
        #: Requests that began in cores that were freed, less those that are counted in the rows of their successors.
        self._begun_before = 0.0
        self._table: Table | None = None
        #: How many cores there are beyond the table's end.
        self._unrecorded = 0
        #: What the names of threads begin with; None before the worker has a number, or where naming is off.
        self._name_prefix: str | None = None
        self._is_abandoned = False

    def take(
        self,
        ident: int,
        native_id: int | None,
        thread: threading.Thread | None,
        greenlet: weakref.ref[Any] | None = None,
        preferred: int | None = None,
    ) -> tuple[Core, Marker]:
        """Make a core for a thread or a greenlet, with the number ``preferred`` if that is free, else the smallest.

        :param preferred: the number that the server itself has for it.
        """
        dropped: list[object] = []
        with self._lock:
            if self._freed:
                self._reclaim(dropped)
            number = self._free_number(preferred)
            # Read once: leave_table() sets it to None without the lock.
            table = self._table
            row = table.row(number, ident, native_id) if table is not None else None
            core = Core(number, ident, native_id, thread, self._allocate_lock, row)
            core.greenlet = greenlet
            core.watcher = self.watcher
            self._begun_before -= core.begun
            self._taken[number] = core
            if number >= ROWS:
                self._count_unrecorded(1)
        if self._is_abandoned:
            # Meanwhile; abandon() may not have found this core.
            _abandon(core)
        if thread is not None and self._name_prefix is not None:
            thread.name = f"{self._name_prefix}{number}"
        return core, Marker(core, self._freed)

    def _free_number(self, preferred: int | None) -> int:
        if preferred is not None and self._next <= preferred < _MAX_PREFERRED:
            self._numbers.extend(range(self._next, preferred + 1))
            self._next = preferred + 1
        if preferred is not None and preferred in self._numbers:
            self._numbers.remove(preferred)
            heapq.heapify(self._numbers)
            return preferred
        if self._numbers:
            return heapq.heappop(self._numbers)
        self._next += 1
        return self._next - 1

    def all(self) -> list[Core]:
        """Every core that is taken, idle ones too, by number."""
        dropped: list[object] = []
        with self._lock:
            self._reclaim(dropped)
            taken = self._taken
            for core in taken.values():
                if core.started or core.nested:
                    _end_if_dropped(core, dropped)
            return [taken[number] for number in sorted(taken)]

    def serving(self) -> list[Core]:
        """Those that serve a request, in no order. Takes no lock: its callers may hold any."""
        return [core for core in list(self._taken.values()) if core.started > 0.0]

    def settle(self, core: Core) -> None:
        """End a request whose body was dropped by the server; called by the core's own thread."""
        dropped: list[object] = []
        with self._lock:
            _end_if_dropped(core, dropped)

    def record_in(self, table: Table) -> None:
        """Write requests to this table from now on, those in flight included."""
        with self._lock:
            self._table = table
            table.set_unrecorded(self._unrecorded)
            for number, core in self._taken.items():
                row = table.row(number, core.ident, core.native_id)
                if row is not None:
                    core.change_row(row)

    def leave_table(self) -> None:
        """The table is closed: cores that are made from now on get no row in it.

        Takes no lock: in a forked child it may be held for ever by a thread that is not there.
        """
        self._table = None

    def _count_unrecorded(self, change: int) -> None:
        self._unrecorded += change
        table = self._table
        if table is not None:
            table.set_unrecorded(self._unrecorded)

    def abandon(self) -> None:
        """Make every core unusable: this is another process, or the agent was stopped.

        Takes no lock: in a forked child it may be held for ever by a thread that is not there.
        """
        self._is_abandoned = True
        for core in list(self._taken.values()):
            _abandon(core)

    def finished(self) -> int:
        """Requests finished since the process started to serve."""
        with self._lock:
            cores = self._taken.values()
            return int(self._begun_before + sum(core.begun - (core.started > 0.0) for core in cores))

    def name_threads(self, worker_number: int) -> None:
        """Name all threads that serve, now and from now on, after worker and core."""
        self._name_prefix = f"WSGIWorker{worker_number}Core"
        for core in self.all():
            if core.thread is not None:
                core.thread.name = f"{self._name_prefix}{core.number}"

    def name_of(self, core: Core, *, is_on_its_thread: bool = True) -> str:
        """The name under which a core is shown: that of its thread, or the one that this would have."""
        if core.thread is not None and is_on_its_thread:
            return core.thread.name
        return f"{self._name_prefix or 'Core'}{core.number}"

    def _reclaim(self, dropped: list[object]) -> None:
        # A freed core whose request still runs (a body that outlived its thread) keeps its number until that ends.
        for _ in range(len(self._freed)):
            core = self._freed.popleft()
            _end_if_dropped(core, dropped)
            if core.started:
                self._freed.append(core)
                continue
            if core.number is not None and self._taken.get(core.number) is core:
                dropped.append(self._taken.pop(core.number))
                heapq.heappush(self._numbers, core.number)
                self._begun_before += core.begun
                if core.number >= ROWS:
                    self._count_unrecorded(-1)


def _abandon(core: Core) -> None:
    core.__class__ = AbandonedCore
    # It is the parent's, or stopped; its locks may be held for ever too.
    core.watcher = None
    # The row is the parent's, or that of a file which was removed.
    core.buffer, core.offset, core.marks = scratch_row()
    # The end of the request would not clear it.
    core.environ = None


def _end_if_dropped(core: Core, dropped: list[object]) -> None:
    """End the request of a body that was dropped without ``close()``, and those of bodies within it.

    Called under the lock, because other threads than the core's do this too: its own thread sees a request in flight,
    and before it begins another it calls settle() and waits for the lock.

    What the request held is added to ``dropped``, which the caller releases after the lock: destructors of the
    application run then.
    """
    if core.body_was_dropped():
        dropped.append(core.environ)
        core.end(monotonic())
    for inner in core.nested:
        _end_if_dropped(inner, dropped)


def known_thread(ident: int) -> threading.Thread | None:
    """The ``threading.Thread`` of a thread, if there is one.

    Not ``threading.current_thread()``: in a thread that Python did not start it makes a dummy that is never taken
    away again, one for each greenlet under gevent.
    """
    return threading._active.get(ident)  # type: ignore[attr-defined,no-any-return]  # noqa: SLF001


def native_id_of(thread: threading.Thread | None) -> int | None:
    """The kernel's id of a thread."""
    # After a fork in C, the main Thread object still has the master's native id.
    return os.getpid() if thread is main_thread() else getattr(thread, "native_id", None)


def thread_name(ident: int) -> str:
    """The name of a thread, made of its ident if Python did not start it."""
    thread = known_thread(ident)
    return thread.name if thread is not None else f"Thread-{ident}"
