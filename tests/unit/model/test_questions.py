"""What is in flight in a worker, by its own count and by its stacks."""

from __future__ import annotations

from wsgi_tracebacker.model.questions import busy_slots, in_flight, is_serving, oldest_seconds, waiting_connections
from wsgi_tracebacker.model.snapshot import ListenSocket, Request, Snapshot, Stack, Worker

REQUEST = Request("GET", "/", None, None, None, 0.0, 1.5, "app")
OLDER = REQUEST._replace(age_seconds=2.5)
STACKS = (Stack("a", core=0, request=REQUEST), Stack("b", core=1, request=OLDER), Stack("c", core=2), Stack("d"))


def test_a_worker_that_counts_its_requests_is_believed() -> None:
    """Its stacks may be of one instant later, or be missing."""
    snapshot = Snapshot(Worker(requests_in_flight=7, oldest_request_seconds=9.0), 0.0, STACKS)
    assert (in_flight(snapshot), oldest_seconds(snapshot)) == (7, 9.0)


def test_without_a_count_the_stacks_are_counted() -> None:
    """Two of them have a request, and the older one is 2.5 seconds old."""
    snapshot = Snapshot(Worker(), 0.0, STACKS)
    assert (in_flight(snapshot), oldest_seconds(snapshot)) == (2, 2.5)
    assert oldest_seconds(snapshot._replace(stacks=STACKS[2:])) is None


def test_each_core_of_uwsgi_that_has_a_stack_serves() -> None:
    """Its socket shows no requests."""
    snapshot = Snapshot(Worker(), 0.0, STACKS[2:], source="uwsgi")
    assert [is_serving(stack, snapshot) for stack in snapshot.stacks] == [True, False]
    assert (in_flight(snapshot), oldest_seconds(snapshot)) == (1, None)


def test_a_shared_socket_is_counted_once() -> None:
    """What waits in each process is added; nothing is known if no worker says anything."""
    sockets = (ListenSocket(5, "tcp", "127.0.0.1:8000", 12, 2048), ListenSocket(6, "unix", "/run/http", None, None))
    first = Snapshot(Worker(inner_queue=3, listen=sockets), 0.0, ())
    second = Snapshot(Worker(listen=sockets), 0.0, ())
    assert waiting_connections([first, second]) == 15
    assert waiting_connections([Snapshot(Worker(), 0.0, ())]) is None


def test_a_slot_may_be_busy_without_a_request() -> None:
    """It sends a response; a worker that does not say so has as many busy slots as requests."""
    assert busy_slots(Snapshot(Worker(busy=3), 0.0, STACKS)) == 3
    assert busy_slots(Snapshot(Worker(), 0.0, STACKS)) == 2
