"""The overview: totals, and a row for each place."""

from __future__ import annotations

import re

import pytest

from tests.unit.analysis.served import IN_PAY, ORDERS, SERVER, serving, snapshot
from wsgi_tracebacker.analysis.places import group, served_requests
from wsgi_tracebacker.model.snapshot import Frame, ListenSocket, Snapshot
from wsgi_tracebacker.model.waits import WaitsFor
from wsgi_tracebacker.text.columns import width
from wsgi_tracebacker.text.palette import COLOURED
from wsgi_tracebacker.text.screens.overview import table, totals

POOL = WaitsFor("pool", pool="QueuePool", pool_size=15, pool_in_use=15)
CHECKOUTS = [serving(f"/checkout/{n}", 41.2 - n, core=n, waits_for=POOL) for n in range(14)]
FOUND = (
    snapshot(*CHECKOUTS[:8], serving("/cart/7", 8.0, core=8, waits_for=POOL)),
    snapshot(*CHECKOUTS[8:], serving("/pay", 9.3, worker=2, method="POST", frames=IN_PAY), worker=2),
)


def rows(*found: Snapshot, columns: int = 80, limit: int = 0) -> list[str]:
    return list(table(group(served_requests(found)), columns=columns, limit=limit))


def test_a_row_is_a_place() -> None:
    """Age, how many, route, what they wait for, and one's own innermost line with its source."""
    assert rows(*FOUND) == [
        "   AGE    N  REQUEST             WAITS FOR         WHERE",
        "41.2 s  15\N{MULTIPLICATION SIGN}  GET /checkout/:     a connection of   /srv/shop/orders.py:71",
        "             and 1 more route    QueuePool: all    load_order",
        "                                 15 are out        with engine.connect() as con…",
        "9.30 s   1\N{MULTIPLICATION SIGN}  POST /pay           a lock or the     /srv/shop/pay.py:53 charge",
        "                                 GIL               reply = requests.post(BANK_U…",
    ]
    assert rows(*FOUND, columns=200)[2].endswith(
        "  a lock or the GIL                          /srv/shop/pay.py:53 charge  reply = requests.post(BANK_URL)"
    )


def test_totals() -> None:
    """Requests, workers, threads, connections and the oldest; what is not known is left out."""
    first, second = (
        found._replace(
            worker=found.worker._replace(
                slots=16,
                busy=busy,
                inner_queue=1,
                oldest_request_seconds=41.2,
                listen=(ListenSocket(7, "tcp", "127.0.0.1:8000", 10, 2048),),
            )
        )
        for found, busy in zip(FOUND, (9, 7), strict=True)
    )
    assert totals([first, second]) == (
        "16 requests in 2 workers, 16 of 32 threads busy, 12 connections wait, oldest 41.2 s"
    )
    assert totals(FOUND) == "16 requests in 2 workers, oldest 41.2 s"
    assert totals([snapshot()]) == "no request in 1 worker"


@pytest.mark.parametrize("columns", [80, 100, 140, 200])
def test_every_row_fits_and_no_word_is_broken(columns: int) -> None:
    """At any width from 80 on each word of a row is there as a whole."""
    found = rows(*FOUND, columns=columns)
    assert max(map(width, found)) <= columns
    words = set(" ".join(found).split())
    for word in ("41.2", "GET", "/checkout/:", "QueuePool:", "all", "15", "out", "load_order", "more", "route"):
        assert word in words, found
    assert any("orders.py:71" in word for word in words)
    assert any(word.startswith("with") for word in words)


def test_a_terminal_that_is_too_narrow_gets_80_columns() -> None:
    """Narrower columns would hold no words."""
    assert rows(*FOUND, columns=20) == rows(*FOUND)


def test_a_limit_says_what_is_left_out() -> None:
    """Places and requests, and how to see them."""
    assert rows(*FOUND, limit=1)[-1] == "1 more place, 1 request; --limit 0 shows them"
    assert rows(*FOUND, limit=2) == rows(*FOUND)


def test_hostile_names_break_nothing() -> None:
    """A path of 2,048 characters, Arabic, emoji and escape sequences: each row fits."""
    frame = Frame("/srv/" + "🛒" * 500 + ".py", 7, "ف" * 500 + "\x1b[2J", "x = '\u202e" + "y" * 500 + "'")
    stacks = [
        serving("/" + "a b" * 682, 5.0, frames=(*SERVER, frame)),
        serving("/سلة/طلب", 4.0, core=1, frames=(*SERVER, frame._replace(lineno=8))),
        serving("/\x1b[31mred\n\u202e", 3.0, core=2, wait_channel="\x1b]0;" + "w" * 300),
    ]
    found = rows(snapshot(*stacks))
    assert max(map(width, found)) <= 80
    assert len(found) < 20
    assert not re.search("[\x00-\x1f\u202e]", "".join(found))


def test_requests_of_which_little_is_known() -> None:
    """uWSGI names no request, a table has no stack."""
    uwsgi = snapshot(serving(frames=IN_PAY)._replace(request=None), source="uwsgi")
    table_only = snapshot(serving("/x", frames=(), state=None), worker=2, source="table")
    text = "\n".join(rows(uwsgi, table_only))
    assert "(not known)" in text
    assert "(no stack)" in text


def test_old_requests_are_red() -> None:
    """And the place is bright."""
    text = "\n".join(table(group(served_requests(FOUND)), columns=200, palette=COLOURED))
    assert "\x1b[1;31m41.2 s\x1b[0m" in text
    assert f"\x1b[1m{ORDERS.filename}:71 load_order\x1b[0m" in text
