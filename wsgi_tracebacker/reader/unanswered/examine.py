"""What can be said of a worker that does not answer: its table, then a proof, then its stacks.

Knows the order, in which each step is taken only if the one before allows it. Refuses to decide how long a worker may
take: it is told. Written as a generator that yields the seconds until its next step, so that one loop examines any
number of workers at once, and ends as soon as one of them answers after all.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from wsgi_tracebacker.errors import FormatError
from wsgi_tracebacker.reader.processes import ALIVE, DEAD, SAME, STOPPED, Identity, Processes
from wsgi_tracebacker.reader.sources import Sources
from wsgi_tracebacker.reader.unanswered import dump_request, stall, table
from wsgi_tracebacker.reader.unanswered.join import join
from wsgi_tracebacker.wire import faulthandler_text as faulthandler

if TYPE_CHECKING:
    from collections.abc import Collection, Generator

    from wsgi_tracebacker.model.card import Card
    from wsgi_tracebacker.model.snapshot import Snapshot, Stack
    from wsgi_tracebacker.reader.unanswered.stall import Look
    from wsgi_tracebacker.reader.unanswered.table import Reading, Table
    from wsgi_tracebacker.wire.faulthandler_text import Dump

#: From here on a worker is watched: two looks, half a second apart, are over when its second is.
FIRST_LOOK_SECONDS = 0.5

#: Looks after the time-out: a proof that begins with the first of them is complete with the last. Without
#: this bound a process that has two threads spin in turns, half a second each, is promising for ever.
_LATE_LOOKS = 3

#: What the states of a worker that does not answer are called.
BUSY, STALLED = "busy", "stalled"

#: Who runs is looked at as often, this far apart: threads that wait for the GIL run for a moment every 5 ms.
_HOLDER_LOOKS = 5
_HOLDER_SECONDS = 0.003


class Timeouts(NamedTuple):
    """How long an answer is waited for."""

    seconds: float
    #: If what the worker serves is known without it.
    table_seconds: float


class Findings(NamedTuple):
    """What came out."""

    #: ``busy``, ``stalled``, ``stopped`` or ``disk wait``.
    state: str
    #: None if there is no table to be read.
    snapshot: Snapshot | None
    #: Why there is not more, for people.
    notes: tuple[str, ...]


def examine(
    card: Card, processes: Processes, standing: str, waited_seconds: float, timeouts: Timeouts, *, may_signal: bool
) -> Generator[float, int, Findings]:
    """Examine one worker that has had a question to answer for ``waited_seconds``.

    ``send()`` it the pid of who listens there, 0 for unknown. ``standing`` says whether its card's process can be seen
    from here. Gives up after its time-out, unless all that was seen in the last half second is that of a
    stalled worker: then that is proven first, or disproven. One that is stopped can answer nobody: it may be
    continued any moment, but is not waited for.
    """
    started = time.monotonic() - waited_seconds
    worker = SilentWorker(card, processes, standing)
    try:
        limit_seconds = timeouts.table_seconds if worker.has_table() else timeouts.seconds
        looks: list[Look] = []
        peer = late = 0
        if worker.state() != STOPPED:
            peer = yield max(0.0, min(limit_seconds, FIRST_LOOK_SECONDS) - waited_seconds)
        while True:
            state = worker.state()
            if state == STOPPED:
                return worker.examination(state)
            found = worker.look(peer)
            looks = [*looks[-2:], found] if found is not None else []
            if len(looks) == 3 and stall.why_not(*looks) is None:
                return (yield from _stalled(worker, looks, may_signal))
            rest = started + limit_seconds - time.monotonic()
            if rest <= 0:
                late += 1
                if late == _LATE_LOOKS or not _is_promising(looks):
                    return worker.examination(state)
            peer = yield min(rest, stall.HALF_SECONDS) if found is None else stall.HALF_SECONDS
    finally:
        worker.close()


def _is_promising(looks: list[Look]) -> bool:
    """Whether the next look may complete a proof."""
    return len(looks) == 1 or (len(looks) > 1 and stall.why_not_so_far(looks[-2], looks[-1]) is None)


def _stalled(worker: SilentWorker, looks: list[Look], may_signal: bool) -> Generator[float, int, Findings]:
    """Show one that these looks have proven stalled."""
    if not may_signal:
        return worker.examination(STALLED)

    def why_not_still() -> str | None:
        now = worker.look(0)
        return "it cannot be seen any more" if now is None else stall.why_not_still(looks[-1], now)

    try:
        content = yield from dump_request.ask(worker.card, worker.processes, why_not_still)
        dumped = faulthandler.parse(content)
    except (dump_request.Refused, OSError, FormatError) as error:
        worker.notes.append(f"no stacks: {error}")
        return worker.examination(STALLED)
    running = yield from _running(worker)
    return worker.examination(STALLED, dumped, running, stall.waiting(looks[0], looks[-1]))


def _running(worker: SilentWorker) -> Generator[float, int, set[int]]:
    """The threads that run whenever they are looked at."""
    pid, processes = worker.card.pid, worker.processes
    running = set(processes.threads(pid))
    for number in range(_HOLDER_LOOKS):
        if number:
            yield _HOLDER_SECONDS
        running = {native_id for native_id in running if processes.letter(pid, native_id) == "R"}
    return running


class SilentWorker:
    """One worker that does not answer."""

    def __init__(self, card: Card, processes: Processes, standing: str) -> None:
        self.card = card
        self.processes = processes
        self.notes: list[str] = []
        self._standing = standing
        self._table: Table | None = None
        if card.black_box is None:
            return
        try:
            self._table = table.Table(card)
        except OSError as error:
            self.notes.append(f"its black box cannot be opened: {error.strerror or error}")
        if standing != SAME and not processes.same_namespace(card.pid_namespace):
            self.notes.append("it runs in another pid namespace: to see more, run wsgi-tb inside its container")

    def close(self) -> None:
        if self._table is not None:
            self._table.close()

    def has_table(self) -> bool:
        """Whether there is something to show if it does not answer."""
        try:
            return self._table is not None and bool(self._table.content())
        except (OSError, FormatError):
            return False

    def state(self) -> str:
        if self._standing != SAME:
            return BUSY
        state = self.processes.state(self.card.pid, threads=True)
        return BUSY if state in (ALIVE, DEAD) else state

    def look(self, peer: int) -> Look | None:
        """What a proof needs; None if it cannot be had, or if whoever listens is not the process of the card."""
        if self._standing != SAME or self._table is None or peer not in (0, self.card.pid):
            return None
        try:
            content = self._table.content()
            listener, serving = table.threads_of(content)
        except (OSError, FormatError):
            return None
        return stall.look(self.processes, self.card.pid, listener, serving, content, time.monotonic())

    def examination(
        self,
        state: str,
        dumped: Dump | None = None,
        running: Collection[int] = (),
        waiting: Collection[int] = (),
    ) -> Findings:
        if self._table is None:
            return Findings(state, None, tuple(self.notes))
        try:
            reading = self._table.read()
        except (OSError, FormatError) as error:
            self.notes.append(f"its black box cannot be read: {error}")
            return Findings(state, None, tuple(self.notes))
        snapshot = table.snapshot(
            self.card,
            reading,
            state,
            monotonic=time.monotonic(),
            unix=time.time(),
            clocks_are_ours=self.processes.is_boot(self.card.boot_id),
        )
        if reading.header.unrecorded_cores:
            self.notes.append(f"{reading.header.unrecorded_cores} of its cores are not in its table")
        if self._standing == SAME:
            snapshot = snapshot._replace(stacks=tuple(self._with_kernel(stack) for stack in snapshot.stacks))
        if dumped is not None:
            snapshot = self._joined(snapshot, reading, dumped, running, waiting)
        return Findings(state, snapshot, tuple(self.notes))

    def _with_kernel(self, stack: Stack) -> Stack:
        if stack.native_id is None or stack.native_id not in self.processes.threads(self.card.pid):
            return stack
        nanoseconds = self.processes.cpu_nanoseconds(self.card.pid, stack.native_id)
        return stack._replace(
            state=self.processes.letter(self.card.pid, stack.native_id),
            cpu_seconds=None if nanoseconds is None else nanoseconds / 1e9,
        )

    def _joined(
        self,
        snapshot: Snapshot,
        reading: Reading,
        dumped: Dump,
        running: Collection[int],
        waiting: Collection[int],
    ) -> Snapshot:
        """The requests with their threads' stacks, then the threads that serve none."""
        if dumped.is_cut:
            self.notes.append(f"faulthandler shows the newest {faulthandler.MAX_THREADS} threads only")
        identity = self.processes.identity(self.card.pid)
        # Nothing is read with greater rights than the process has; where those are not known, with none.
        sources = Sources(identity or Identity(-1, -1, ()), self.card.cwd, snapshot.worker.started_at)
        alive = self.processes.threads(self.card.pid)
        own = {ident for ident, _ in reading.header.own_threads}
        stacks = join(snapshot.stacks, reading.owners, own, dumped, alive, running, waiting)
        if identity is not None:
            stacks = [sources.fill_in(stack) for stack in stacks]
        return snapshot._replace(stacks=tuple(stacks), source="faulthandler")
