"""Takes snapshots: all stacks of this process at one instant, each with the request that it serves.

There are four steps: walk all stacks, describe the requests in flight, resolve the places in the code, encode. The
caller passes in who this worker is and which threads are ours.
"""

from __future__ import annotations

import os
from threading import main_thread
from typing import TYPE_CHECKING, NamedTuple

from wsgi_tracebacker.linux import threads as kernel_threads
from wsgi_tracebacker.linux.clock import monotonic, unix_time
from wsgi_tracebacker.model.snapshot import UNKNOWN_KIND, UNREAD_KIND, Snapshot, Stack
from wsgi_tracebacker.wire import uwsgi_text
from wsgi_tracebacker.wire.documents import snapshot_json
from wsgi_tracebacker.worker.blackbox.own_threads import RUN_CODE
from wsgi_tracebacker.worker.stacks import greenlets, walk
from wsgi_tracebacker.worker.threads import interpreters
from wsgi_tracebacker.worker.tracking.cores import known_thread, native_id_of
from wsgi_tracebacker.worker.tracking.describe import describe, describe_last

if TYPE_CHECKING:
    import threading
    from collections.abc import Collection, Iterable

    from wsgi_tracebacker.linux.source import SourceFile
    from wsgi_tracebacker.model.snapshot import LastRequest, Request, Worker
    from wsgi_tracebacker.worker.stacks.hubs import Hub, Hubs
    from wsgi_tracebacker.worker.stacks.places import Places
    from wsgi_tracebacker.worker.tracking.core import Core
    from wsgi_tracebacker.worker.tracking.cores import Cores
    from wsgi_tracebacker.worker.waits.sources import WaitSources

#: The number of threads whose state and wait channel are read, those with the oldest requests first. Each takes six
#: system calls, some 20 µs, which release the GIL: beside busy threads a snapshot spends most of its time there.
MAX_KERNEL_VIEWS = 64


class _Entry(NamedTuple):
    """One thread or greenlet of a snapshot."""

    core: Core | None
    ident: int
    native_id: int | None
    thread: threading.Thread | None
    stack: walk.RawStack
    #: Of a greenlet: running or suspended.
    greenlet: str | None = None
    hub: Hub | None = None
    #: Whether it is not known which stack this thread has, or which thread has this stack.
    is_unknown: bool = False

    @property
    def kernel_id(self) -> int | None:
        """The native id of the thread that runs it; None for a suspended greenlet: its thread runs another one."""
        return None if self.greenlet == greenlets.SUSPENDED else self.native_id


class Snapshots:
    """Takes the snapshots of one process, for any thread that asks."""

    def __init__(self, cores: Cores, hubs: Hubs, places: Places, waits: WaitSources) -> None:
        self._cores = cores
        self._waits = waits
        self._hubs = hubs
        self._places = places
        #: How many were taken.
        self.taken = 0

    def text(self) -> bytes:
        """Return all stacks in uWSGI's format, without those of our own threads."""
        self.taken += 1
        cores, hubs = self._cores.all(), self._hubs.all()
        walked = _walk(cores, hubs)
        files: dict[str, SourceFile | None] = {}
        blocks = [uwsgi_text.HEADER]
        for entry in sorted(_entries(walked, cores, hubs), key=_cores_first):
            # uWSGI's format has no threads without frames. Of cores that share a thread, only one has the stack.
            if entry.stack:
                frames, _ = self._places.resolve(entry.stack, files)
                line_start = uwsgi_text.line_start(self._name(entry))
                blocks.append(uwsgi_text.block(line_start, [place.text for place in frames]))
        return b"".join(blocks)

    def json(self, worker: Worker) -> bytes:
        """Return all stacks with their requests as JSON. ``worker`` is completed by what is in flight."""
        self.taken += 1
        cores, hubs = self._cores.all(), self._hubs.all()
        tokens = [(core, core.started) for core in cores]
        now_monotonic, now_unix = monotonic(), unix_time()
        walked = _walk(cores, hubs)

        # Before anything is read that releases the GIL: a thread may end then, and another thread get its row.
        in_flight, last_ones = _describe(tokens, now_monotonic, now_unix)
        idents = {core: walked.ident_of(core) for core in in_flight}
        waiting = self._waits.find(walked.threads, in_flight, idents, walked.served_by_greenlets(cores))
        in_flight = {core: request._replace(waits_for=waiting.get(core)) for core, request in in_flight.items()}
        hub_states = {hub: hub.state(now_monotonic) for hub in hubs}
        cores.sort(key=lambda core: -in_flight[core].age_seconds if core in in_flight else 0.0)
        entries = _entries(walked, cores, hubs)
        views = _kernel_views(entry.kernel_id for entry in entries)

        files: dict[str, SourceFile | None] = {}
        documents = []
        for entry in sorted(entries, key=_cores_first):
            core, view = entry.core, views[entry.kernel_id]
            frames, omitted = self._places.resolve(entry.stack, files)
            stack = Stack(
                name=self._name(entry),
                ident=entry.ident if entry.ident != walk.NO_THREAD else None,
                native_id=entry.native_id,
                core=core.number if core is not None else None,
                kind=_kind(entry),
                daemon=entry.thread.daemon if entry.thread is not None else None,
                state=view.state,
                wait_channel=view.wait_channel,
                cpu_seconds=view.cpu_seconds,
                request=in_flight.get(core) if core is not None else None,
                last_request=last_ones.get(core) if core is not None else None,
                frames_omitted=omitted,
                greenlet=entry.greenlet,
                hub=hub_states[entry.hub] if entry.hub is not None else None,
            )
            documents.append(snapshot_json.stack_json(stack, [place.json for place in frames]))
        worker = worker._replace(
            requests_in_flight=len(in_flight),
            # Requests may have begun since the worker was described.
            busy=max(worker.busy or 0, len(in_flight)),
            oldest_request_seconds=max((request.age_seconds for request in in_flight.values()), default=None),
        )
        return snapshot_json.snapshot_bytes(Snapshot(worker, now_unix, ()), documents)

    def _name(self, entry: _Entry) -> str:
        core = entry.core
        # A body that another thread reads is shown as that thread; the core's own thread is shown as well.
        if core is not None and core.ident == entry.ident:
            return self._cores.name_of(core)
        if core is not None and entry.ident == walk.NO_THREAD:
            return self._cores.name_of(core, is_on_its_thread=False)
        thread = entry.thread
        if entry.is_unknown and core is None:
            return "unknown thread"
        if thread is None and entry.native_id == os.getpid():
            # gevent registers the main thread under another ident.
            thread = main_thread()
        return thread.name if thread is not None else f"Thread-{entry.ident}"


def _walk(cores: Collection[Core], hubs: Collection[Hub]) -> walk.Walked:
    if hubs or any(core.greenlet is not None for core in cores):
        walked = greenlets.walk_with(cores, (), hubs=hubs)
    else:
        threads, _, _, readers = walk.walk((), frame_ids=walk.body_frame_ids(cores))
        walked = walk.Walked(threads, readers=readers, callers=walk.callers(cores))
    others = {ident: stack for ident, stack in walked.threads.items() if stack[-1][0] is not RUN_CODE}
    return walked._replace(threads=others)


def _describe(
    tokens: Iterable[tuple[Core, float]], now_monotonic: float, now_unix: float
) -> tuple[dict[Core, Request], dict[Core, LastRequest | None]]:
    """Return the request of each core that started with this token and is still in flight, else its last request."""
    in_flight, last_ones = {}, {}
    for core, token in tokens:
        # A request belongs to the stack only if it was in flight before the walk and still is after it.
        request = describe(core, token, now_monotonic, now_unix) if token > 0.0 else None
        if request is not None:
            in_flight[core] = request
        else:
            last_ones[core] = describe_last(core, now_monotonic)
    return in_flight, last_ones


def _entries(walked: walk.Walked, cores: Collection[Core], hubs: Iterable[Hub]) -> list[_Entry]:
    """Make an entry for each core, hub, and other thread. Of cores that share a thread, the first has its stack."""
    left = dict(walked.threads)
    are_shared = interpreters.ids_are_shared()
    entries = []
    for core in cores:
        state = walked.state_of(core)
        if state is None:
            # Bodies that overlap on one thread are cores that share its stack.
            ident = walked.ident_of(core)
            if are_shared and not walked.stack_of(core):
                entry = _of_thread(core, ident, [])
                entries.append(entry._replace(is_unknown=core.started > 0.0))
            else:
                entries.append(_of_thread(core, ident, left.pop(ident, [])))
        else:
            entries.append(_Entry(core, core.ident, core.native_id, core.thread, walked.stack_of(core), state))
            if state == greenlets.RUNNING:
                left.pop(core.ident, None)
    for hub in hubs:
        if hub.ident not in walked.threads:
            continue
        thread, runs = known_thread(hub.ident), left.pop(hub.ident, None)
        # Empty if the hub runs: then the thread's stack is the hub's.
        suspended = walked.hubs[hub.ident]
        if runs is not None and suspended:
            # A greenlet runs that serves no request.
            entries.append(_Entry(None, hub.ident, hub.native_id, thread, runs, greenlets.RUNNING))
        stack = suspended or walked.threads[hub.ident]
        entries.append(_Entry(None, hub.ident, hub.native_id, thread, stack, None, hub))
    if are_shared:
        idents = left.keys() & {main_thread().ident or 0, *(core.ident for core in cores)}
        entries += [_Entry(None, ident, None, None, left.pop(ident), is_unknown=True) for ident in idents]
    entries += [_of_thread(None, ident, stack) for ident, stack in left.items()]
    return entries


def _cores_first(entry: _Entry) -> tuple[bool, int]:
    """Sort key: the cores by number, then the others in the interpreter's order."""
    core = entry.core
    return core is None, core.number or 0 if core is not None else 0


def _kernel_views(native_ids: Iterable[int | None]) -> dict[int | None, kernel_threads.ThreadStatus]:
    """Read the state of the first MAX_KERNEL_VIEWS threads from the kernel, and only the CPU time of the others."""
    views: dict[int | None, kernel_threads.ThreadStatus] = {None: kernel_threads.ThreadStatus()}
    for native_id in native_ids:
        if native_id is None or native_id in views:
            continue
        if len(views) <= MAX_KERNEL_VIEWS:
            views[native_id] = kernel_threads.thread_status(native_id)
        else:
            views[native_id] = kernel_threads.ThreadStatus(cpu_seconds=kernel_threads.cpu_seconds(native_id))
    return views


def _of_thread(core: Core | None, ident: int, stack: walk.RawStack) -> _Entry:
    if core is not None and core.ident == ident:
        return _Entry(core, ident, core.native_id, core.thread, stack)
    thread = known_thread(ident)
    return _Entry(core, ident, native_id_of(thread), thread, stack)


def _kind(entry: _Entry) -> str:
    if entry.is_unknown:
        return UNKNOWN_KIND
    if entry.ident == walk.NO_THREAD:
        return UNREAD_KIND
    if entry.hub is not None:
        return "hub"
    if entry.greenlet is not None:
        return "greenlet"
    thread = entry.thread
    if thread is None or type(thread).__name__ == "_DummyThread":
        return "foreign"
    return "main" if thread is main_thread() else "thread"
