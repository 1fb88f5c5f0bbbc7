"""Examines a worker that does not answer: reads its table and its memory, or asks for its stacks by signal.

Its memory shows at once which thread keeps the GIL, and every stack. Where the kernel does not let us read it, it has
to be proven that the worker is stalled before a signal may be sent.

Each step is taken only if the one before allows it. Written as a generator that yields the seconds until its next step:
one loop examines many workers at once, and stops as soon as a worker answers after all.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from wsgi_tracebacker.errors import FormatError, MemoryUnreadable
from wsgi_tracebacker.reader import table
from wsgi_tracebacker.reader.finding.processes import ALIVE, BUSY, DEAD, SAME, STALLED, STOPPED
from wsgi_tracebacker.reader.sources import Sources
from wsgi_tracebacker.reader.unanswered import dump_request, stall
from wsgi_tracebacker.reader.unanswered.join import join
from wsgi_tracebacker.wire.black_box import faulthandler_text

if TYPE_CHECKING:
    from collections.abc import Generator

    from wsgi_tracebacker.model.card import Card
    from wsgi_tracebacker.model.snapshot import Snapshot, Stack
    from wsgi_tracebacker.reader.finding.processes import Processes
    from wsgi_tracebacker.reader.outside.worker import MemoryOfWorker
    from wsgi_tracebacker.reader.table import Reading, Table
    from wsgi_tracebacker.reader.unanswered.stall import Sample
    from wsgi_tracebacker.wire.black_box.faulthandler_text import Dump

#: When the first sample is taken: two samples, half a second apart, then fit into the second that a worker has.
FIRST_SAMPLE_SECONDS = 0.5

#: Samples after the time limit: a proof that starts with the first of them ends with the last. Without this bound, a
#: process in which two threads spin in turns, half a second each, would be examined for ever.
_LATE_SAMPLES = 3


class Timeouts(NamedTuple):
    """The time limit of a worker."""

    seconds: float
    #: The limit if its table can be shown instead of an answer.
    table_seconds: float


class Findings(NamedTuple):
    """The result of an examination."""

    #: ``busy``, ``stalled``, ``stopped`` or ``disk wait``.
    state: str
    #: None if there is no table that can be read.
    snapshot: Snapshot | None
    #: Why there is not more, for people.
    notes: tuple[str, ...]


class _Stacks(NamedTuple):
    """The stacks of a stalled worker."""

    dump: Dump
    #: Native ids of the thread that wanted a CPU all the time, if there is one, and of those that wait for the GIL.
    running: set[int]
    waiting: set[int]


def examine(
    card: Card,
    processes: Processes,
    standing: str,
    waited_seconds: float,
    timeouts: Timeouts,
    *,
    may_signal: bool,
    may_read_memory: bool = False,
) -> Generator[float, int, Findings]:
    """Examine one worker that has not answered for ``waited_seconds``.

    Send it the pid of the process that listens there, 0 if unknown. ``standing`` says whether the card's process can be
    seen from here. It ends at the time limit, unless the samples so far may become a proof: then that is completed or
    refuted first. A stopped worker cannot answer, and is not waited for.
    """
    started = time.monotonic() - waited_seconds
    worker = SilentWorker(card, processes, standing)
    try:
        limit_seconds = timeouts.table_seconds if worker.has_table() else timeouts.seconds
        samples: list[Sample] = []
        peer = late = 0
        if may_read_memory and worker.open_memory() and (yield from worker.keeps_gil()):
            # A thread that was stopped with the GIL keeps it, too.
            return worker.findings(STOPPED if worker.state() == STOPPED else STALLED)
        if worker.state() != STOPPED:
            peer = yield max(0.0, min(limit_seconds, FIRST_SAMPLE_SECONDS) - waited_seconds)
        while True:
            state = worker.state()
            if state == STOPPED:
                return worker.findings(state)
            sample = worker.sample(peer)
            samples = [*samples[-2:], sample] if sample is not None else []
            if len(samples) == 3 and stall.why_not(*samples) is None:
                stacks = (yield from _stacks(worker, samples)) if may_signal and not worker.has_memory() else None
                return worker.findings(STALLED, stacks)
            rest = started + limit_seconds - time.monotonic()
            if rest <= 0:
                late += 1
                if late == _LATE_SAMPLES or not _may_become_proof(samples):
                    return worker.findings(state)
            peer = yield min(rest, stall.INTERVAL_SECONDS) if sample is None else stall.INTERVAL_SECONDS
    finally:
        worker.close()


def _may_become_proof(samples: list[Sample]) -> bool:
    return len(samples) == 1 or (len(samples) > 1 and stall.why_not_so_far(samples[-2], samples[-1]) is None)


def _stacks(worker: SilentWorker, samples: list[Sample]) -> Generator[float, int, _Stacks | None]:
    """Ask a worker that these samples prove stalled for its stacks; None if that failed, with a note."""

    def why_no_longer() -> str | None:
        now = worker.sample(0)
        return "it cannot be seen any more" if now is None else stall.why_no_longer(samples[-1], now)

    try:
        dump = faulthandler_text.parse((yield from dump_request.ask(worker.card, worker.processes, why_no_longer)))
    except (dump_request.Refused, OSError, FormatError) as error:
        worker.notes.append(f"no stacks: {error}")
        return None
    return _Stacks(dump, stall.never_released(samples[0], samples[-1]), stall.waiting(samples[0], samples[-1]))


class SilentWorker:
    """One worker that does not answer."""

    def __init__(self, card: Card, processes: Processes, standing: str) -> None:
        self.card = card
        self.processes = processes
        self.notes: list[str] = []
        self._standing = standing
        #: As it is seen from here; None if it is not.
        self.pid = card.pid if standing == SAME else processes.visible_pid(card)
        self._memory: MemoryOfWorker | None = None
        self._table: Table | None = None
        if card.black_box is None:
            return
        try:
            self._table = table.Table(card, None if standing == SAME else self.pid)
        except OSError as error:
            self.notes.append(f"its black box cannot be opened: {error.strerror or error}")

    def close(self) -> None:
        if self._table is not None:
            self._table.close()
        if self._memory is not None:
            self._memory.close()

    def open_memory(self) -> bool:
        """Whether its memory can be read; if not, there is a note of the reason."""
        if self._table is None or self.pid is None:
            return False
        # Imported only here: it loads ctypes.
        from wsgi_tracebacker.reader.outside.worker import MemoryOfWorker  # noqa: PLC0415

        try:
            self._memory = MemoryOfWorker(self.card._replace(pid=self.pid), self._table.read(), self.processes)
        except (MemoryUnreadable, OSError, FormatError) as error:
            self.notes.append(f"its memory is not read: {error}")
        return self.has_memory()

    def has_memory(self) -> bool:
        return self._memory is not None

    def keeps_gil(self) -> Generator[float, int, bool]:
        """Whether one of its threads never lets go of the GIL. Takes a third of a second, less if none does."""
        assert self._memory is not None
        return (yield from self._memory.keeps_gil())

    def has_table(self) -> bool:
        """Whether there is something to show if it does not answer."""
        try:
            return self._table is not None and bool(self._table.content())
        except (OSError, FormatError):
            return False

    def state(self) -> str:
        if self.pid is None:
            return BUSY
        state = self.processes.state(self.pid, threads=True)
        return BUSY if state in (ALIVE, DEAD) else state

    def sample(self, peer: int) -> Sample | None:
        """Take a sample for a proof; None if not all of it can be read, or if another process listens there."""
        if self._standing != SAME or self._table is None or peer not in (0, self.card.pid):
            return None
        try:
            content = self._table.content()
            listener, serving = table.threads_of(content)
        except (OSError, FormatError):
            return None
        return stall.sample(self.processes, self.card.pid, listener, serving, content, time.monotonic())

    def findings(self, state: str, stacks: _Stacks | None = None) -> Findings:
        """The result, with the table as it is now."""
        snapshot = None
        if self.pid is None and not self.processes.same_namespace(self.card.pid_namespace):
            where = "as root of the host, or inside its container"
            self.notes.append(f"it runs in another pid namespace: to see more, run wsgi-tb {where}")
        if self._table is not None:
            try:
                snapshot = self._snapshot(self._table.read(), state, stacks)
            except (OSError, FormatError) as error:
                self.notes.append(f"its black box cannot be read: {error}")
        return Findings(state, snapshot, tuple(self.notes))

    def _snapshot(self, reading: Reading, state: str, stacks: _Stacks | None) -> Snapshot:
        clocks_are_ours = self.processes.is_boot(self.card.boot_id)
        snapshot = table.snapshot(
            self.card, reading, state, monotonic=time.monotonic(), unix=time.time(), clocks_are_ours=clocks_are_ours
        )
        if reading.header.unrecorded_cores:
            self.notes.append(f"{reading.header.unrecorded_cores} of its cores are not in its table")
        if self._standing == SAME:
            alive = self.processes.threads(self.card.pid)
            described = (
                self._with_kernel_state(stack) if stack.native_id in alive else stack for stack in snapshot.stacks
            )
            snapshot = snapshot._replace(stacks=tuple(described))
        if self._memory is not None and self._table is not None:
            return self._with_source_lines(self._memory.with_stacks(snapshot, reading, self._table.read))
        return snapshot if stacks is None else self._with_stacks(snapshot, reading, stacks)

    def _with_kernel_state(self, stack: Stack) -> Stack:
        assert stack.native_id is not None
        nanoseconds = self.processes.cpu_nanoseconds(self.card.pid, stack.native_id)
        return stack._replace(
            state=self.processes.letter(self.card.pid, stack.native_id),
            cpu_seconds=None if nanoseconds is None else nanoseconds / 1e9,
        )

    def _with_stacks(self, snapshot: Snapshot, reading: Reading, stacks: _Stacks) -> Snapshot:
        """Add the dumped stacks: first those of the requests, then of the threads that serve none."""
        dump, running, waiting = stacks
        if dump.is_cut:
            self.notes.append(f"faulthandler shows the newest {faulthandler_text.MAX_THREADS} threads only")
        own = {ident for ident, _ in reading.header.own_threads}
        alive = self.processes.threads(self.card.pid)
        joined = join(snapshot.stacks, reading.owners, own, dump, alive, running, waiting)
        return self._with_source_lines(snapshot._replace(stacks=tuple(joined), source="faulthandler"))

    def _with_source_lines(self, snapshot: Snapshot) -> Snapshot:
        # Source files are read with the rights of the process; where those are not known, none is read.
        identity = self.processes.identity(self.card.pid) if self._standing == SAME else None
        if identity is None:
            return snapshot
        sources = Sources(identity, self.card.cwd, snapshot.worker.started_at)
        return snapshot._replace(stacks=tuple(sources.fill_in(stack) for stack in snapshot.stacks))
