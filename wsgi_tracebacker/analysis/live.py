"""Follows the requests of all workers from one reading to the next: which go on, which ended, what each used between.

The readings are handed in, each with its time.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from wsgi_tracebacker.analysis.places import served_requests
from wsgi_tracebacker.model.questions import is_serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from wsgi_tracebacker.model.groups import ServedRequest
    from wsgi_tracebacker.model.snapshot import Snapshot, Stack

#: A request that ended is kept for so long, so that people see that it did.
ENDED_SECONDS = 3.0
#: A worker that vanished is kept for longer: it is rarer and worse.
LOST_SECONDS = 10.0

#: Two readings of the same request may differ by this in when it started: a worker computes it from two clocks.
_START_SECONDS = 0.05

#: Workers are asked at slightly different moments each time. A request whose age is off by less than this is as much
#: older as time has passed: rows of nearly one age would change places at each reading.
_AGE_SECONDS = 0.5


class WorkerKey(NamedTuple):
    """One process: a successor at the same socket has another pid."""

    socket: str
    pid: int | None


class WorkerReading(NamedTuple):
    """One worker in one reading."""

    socket: str
    number: int | None
    pid: int | None
    #: A state of ``wsgi-tb list``.
    state: str
    #: What rows call it: its number or, where there are several bases, the end of its socket's path.
    label: str
    application: str | None = None
    #: Why it did not answer; None if it did.
    reason: str | None = None
    #: What it serves; of a worker that did not answer from its table of requests, or None.
    snapshot: Snapshot | None = None
    #: The user that it belongs to, if that is not the reader's own.
    other_uid: int | None = None
    #: What its process has in RAM, and how long it was on a CPU so far. None: not known.
    memory_bytes: int | None = None
    cpu_seconds: float | None = None

    @property
    def key(self) -> WorkerKey:
        return WorkerKey(self.socket, self.pid)


class Reading(NamedTuple):
    """What all workers did at one instant."""

    #: Seconds on the monotonic clock.
    at: float
    #: Unix seconds.
    taken_at: float
    workers: tuple[WorkerReading, ...]
    #: A line for each argument without workers.
    missing: tuple[str, ...] = ()


class ThreadKey(NamedTuple):
    """One thread of one worker."""

    worker: WorkerKey
    #: The core, or else the name of the thread.
    thread: int | str


class RequestKey(NamedTuple):
    """One request. It stays the same in all readings, whatever the clocks say later."""

    thread: ThreadKey
    #: Unix seconds, as the first reading had it; None for a request that uWSGI does not name.
    started_at: float | None


class LiveRequest(NamedTuple):
    """A request as it was when it was last seen."""

    key: RequestKey
    worker: WorkerReading
    served: ServedRequest
    age_seconds: float | None
    #: Of one CPU since the reading before: 1.0 is all of it. None: not known.
    cpu_share: float | None = None
    #: When it was found to have ended (monotonic); None: it is in flight.
    ended_at: float | None = None


class IdleThread(NamedTuple):
    """A thread that waits for a request."""

    key: ThreadKey
    worker: WorkerReading
    stack: Stack


class LostWorker(NamedTuple):
    """A worker of an earlier reading that has vanished, socket and all."""

    worker: WorkerReading
    #: Monotonic.
    lost_at: float


class Picture(NamedTuple):
    """The latest reading, and what comes of comparing it with those before."""

    reading: Reading
    #: In flight, in the order of the workers. Those of a worker that did not answer this time are as they were.
    requests: tuple[LiveRequest, ...]
    ended: tuple[LiveRequest, ...]
    idle: tuple[IdleThread, ...]
    lost: tuple[LostWorker, ...]
    #: How many requests each worker finished a second since the reading before; only where that is known.
    rates: Mapping[WorkerKey, float]
    #: The same for the CPU that it used: 1.0 is one CPU.
    cpu_shares: Mapping[WorkerKey, float] = MappingProxyType({})


def advance(before: Picture | None, reading: Reading) -> Picture:
    """The picture after one more reading; ``before`` is None for the first."""
    known = {} if before is None else {request.key.thread: request for request in before.requests}
    elapsed = 0.0 if before is None else reading.at - before.reading.at
    served = iter(served_requests(worker.snapshot for worker in reading.workers if worker.snapshot is not None))
    requests: list[LiveRequest] = []
    idle: list[IdleThread] = []
    for worker in reading.workers:
        if worker.snapshot is not None:
            for stack in worker.snapshot.stacks:
                thread = ThreadKey(worker.key, stack.name if stack.core is None else stack.core)
                if is_serving(stack, worker.snapshot):
                    requests.append(_follow(thread, worker, next(served), known.get(thread), elapsed))
                elif stack.core is not None:
                    idle.append(IdleThread(thread, worker, stack))
        elif worker.state != "dead" and before is not None:
            requests += _unanswered(before, worker, elapsed)
    if before is None:
        return Picture(reading, tuple(requests), (), tuple(idle), (), {})
    return Picture(
        reading,
        tuple(requests),
        tuple(_ended(before, reading, {request.key for request in requests})),
        tuple(idle),
        tuple(_lost(before, reading)),
        _growth(before, reading, elapsed, _finished),
        _growth(before, reading, elapsed, lambda worker: worker.cpu_seconds),
    )


def _follow(
    thread: ThreadKey, worker: WorkerReading, served: ServedRequest, earlier: LiveRequest | None, elapsed: float
) -> LiveRequest:
    request = served.request
    if earlier is None or not _is_same(earlier.served, served):
        key = RequestKey(thread, None if request is None else request.started_at)
        return LiveRequest(key, worker, served, served.age_seconds)
    share = _cpu_share(earlier.served.stack, served.stack, elapsed)
    if request is not None and earlier.age_seconds is not None:
        age = earlier.age_seconds + elapsed
        if abs(age - request.age_seconds) < _AGE_SECONDS:
            served = served._replace(stack=served.stack._replace(request=request._replace(age_seconds=age)))
    return LiveRequest(earlier.key, worker, served, served.age_seconds, share)


def _is_same(old: ServedRequest, new: ServedRequest) -> bool:
    before, now = old.request, new.request
    if before is None or now is None:
        return before is now
    return (before.method, before.path) == (now.method, now.path) and (
        abs(before.started_at - now.started_at) < _START_SECONDS
    )


def _cpu_share(old: Stack, new: Stack, elapsed: float) -> float | None:
    if old.cpu_seconds is None or new.cpu_seconds is None or old.native_id != new.native_id or elapsed <= 0:
        return None
    return max(0.0, new.cpu_seconds - old.cpu_seconds) / elapsed


def _unanswered(before: Picture, worker: WorkerReading, elapsed: float) -> Iterator[LiveRequest]:
    """What a worker served when it answered last: it has not finished that just because it does not answer."""
    for request in before.requests:
        if request.worker.key == worker.key:
            age = None if request.age_seconds is None else request.age_seconds + elapsed
            yield request._replace(worker=worker, cpu_share=None, age_seconds=age)


def _ended(before: Picture, reading: Reading, in_flight: set[RequestKey]) -> Iterator[LiveRequest]:
    workers = {worker.key: worker for worker in reading.workers}
    for request in before.requests:
        if request.key not in in_flight:
            worker = workers.get(request.worker.key, request.worker._replace(state="dead"))
            yield request._replace(worker=worker, cpu_share=None, ended_at=reading.at)
    for request in before.ended:
        if request.ended_at is not None and reading.at - request.ended_at < ENDED_SECONDS:
            yield request


def _lost(before: Picture, reading: Reading) -> Iterator[LostWorker]:
    there = {worker.key for worker in reading.workers}
    for worker in before.reading.workers:
        if worker.key not in there:
            yield LostWorker(worker, reading.at)
    for lost in before.lost:
        if lost.worker.key not in there and reading.at - lost.lost_at < LOST_SECONDS:
            yield lost


def _growth(
    before: Picture, reading: Reading, elapsed: float, count: Callable[[WorkerReading], float | None]
) -> dict[WorkerKey, float]:
    """How much a count of each worker grew a second."""
    counted = {worker.key: count(worker) for worker in before.reading.workers}
    grown = {}
    for worker in reading.workers:
        now, then = count(worker), counted.get(worker.key)
        if now is not None and then is not None and elapsed > 0:
            grown[worker.key] = max(0.0, now - then) / elapsed
    return grown


def _finished(worker: WorkerReading) -> int | None:
    return None if worker.snapshot is None else worker.snapshot.worker.requests_finished
