"""A reading as one HTML page: the values of the text, nothing of it markup, nothing from outside."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tests.unit.analysis.served import IN_PAY, SERVER, WAIT, serving, snapshot
from tests.unit.wire.hostile import is_fit
from tests.unit.wire.strategies import snapshots as any_snapshots
from wsgi_tracebacker.analysis.places import group, served_requests
from wsgi_tracebacker.model.groups import Looks
from wsgi_tracebacker.model.snapshot import Frame, LastRequest, Note, Snapshot, Stack
from wsgi_tracebacker.text.screens.page import page
from wsgi_tracebacker.text.screens.reading import Answered, Options
from wsgi_tracebacker.wire.escape import printable

#: Elements that have no end tag.
VOID = {"meta"}
ALLOWED = VOID | {
    *("html", "head", "title", "style", "body", "h1", "p", "ul", "li", "table", "thead", "tbody", "tr", "th", "td"),
    *("a", "code", "details", "div", "mark", "span", "summary"),
}


class Parsed(HTMLParser):
    """What a browser sees of a page: its text, its elements and their attributes. Fails on one that is not closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.lines: list[str] = [""]
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag not in ("span", "mark", "a"):
            self.lines.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.lines[-1] += data

    @property
    def text(self) -> list[str]:
        return [line.strip() for line in self.lines if line.strip()]


def made(
    *found: Snapshot, by: str = "place", left_out: int = 0, unanswered: tuple[str, ...] = (), **options: Any
) -> str:
    groups = group(served_requests(found), by)
    return "\n".join(page([Answered(each) for each in found], groups, left_out, Options(**options), unanswered))


def test_a_page_has_the_values_of_the_text() -> None:
    """The totals, the overview, then each place: its requests, its stack with what is folded in it."""
    pay = serving("/pay", 9.3, method="POST", frames=IN_PAY, remote_address="203.0.113.7", request_id="7f3a")
    many = [serving(f"/checkout/{n}", 8.0 - n, core=n + 1) for n in range(7)]
    parsed = Parsed(made(snapshot(pay, *many), unanswered=("worker 2 (pid 43): timed out",)))
    text = parsed.text
    assert text[:4] == [
        *["8 requests in 1 worker, oldest 9.30 s"] * 2,
        "as of 1970-01-01 00:16:40 UTC",
        "worker 1  pid 4001  gunicorn/27.0.1  shop.wsgi:app  up 1 min 40 s  8 in flight",
    ]
    assert text[4:17] == [
        "worker 2 (pid 43): timed out",
        *("AGE", "N", "REQUEST", "WAITS FOR", "WHERE"),
        *("9.30 s", "1\N{MULTIPLICATION SIGN}", "POST /pay", "a lock or the GIL"),
        *("/srv/shop/pay.py:53 charge", "reply = requests.post(BANK_URL)", "8.00 s"),
    ]
    first = text.index("1  1 request waits for a lock or the GIL")
    assert text[first + 1 : first + 4] == [
        "worker 1 core 0  POST /pay  9.30 s  from 203.0.113.7  id 7f3a",
        "… 4 calls of gunicorn and flask",
        "threading.py:1030 Thread._bootstrap",
    ]
    second = text.index("2  7 requests wait for a lock or the GIL")
    # The expression that runs is marked, and is part of its line.
    assert text[second - 2 : second] == ["/srv/shop/pay.py:53 charge", "reply = requests.post(BANK_URL)"]
    assert text[second + 6 : second + 9] == [
        "… 2 more",
        "worker 1 core 6  GET /checkout/5  3.00 s",
        "worker 1 core 7  GET /checkout/6  2.00 s",
    ]
    assert ("a", {"href": "#place-2"}) in parsed.elements
    assert ("details", {"class": "place", "id": "place-2", "open": None}) in parsed.elements


def test_full_unfolds_and_all_adds_the_other_threads() -> None:
    """What is folded is there in any case; ``--full`` opens it. Threads without a request are there with ``--all``."""
    idle = Stack("WSGIWorker1Core7", core=7, state="S", last_request=LastRequest("GET", "/x", 3.2), frames=(WAIT,))
    found = snapshot(serving(frames=IN_PAY), idle)
    folded, unfolded = Parsed(made(found)), Parsed(made(found, full=True, all_threads=True))
    assert [tag for tag in folded.elements if tag == ("details", {})] == [("details", {})]
    assert ("details", {}) not in unfolded.elements
    assert "1 idle thread; --all shows them" in folded.text
    assert "WSGIWorker1Core7  idle, last request GET /x ended 3.20 s ago, sleeping" in unfolded.text


def test_what_is_left_out_is_counted() -> None:
    """By the limit, and by what was asked for."""
    found = snapshot(serving("/a", 2.0, frames=IN_PAY), serving("/b", 1.0, core=1), serving("/b", 1.0, core=2))
    parsed = Parsed(made(found, limit=1, left_out=3))
    assert "1 more place, 2 requests; --limit 0 shows them" in parsed.text
    assert "3 requests not shown: younger, or of another path" in parsed.text
    assert [attributes["id"] for tag, attributes in parsed.elements if attributes.get("class") == "place"] == [
        "place-1"
    ]


def test_nothing_in_flight_is_a_page_too() -> None:
    """Also where no worker answered at all."""
    idle = Stack("a", core=0, last_request=LastRequest("GET", "/x", 3.2))
    assert "the last requests: GET /x ended 3.20 s ago" in Parsed(made(snapshot(idle))).text
    assert "gone" in Parsed(made(unanswered=("gone",))).text


def test_several_looks_have_their_verdict() -> None:
    """As in the text."""
    [served] = served_requests([snapshot(serving(frames=IN_PAY))])
    groups = group([served._replace(looks=Looks(3, 3, 3, 0.0, 2.0))])
    html = "\n".join(page([Answered(snapshot(served.stack))], groups))
    assert '<span class="stuck">stuck: the same place in 3 of 3 looks, no CPU</span>' in html


HOSTILE = "</code><script src=//x.example>alert('1')</script>\"&lt;\x02stuck\x02\x03\x1b]0;\u202e<a href='javascript:1'"


def test_no_text_becomes_markup() -> None:
    """A path, a note, a file name, a function, a source line, an application: whatever they hold is shown as it is."""
    frame = Frame(f"/srv/{HOSTILE}.py", 1, HOSTILE, f"    {HOSTILE}", 1, 4, 9)
    stack = serving(f"/{HOSTILE}", frames=(*SERVER, frame), remote_address=HOSTILE, request_id=HOSTILE)
    assert stack.request is not None
    stack = stack._replace(name=HOSTILE, request=stack.request._replace(notes=(Note(0.0, HOSTILE),), method=HOSTILE))
    other = Stack(HOSTILE, frames=(frame,))
    found = snapshot(stack, stack._replace(core=1), other, application=HOSTILE)
    html = made(found, all_threads=True, unanswered=(HOSTILE,))
    harmless(html)
    shown = printable(HOSTILE)
    assert shown in Parsed(html).text
    for where in (f"{shown} /{shown}  1.00 s", f"from {shown}", f"note: {shown}", f"  {shown}  up ", f":1 {shown}"):
        assert any(where in line for line in Parsed(html).text), where


@given(st.lists(any_snapshots, max_size=3), st.booleans(), st.booleans(), st.integers(0, 2), st.text())
def test_any_reading_is_a_harmless_page(
    found: list[Snapshot], full: bool, everything: bool, limit: int, unanswered: str
) -> None:
    """Whatever is in the snapshots: tags are balanced and ours, nothing runs, and nothing is loaded."""
    harmless(made(*found, full=full, all_threads=everything, limit=limit, unanswered=(unanswered,)))


def harmless(html: str) -> None:
    parsed = Parsed(html)
    assert all(map(is_fit, html.split("\n")))
    for tag, attributes in parsed.elements:
        assert tag in ALLOWED
        assert set(attributes) <= {
            "class",
            "id",
            "open",
            "title",
            "lang",
            "charset",
            "http-equiv",
            "content",
            "name",
            "href",
        }
        assert re.fullmatch(r"#place-\d+", attributes.get("href") or "#place-1")
    style = html[html.index("<style>") : html.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    assert (
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        in html
    )
