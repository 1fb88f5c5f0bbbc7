"""Makes the metrics of all workers: gauges for each base, counters for each worker.

A counter has the label ``worker``. A worker that exits cleanly takes its counters with it, and the next one with its
number begins at 0: Prometheus understands that of a series, but not of a sum, which would only get smaller.

No label has a value that a client can choose: a label's values are a closed list, a number, or a path of the server.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from wsgi_tracebacker.model.metrics import Family, Sample
from wsgi_tracebacker.model.questions import busy_slots, in_flight, oldest_seconds
from wsgi_tracebacker.model.snapshot import PHASES, UNKNOWN_PHASE
from wsgi_tracebacker.model.waits import KINDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from wsgi_tracebacker.model.metrics import Measured
    from wsgi_tracebacker.model.snapshot import ListenSocket, Request, Snapshot

#: The states of ``wsgi-tb list``.
STATES = ("alive", "busy", "stalled", "stopped", "disk wait", "dead", "unknown")

#: Services that requests wait for so often that each has a value of its own.
SERVICES = (
    *("cassandra", "elasticsearch", "kafka", "memcached", "mongodb", "mysql", "oracle", "pgbouncer", "postgresql"),
    *("redis", "sqlite", "sqlserver"),
)
#: The values of the label ``for``. The service counts if it is one of these, or else the kind of wait.
WAITS = (*SERVICES, *KINDS)

Labels = tuple[tuple[str, str], ...]


def families(workers: Sequence[Measured], bases: Iterable[str] = ()) -> list[Family]:
    """The metrics of these workers. ``bases``: more of them, which have no worker."""
    of_base: dict[str, list[Measured]] = {base: [] for base in bases}
    for worker in workers:
        of_base.setdefault(worker.base, []).append(worker)
    return [*_gauges(of_base), *_of_workers(of_base)]


def merge(of_host: Mapping[str, Sequence[Family] | None]) -> list[Family]:
    """The metrics of several hosts, with a label for the host. None: it did not answer."""
    up = tuple(Sample((("host", host),), int(found is not None)) for host, found in of_host.items())
    merged = {"wsgi_tb_host_up": Family("wsgi_tb_host_up", "gauge", "Whether the host answered.", up)}
    for host, found in of_host.items():
        for family in found or ():
            known = merged.setdefault(family.name, family._replace(samples=()))
            samples = tuple(Sample((("host", host), *sample.labels), sample.value) for sample in family.samples)
            merged[family.name] = known._replace(samples=known.samples + samples)
    return list(merged.values())


def _gauges(of_base: Mapping[str, Sequence[Measured]]) -> Iterable[Family]:
    def gauge(name: str, text: str, values: Callable[[Sequence[Measured]], Mapping[Labels, float]]) -> Family:
        samples = (
            Sample((("base", base), *labels), value)
            for base, workers in of_base.items()
            for labels, value in values(workers).items()
        )
        return Family(f"wsgi_tb_{name}", "gauge", text, tuple(samples))

    yield gauge("workers", "Workers by the state that wsgi-tb list shows.", _workers)
    yield gauge("cores", "Request slots of all workers whose server says how many it has.", _cores)
    yield gauge("requests_in_flight", "Requests in flight by phase; unknown: the worker did not answer.", _phases)
    yield gauge("oldest_request_seconds", "Age of the oldest request in flight; 0 if there is none.", _oldest)
    yield gauge("waiting", "Requests in flight by what they wait for, as far as that is known.", _waiting)
    yield gauge("queue_wait_seconds", "Longest time that a request in flight was queued before it began.", _queued)
    yield gauge("accept_queue", "Connections that wait to be accepted.", lambda found: _sockets(found, "waiting"))
    yield gauge(
        "accept_queue_limit", "Connections that may wait to be accepted.", lambda found: _sockets(found, "limit")
    )


def _workers(workers: Sequence[Measured]) -> dict[Labels, float]:
    states = [worker.state for worker in workers]
    return {(("state", state),): states.count(state) for state in STATES}


def _cores(workers: Sequence[Measured]) -> dict[Labels, float]:
    known = [snapshot for snapshot in _snapshots(workers) if snapshot.worker.slots is not None]
    busy = sum(map(busy_slots, known))
    slots = sum(snapshot.worker.slots or 0 for snapshot in known)
    return {(("state", "busy"),): busy, (("state", "idle"),): max(0, slots - busy)}


def _phases(workers: Sequence[Measured]) -> dict[Labels, float]:
    phases = [request.phase for request in _requests(workers)]
    # Rows that were being written, and those of uWSGI's own socket, are requests of which nothing else is known.
    unknown = sum(map(in_flight, _snapshots(workers))) - sum(phase in PHASES for phase in phases)
    counted = {phase: phases.count(phase) for phase in PHASES} | {UNKNOWN_PHASE: max(0, unknown)}
    return {(("phase", phase),): count for phase, count in counted.items()}


def _oldest(workers: Sequence[Measured]) -> dict[Labels, float]:
    return {(): max((oldest_seconds(snapshot) or 0.0 for snapshot in _snapshots(workers)), default=0.0)}


def _waiting(workers: Sequence[Measured]) -> dict[Labels, float]:
    waits = [
        waits_for.service if waits_for.service in SERVICES else waits_for.kind
        for request in _requests(workers)
        if (waits_for := request.waits_for) is not None
    ]
    return {(("for", wait),): waits.count(wait) for wait in WAITS}


def _queued(workers: Sequence[Measured]) -> dict[Labels, float]:
    return {(): max((request.queued_seconds or 0.0 for request in _requests(workers)), default=0.0)}


def _sockets(workers: Sequence[Measured], attribute: str) -> dict[Labels, float]:
    """Of all sockets together; one that several workers share counts once. Nothing where no worker knows its socket."""
    sockets: dict[int, ListenSocket] = {
        each.inode: each for snapshot in _snapshots(workers) for each in snapshot.worker.listen
    }
    known = [value for each in sockets.values() if (value := getattr(each, attribute)) is not None]
    return {(): sum(known)} if known else {}


def _snapshots(workers: Iterable[Measured]) -> list[Snapshot]:
    return [worker.snapshot for worker in workers if worker.snapshot is not None]


def _requests(workers: Iterable[Measured]) -> list[Request]:
    return [stack.request for snapshot in _snapshots(workers) for stack in snapshot.stacks if stack.request is not None]


def _of_workers(of_base: Mapping[str, Sequence[Measured]]) -> Iterable[Family]:
    """What each worker has: counters, and the memory of its process."""

    def family(name: str, kind: str, text: str, value: Callable[[Measured], Mapping[Labels, float]]) -> Family:
        samples = (
            Sample((("base", base), ("worker", str(worker.number)), *labels), number)
            for base, workers in of_base.items()
            for worker in workers
            if worker.number is not None
            for labels, number in value(worker).items()
        )
        return Family(f"wsgi_tb_{name}", kind, text, tuple(samples))

    def counter(name: str, text: str, attribute: str) -> Family:
        return family(
            f"{name}_total",
            "counter",
            text,
            lambda worker: {} if worker.counts is None else {(): getattr(worker.counts, attribute)},
        )

    yield counter("requests", "Requests that began.", "requests")
    yield counter("slow", "Requests that became slow.", "slow")
    yield family(
        "harakiri_total",
        "counter",
        "Overdue requests by what was done about them, and by the verdict of their reports.",
        lambda worker: {} if worker.counts is None else _harakiri(worker),
    )
    yield counter("client_gone", "Slow requests whose client was gone before their answer.", "clients_gone")
    yield counter("deaths", "Workers with this number that ended without a clean exit.", "deaths")
    yield family(
        *("cpu_seconds_total", "counter", "CPU time of the worker's process."),
        lambda worker: {} if worker.cpu_seconds is None else {(): worker.cpu_seconds},
    )
    yield family(
        *("resident_bytes", "gauge", "Resident memory of the worker's process."),
        lambda worker: {} if worker.resident_bytes is None else {(): worker.resident_bytes},
    )


def _harakiri(worker: Measured) -> dict[Labels, float]:
    assert worker.counts is not None
    return {(("action", action), ("verdict", verdict)): count for (action, verdict), count in worker.counts.harakiri}
