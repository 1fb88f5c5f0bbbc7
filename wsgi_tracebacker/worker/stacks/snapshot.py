"""A snapshot is taken: all stacks of this process at one instant, each with the request that it serves.

Knows how cores, threads, greenlets and hubs become the entries of a snapshot, and in which order. Refuses to know who
asked, and where the answer goes.
"""

from __future__ import annotations

import math
import os
from threading import main_thread
from time import monotonic
from time import time as unix_time
from typing import TYPE_CHECKING, Final, NamedTuple

from wsgi_tracebacker.wire import snapshot_json as json_format
from wsgi_tracebacker.wire import uwsgi_text as uwsgi_format
from wsgi_tracebacker.worker import kernel, requests
from wsgi_tracebacker.worker.cores import known_thread
from wsgi_tracebacker.worker.stacks import greenlets, hubs, places, walk

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Collection, Iterator

    from wsgi_tracebacker.linux.source import SourceFile
    from wsgi_tracebacker.model.snapshot import HubState, LastRequest, Request, Worker
    from wsgi_tracebacker.worker.cores import Cores
    from wsgi_tracebacker.worker.requests import Core

#: What one snapshot may spend on reading /proc, in CPU time, at 8 µs a thread and 6 more for what it waits in: enough
#: for the 20 oldest requests. Beyond it, threads are shown without the kernel's view of them; the oldest requests come
#: first.
_KERNEL_BUDGET_SECONDS = 0.0003
#: Of the time since the snapshot before. Each thread is six calls that let go of the GIL, and beside eight busy threads
#: to get it back costs more than all the rest of a snapshot.
_KERNEL_SHARE = 0.002
#: Threads that are read in any case, and how long ago the snapshot before must have been for that; and for any at all:
#: whoever takes a hundred a second shall not have the worker read /proc all the time.
_ALWAYS_READ, _SELDOM_SECONDS, _OFTEN_SECONDS = 8, 0.5, 0.05

_UNKNOWN_STATUS: Final = kernel.ThreadStatus()


class _Entry(NamedTuple):
    """One thread or greenlet, as it is shown."""

    core: Core | None
    ident: int
    native_id: int | None
    stack: walk.RawStack
    #: Of a greenlet: running or suspended.
    greenlet: str | None
    hub: hubs.Hub | None

    @property
    def has_the_thread(self) -> bool:
        """Whether what the kernel says of the thread is said of this."""
        return self.greenlet != greenlets.SUSPENDED


class _Known:
    """One thread or greenlet as it was in the snapshot before.

    Another snapshot may be taken at the same time, on another thread: where it stands is never changed, and each of
    the pairs is replaced in one store.
    """

    __slots__ = ("identity", "name", "omitted", "places", "stack")

    def __init__(self, stack: walk.RawStack, places: list[places.Place], omitted: int, before: _Known | None) -> None:
        self.stack = stack
        self.places = places
        self.omitted = omitted
        #: Its name, and how each of its lines begins in the text.
        self.name: tuple[str | None, bytes] = before.name if before is not None else (None, b"")
        #: What its JSON begins with, and that JSON.
        self.identity: tuple[tuple[object, ...], str] = before.identity if before is not None else ((), "")


class Snapshots:
    """Takes the snapshots of one process, for the listener; and for a worker that is aborted, on another thread."""

    def __init__(
        self, cores: Cores, hubs: hubs.Hubs, places: places.Places, own_idents: Callable[[], Collection[int]]
    ) -> None:
        """``own_idents``: the threads of ours, which are not shown."""
        self._cores = cores
        self._hubs = hubs
        self._places = places
        self._own_idents = own_idents
        #: How many were taken.
        self.taken = 0
        self._last_asked_kernel = -math.inf
        #: By thread or greenlet. Most threads stand where they stood, and to find that out takes a third of what
        #: looking up each place takes.
        self._known: dict[object, _Known] = {}

    def text(self) -> bytes:
        """All stacks, as uWSGI writes them."""
        self.taken += 1
        cores = self._cores.all()
        hubs = self._hubs.all()
        looked = greenlets.look(cores, self._own_idents(), hubs=hubs)
        files: dict[str, SourceFile | None] = {}
        before, self._known = self._known, {}
        blocks = [uwsgi_format.HEADER]
        for core, ident, native_id, stack, _, _ in _entries(looked, hubs, [(core, core.ident) for core in cores]):
            # uWSGI says nothing of a thread without Python frames; of a core whose thread is shown once, neither.
            if not stack:
                continue
            known = self._look_up(core, ident, stack, before, files)
            name = self._name(core, ident, native_id)
            named, line_start = known.name
            if name != named:
                line_start = uwsgi_format.line_start(name)
                known.name = name, line_start
            blocks.append(uwsgi_format.block(line_start, [place.text for place in known.places]))
        return b"".join(blocks)

    def json(self, worker: Callable[[int], Worker]) -> bytes:
        """All stacks with their requests, as JSON.

        :param worker: what this process says of itself, given the number of requests in flight.
        """
        self.taken += 1
        cores = self._cores.all()
        tokens = [core.started for core in cores]
        now_monotonic, now_unix = monotonic(), unix_time()
        hubs = self._hubs.all()
        looked = greenlets.look(cores, self._own_idents(), hubs=hubs)
        # A request belongs to the stack only if it was in flight before the walk and still is after it.
        flights = [
            requests.describe(core, token, now_monotonic, now_unix) if token > 0.0 else None
            for core, token in zip(cores, tokens, strict=True)
        ]
        in_flight = {core: request for core, request in zip(cores, flights, strict=True) if request is not None}
        oldest_first = sorted(zip(tokens, cores, flights, strict=True), key=lambda seen: (seen[2] is None, seen[0]))
        # Before anything is read that takes its time: a thread may end meanwhile, and its row be another's.
        last_ones = {core: requests.describe_last(core, now_monotonic) for core in cores if core not in in_flight}
        hub_states = {hub: hub.state(now_monotonic) for hub in hubs}
        by_age = [(core, core.ident if request is None else core.serving_ident()) for _, core, request in oldest_first]
        entries = list(_entries(looked, hubs, by_age))
        native_ids = [entry.native_id for entry in entries if entry.native_id is not None and entry.has_the_thread]
        statuses = kernel.thread_statuses(dict.fromkeys(native_ids), *self._kernel_budget(now_monotonic))
        files: dict[str, SourceFile | None] = {}
        # By core, then what serves nothing, in the order in which the interpreter has it.
        entries.sort(key=lambda entry: (entry.core is None, entry.core.number or 0 if entry.core is not None else 0))
        before, self._known = self._known, {}
        documents = [
            self._document(
                entry,
                request=in_flight.get(entry.core) if entry.core is not None else None,
                last_request=last_ones.get(entry.core) if entry.core is not None else None,
                hub_state=hub_states.get(entry.hub) if entry.hub is not None else None,
                status=statuses.get(entry.native_id or 0, _UNKNOWN_STATUS) if entry.has_the_thread else _UNKNOWN_STATUS,
                before=before,
                files=files,
            )
            for entry in entries
        ]
        return json_format.snapshot_bytes(worker(len(in_flight)), now_unix, documents)

    def _kernel_budget(self, now: float) -> tuple[float, int]:
        """CPU time for reading /proc, and how many threads are read in any case."""
        since_last, self._last_asked_kernel = now - self._last_asked_kernel, now
        if since_last < _OFTEN_SECONDS:
            return 0.0, 0
        at_least = _ALWAYS_READ if since_last >= _SELDOM_SECONDS else 1
        return min(_KERNEL_BUDGET_SECONDS, since_last * _KERNEL_SHARE), at_least

    def _document(
        self,
        entry: _Entry,
        *,
        request: Request | None,
        last_request: LastRequest | None,
        hub_state: HubState | None,
        status: kernel.ThreadStatus,
        before: dict[object, _Known],
        files: dict[str, SourceFile | None],
    ) -> str:
        core, ident, native_id, stack, greenlet, _ = entry
        thread = core.thread if core is not None and core.ident == ident else known_thread(ident)
        known = self._look_up(core, ident, stack, before, files)
        identity = (
            self._name(core, ident, native_id),
            ident,
            native_id,
            core.number if core is not None else None,
            _kind(entry, thread),
            thread.daemon if thread is not None else None,
        )
        identified, identity_json = known.identity
        if identity != identified:
            identity_json = json_format.identity_json(*identity)
            known.identity = identity, identity_json
        return json_format.stack_json(
            identity_json,
            state=status.state,
            wait_channel=status.wait_channel,
            cpu_seconds=status.cpu_seconds,
            request=request,
            last_request=last_request,
            frames_omitted=known.omitted,
            greenlet=greenlet,
            hub=hub_state,
            frame_jsons=[place.json for place in known.places],
        )

    def _look_up(
        self,
        core: Core | None,
        ident: int,
        stack: walk.RawStack,
        before: dict[object, _Known],
        files: dict[str, SourceFile | None],
    ) -> _Known:
        """What a thread or greenlet looks like, from the snapshot before if it stands where it stood."""
        # Not the core itself: it would be held until the next snapshot, and its thread with it.
        key = ident if core is None else (ident, core.number)
        known = before.get(key)
        if known is None or known.stack != stack:
            known = _Known(stack, *self._places.resolve(stack, files), known)
        self._known[key] = known
        return known

    def _name(self, core: Core | None, ident: int, native_id: int | None) -> str:
        # A body that another thread reads is shown where it is read; the thread that has the core's name is shown too.
        if core is not None and core.ident == ident:
            return self._cores.name_of(core)
        return _thread_name(ident, native_id)


def _entries(looked: greenlets.Looked, hubs: list[hubs.Hub], cores: list[tuple[Core, int]]) -> Iterator[_Entry]:
    """What is shown, in the order of the cores.

    :param cores: each with the thread that works for it.
    """
    shown: set[int] = set()
    for core, ident in cores:
        native_id = core.native_id if ident == core.ident else _native_id(known_thread(ident))
        state = looked.state_of(core)
        if state is not None:
            stack = looked.stack_of(core)
        else:
            # Overlapping bodies on one thread share its stack: the first one shows it.
            stack = looked.threads.get(ident, []) if ident not in shown else []
        if state != greenlets.SUSPENDED:
            shown.add(ident)
        yield _Entry(core, ident, native_id, stack, state, None)
    by_ident = {hub.ident: hub for hub in hubs}
    for ident, stack in looked.threads.items():
        hub = by_ident.get(ident)
        if hub is None:
            if ident not in shown:
                yield _Entry(None, ident, _native_id(known_thread(ident)), stack, None, None)
            continue
        of_hub = looked.hubs[ident]
        if ident not in shown and of_hub:
            # A greenlet that serves no request runs.
            yield _Entry(None, ident, hub.native_id, stack, greenlets.RUNNING, None)
        yield _Entry(None, ident, hub.native_id, of_hub or stack, None, hub)


def _thread_name(ident: int, native_id: int | None) -> str:
    thread = known_thread(ident)
    if thread is None and native_id == os.getpid():
        # gevent files it under its own ident.
        thread = main_thread()
    return thread.name if thread is not None else f"Thread-{ident}"


def _native_id(thread: threading.Thread | None) -> int | None:
    if thread is None:
        return None
    if thread is main_thread():
        # After a fork in C, the Thread object still has the master's.
        return os.getpid()
    return getattr(thread, "native_id", None)


def _kind(entry: _Entry, thread: threading.Thread | None) -> str:
    if entry.hub is not None:
        return "hub"
    if entry.greenlet is not None:
        return "greenlet"
    if thread is None or type(thread).__name__ == "_DummyThread":
        return "foreign"
    return "main" if thread is main_thread() else "thread"
