"""The application's own word on its requests: notes, and the id of the trace."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest

import wsgi_tracebacker
from tests.unit.wsgi import environ, request_in_flight, serve
from wsgi_tracebacker import ConfigurationError, TracebackerMiddleware, note

if TYPE_CHECKING:
    from collections.abc import Callable

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


def noted(base: str, say: Callable[[dict[str, Any]], object], **headers: str) -> dict[str, Any]:
    """What a snapshot says of a request, after ``say`` was called within it with its environ."""
    found: list[dict[str, Any]] = []

    def application(request: dict[str, Any], _: object) -> list[bytes]:
        say(request)
        found.append(request_in_flight(base))
        return []

    assert serve(TracebackerMiddleware(application, base), environ("/", **headers)).error is None
    return found[0]


def texts(request: dict[str, Any]) -> list[str]:
    return [each["text"] for each in request["notes"]]


def test_a_note_is_shown_with_its_request(base: str) -> None:
    """By the function, and by the handle in the environ from any thread; each with its time."""

    def say(request: dict[str, Any]) -> None:
        note("loading the card")
        handle = request["wsgi_tracebacker.request"]
        thread = threading.Thread(target=handle.note, args=("charging card 4711",))
        thread.start()
        thread.join()

    found = noted(base, say)
    assert texts(found) == ["loading the card", "charging card 4711"]
    first, second = (each["at_seconds"] for each in found["notes"])
    assert 0 <= first <= second <= found["age_seconds"]
    # The next request of the thread has none of them.
    assert noted(base, lambda _: None)["notes"] == []


def test_notes_are_bounded(base: str) -> None:
    """200 characters of each, and the last 16 of a request."""
    assert texts(noted(base, lambda _: note("x" * 1000))) == ["x" * 200]

    def say(_: object) -> None:
        for number in range(100):
            note(str(number))

    found = texts(noted(base, say))
    assert found == [str(number) for number in range(84, 100)]


def test_a_note_is_plain_text(base: str) -> None:
    """A string of the application's own class leaves none of its code here; anything else is an error at the call."""

    class Text(str):
        __slots__ = ()

        def __getitem__(self, _: object) -> str:
            raise AssertionError

        __str__ = __format__ = __getitem__  # type: ignore[assignment]

    def say(_: object) -> None:
        note(Text("charging"))
        with pytest.raises(ConfigurationError, match="a note must be a string, not int"):
            note(4711)  # type: ignore[arg-type]

    assert texts(noted(base, say)) == ["charging"]


def test_a_note_of_a_nested_call_is_the_requests(base: str) -> None:
    """A WSGI call within a request is a part of it."""

    def inner(_: object, __: object) -> list[bytes]:
        note("inside")
        return []

    def say(request: dict[str, Any]) -> None:
        serve(TracebackerMiddleware(inner, base), environ("/inner"))

    assert texts(noted(base, say)) == ["inside"]


def test_where_there_is_no_request_a_note_does_nothing(base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Code that notes also runs in jobs and in shells, and after its request."""
    wsgi_tracebacker.note("nobody listens")
    handles: list[Any] = []
    noted(base, lambda request: handles.append(request["wsgi_tracebacker.request"]))
    handles[0].note("too late")
    note("too late")
    assert noted(base, lambda _: None)["notes"] == []


@pytest.mark.parametrize(
    ("header", "trace_id"),
    [
        (f"00-{TRACE}-00f067aa0ba902b7-01", TRACE),
        (f"cc-{TRACE}-00f067aa0ba902b7-01-what-comes-later", TRACE),
        (f"ff-{TRACE}-00f067aa0ba902b7-01", None),
        (f"00-{'0' * 32}-00f067aa0ba902b7-01", None),
        (f"00-{TRACE.upper()}-00f067aa0ba902b7-01", None),
        (f"00-{TRACE}-00f067aa0ba902b7-01x", None),
        ("hello", None),
    ],
)
def test_the_id_of_the_trace_is_shown(header: str, trace_id: str | None, base: str) -> None:
    """As W3C's Trace Context has it in the header `traceparent`; anything else is none."""
    assert noted(base, lambda _: None, HTTP_TRACEPARENT=header)["trace_id"] == trace_id
