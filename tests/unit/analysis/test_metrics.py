"""The metrics that are made of workers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wsgi_tracebacker.analysis.metrics import WAITS, families
from wsgi_tracebacker.model.metrics import Counts, Measured
from wsgi_tracebacker.model.snapshot import ListenSocket, Request, Snapshot, Stack, Worker
from wsgi_tracebacker.model.waits import WaitsFor

if TYPE_CHECKING:
    from collections.abc import Sequence


def request(age: float, waits_for: WaitsFor | None = None, phase: str = "app", queued: float | None = None) -> Stack:
    return Stack(
        "WSGIWorker1Core0",
        core=0,
        request=Request(
            "GET", "/secret", None, None, None, 0.0, age, phase, waits_for=waits_for, queued_seconds=queued
        ),
    )


def measured(number: int, *stacks: Stack, base: str = "/tb", **worker: object) -> Measured:
    snapshot = Snapshot(Worker(number=number, **worker), 0.0, stacks)  # type: ignore[arg-type]
    return Measured(base, number, "alive", snapshot)


def values(workers: Sequence[Measured], name: str, bases: Sequence[str] = ()) -> dict[str, float]:
    """The samples of a family that are not 0, by the values of their labels."""
    [found] = [family for family in families(workers, bases) if family.name == f"wsgi_tb_{name}"]
    return {" ".join(value for _, value in sample.labels): sample.value for sample in found.samples if sample.value}


def test_workers_are_counted_by_their_state() -> None:
    """Each base by itself; a base that was named and has no worker has all its states at 0."""
    workers = [measured(1), Measured("/tb", 2, "stalled"), Measured("/other", 1, "dead")]
    assert values(workers, "workers") == {"/tb alive": 1, "/tb stalled": 1, "/other dead": 1}
    [found, *_] = families([], ["/none"])
    assert {sample.value for sample in found.samples} == {0}
    assert {sample.labels[0] for sample in found.samples} == {("base", "/none")}


def test_requests_are_counted_by_phase_and_wait() -> None:
    """A wait is one of a closed list: a usual service, or else the kind; and nothing is there that a client chose."""
    postgresql = WaitsFor("database", service="postgresql", statement="SELECT ?")
    odd = WaitsFor("connection", service="GET /secret")
    workers = [
        measured(1, request(2.0, postgresql), request(41.5, odd, "body", queued=0.25)),
        measured(2, request(3.0)),
    ]
    assert values(workers, "waiting") == {"/tb postgresql": 1, "/tb connection": 1}
    assert set(WAITS) >= {"postgresql", "connection", "lock", "pool", "deadlock"}
    assert values(workers, "requests_in_flight") == {"/tb app": 2, "/tb body": 1}
    assert values(workers, "oldest_request_seconds") == {"/tb": 41.5}
    assert values(workers, "queue_wait_seconds") == {"/tb": 0.25}
    labels = {value for family in families(workers) for sample in family.samples for _, value in sample.labels}
    assert not [value for value in labels if "secret" in value]


def test_requests_that_only_the_table_knows_have_no_phase() -> None:
    """Those of rows that were being written are counted too."""
    found = measured(1, request(1.0, phase="unknown"), requests_in_flight=2)
    assert values([found], "requests_in_flight") == {"/tb unknown": 2}


def test_a_socket_that_workers_share_counts_once() -> None:
    """Waiting connections and their limit are sums over the sockets, slots over the workers that know theirs."""
    shared = ListenSocket(7, "tcp", "127.0.0.1:80", 12, 2048)
    own = ListenSocket(8, "unix", "/run/app", 1, 64)
    workers = [
        measured(1, listen=(shared, own), slots=8, busy=3),
        measured(2, listen=(shared,), slots=8, busy=8),
        measured(3),
    ]
    assert values(workers, "accept_queue") == {"/tb": 13}
    assert values(workers, "accept_queue_limit") == {"/tb": 2112}
    assert values(workers, "cores") == {"/tb busy": 11, "/tb idle": 5}


def test_each_worker_has_its_counters() -> None:
    """They have the worker's number, because a new worker may begin at 0; without a black box there is none."""
    counts = Counts(
        requests=90, slow=4, clients_gone=2, deaths=1, harakiri=((("log", "waiting"), 3), (("kill", "busy"), 1))
    )
    workers = [measured(1)._replace(counts=counts, resident_bytes=2**20, cpu_seconds=1.5), measured(2)]
    found = {
        name: values(workers, name) for name in ("requests_total", "slow_total", "client_gone_total", "deaths_total")
    }
    assert found == {
        "requests_total": {"/tb 1": 90},
        "slow_total": {"/tb 1": 4},
        "client_gone_total": {"/tb 1": 2},
        "deaths_total": {"/tb 1": 1},
    }
    assert values(workers, "harakiri_total") == {"/tb 1 log waiting": 3, "/tb 1 kill busy": 1}
    assert values(workers, "resident_bytes") == {"/tb 1": 2**20}
    assert values(workers, "cpu_seconds_total") == {"/tb 1": 1.5}
