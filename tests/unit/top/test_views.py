"""The rows of each view, and the head."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from tests.unit.analysis.served import IN_PAY, SERVER, serving, snapshot
from tests.unit.top.readings import picture, reading, silent, worker
from wsgi_tracebacker.analysis.live import Picture, WorkerReading, advance
from wsgi_tracebacker.cli.verbs.top import VIEW_NAMES
from wsgi_tracebacker.model.snapshot import Frame, LastRequest, ListenSocket, Stack
from wsgi_tracebacker.model.waits import Holder, WaitsFor
from wsgi_tracebacker.text.columns import width
from wsgi_tracebacker.text.screens.grid import fit
from wsgi_tracebacker.text.waits import with_sentence
from wsgi_tracebacker.top import detail
from wsgi_tracebacker.top.view import QUIET, STUCK, Order, Row, View, line_of, sorted_rows
from wsgi_tracebacker.top.views import VIEWS
from wsgi_tracebacker.top.worker_rows import head

if TYPE_CHECKING:
    from collections.abc import Sequence

REQUESTS, PLACES, WORKERS, LOCKS, ROUTES = VIEWS

POOL = with_sentence(WaitsFor("pool", pool="QueuePool", pool_size=15, pool_in_use=15))


def column(view: View, rows: Sequence[Row], title: str) -> list[str]:
    """The cells of a column, from top to bottom."""
    index = [each.title for each in view.columns].index(title)
    return [row.texts[index] for row in rows]


def test_the_command_knows_the_views_without_loading_them() -> None:
    """The names of --view are those of the views."""
    assert [view.name for view in VIEWS] == list(VIEW_NAMES)


def test_a_request_is_a_row() -> None:
    """Age, worker and core, request, phase, state, wait, CPU, one's own innermost line, note, client, id."""
    stack = serving(age_seconds=12.04, core=3, worker=2, remote_address="203.0.113.7", request_id="7f3a")
    before = picture(worker(stack, number=2))
    found = advance(before, reading(1.0, worker(stack._replace(cpu_seconds=0.25), number=2)))
    [row] = sorted_rows(REQUESTS, found)
    assert row.texts == (
        *("12.0 s", "2:3", "GET /checkout/4711", "app", "sleeping", "a lock or the GIL", "25%"),
        *("shop/orders.py:71 load_order", "-", "203.0.113.7", "7f3a"),
    )
    assert row.look == STUCK


def test_what_the_worker_knows_of_a_wait_comes_before_what_the_kernel_shows() -> None:
    """Without the words that the column's title has."""
    rows = sorted_rows(REQUESTS, picture(worker(serving(waits_for=POOL))))
    assert column(REQUESTS, rows, "WAITS FOR") == ["a connection of QueuePool: all 15 are out"]


def test_rows_are_sorted_by_any_column() -> None:
    """The oldest first; what has no value is last in both directions."""
    found = picture(
        worker(serving("/b", 2.0), serving("/a", 10.0, core=10), serving("/c", 3.0, core=9, request_id="x")),
        silent(2),
    )
    assert column(REQUESTS, sorted_rows(REQUESTS, found), "W:C") == ["1:10", "1:9", "1:0", "2:-"]
    by_core = sorted_rows(REQUESTS, found, order=Order(1, is_descending=False))
    assert column(REQUESTS, by_core, "W:C") == ["1:0", "1:9", "1:10", "2:-"]
    by_path = sorted_rows(REQUESTS, found, order=Order(2, is_descending=False))
    assert column(REQUESTS, by_path, "W:C")[:3] == ["1:10", "1:0", "1:9"]
    by_id = sorted_rows(REQUESTS, found, order=Order(10, is_descending=False))
    assert column(REQUESTS, by_id, "ID")[0] == "x"


def test_a_row_is_shown_if_it_has_each_word() -> None:
    """In any cell, and in letters of any case."""
    found = picture(worker(serving("/pay", 1.0, frames=IN_PAY), serving("/checkout/1", 2.0, core=1)))
    assert column(REQUESTS, sorted_rows(REQUESTS, found, words=("CHARGE", "get")), "REQUEST") == ["GET /pay"]
    assert sorted_rows(REQUESTS, found, words=("charge", "checkout")) == []


def test_a_request_that_ended_is_dim_and_says_so() -> None:
    """One of a worker that died is lost."""
    before = picture(worker(serving()), worker(serving(worker=2), number=2))
    rows = sorted_rows(REQUESTS, advance(before, reading(1.0, worker(), silent(2, state="dead"))))
    assert {row.look for row in rows[:2]} == {QUIET}
    assert sorted(column(REQUESTS, rows[:2], "STATE")) == ["ended", "lost"]


def test_a_worker_that_is_lost_is_a_row() -> None:
    """Dead, without an answer, or vanished with its socket: with the reason."""
    before = picture(worker(number=1), worker(number=2), worker(number=3))
    found = advance(before, reading(1.0, silent(1, state="dead", reason="dead: nobody listens"), silent(2)))
    rows = sorted_rows(REQUESTS, found)
    notes = sorted(row.note for row in rows)
    assert [note.partition(":")[0] for note in notes] == ["busy", "dead", "gone"]
    assert "within 1 s" in notes[0]
    assert "worker 1 (pid 4001)" in notes[1]
    rows = sorted_rows(WORKERS, found)
    assert sorted(column(WORKERS, rows, "STATE")) == ["busy", "dead", "gone"]
    assert "dead: nobody listens" in column(WORKERS, rows, "WHY")


def test_a_note_takes_the_place_of_the_other_cells() -> None:
    """It is cut where the row ends; without an end of the row, nothing is cut."""
    [row] = sorted_rows(REQUESTS, picture(silent(reason="because " * 20)))
    widths = fit(REQUESTS.columns, [row.texts], 80)
    assert width(line_of(row, REQUESTS.columns, widths)) <= 80
    assert line_of(row, REQUESTS.columns, widths).split()[:4] == ["1:-", "busy:", "worker", "1"]
    assert sorted_rows(REQUESTS, picture(silent(reason="because")), words=("because",)) != []


def test_the_requests_of_a_stalled_worker_come_from_its_table() -> None:
    """The thread that holds the GIL is named; phase and stack are not known."""
    stack = serving(frames=(), state=None, wait_channel=None)
    request = stack.request
    assert request is not None
    stack = stack._replace(holds_gil=True, request=request._replace(phase="unknown"))
    table = snapshot(stack, source="table")._replace(state="stalled")
    [row] = sorted_rows(REQUESTS, picture(silent(state="stalled", table=table)))
    assert row.texts[3:5] == ("-", "holds GIL")


def test_idle_threads_are_shown_if_asked_for() -> None:
    """With the request that each served before."""
    idle = Stack("WSGIWorker1Core3", core=3, state="S", last_request=LastRequest("GET", "/x", 12.0))
    found = picture(worker(idle))
    assert sorted_rows(REQUESTS, found) == []
    [row] = sorted_rows(REQUESTS, found, with_idle=True)
    assert (row.texts[1], row.note) == ("1:3", "idle, 12.0 s after GET /x")


def test_requests_at_the_same_place_are_one_row() -> None:
    """With their number, and the age of the oldest; its stacks are those of all, the oldest first."""
    found = picture(
        worker(serving("/checkout/1", 4.0), serving("/checkout/2", 5.0, core=1)),
        worker(serving("/pay", 9.0, worker=2, frames=IN_PAY), number=2),
    )
    rows = sorted_rows(PLACES, found)
    assert [row.texts[:3] for row in rows] == [("9.00 s", "1", "GET /pay"), ("5.00 s", "2", "GET /checkout/:")]
    assert column(PLACES, rows, "WHERE") == ["shop/pay.py:53 charge", "shop/orders.py:71 load_order"]
    assert [served.stack.core for served in rows[1].requests] == [1, 0]


def test_requests_of_the_same_route_are_one_row() -> None:
    """With the number of workers that serve it."""
    found = picture(
        worker(serving("/checkout/1", 4.0), serving("/pay", 1.0, core=1)),
        worker(serving("/checkout/2", 5.0, worker=2), number=2),
    )
    rows = sorted_rows(ROUTES, found)
    assert column(ROUTES, rows, "ROUTE") == ["GET /checkout/:", "GET /pay"]
    assert column(ROUTES, rows, "WORKERS") == ["2", "1"]


def test_a_lock_and_a_pool_are_one_row_each() -> None:
    """With who has it; what the database keeps a request waiting for is in other views; else the kernel says it."""
    lock = with_sentence(WaitsFor("lock", lock="stock_lock", holders=(Holder("GET", "/refund", 12.0, core=3),)))
    database = with_sentence(WaitsFor("database", service="postgresql"))
    found = picture(
        worker(
            serving("/a", 5.0, waits_for=POOL),
            serving("/b", 4.0, core=1, waits_for=POOL),
            serving("/c", 3.0, core=2, waits_for=lock),
            serving("/d", 2.0, core=3, waits_for=database),
            serving("/e", 1.0, core=4),
        )
    )
    rows = sorted_rows(LOCKS, found)
    assert column(LOCKS, rows, "N") == ["2", "1", "1"]
    assert column(LOCKS, rows, "IN USE") == ["15/15", "-", "-"]
    assert column(LOCKS, rows, "HELD BY") == ["-", "GET /refund, 12.0 s, core 3", "-"]
    assert column(LOCKS, rows, "WAITS FOR")[2] == "a lock or the GIL"


def test_the_head_has_the_totals() -> None:
    """Workers by state, busy slots, what waits (a shared socket once), requests a second, and the oldest."""
    listen = (ListenSocket(5, "tcp", "127.0.0.1:8000", 12, 2048),)
    full = worker(serving(age_seconds=43.0), requests_finished=64)
    full = with_facts(full, slots=8, busy=8, inner_queue=3, listen=listen)
    other = with_facts(worker(number=2), slots=8, busy=0, inner_queue=0, listen=listen)
    before = picture(worker(requests_finished=1), other, silent(3))
    found = advance(before, reading(2.0, full, other, silent(3)))
    assert [part.text for part in head(found)] == [
        "shop.wsgi:app",
        "3 workers: 2 alive 1 busy",
        "8/16 busy",
        "15 waiting",
        "31.5 req/s",
        "oldest 43.0 s",
    ]
    rows = sorted_rows(WORKERS, found)
    assert column(WORKERS, rows, "BUSY") == ["8/8", "0/8", "-"]
    assert column(WORKERS, rows, "WAITING") == ["15/2048", "12/2048", "-"]


def test_a_worker_is_shown_with_what_it_uses_and_whose_it_is() -> None:
    """Memory, CPU between two readings, how often it was started again; the user is in the head and in its row."""
    own = with_facts(worker()._replace(memory_bytes=212 << 20, cpu_seconds=4.0), restarts=2)
    other = worker(number=2)._replace(other_uid=33)
    found = advance(picture(own, other), reading(2.0, own._replace(cpu_seconds=4.74), other))
    rows = sorted_rows(WORKERS, found)
    assert column(WORKERS, rows, "RSS") == ["212M", "-"]
    assert column(WORKERS, rows, "CPU") == ["37%", "-"]
    assert column(WORKERS, rows, "RESTARTS") == ["2", "-"]
    assert column(WORKERS, rows, "OTHER UID") == ["-", "33"]
    assert "another user's: uid 33" in [part.text for part in head(found)]


def test_what_is_not_known_is_left_out_of_the_head() -> None:
    """The number of slots is a hyphen if one worker does not say it."""
    shown = [part.text for part in head(picture(worker(serving())))]
    assert shown == ["shop.wsgi:app", "1 worker: 1 alive", "1/- busy", "oldest 1.00 s"]
    nobody = Picture(reading(0.0), (), (), (), (), {})
    assert [part.text for part in head(nobody)] == ["0 workers", "0/- busy"]


def with_facts(found: WorkerReading, **facts: Any) -> WorkerReading:
    assert found.snapshot is not None
    return found._replace(snapshot=found.snapshot._replace(worker=found.snapshot.worker._replace(**facts)))


def test_hostile_text_stays_text() -> None:
    """Escape sequences in every text, a path of 2,048 characters, a stack of 1,000 frames: no control character."""
    evil = "\x1b[31m[red]\n\u202eعربي🙂\x9b2J"
    frames = (*SERVER, *[Frame(f"/srv/{evil}.py", 1, evil, evil)] * 1000)
    stack = serving(evil * 150, method=evil, frames=frames, wait_channel=evil, remote_address=evil, request_id=evil)
    wait = WaitsFor("lock", lock=evil, lock_place=evil, holders=(Holder(evil, evil, 1.0),))
    waiting = serving(evil, core=1, waits_for=with_sentence(wait))
    hostile = worker(stack._replace(name=evil), waiting)
    found = picture(hostile._replace(application=evil, socket=evil), silent(2, reason=evil, state=evil))
    shown = [part.text for part in head(found)]
    for view in VIEWS:
        for row in sorted_rows(view, found):
            shown += [*row.texts, row.note, *detail.lines(row)]
    assert len(shown) > 60
    assert [line for line in shown if re.search(r"[\x00-\x1f\x7f-\x9f\u202e]", line)] == []


@pytest.mark.parametrize("view", VIEWS)
def test_every_row_has_a_cell_for_each_column(view: View) -> None:
    """Also those of idle threads, of lost workers, and of uWSGI's requests, which have no name."""
    unnamed = snapshot(Stack("WSGIWorker2Core0", core=0), worker=2, source="uwsgi")
    uwsgi = silent(2, state="alive", reason=None, table=unnamed)
    before = picture(worker(serving(), Stack("b", core=1)), uwsgi, silent(3), worker(number=4))
    found = advance(before, reading(1.0, worker(Stack("b", core=1)), uwsgi, silent(3)))
    rows = sorted_rows(view, found, with_idle=True)
    assert rows
    assert {len(row.cells) for row in rows} == {len(view.columns)}
