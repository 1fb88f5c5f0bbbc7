"""The page as HTML."""

from __future__ import annotations

import re
from html import unescape
from html.parser import HTMLParser
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

import pytest

from tests.support.planted import Planted
from wsgi_tracebacker.analysis.live import Reading, WorkerReading, advance
from wsgi_tracebacker.model.snapshot import Request, Snapshot, Stack, Worker
from wsgi_tracebacker.web.opened import id_of
from wsgi_tracebacker.web.views import MAX_OPEN, MAX_ROWS, VIEWS, Choice, fragment, page

if TYPE_CHECKING:
    from wsgi_tracebacker.analysis.live import Picture

#: Elements that have no end.
_VOID = {"meta", "link", "input", "img", "br"}


class Balanced(HTMLParser):
    """Every element that begins ends, in the right order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture
def shop() -> Picture:
    return advance(advance(None, Planted(0.0).reading()), Planted(1.0).reading())


def of_requests(*paths: str) -> Picture:
    stacks = tuple(
        Stack(f"WSGIWorker1Core{core}", core=core, request=Request("GET", path, None, None, None, 0.0, 5.0, "app"))
        for core, path in enumerate(paths)
    )
    worker = WorkerReading("/tb1", 1, 42, "alive", "1", snapshot=Snapshot(Worker(number=1), 0.0, stacks))
    return advance(None, Reading(0.0, 0.0, (worker,)))


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.name)
def test_each_view_is_whole_html(shop: Picture, view: object) -> None:
    """Closed, and with all its rows open."""
    choice = Choice.of_query({"view": view.name})  # type: ignore[attr-defined]
    closed = fragment(shop, choice)
    Balanced(page(shop, choice, "1"))
    rows = re.findall(r'id="r([0-9a-f]+)"', closed)
    assert rows
    opened = fragment(shop, choice._replace(open_rows=tuple(rows[:MAX_OPEN])))
    Balanced(opened)
    assert opened.count('class="opened"') == len(rows[:MAX_OPEN])


def test_all_that_is_chosen_is_in_the_address() -> None:
    """Each link leads to what it says, whatever the words are."""
    choice = Choice(VIEWS[1], 'a & b="<', ("a1", "b2"), full=True)
    address = choice.address()
    query = dict(pair.split("=") for pair in address.removeprefix("?").split("&"))
    assert query["view"] == VIEWS[1].name
    assert set(address) & set(' "<') == set()
    assert Choice.of_query({"view": "places", "q": 'a & b="<', "open": "a1,b2", "full": "1"}) == choice
    assert Choice().address() == "?"
    assert Choice.of_query({"view": "none", "open": '",<b>', "full": "yes"}) == Choice()
    assert len(Choice.of_query({"open": ",".join(map(str, range(100)))}).open_rows) == MAX_OPEN
    assert choice.toggled("b2").open_rows == ("a1",)
    assert choice.toggled("c3").open_rows == ("a1", "b2", "c3")


def test_markup_is_escaped() -> None:
    """In a cell, in an open row, and in the words of the filter."""
    picture = of_requests("/<script>alert(1)</script>")
    row = re.findall(r'id="r([0-9a-f]+)"', fragment(picture, Choice()))[0]
    shown = fragment(picture, Choice(words='<script> "', open_rows=(row,))) + fragment(
        picture, Choice(open_rows=(row,))
    )
    assert "<script" not in shown
    assert "<script>alert(1)</script>" in unescape(shown)


def test_only_so_many_rows_are_sent() -> None:
    """The page says how many more there are."""
    shown = fragment(of_requests(*["/"] * (MAX_ROWS + 2)), Choice())
    assert shown.count("<tr class=") == MAX_ROWS
    assert "2 more rows: filter to see them." in shown


def test_the_holder_of_a_lock_is_a_link_to_its_request(shop: Picture) -> None:
    """In every view; there its row is open, whatever was filtered."""
    buy = next(id_of(live.key) for live in shop.requests if live.served.route == "GET /buy")
    refund = next(id_of(live.key) for live in shop.requests if live.served.route == "GET /refund")
    text = fragment(shop, Choice(words="buy", open_rows=(buy,)))
    [address, named] = re.findall(r'Held by <a data-live href="([^"]+)">([^<]+)</a></p>', text)[0]
    assert named == "GET /refund, worker 2 core 1"
    query, _, row = unescape(address).partition("#")
    assert row == f"r{refund}"
    there = fragment(shop, Choice.of_query(dict(parse_qsl(query.removeprefix("?")))))
    assert f'id="r{refund}"' in there
    assert there.count('<tr class="opened">') == 2
    workers = fragment(shop, Choice(view=VIEWS[4], open_rows=tuple(id_of(each.key) for each in shop.reading.workers)))
    assert {"GET /refund, worker 2 core 1", "GET /buy, worker 2 core 0"} <= set(
        re.findall(r"<a data-live href=[^>]+>([^<]+)</a>", workers)
    )


def test_a_row_keeps_its_name(shop: Picture) -> None:
    """It is that of the request, so that an open row stays open in the next reading."""
    later = advance(shop, Planted(2.0).reading())
    names = [re.findall(r'id="(r[0-9a-f]+)"', fragment(each, Choice())) for each in (shop, later)]
    assert set(names[0]) == set(names[1])
    assert len(set(names[0])) == len(names[0])
