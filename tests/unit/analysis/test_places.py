"""Requests of many workers, put together by the places where they stand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.analysis.served import FLASK, IN_ORDERS, IN_PAY, ORDERS, SERVER, VIEW, WAIT, serving, snapshot
from tests.unit.wire.strategies import snapshots as any_snapshots
from wsgi_tracebacker.analysis.places import group, served_requests
from wsgi_tracebacker.model.code_ownership import PYTHON, CodeOwnership
from wsgi_tracebacker.model.groups import GROUPINGS
from wsgi_tracebacker.model.groups import ORDERS as ALL_ORDERS
from wsgi_tracebacker.model.snapshot import Frame, Snapshot, Stack, Worker
from wsgi_tracebacker.model.waits import WaitsFor

if TYPE_CHECKING:
    from wsgi_tracebacker.model.groups import Group


def grouped(*snapshots: Snapshot, by: str = "place", order: str = "age") -> list[Group]:
    return group(served_requests(snapshots), by, order)


def paths(found: list[Group]) -> list[list[str]]:
    return [[each.request.path for each in one.requests if each.request is not None] for one in found]


def test_requests_at_the_same_place_are_one_group_over_all_workers() -> None:
    """The oldest request stands first in its place, and the place of the oldest stands first."""
    found = grouped(
        snapshot(serving("/pay", 9.0, frames=IN_PAY), serving("/checkout/1", 4.0, core=1)),
        snapshot(serving("/checkout/2", 41.0, worker=2), Stack("idle", core=3), worker=2),
    )
    assert paths(found) == [["/checkout/2", "/checkout/1"], ["/pay"]]
    assert [(one.oldest.worker, one.age_seconds) for one in found] == [(2, 41.0), (1, 9.0)]
    assert found[0].routes == ("GET /checkout/:",)
    assert found[0].waits_for == "waits for a lock or the GIL"
    assert found[0].oldest.innermost == ORDERS
    assert found[0].oldest.own_frames == (VIEW, ORDERS)


def test_frames_of_libraries_do_not_tell_places_apart() -> None:
    """How deep SQLAlchemy is in something differs each time."""
    deeper = (*IN_ORDERS[:-1], WAIT, WAIT)
    assert len(grouped(snapshot(serving(), serving(core=1, frames=deeper)))) == 1
    other_line = (*SERVER, VIEW, ORDERS._replace(lineno=72))
    assert len(grouped(snapshot(serving(), serving(core=1, frames=other_line)))) == 2


def test_other_waits_are_other_places_and_an_unknown_one_is_equal_to_any() -> None:
    """One that was just woken up is like those beside it."""
    lock, socket = serving("/lock"), serving("/socket", core=1, wait_channel="sk_wait_data")
    awake, unknown = serving("/awake", core=2, state="R"), serving("/unknown", core=3, state=None, wait_channel=None)
    assert paths(grouped(snapshot(lock, socket))) == [["/lock"], ["/socket"]]
    assert paths(grouped(snapshot(lock, awake, unknown))) == [["/lock", "/awake", "/unknown"]]
    [place] = grouped(snapshot(awake, unknown))
    assert place.waits_for == "on a CPU"


def test_what_the_worker_knows_of_a_wait_counts_first() -> None:
    """Requests that wait for the same kind of thing are together, with what they have in common; others join them."""
    one = WaitsFor("database", service="postgresql", peer="10.0.0.5:5432", own_port=33438, statement="SELECT ?")
    requests = (
        serving("/1", waits_for=one),
        serving("/2", core=1, waits_for=one._replace(own_port=33440)),
        serving("/3", core=2),
        serving("/4", core=3, waits_for=WaitsFor("client_slow")),
    )
    found = grouped(snapshot(*requests))
    assert paths(found) == [["/1", "/2", "/3"], ["/4"]]
    assert [place.waits_for for place in found] == [
        "waits for postgresql at 10.0.0.5:5432: SELECT ?",
        "the client reads slowly",
    ]


def test_different_waits_at_the_same_frames_are_different_places() -> None:
    """Of one function that asks several services or tables; numbers in a name are not another wait."""
    http = WaitsFor("http", method="GET", url="https://bank.example/rates/17")
    table = WaitsFor("database", service="postgresql", statement="SELECT * FROM orders")
    waits = (
        http,
        http._replace(url="https://bank.example/rates/18"),
        http._replace(url="https://bank.example/fees"),
        table,
        table._replace(statement="SELECT * FROM users"),
        WaitsFor("thread", thread="mailer"),
        WaitsFor("thread", thread="indexer"),
    )
    requests = (serving(f"/{number}", core=number, waits_for=each) for number, each in enumerate(waits))
    assert sorted(paths(grouped(snapshot(*requests)))) == [["/0", "/1"], ["/2"], ["/3"], ["/4"], ["/5"], ["/6"]]


def test_without_own_frames_the_innermost_library_call_is_the_place() -> None:
    """A request whose view is a library's is not together with those of other libraries."""
    admin = Frame("/venv/lib/python3.12/site-packages/admin/views.py", 5, "index")
    found = grouped(
        snapshot(
            serving("/admin", 3.0, frames=(*SERVER, admin, WAIT)),
            serving("/flask", 2.0, core=1, frames=(*SERVER, WAIT)),
            serving("/server", 1.0, core=2, frames=SERVER[:3]),
        )
    )
    innermost = [one.oldest.innermost for one in found]
    assert innermost[:2] == [admin, FLASK]
    assert innermost[2] is not None
    assert innermost[2].function == "__call__"


def test_requests_without_stacks_are_together_by_route() -> None:
    """Of a worker that does not answer only its table is known."""
    found = grouped(snapshot(*(serving(f"/a/{n}", core=n, frames=(), state=None) for n in range(3)), source="table"))
    assert paths(found) == [["/a/0", "/a/1", "/a/2"]]
    assert found[0].oldest.innermost is None


@pytest.mark.parametrize(
    ("by", "expected"),
    [
        ("place", [["/pay/1", "/pay/2"], ["/checkout/1"]]),
        ("wait", [["/pay/1", "/checkout/1", "/pay/2"]]),
        ("route", [["/pay/1", "/pay/2"], ["/checkout/1"]]),
        ("none", [["/pay/1"], ["/checkout/1"], ["/pay/2"]]),
    ],
)
def test_groupings(by: str, expected: list[list[str]]) -> None:
    """By place, by wait, by route, or each request by itself."""
    stacks = (
        serving("/pay/2", 1.0, frames=IN_PAY),
        serving("/checkout/1", 2.0, core=1),
        serving("/pay/1", 3.0, core=2, frames=IN_PAY),
    )
    assert paths(grouped(snapshot(*stacks), by=by)) == expected


@pytest.mark.parametrize(
    ("order", "expected"),
    [("age", "cab"), ("cpu", "bca"), ("worker", "acb"), ("route", "abc")],
)
def test_orders(order: str, expected: str) -> None:
    """The oldest first, most CPU first, by worker and core, or by route."""
    found = grouped(
        snapshot(serving("/c", 9.0, worker=2, core=0, cpu_seconds=2.0), worker=2),
        snapshot(serving("/b", 1.0, worker=3, cpu_seconds=3.0), worker=3),
        snapshot(serving("/a", 2.0, core=5)),
        by="none",
        order=order,
    )
    assert "".join(path[1] for [path] in paths(found)) == expected


def test_uwsgis_requests_are_last_and_have_no_route() -> None:
    """Its socket names no request and no age."""
    uwsgi = Snapshot(Worker(number=1), 1000.0, (Stack("uWSGIWorker1Core0", core=0, frames=IN_PAY),), source="uwsgi")
    found = grouped(uwsgi, snapshot(serving()))
    assert [(one.age_seconds, one.routes) for one in found] == [(1.0, ("GET /checkout/:",)), (None, ())]


def test_the_standard_library_is_where_threads_begin() -> None:
    """A Python at an unusual place shows where it is by the outermost frame of its threads."""
    start = Frame("/src/cpython/Lib/threading.py", 1030, "Thread._bootstrap")
    ownership = CodeOwnership.of_snapshot(snapshot(Stack("a", frames=(start,))))
    assert ownership.library("/src/cpython/Lib/socket.py") == PYTHON


@given(st.lists(any_snapshots, max_size=3), st.sampled_from(GROUPINGS), st.sampled_from(ALL_ORDERS))
def test_every_request_is_in_exactly_one_group(found: list[Snapshot], by: str, order: str) -> None:
    """Whatever a snapshot holds, no request is lost or shown twice."""
    requests = served_requests(found)
    members = [each for one in group(requests, by, order) for each in one.requests]
    assert sorted(map(id, members)) == sorted(map(id, requests))
