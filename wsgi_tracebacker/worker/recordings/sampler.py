"""Looks at the requests in flight of this process, and shares out the time between two looks.

A thread that looks gets the GIL where others let go of it: it sees what waits, and little of what runs. So the kernel's
clock of each thread has the last word. For how long a thread was on a CPU, or ready to be, beyond the looks that found
it there, is taken from where it was seen to wait, and shown without a place.

The switch interval is left alone: lowered, the application would serve a sixth less.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, NamedTuple

from wsgi_tracebacker.linux.clock import clock_gettime, monotonic, unix_time
from wsgi_tracebacker.linux.thread_waits import FILES, ThreadWaits, files_with_gil
from wsgi_tracebacker.model.recording import FOR_GIL, ON_CPU, PLACE_UNKNOWN
from wsgi_tracebacker.wire.record_lines import NO_NODE, NO_REQUEST
from wsgi_tracebacker.worker.stacks import greenlets
from wsgi_tracebacker.worker.tracking.cores import known_thread, native_id_of
from wsgi_tracebacker.worker.tracking.describe import describe
from wsgi_tracebacker.worker.waits.look import interpreter_data

if TYPE_CHECKING:
    from collections.abc import Iterable

    from wsgi_tracebacker.worker.recordings.call_tree import CallTree
    from wsgi_tracebacker.worker.stacks.walk import RawStack, Walked
    from wsgi_tracebacker.worker.tracking.core import Core
    from wsgi_tracebacker.worker.tracking.cores import Cores

#: Threads whose files of the kernel are kept open, two each.
_MAX_THREADS = 64

#: How far the looks that found a thread on a CPU may be ahead of its clock, or behind it, in seconds.
_MAX_BALANCE = 0.5

#: The last row where it is not known what is waited for.
NOT_KNOWN = "not known"

#: What a suspended greenlet waits for, by the names of the files of its innermost calls.
_FILES = (
    *(
        (part, "lock")
        for part in ("/gevent/lock", "/gevent/_semaphore", "/gevent/thread", "/semaphore.py", "/threading.py")
    ),
    *(
        (part, "connection")
        for part in ("/gevent/_socket", "/gevent/socket", "/gevent/ssl", "/greenio/", "/trampoline")
    ),
    *((part, "sleep") for part in ("/gevent/hub.py", "/greenthread.py")),
)


class Shares(NamedTuple):
    """How a thread spent the time between two looks."""

    on_cpu: float = 0.0
    for_gil: float = 0.0
    #: On a CPU, where is not known.
    unknown: float = 0.0
    waiting: float = 0.0


def share_out(kind: str, elapsed: float, wanted: float, others_cpu: float, balance: float) -> tuple[Shares, float]:
    """How a thread spent ``elapsed`` seconds, and how much longer it was on a CPU than all looks so far account for.

    :param kind: ON_CPU or FOR_GIL if this look found it there.
    :param wanted: how long it was on a CPU or ready to be, by the kernel's clock.
    :param others_cpu: of all other threads of the process: it cannot have waited longer for the GIL.
    :param balance: what this returned the last time.
    """
    balance += wanted
    if kind in (ON_CPU, FOR_GIL):
        for_gil = min(max(0.0, elapsed - wanted), max(0.0, others_cpu)) if kind == FOR_GIL else 0.0
        shares = Shares(on_cpu=elapsed - for_gil, for_gil=for_gil)
    else:
        unknown = min(elapsed, max(0.0, balance))
        shares = Shares(unknown=unknown, waiting=elapsed - unknown)
    balance -= shares.on_cpu + shares.unknown
    return shares, max(-_MAX_BALANCE, min(_MAX_BALANCE, balance))


class _Thread:
    """A thread that serves requests."""

    def __init__(self, native_id: int | None, waits: ThreadWaits | None) -> None:
        self.native_id = native_id
        self.waits = waits
        self.line = b""
        self._times = (0.0, 0.0)
        #: Since the look before: on a CPU, and on a CPU or ready to be.
        self.ran = self.wanted = 0.0
        self.balance = 0.0
        #: Which one it was asked about last.
        self._request = NO_REQUEST

    def read(self) -> None:
        if self.waits is not None:
            self.line = self.waits.line()
            before, self._times = self._times, self.waits.times()
            self.ran, self.wanted = (now - earlier for now, earlier in zip(self._times, before, strict=True))

    def kind(self, request: int) -> str:
        """ON_CPU, FOR_GIL, or what it waits for; the GIL may be released."""
        if self.waits is None or not self.line:
            return NOT_KNOWN
        if request != self._request:
            # The same descriptor may lead elsewhere by now.
            self._request = request
            self.waits.forget()
        found = self.waits.kind(self.line)
        if self.waits.line() == self.line or found in (ON_CPU, FOR_GIL):
            return found
        self.waits.forget()
        return NOT_KNOWN

    def close(self) -> None:
        if self.waits is not None:
            self.waits.close()


class _Seen(NamedTuple):
    """A request at one look."""

    token: float
    number: int
    stack: RawStack
    place: tuple[int, bool]
    #: Of its greenlet; None on an ordinary thread.
    state: str | None
    #: What it waits for if it is suspended.
    suspended: str | None


class Sampler:
    """Looks for one recording. Used by one thread; close it when done."""

    def __init__(self, cores: Cores, tree: CallTree) -> None:
        self._cores = cores
        self._tree = tree
        self._files = FILES
        #: By ident.
        self._threads: dict[int, _Thread] = {}
        #: As seen by the last look.
        self._requests: dict[Core, _Seen] = {}
        self._last_at: float | None = None
        self._process_cpu = 0.0
        #: Since take_times(): what the looks cover, and how long all threads that serve requests were on a CPU.
        self._seconds = self._cpu_seconds = 0.0

    def close(self) -> None:
        for thread in list(self._threads.values()):
            thread.close()

    def take_times(self) -> tuple[float, float]:
        """What the looks cover since this was called last, and how long threads that serve were on a CPU."""
        times = self._seconds, self._cpu_seconds
        self._seconds = self._cpu_seconds = 0.0
        return times

    def look(self) -> None:
        """Look once; the time since the last look is added to the tree."""
        if self._last_at is None:
            self._files = files_with_gil()
        cores = self._cores.all()
        self._find_threads(cores)
        tokens = [(core, core.started) for core in cores if core.started > 0.0]
        in_flight = [core for core, _ in tokens]
        walked = greenlets.walk_with(in_flight, (), {core.serving_ident() for core in in_flight})
        now = monotonic()
        for thread in self._threads.values():
            thread.read()
        process_cpu = clock_gettime(time.CLOCK_PROCESS_CPUTIME_ID)
        others, self._process_cpu = process_cpu - self._process_cpu, process_cpu
        last_at, self._last_at = self._last_at, now

        # From here on the GIL may be released.
        seen: dict[Core, _Seen] = {}
        of_threads: dict[int, list[_Seen]] = {ident: [] for ident in self._threads}
        for core, token in tokens:
            found = self._see(core, token, walked, now) if core.started == token else None
            if found is not None:
                seen[core] = found
                of_threads.setdefault(walked.ident_of(core), []).append(found)
        self._requests = seen
        if last_at is None:
            # There is nothing before it to share out.
            return
        self._seconds += now - last_at
        changed = {core.ident for core in cores if core.ended > last_at or core.started > last_at}
        for ident, requests in of_threads.items():
            thread = self._threads.get(ident) or _Thread(None, None)
            self._cpu_seconds += thread.ran
            self._add(thread, requests, now - last_at, others - thread.ran, has_changed=ident in changed)

    def _find_threads(self, cores: Iterable[Core]) -> None:
        native_ids = {core.ident: core.native_id or native_id_of(known_thread(core.ident)) for core in cores}
        for ident, thread in list(self._threads.items()):
            # A thread that ended leaves its ident to another one.
            if native_ids.get(ident) != thread.native_id:
                self._threads.pop(ident).close()
        for ident in list(native_ids.keys() - self._threads.keys())[: _MAX_THREADS - len(self._threads)]:
            native_id = native_ids[ident]
            if native_id is not None:
                waits = ThreadWaits(os.getpid(), native_id, interpreter_data(), self._files)
                self._threads[ident] = _Thread(native_id, waits)

    def _see(self, core: Core, token: float, walked: Walked, now: float) -> _Seen | None:
        """The request of a core; None if it has ended since the walk."""
        stack, state = walked.stack_of(core), walked.state_of(core)
        before = self._requests.get(core)
        if before is None or before.token != token:
            request = describe(core, token, now, unix_time())
            if request is None:
                return None
            number = self._tree.request(request.method, request.path)
        elif before.stack == stack and before.state == state:
            return before
        else:
            number = before.number
        suspended = _wait_of_greenlet(stack) if state == greenlets.SUSPENDED else None
        return _Seen(token, number, stack, self._tree.node(stack), state, suspended)

    def _add(
        self, thread: _Thread, requests: list[_Seen], elapsed: float, others_cpu: float, *, has_changed: bool
    ) -> None:
        """Share out the time of one thread among its requests.

        :param has_changed: whether a request began or ended in it since the look before.
        """
        add = self._tree.add
        if not requests and not has_changed:
            # What it did was the server's.
            thread.balance = 0.0
            return
        running = next((each for each in requests if each.state != greenlets.SUSPENDED and each.stack), None)
        kind = thread.kind(running.number) if running is not None else NOT_KNOWN
        shares, thread.balance = share_out(kind, elapsed, thread.wanted, others_cpu, thread.balance)
        if running is not None:
            add(running.place, running.number, ON_CPU, shares.on_cpu)
            add(running.place, running.number, FOR_GIL, shares.for_gil, 0 if shares.on_cpu else 1)
        # Of several requests, or if there were others since, nobody knows whose it was.
        whose = requests[0].number if len(requests) == 1 and not has_changed else NO_REQUEST
        add((NO_NODE, False), whose, PLACE_UNKNOWN, shares.unknown, 0)
        for each in requests:
            if each is running and kind in (ON_CPU, FOR_GIL):
                continue
            add(each.place, each.number, each.suspended or kind, elapsed - shares.unknown / len(requests))


def _wait_of_greenlet(stack: RawStack) -> str:
    for code, _ in stack[:3]:
        for part, kind in _FILES:
            if part in code.co_filename:
                return kind
    return "greenlet" if stack else NOT_KNOWN
