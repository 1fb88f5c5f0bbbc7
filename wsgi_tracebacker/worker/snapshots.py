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

from wsgi_tracebacker.formats import json as json_format
from wsgi_tracebacker.formats import uwsgi as uwsgi_format
from wsgi_tracebacker.model import HubState, LastRequest, Request, Stack, Worker
from wsgi_tracebacker.worker import greenlets, kernel, requests, stacks
from wsgi_tracebacker.worker.cores import known_thread

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Collection, Iterator

    from wsgi_tracebacker.formats.source import SourceFile
    from wsgi_tracebacker.worker.cores import Cores
    from wsgi_tracebacker.worker.requests import Core

    _Stood = dict[tuple[int, int | None], tuple[stacks.RawStack, list[stacks.Place], int]]

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
    stack: stacks.RawStack
    #: Of a greenlet: running or suspended.
    greenlet: str | None = None
    request: Request | None = None
    last_request: LastRequest | None = None
    hub: HubState | None = None

    @property
    def has_the_thread(self) -> bool:
        """Whether what the kernel says of the thread is said of this."""
        return self.greenlet != greenlets.SUSPENDED


class Snapshots:
    """Takes the snapshots of one process. Used by one thread at a time, the listener's."""

    def __init__(
        self, cores: Cores, hubs: greenlets.Hubs, places: stacks.Places, own_idents: Callable[[], Collection[int]]
    ) -> None:
        """``own_idents``: the threads of ours, which are not shown."""
        self._cores = cores
        self._hubs = hubs
        self._places = places
        self._own_idents = own_idents
        #: How many were taken.
        self.taken = 0
        self._last_asked_kernel = -math.inf
        #: The stacks of the last snapshot and what they look like, by thread and core: most threads stand where they
        #: stood, and to find that out takes a third of what looking up each place takes.
        self._stood: _Stood = {}

    def text(self) -> bytes:
        """All stacks, as uWSGI writes them."""
        self.taken += 1
        cores = self._cores.all()
        hubs = self._hubs.all()
        looked = greenlets.look(cores, self._own_idents(), hubs=hubs)
        files: dict[str, SourceFile | None] = {}
        stood, self._stood = self._stood, {}
        blocks = [uwsgi_format.HEADER]
        for entry in self._entries(looked, hubs, [(core, None, None) for core in cores], monotonic()):
            # uWSGI says nothing of a thread without Python frames; of a core whose thread is shown once, neither.
            if entry.stack:
                places, _ = self._resolve(entry, stood, files)
                blocks.append(uwsgi_format.block(self._name(entry), [place.text for place in places]))
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
        oldest_first = sorted(zip(tokens, cores, flights, strict=True), key=lambda seen: (seen[2] is None, seen[0]))
        by_age = [(core, request, requests.describe_last(core, now_monotonic)) for _, core, request in oldest_first]
        entries = list(self._entries(looked, hubs, by_age, now_monotonic))
        native_ids = [entry.native_id for entry in entries if entry.native_id is not None and entry.has_the_thread]
        statuses = kernel.thread_statuses(dict.fromkeys(native_ids), *self._kernel_budget(now_monotonic))
        files: dict[str, SourceFile | None] = {}
        # By core, then what serves nothing, in the order in which the interpreter has it.
        entries.sort(key=lambda entry: (entry.core is None, entry.core.number or 0 if entry.core is not None else 0))
        stood, self._stood = self._stood, {}
        documents = [self._document(entry, statuses, stood, files) for entry in entries]
        in_flight = sum(1 for request in flights if request is not None)
        return json_format.snapshot_bytes(worker(in_flight), now_unix, documents)

    def _kernel_budget(self, now: float) -> tuple[float, int]:
        """CPU time for reading /proc, and how many threads are read in any case."""
        since_last, self._last_asked_kernel = now - self._last_asked_kernel, now
        if since_last < _OFTEN_SECONDS:
            return 0.0, 0
        at_least = _ALWAYS_READ if since_last >= _SELDOM_SECONDS else 1
        return min(_KERNEL_BUDGET_SECONDS, since_last * _KERNEL_SHARE), at_least

    def _entries(
        self,
        looked: greenlets.Looked,
        hubs: list[greenlets.Hub],
        cores: list[tuple[Core, Request | None, LastRequest | None]],
        now: float,
    ) -> Iterator[_Entry]:
        shown: set[int] = set()
        for core, request, last in cores:
            ident = core.serving_ident() if request is not None else core.ident
            native_id = core.native_id if ident == core.ident else _native_id(known_thread(ident))
            state = looked.state_of(core)
            if state is not None:
                stack = looked.stack_of(core)
                if state == greenlets.RUNNING:
                    shown.add(ident)
            else:
                # Overlapping bodies on one thread share its stack: the first one shows it.
                stack = looked.threads.get(ident, []) if ident not in shown else []
                shown.add(ident)
            yield _Entry(core, ident, native_id, stack, state, request, last)
        by_ident = {hub.ident: hub for hub in hubs}
        for ident, stack in looked.threads.items():
            hub = by_ident.get(ident)
            if hub is None:
                if ident not in shown:
                    yield _Entry(None, ident, _native_id(known_thread(ident)), stack)
                continue
            of_hub = looked.hubs[ident]
            if ident not in shown and of_hub:
                # A greenlet that serves no request runs.
                yield _Entry(None, ident, hub.native_id, stack, greenlets.RUNNING)
            yield _Entry(None, ident, hub.native_id, of_hub or stack, hub=hub.state(now))

    def _document(
        self,
        entry: _Entry,
        statuses: dict[int, kernel.ThreadStatus],
        stood: _Stood,
        files: dict[str, SourceFile | None],
    ) -> str:
        core = entry.core
        thread = core.thread if core is not None and core.ident == entry.ident else known_thread(entry.ident)
        status = statuses.get(entry.native_id or 0, _UNKNOWN_STATUS) if entry.has_the_thread else _UNKNOWN_STATUS
        places, omitted = self._resolve(entry, stood, files)
        head = Stack(
            name=self._name(entry),
            ident=entry.ident,
            native_id=entry.native_id,
            core=core.number if core is not None else None,
            kind=_kind(entry, thread),
            daemon=thread.daemon if thread is not None else None,
            state=status.state,
            wait_channel=status.wait_channel,
            cpu_seconds=status.cpu_seconds,
            request=entry.request,
            last_request=entry.last_request,
            frames_omitted=omitted,
            greenlet=entry.greenlet,
            hub=entry.hub,
        )
        return json_format.stack_json(head, [place.json for place in places])

    def _resolve(
        self, entry: _Entry, stood: _Stood, files: dict[str, SourceFile | None]
    ) -> tuple[list[stacks.Place], int]:
        key = (entry.ident, entry.core.number if entry.core is not None else None)
        known = stood.get(key)
        if known is None or known[0] != entry.stack:
            known = (entry.stack, *self._places.resolve(entry.stack, files))
        self._stood[key] = known
        return known[1], known[2]

    def _name(self, entry: _Entry) -> str:
        core = entry.core
        # A body that another thread reads is shown where it is read; the thread that has the core's name is shown too.
        if core is not None and core.ident == entry.ident:
            return self._cores.name_of(core)
        return _thread_name(entry.ident, entry.native_id)


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
