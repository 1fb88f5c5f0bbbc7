"""Starts this package's threads, and lists them in the black box's header.

Snapshots leave them out: RUN_CODE is the outermost call of each. So do readers of a stalled worker's dump, which
identifies a thread by its ident only: they have the header.
"""

from __future__ import annotations

import _thread
from collections import deque
from typing import TYPE_CHECKING, Any

from wsgi_tracebacker.wire.black_box.table_header import THREADS

if TYPE_CHECKING:
    from collections.abc import Callable

    from wsgi_tracebacker.worker.blackbox.table import Table
    from wsgi_tracebacker.worker.threads.primitives import Primitives


class OwnThreads:
    """The threads of one process.

    There is no lock, because a signal handler may start a thread while a lock is held: each thread writes to its own
    place in the header.
    """

    def __init__(self, primitives: Primitives) -> None:
        """``primitives`` starts the real threads."""
        self._primitives = primitives
        self._table: Table | None = None
        #: By the ident of each thread that runs: its native id, and its place in the header if there was a free one.
        self._running: dict[int, tuple[int, int | None]] = {}
        self._free_places = deque(range(THREADS))

    def start(self, work: Callable[..., object], arguments: tuple[Any, ...] = ()) -> int:
        """Start a thread. Raises RuntimeError when the system gives none."""
        return self._primitives.start_new_thread(self._run, (work, arguments))

    def write_to(self, table: Table | None) -> None:
        """List the threads in the header of this table from now on; None: in no table."""
        self._table = table
        for ident, (native_id, place) in list(self._running.items()):
            self._write(place, ident, native_id)

    def _run(self, work: Callable[..., object], arguments: tuple[Any, ...]) -> None:
        ident, native_id = self._primitives.get_ident(), _thread.get_native_id()
        place = self._free_place()
        self._running[ident] = native_id, place
        self._write(place, ident, native_id)
        try:
            work(*arguments)
        finally:
            self._write(place, 0, 0)
            del self._running[ident]
            if place is not None:
                self._free_places.append(place)

    def _free_place(self) -> int | None:
        try:
            return self._free_places.popleft()
        except IndexError:
            return None

    def _write(self, place: int | None, ident: int, native_id: int) -> None:
        table = self._table
        if table is not None and place is not None:
            table.set_own_thread(place, ident, native_id)


#: The code that is the outermost in the stack of every thread of ours, from its first instruction on: a list of those
#: that run would lack one that begins between two looks.
RUN_CODE = OwnThreads._run.__code__  # noqa: SLF001  (of this module)
