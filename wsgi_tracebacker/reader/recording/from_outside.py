"""Records where the requests of a worker stand, from outside: many looks a second, only at threads that serve one.

A look belongs to a request if the worker's black box has the same one right before and right after it: its row is read
in the same system call, from the worker's memory. It takes some microseconds, so that short requests are seen in all of
their parts alike.
"""

from __future__ import annotations

import contextlib
import os
import time
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from wsgi_tracebacker.errors import FormatError, MemoryUnreadable
from wsgi_tracebacker.linux import proc
from wsgi_tracebacker.linux.thread_waits import ThreadWaits
from wsgi_tracebacker.model.recording import EXACT, ON_CPU, OUTSIDE, TORN
from wsgi_tracebacker.reader.outside.layouts import GIL_BYTES
from wsgi_tracebacker.reader.outside.worker import MemoryOfWorker
from wsgi_tracebacker.reader.recording.worker_key import WorkerKey
from wsgi_tracebacker.reader.table import Table
from wsgi_tracebacker.wire.black_box import table_rows

if TYPE_CHECKING:
    from wsgi_tracebacker.model.card import Card
    from wsgi_tracebacker.model.snapshot import Frame, Snapshot
    from wsgi_tracebacker.reader.finding.processes import Processes
    from wsgi_tracebacker.reader.outside.interpreter import ThreadState
    from wsgi_tracebacker.reader.recording.record import Totals

#: How often threads that came and went are looked for.
_RENEW_SECONDS = 1.0


class _Waiting(NamedTuple):
    """A look at a request whose thread waited. Until the thread runs again, every other look would be the same."""

    waits: ThreadWaits
    run_count: bytes
    #: Its row in the black box: another thread may go on with the request.
    row: bytes
    #: As ``Totals.look`` takes it.
    look: tuple[tuple[WorkerKey, float, float], str, str, str, tuple[Frame, ...], str]


class OutsideRecorder:
    """One worker while it is recorded. Close it when done."""

    engine = OUTSIDE

    def __init__(self, card: Card, processes: Processes, visible_pid: int | None = None) -> None:
        """Raises MemoryUnreadable, OSError or FormatError.

        :param visible_pid: the pid that it has here, if it is in another pid namespace.
        """
        self.card = card
        self.key = WorkerKey.of(card)
        self.pid = visible_pid or card.pid
        #: The native id here of each of its threads by the one that it knows itself; None: they are the same.
        self._visible_threads = None if visible_pid is None else partial(processes.threads_by_inner_id, visible_pid)
        with contextlib.ExitStack() as opened:
            self._table = opened.enter_context(contextlib.closing(Table(card, visible_pid)))
            memory = MemoryOfWorker(card._replace(pid=self.pid), self._table.read(), processes)
            self._memory = opened.enter_context(contextlib.closing(memory))
            if memory.interpreter.layout.minor == 10:
                raise MemoryUnreadable("it runs Python 3.10, whose running threads cannot be read well from outside")
            opened.pop_all()
        #: The threads that there were before the first look: what they did until then does not count.
        self._old_threads = frozenset(processes.threads(self.pid))
        self._threads: dict[int, ThreadState] = {}
        self._waits: dict[int, ThreadWaits] = {}
        #: By core.
        self._waiting: dict[int, _Waiting] = {}
        self._ended_cpu_seconds = 0.0
        self._table_at = 0
        #: By core, the ident of its thread.
        self._cores: dict[int, int] = {}
        self._renewed_at = self._first_at = self._ended_at = 0.0
        self._looks = 0

    def agrees_with(self, snapshot: Snapshot) -> bool:
        """Whether its memory shows its threads where the worker's own snapshot does."""
        return self._memory.agrees_with(snapshot)

    def close(self) -> None:
        self._memory.close()
        self._table.close()
        for waits in self._waits.values():
            waits.close()
        self._waits.clear()

    def look(self, totals: Totals) -> bool:
        """Look once at every request in flight; False if the worker is gone."""
        self._ended_at = now = time.monotonic()
        if now >= self._renewed_at + _RENEW_SECONDS and not self._renew(now):
            return False
        # Nothing is there if the process has ended, or runs another program.
        if not self._memory.interpreter.memory.read(self._memory.interpreter.gil, 1):
            return False
        self._first_at, self._looks = self._first_at or now, self._looks + 1
        for core, ident in self._cores.items():
            raw = self._table.flight(core)
            waiting = self._waiting.pop(core, None)
            if waiting is not None and waiting.row == raw and waiting.run_count == waiting.waits.run_count():
                totals.look(*waiting.look)
                self._waiting[core] = waiting
                continue
            flight = table_rows.decode_flight(raw)
            if flight is None or not totals.wanted(flight.path) or self._shares_thread(core, ident):
                continue
            if flight.ident != ident:
                # Not a new key: the loop goes on.
                self._cores[core] = flight.ident
            thread = self._threads.get(flight.ident)
            if thread is None or thread.native_id != flight.native_id:
                # A thread that ended leaves its ident to another one.
                self._threads = {each.ident: each for each in self._memory.interpreter.threads()}
                thread = self._threads.get(flight.ident)
            if thread is None:
                continue
            waits = self._waits_of(flight.native_id)
            run_count = waits.run_count()
            waits_for = waits.now()
            row = self._table_at + table_rows.row_offset(core), table_rows.DETAIL_OFFSET
            look = self._memory.look(thread, row)
            # It may be the next request by now, or none: what counts is the one that stood there during the look.
            is_same = look.outcome == TORN or look.mark == raw
            looked_at = flight if is_same else table_rows.decode_flight(look.mark)
            if looked_at is not None and looked_at.ident == thread.ident and totals.wanted(looked_at.path):
                seen = (
                    (self.key, core, looked_at.started),
                    looked_at.method,
                    looked_at.path,
                    waits_for,
                    look.frames,
                    look.outcome,
                )
                totals.look(*seen)
                if run_count and waits_for != ON_CPU and look.outcome == EXACT and look.mark == raw:
                    self._waiting[core] = _Waiting(waits, run_count, raw, seen)
        return True

    def finish(self, _: Totals, ended_at: float) -> None:
        """There is nothing to wait for."""
        self._ended_at = ended_at

    def _find_table(self) -> int:
        """Where the worker has its black box in its memory; 0 if it is not found."""
        name = os.fsencode(os.path.basename(self.card.black_box or ""))
        mapped = proc.mapped_files(f"{proc.ROOT}/{self.pid}")
        return next((start for path, start in mapped if os.path.basename(path) == name), 0)

    def _shares_thread(self, core: int, ident: int) -> bool:
        """Whether another request is in flight in the same thread: of greenlets it is not known which one runs."""
        others = [other for other, its_ident in self._cores.items() if its_ident == ident and other != core]
        return any(table_rows.decode_flight(self._table.flight(other)) is not None for other in others)

    def seconds_of_a_look(self) -> float:
        """How long each look stands for: all alike, because one that a busy machine delays says no more than others."""
        return (self._ended_at - self._first_at) / max(1, self._looks)

    def cpu_seconds(self) -> float:
        """How long the threads that serve requests were on a CPU, by the kernel's clock."""
        return self._ended_cpu_seconds + sum(waits.cpu_seconds() for waits in self._waits.values())

    def _waits_of(self, native_id: int) -> ThreadWaits:
        if native_id not in self._waits:
            gil = self._memory.interpreter.gil
            # Of a thread that has ended meanwhile there is nothing to read.
            visible = native_id if self._visible_threads is None else self._visible_threads().get(native_id, 0)
            is_new = visible not in self._old_threads
            self._waits[native_id] = ThreadWaits(self.pid, visible, range(gil, gil + GIL_BYTES), is_new=is_new)
        return self._waits[native_id]

    def _renew(self, now: float) -> bool:
        """Find the threads that there are now; False if the process has ended."""
        self._renewed_at = now
        try:
            reading = self._table.read()
        except (OSError, FormatError):
            return False
        self._table_at = self._find_table()
        self._cores = {core: ident for core, (ident, _) in reading.owners.items() if core < table_rows.ROWS}
        threads = self._memory.interpreter.threads()
        self._threads = {each.ident: each for each in threads}
        there = {native_id for _, native_id in reading.owners.values()}
        for native_id in [each for each in self._waits if each not in there]:
            self._ended_cpu_seconds += self._waits[native_id].cpu_seconds()
            self._waits.pop(native_id).close()
        for native_id in there:
            self._waits_of(native_id).cpu_seconds()
        return bool(threads and self._table_at)
