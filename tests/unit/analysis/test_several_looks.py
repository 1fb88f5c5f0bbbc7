"""What several looks at the same workers show of each request."""

from __future__ import annotations

import pytest

from tests.unit.analysis.served import IN_ORDERS, IN_PAY, WAIT, serving, snapshot
from wsgi_tracebacker.analysis.places import served_requests
from wsgi_tracebacker.analysis.several_looks import compare
from wsgi_tracebacker.model.groups import Looks, ServedRequest
from wsgi_tracebacker.model.snapshot import Frame, Stack
from wsgi_tracebacker.text.screens.looks import verdict, word


def look(*stacks: Stack) -> list[ServedRequest]:
    return served_requests([snapshot(*stacks)])


def at(frames: tuple[Frame, ...], second: float, cpu_seconds: float | None = 0.5) -> Stack:
    """One request, so many seconds after the first look at it."""
    stack = serving("/x", 5.0 + second, frames=frames, cpu_seconds=cpu_seconds)
    assert stack.request is not None
    return stack._replace(request=stack.request._replace(started_at=1000.0))


def test_a_request_that_stays_is_stuck() -> None:
    """At the same place of its own code, whatever libraries do below it."""
    [found] = compare([look(at(IN_ORDERS, n)) if n < 2 else look(at((*IN_ORDERS, WAIT), n)) for n in range(3)])
    assert found.looks == Looks(3, 3, 3, 0.0, 2.0)
    assert verdict(found.looks) == "stuck: the same place in 3 of 3 looks, no CPU"


def test_a_request_that_was_elsewhere_moves() -> None:
    """How often it was where it is now is counted, with the CPU that it used."""
    [found] = compare([look(at(IN_PAY, 0, 0.5)), look(at(IN_ORDERS, 1, 0.6)), look(at(IN_ORDERS, 2, 0.75))])
    assert found.looks is not None
    assert (found.looks.same, found.looks.of) == (2, 3)
    assert verdict(found.looks) == "moves: the same place in 2 of 3 looks, 0.25 s of CPU"


def test_another_request_of_the_same_thread_is_new() -> None:
    """It has another start, or another path, or was not there."""
    other = serving("/x", 1.0)
    for earlier in (look(other), look(serving("/y", 5.0)), look(Stack("idle")), []):
        [found] = compare([earlier, look(at(IN_ORDERS, 1))])
        assert found.looks == Looks(1, 2, 1, None, None)
        assert verdict(found.looks) == "new: in flight at 1 of 2 looks"


def test_of_uwsgis_requests_nothing_is_known() -> None:
    """Their threads may serve another request at each look."""
    uwsgi = served_requests([snapshot(Stack("uWSGIWorker1Core0", core=0, frames=IN_PAY), source="uwsgi")])
    assert compare([uwsgi, uwsgi])[0].looks == Looks(1, 2, 1, None, None)


@pytest.mark.parametrize(
    ("cpu_seconds", "expected"), [(0.0, "stuck"), (0.039, "stuck"), (0.05, "busy"), (2.0, "busy"), (None, "same place")]
)
def test_at_one_place_the_cpu_decides(cpu_seconds: float | None, expected: str) -> None:
    """Under 2 % of a CPU it waits."""
    looks = Looks(3, 3, 3, cpu_seconds, 2.0)
    assert word(looks) == expected
    assert verdict(looks).startswith(f"{expected}: the same place in 3 of 3 looks, ")
