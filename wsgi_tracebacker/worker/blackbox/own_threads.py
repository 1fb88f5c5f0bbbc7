"""The threads of this package in one process: which they are, for snapshots and for the black box's header.

Snapshots leave them out, and so do readers of a dump of a stalled worker, which has the ident of each thread and no
more. Refuses to know what a thread does.
"""

from __future__ import annotations

import _thread
from collections import deque
from typing import TYPE_CHECKING, Any

from wsgi_tracebacker.wire.table_layout import THREADS

if TYPE_CHECKING:
    from collections.abc import Callable

    from wsgi_tracebacker.worker.blackbox.table import Table
    from wsgi_tracebacker.worker.threads.primitives import Primitives


class OwnThreads:
    """Starts threads, and knows those that run.

    Without a lock, which a thread that a signal's handler starts could wait for in vain: each thread writes to its own
    place in the header.
    """

    def __init__(self, primitives: Primitives) -> None:
        """``primitives``: what real threads are made with."""
        self._primitives = primitives
        self._table: Table | None = None
        #: Of each thread that runs, by its ident: its native id, and its place in the header if there is one for it.
        self._running: dict[int, tuple[int, int | None]] = {}
        self._free_places = deque(range(THREADS))

    def start(self, work: Callable[..., object], arguments: tuple[Any, ...] = ()) -> int:
        """Start a thread. Raises RuntimeError when the system gives none."""
        return self._primitives.start_new_thread(self._run, (work, arguments))

    def idents(self) -> set[int]:
        """Of all that run now."""
        return set(self._running)

    def write_to(self, table: Table | None) -> None:
        """From now on, they stand in the header of this table; None: nowhere."""
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
