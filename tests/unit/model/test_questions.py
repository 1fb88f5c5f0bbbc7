"""What is in flight in a worker, by its own count and by its stacks."""

from __future__ import annotations

from wsgi_tracebacker.model.questions import in_flight, is_serving, oldest_seconds
from wsgi_tracebacker.model.snapshot import Request, Snapshot, Stack, Worker

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
