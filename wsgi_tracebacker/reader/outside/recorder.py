"""Records where the requests of workers stand, from outside: many looks a second, only at threads that serve one.

A look belongs to a request if the worker's black box has the same one right before and right after it: its row is read
in the same system call, from the worker's memory. It takes some microseconds, so that short requests are seen in all of
their parts alike.
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from wsgi_tracebacker.analysis.routes import Routes
from wsgi_tracebacker.errors import FormatError, MemoryUnreadable
from wsgi_tracebacker.linux import proc
from wsgi_tracebacker.model.recording import ON_CPU, RecordedStack, Recording
from wsgi_tracebacker.reader.outside.thread_waits import ThreadWaits
from wsgi_tracebacker.reader.outside.unwind import CUT, EXACT, TORN, Look
from wsgi_tracebacker.reader.outside.worker import MemoryOfWorker
from wsgi_tracebacker.reader.table import Table
from wsgi_tracebacker.wire.black_box import table_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from wsgi_tracebacker.model.card import Card
    from wsgi_tracebacker.model.snapshot import Frame, Snapshot
    from wsgi_tracebacker.reader.finding.processes import Processes
    from wsgi_tracebacker.reader.outside.interpreter import ThreadState
    from wsgi_tracebacker.wire.black_box.table_rows import Flight

#: The share of the interval by which a look may come early or late: looks at a fixed distance would keep step with an
#: application that does something at a fixed distance itself.
_JITTER = 0.3

#: How often threads that came and went are looked for, and new workers.
_RENEW_SECONDS = 1.0

#: Different stacks that are kept; what comes beyond is added up without frames.
_MAX_STACKS = 50_000
#: Paths whose routes are remembered.
_MAX_PATHS = 10_000


class _Key(NamedTuple):
    pid: int
    route: str
    waits_for: str
    #: The frames by their identity: to hash them takes ten times as long. They are kept, so it stays theirs.
    frames: tuple[int, ...]
    is_cut: bool


class Totals:
    """What was seen so far, of all workers."""

    def __init__(self, wanted: Callable[[str], bool] = lambda _: True) -> None:
        """``wanted``: whether requests of a path are recorded."""
        self.wanted = wanted
        self.outcomes = {EXACT: 0, CUT: 0, TORN: 0}
        self.requests: set[tuple[int, int, float]] = set()
        self._routes = Routes()
        self._known_routes: dict[tuple[str, str], str] = {}
        self._stacks: dict[_Key, tuple[tuple[Frame, ...], int]] = {}
        self._torn: Counter[int] = Counter()

    @property
    def looks(self) -> int:
        return sum(self.outcomes.values())

    def add(self, flight: Flight, pid: int, core: int, waits_for: str, look: Look) -> None:
        """Count one look at a request."""
        self.outcomes[look.outcome] += 1
        self.requests.add((pid, core, flight.started))
        if look.outcome == TORN:
            self._torn[pid] += 1
            return
        frames = look.frames if len(self._stacks) < _MAX_STACKS else ()
        route = self._route(flight.method, flight.path)
        key = _Key(pid, route, waits_for, tuple(map(id, frames)), look.outcome == CUT)
        frames, samples = self._stacks.get(key, (frames, 0))
        self._stacks[key] = (frames, samples + 1)

    def _route(self, method: str, path: str) -> str:
        """The route of a request; to find it takes longer than to look at the request."""
        found = self._known_routes.get((method, path))
        if found is None:
            if len(self._known_routes) >= _MAX_PATHS:
                self._known_routes.clear()
            found = self._known_routes[method, path] = self._routes.route(method, path)
        return found

    def stacks(self, each: dict[int, tuple[int, float]]) -> tuple[RecordedStack, ...]:
        """The stacks, those with the most seconds first.

        :param each: by pid the worker's number, and the seconds that each look at it stands for.
        """
        found = [
            RecordedStack(
                key.route, each[key.pid][0], key.waits_for, frames, key.is_cut, samples * each[key.pid][1], samples
            )
            for key, (frames, samples) in self._stacks.items()
        ]
        return tuple(sorted(found, key=lambda stack: -stack.seconds))

    def torn_seconds(self, each: dict[int, tuple[int, float]]) -> float:
        """Seconds of requests that are missing in the stacks."""
        return sum(count * each[pid][1] for pid, count in self._torn.items())


class _Waiting(NamedTuple):
    """A look at a request whose thread waited. Until the thread runs again, every other look would be the same."""

    waits: ThreadWaits
    run_count: bytes
    #: Its row in the black box: another thread may go on with the request.
    row: bytes
    #: As ``Totals.add`` takes it.
    look: tuple[Flight, int, int, str, Look]


class WorkerRecorder:
    """One worker while it is recorded. Close it when done."""

    def __init__(self, card: Card, processes: Processes) -> None:
        """Raises MemoryUnreadable, OSError or FormatError."""
        self.card = card
        self._table = Table(card)
        try:
            self._memory = MemoryOfWorker(card, self._table.read(), processes)
            if self._memory.interpreter.layout.minor == 10:
                raise MemoryUnreadable("it runs Python 3.10, whose running threads cannot be read well from outside")
        except BaseException:
            self._table.close()
            raise
        self._threads: dict[int, ThreadState] = {}
        self._waits: dict[int, ThreadWaits] = {}
        #: By core.
        self._waiting: dict[int, _Waiting] = {}
        self._ended_cpu_seconds = 0.0
        self._table_at = 0
        #: By core, the ident of its thread.
        self._cores: dict[int, int] = {}
        self._renewed_at = self._first_at = self._last_at = 0.0
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
        now = time.monotonic()
        if now >= self._renewed_at + _RENEW_SECONDS and not self._renew(now):
            return False
        # Nothing is there if the process has ended, or runs another program.
        if not self._memory.interpreter.memory.read(self._memory.interpreter.gil, 1):
            return False
        self._first_at, self._last_at, self._looks = self._first_at or now, now, self._looks + 1
        for core, ident in self._cores.items():
            raw = self._table.flight(core)
            waiting = self._waiting.pop(core, None)
            if waiting is not None and waiting.row == raw and waiting.run_count == waiting.waits.run_count():
                totals.add(*waiting.look)
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
                seen = looked_at, self.card.pid, core, waits_for, look
                totals.add(*seen)
                if run_count and waits_for != ON_CPU and look.outcome == EXACT and look.mark == raw:
                    self._waiting[core] = _Waiting(waits, run_count, raw, seen)
        return True

    def _find_table(self) -> int:
        """Where the worker has its black box in its memory; 0 if it is not found."""
        name = os.fsencode(os.path.basename(self.card.black_box or ""))
        mapped = proc.mapped_files(f"{proc.ROOT}/{self.card.pid}")
        return next((start for path, start in mapped if os.path.basename(path) == name), 0)

    def _shares_thread(self, core: int, ident: int) -> bool:
        """Whether another request is in flight in the same thread: of greenlets it is not known which one runs."""
        others = [other for other, its_ident in self._cores.items() if its_ident == ident and other != core]
        return any(table_rows.decode_flight(self._table.flight(other)) is not None for other in others)

    def seconds_of_a_look(self) -> float:
        """How long each look stands for: all alike, because one that a busy machine delays says no more than others."""
        return (self._last_at - self._first_at) / max(1, self._looks - 1)

    def cpu_seconds(self) -> float:
        """How long the threads that serve requests were on a CPU, by the kernel's clock."""
        return self._ended_cpu_seconds + sum(waits.cpu_seconds() for waits in self._waits.values())

    def _waits_of(self, native_id: int) -> ThreadWaits:
        if native_id not in self._waits:
            self._waits[native_id] = ThreadWaits(self.card.pid, native_id, self._memory.interpreter.gil)
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


def record(
    workers: Iterable[WorkerRecorder],
    totals: Totals,
    seconds: float,
    rate: float,
    *,
    find_new: Callable[[set[int]], list[WorkerRecorder]] = lambda _: [],
    progress: Callable[[float], None] = lambda _: None,
) -> Recording:
    """Record workers that are open; those that end are closed, and the others in the end. Ctrl-C ends it early.

    :param find_new: workers that have started, given the pids of those that are known. They are closed as well.
    :param progress: called about ten times a second with the seconds that have passed.
    """
    running = list(workers)
    known = {worker.card.pid: worker for worker in running}
    started_at, began = time.time(), time.monotonic()
    renewed = shown = began
    due = began
    cpu_seconds = 0.0
    try:
        while (now := time.monotonic()) < began + seconds:
            for worker in list(running):
                if not worker.look(totals):
                    running.remove(worker)
                    cpu_seconds += worker.cpu_seconds()
                    worker.close()
            if now >= renewed + _RENEW_SECONDS:
                renewed = now
                found = find_new(set(known))
                running += found
                known |= {worker.card.pid: worker for worker in found}
            if now >= shown + 0.1:
                shown = now
                progress(now - began)
            # Those that a busy machine made it miss are not made up for.
            due = max(due, now - 1 / rate) + (1 + random.uniform(-_JITTER, _JITTER)) / rate  # noqa: S311
            time.sleep(max(0.0, min(due, began + seconds) - time.monotonic()))
    except KeyboardInterrupt:
        pass
    finally:
        for worker in running:
            cpu_seconds += worker.cpu_seconds()
            worker.close()
    cards = [worker.card for worker in known.values()]
    each = {pid: (worker.card.number, worker.seconds_of_a_look()) for pid, worker in known.items()}
    return Recording(
        started_at=started_at,
        wanted_seconds=seconds,
        seconds=min(seconds, time.monotonic() - began),
        rate=rate,
        host=os.uname().nodename,
        workers=tuple((card.number, card.pid) for card in cards),
        application=next((card.application for card in cards), None),
        cwd=next((card.cwd for card in cards), None),
        requests=len(totals.requests),
        exact=totals.outcomes[EXACT],
        cut=totals.outcomes[CUT],
        torn=totals.outcomes[TORN],
        torn_seconds=totals.torn_seconds(each),
        cpu_seconds=cpu_seconds,
        stacks=totals.stacks(each),
    )
