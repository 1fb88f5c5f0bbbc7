"""The requests in flight: what is known of each, since when, in which phase, and that nothing is kept."""

from __future__ import annotations

import gc
import io
import threading
import weakref
from typing import TYPE_CHECKING, Any
from wsgiref.util import FileWrapper

import pytest

from tests.support.interpreters import drop_what_nobody_has, needs_raise, needs_reference_counts
from tests.support.waiting import wait_until
from tests.unit.wsgi import environ, request_in_flight, requests_in, serve, snapshot
from wsgi_tracebacker import TracebackerMiddleware
from wsgi_tracebacker.worker import agent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def ignore(*_: Any) -> Any:
    return lambda _: None


def looking(base: str, found: list[dict[str, Any]]) -> Any:
    """An application that looks at its own request from within."""

    def application(request: Any, start_response: Any) -> Any:
        found.append(request_in_flight(base))
        return []

    return application


def seen(base: str, request: dict[str, Any], **options: Any) -> dict[str, Any]:
    found: list[dict[str, Any]] = []
    wrapped = TracebackerMiddleware(looking(base, found), base, **options)
    for _ in range(2):  # the unusual way first, then the ordinary one
        assert serve(wrapped, dict(request)).error is None
    first, second = (
        {key: value for key, value in one.items() if not key.endswith(("_at", "_seconds"))} for one in found
    )
    assert first == second
    return found[-1]


def test_a_request_is_known_by_what_the_server_says(base: str) -> None:
    """Method, path with its mount point, address, id, age and phase are those of the environ; the query is cut."""
    request = environ("/path", "PATCH", SCRIPT_NAME="/mount", QUERY_STRING="secret=1", HTTP_X_REQUEST_ID="r-1")
    found = seen(base, request)
    expected: dict[str, Any] = {
        "method": "PATCH",
        "path": "/mount/path",
        "query": None,
        "remote_address": "192.0.2.7",
        "request_id": "r-1",
        "phase": "app",
        "nested": [],
    }
    assert expected.items() <= found.items()
    assert 0 <= found["age_seconds"] < 10


@pytest.mark.parametrize(
    ("on_the_wire", "shown"),
    [
        ("/caf\u00e9".encode(), "/caf\u00e9"),
        ("/\u4f60\u597d".encode(), "/\u4f60\u597d"),
        (b"/\xff\xfe", "/\\xff\\xfe"),
        (b"/a\x00b\x1b[2J\r\n", "/a\x00b\x1b[2J\r\n"),
        pytest.param(b"", "", id="empty"),
        (b"/" + b"x" * 70_000, "/" + "x" * 2047 + "..."),
    ],
)
def test_any_path_is_shown_as_utf8(base: str, on_the_wire: bytes, shown: str) -> None:
    """A path is UTF-8 for people, whatever bytes a client sends, and a long one is cut."""
    assert seen(base, environ(on_the_wire.decode("latin-1")))["path"] == shown


@pytest.mark.parametrize("value", [None, 7, b"/bytes", object(), "/\ud800", ["/"]])
def test_an_environ_of_wrong_types_does_no_harm(base: str, value: Any) -> None:
    """Values that are no text are not shown, and never converted: that would run the application's code."""
    request = environ()
    for key in ("PATH_INFO", "REQUEST_METHOD", "REMOTE_ADDR", "HTTP_X_REQUEST_ID", "QUERY_STRING", "SCRIPT_NAME"):
        request[key] = value
    found = seen(base, request, show_query=True)
    assert found["path"] == ("/?/?" if value == "/\ud800" else "")


def test_a_subclass_of_str_is_not_run(base: str) -> None:
    """A str subclass can run code when it is touched: it is not shown."""

    class Lazy(str):
        __slots__ = ()

        def encode(self, *_: Any) -> bytes:
            raise AssertionError("it was touched")

        __len__ = encode  # type: ignore[assignment]

    assert seen(base, environ(Lazy("/lazy")))["path"] == ""


@pytest.mark.parametrize("left_out", ["SCRIPT_NAME", "PATH_INFO", "REQUEST_METHOD"])
def test_a_server_that_leaves_a_key_out_is_served(base: str, left_out: str) -> None:
    """A missing key is an empty text; the others are still shown."""
    request = environ("/path", SCRIPT_NAME="/mount")
    del request[left_out]
    found = seen(base, request)
    whole = {"REQUEST_METHOD": "GET", "SCRIPT_NAME": "/mount", "PATH_INFO": "/path"} | {left_out: ""}
    assert (found["method"], found["path"]) == (whole["REQUEST_METHOD"], whole["SCRIPT_NAME"] + whole["PATH_INFO"])


def test_the_query_is_shown_on_request(base: str) -> None:
    """With show_query the query string stands in the snapshot."""
    assert seen(base, environ(QUERY_STRING="a=1&b=2"), show_query=True)["query"] == "a=1&b=2"


def test_headers_can_be_named(base: str) -> None:
    """The address and the id come from the headers that the options name."""
    request = environ(HTTP_X_REAL_IP="198.51.100.9", HTTP_TRACE="t-9", HTTP_X_REQUEST_ID="r")
    found = seen(base, request, remote_address_header="X-Real-IP", request_id_header="trace")
    assert (found["remote_address"], found["request_id"]) == ("198.51.100.9", "t-9")


def test_an_empty_header_name_looks_at_none(base: str) -> None:
    """An empty request_id_header: no id is shown."""
    assert seen(base, environ(HTTP_X_REQUEST_ID="r"), request_id_header="")["request_id"] is None


def test_the_phases_follow_each_other(base: str) -> None:
    """A request is in ``app`` while the callable runs, in ``body`` until close, in ``close`` while that runs."""
    phases = []

    class Body:
        def __iter__(self) -> Iterator[bytes]:
            phases.append(request_in_flight(base)["phase"])
            yield b"x"
            phases.append(request_in_flight(base)["phase"])

        def close(self) -> None:
            phases.append(request_in_flight(base)["phase"])

    def application(request: Any, start_response: Any) -> Any:
        phases.append(request_in_flight(base)["phase"])
        return Body()

    wrapped = TracebackerMiddleware(application, base)
    for _ in range(2):
        assert serve(wrapped).error is None
    assert phases == ["app", "body", "body", "close"] * 2
    assert requests_in(snapshot(base)) == []


def test_the_same_environ_is_one_request(base: str) -> None:
    """Middleware within middleware: the inner one passes through, also when it is called while the body is read."""
    found: list[dict[str, Any]] = []
    inner = TracebackerMiddleware(looking(base, found), base)

    def lazy(request: Any, start_response: Any) -> Iterator[bytes]:
        yield from inner(request, start_response)

    for outer in (TracebackerMiddleware(inner, base), TracebackerMiddleware(lazy, base)):
        for _ in range(2):
            assert serve(outer).error is None
    assert [one["nested"] for one in found] == [[]] * 4
    assert snapshot(base)["worker"]["requests_finished"] == 4


def test_another_environ_nests(base: str) -> None:
    """An application that calls another one shows both requests, the inner one within the outer one, to any depth."""
    found: list[dict[str, Any]] = []
    wrapped: Any = None

    def application(request: Any, start_response: Any) -> Any:
        depth = request["PATH_INFO"].count("/")
        if depth < 3:
            list(wrapped(environ(request["PATH_INFO"] + "/deeper"), ignore))
        else:
            found.append(request_in_flight(base))
        return []

    wrapped = TracebackerMiddleware(application, base)
    for _ in range(2):
        assert serve(wrapped, environ("/outer")).error is None
    for one in found:
        assert [one["path"], one["nested"][0]["path"], one["nested"][0]["nested"][0]["path"]] == [
            "/outer",
            "/outer/deeper",
            "/outer/deeper/deeper",
        ]
    assert requests_in(snapshot(base)) == []


def test_a_call_while_the_body_is_read_nests(base: str) -> None:
    """A generator that calls an application with a copy of its environ keeps its core, and gets no second one."""
    found: list[dict[str, Any]] = []
    inner = TracebackerMiddleware(looking(base, found), base)

    def stream(request: Any, start_response: Any) -> Iterator[bytes]:
        yield from inner({**request, "PATH_INFO": "/inner"}, start_response)
        found.append(request_in_flight(base))
        yield b"x"

    wrapped = TracebackerMiddleware(stream, base)
    for _ in range(2):
        assert serve(wrapped, environ("/outer")).chunks == [b"x"]
    for within, after in zip(found[::2], found[1::2], strict=True):
        assert (within["path"], [one["path"] for one in within["nested"]]) == ("/outer", ["/inner"])
        assert (after["path"], after["nested"], after["phase"]) == ("/outer", [], "body")
    document = snapshot(base)
    assert [thread["core"] for thread in document["threads"] if thread["core"] is not None] == [0]
    assert document["worker"]["requests_finished"] == 2


@needs_reference_counts
@pytest.mark.parametrize("closes", [True, False])
def test_nested_requests_do_not_gather(base: str, closes: bool) -> None:
    """A thousand nested calls, their bodies closed or simply dropped, leave nothing in the request around them."""
    values: list[weakref.ref[Any]] = []

    def application(request: Any, start_response: Any) -> Any:
        if request["PATH_INFO"] == "/inner":
            return iter([b"x"])
        for _ in range(1000):
            token = Value()
            values.append(weakref.ref(token))
            body: Any = wrapped(environ("/inner", token=token), ignore)
            list(body)
            if closes:
                body.close()
        found.append(request_in_flight(base))
        return []

    found: list[dict[str, Any]] = []
    wrapped = TracebackerMiddleware(application, base)
    assert serve(wrapped).error is None
    assert len(found[0]["nested"]) == (0 if closes else 1)  # the last one is still a local variable there
    snapshot(base)
    assert [value() for value in values] == [None] * 1000
    (only,) = agent._agents.values()
    assert sum(len(core.nested) for core in only.cores.all()) <= 2


class Value:
    """Something that can be pointed to weakly."""


def test_overlapping_bodies_on_one_thread_are_all_known(base: str) -> None:
    """As under bjoern: one thread has many bodies open at once; each is a request, closed in any order."""
    wrapped = TracebackerMiddleware(lambda request, _: iter([request["PATH_INFO"].encode()]), base)
    bodies: list[Any] = [wrapped(environ(f"/{number}"), ignore) for number in range(5)]
    assert sorted(request["path"] for request in requests_in(snapshot(base))) == [f"/{number}" for number in range(5)]
    for number in (3, 0, 4):
        assert list(bodies[number]) == [f"/{number}".encode()]
        bodies[number].close()
    assert sorted(request["path"] for request in requests_in(snapshot(base))) == ["/1", "/2"]
    assert serve(wrapped, environ("/whole")).chunks == [b"/whole"]
    for number in (1, 2):
        bodies[number].close()
    drop_what_nobody_has()
    document = snapshot(base)
    assert (requests_in(document), document["worker"]["requests_finished"]) == ([], 6)
    cores = [thread["core"] for thread in document["threads"] if thread["core"] is not None]
    assert len(cores) == 1  # the numbers went back


def test_a_body_that_is_dropped_ends_its_request(base: str) -> None:
    """A server that neither reads on nor closes, but lets the body go: the request is over."""
    wrapped = TracebackerMiddleware(lambda request, _: iter([b"x"]), base)
    for _ in range(2):
        body: Any = wrapped(environ(), ignore)
        assert len(requests_in(snapshot(base))) == 1
        del body
        drop_what_nobody_has()
        assert requests_in(snapshot(base)) == []


def test_a_closed_body_that_is_kept_hides_no_dropped_one(base: str) -> None:
    """A server may keep a body that it has closed: the next one on that thread is still seen when it is dropped."""
    wrapped = TracebackerMiddleware(lambda request, _: iter([b"x"]), base)
    kept: Any = wrapped(environ("/kept"), ignore)
    kept.close()
    dropped: Any = wrapped(environ("/dropped"), ignore)
    del dropped
    drop_what_nobody_has()
    assert requests_in(snapshot(base)) == []
    kept.close()


@needs_reference_counts
def test_the_next_request_of_a_thread_ends_a_dropped_one(base: str) -> None:
    """Without anybody looking: the thread's next request reuses the core of the one that was dropped."""
    wrapped = TracebackerMiddleware(lambda request, _: iter([b"x"]), base)
    for _ in range(50):
        wrapped(environ(), ignore)
    document = snapshot(base)
    assert [thread["core"] for thread in document["threads"] if thread["core"] is not None] == [0]
    assert document["worker"]["requests_finished"] == 50


def chunks() -> Iterator[bytes]:
    yield b"x"


class Sized:
    """Neither whole nor a generator, and followed in another way than an iterator, for its length."""

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[bytes]:
        return iter([b"x"])


#: A body of each kind that the middleware treats in a way of its own.
BODIES: dict[str, Callable[[Any], Any]] = {
    "list": lambda _: [b"x"],
    "iterator": lambda _: iter([b"x"]),
    "generator": lambda _: chunks(),
    "sized": lambda _: Sized(),
    "file": lambda request: request["wsgi.file_wrapper"](io.BytesIO(b"x")),
}


@pytest.mark.parametrize("end", [*BODIES, "raises", "dropped iterator", "dropped generator"])
def test_the_environ_is_let_go_at_the_end(base: str, end: str) -> None:
    """After the end of a request nothing of ours holds its environ, however it ended."""
    is_dropped = end.startswith("dropped")

    def application(request: Any, start_response: Any) -> Any:
        if end == "raises":
            raise ValueError(end)
        return BODIES[end.removeprefix("dropped ")](request)

    wrapped = TracebackerMiddleware(application, base)
    for _ in range(2):
        value = Value()
        pointer = weakref.ref(value)
        served = serve(wrapped, {**environ(value=value), "wsgi.file_wrapper": FileWrapper}, closes=not is_dropped)
        if is_dropped:
            served.result = None
            drop_what_nobody_has()
            snapshot(base)
        del value, served
        gc.collect()
        assert pointer() is None


@needs_reference_counts
def test_a_snapshot_keeps_no_frame_alive(base: str) -> None:
    """Locals of a request that was looked at are let go as soon as the request ends, as without us."""
    pointers = []

    def application(request: Any, start_response: Any) -> Any:
        local = Value()
        pointers.append(weakref.ref(local))
        snapshot(base)
        assert local is not None
        return []

    wrapped = TracebackerMiddleware(application, base)
    for _ in range(3):
        serve(wrapped)
        assert pointers[-1]() is None


def test_a_reused_thread_is_not_blamed_for_its_last_request(base: str) -> None:
    """An idle thread shows no request, but the last one and how long ago it ended; the next request shows itself."""
    wrapped = TracebackerMiddleware(lambda request, _: [b"x"], base)
    serve(wrapped, environ("/former"))
    (thread,) = [thread for thread in snapshot(base)["threads"] if thread["core"] == 0]
    assert (thread["request"], thread["last_request"]["path"]) == (None, "/former")
    assert thread["last_request"]["ended_seconds_ago"] >= 0
    found: list[dict[str, Any]] = []
    serve(TracebackerMiddleware(looking(base, found), base), environ("/latter"))
    assert found[0]["path"] == "/latter"


def test_a_body_read_on_another_thread_is_blamed_on_that_one_only(base: str) -> None:
    """The stack of a body is that of the thread that reads it; the request after it is its own thread's again."""
    reading, go_on = threading.Event(), threading.Event()

    def stream() -> Iterator[bytes]:
        reading.set()
        go_on.wait(30)
        yield b"x"

    wrapped = TracebackerMiddleware(lambda request, _: stream(), base)
    body: Any = wrapped(environ("/elsewhere"), ignore)
    reader = threading.Thread(target=lambda: (list(body), body.close()), name="reader")
    reader.start()
    try:
        reading.wait(30)
        threads = snapshot(base)["threads"]
        (thread,) = [thread for thread in threads if thread["request"]]
        # Each thread once, and by its own name: that of the core is the thread's that called the application.
        assert (thread["name"], thread["core"]) == ("reader", 0)
        assert [shown["name"] for shown in threads].count("WSGIWorker1Core0") == 1
        assert len({shown["ident"] for shown in threads}) == len(threads)
        assert (thread["ident"], "stream" in [name["function"].rpartition(".")[2] for name in thread["frames"]]) == (
            reader.ident,
            True,
        )
        following: Any = wrapped(environ("/following"), ignore)
        following.close()
    finally:
        go_on.set()
        reader.join(30)
    following = wrapped(environ("/here"), ignore)
    (thread,) = [thread for thread in snapshot(base)["threads"] if thread["request"]]
    assert (thread["request"]["path"], thread["ident"]) == ("/here", threading.get_ident())
    following.close()


def test_many_threads_are_each_seen_with_their_own_request(base: str) -> None:
    """Twenty threads at once: each one's stack shows the very path that its request has."""
    everybody = threading.Barrier(21)
    go_on = threading.Event()

    def application(request: Any, start_response: Any) -> Any:
        everybody.wait(30)
        go_on.wait(30)
        return []

    wrapped = TracebackerMiddleware(application, base)
    threads = [
        threading.Thread(target=serve, args=(wrapped, environ(f"/{number}")), name=f"t{number}") for number in range(20)
    ]
    for thread in threads:
        thread.start()
    idents = {thread.ident: f"/{number}" for number, thread in enumerate(threads)}
    try:
        everybody.wait(30)
        document = snapshot(base)
    finally:
        go_on.set()
        for thread in threads:
            thread.join(30)
    serving = [thread for thread in document["threads"] if thread["request"]]
    assert {thread["ident"]: thread["request"]["path"] for thread in serving} == idents
    assert sorted(thread["core"] for thread in serving) == list(range(20))
    assert all(any(frame["function"].endswith("application") for frame in thread["frames"]) for thread in serving)
    wait_until(lambda: snapshot(base)["worker"]["requests_finished"] == 20, "all have finished")


class Site:
    """An application that has its limit, and what is done with a report, as methods."""

    def limit(self, _request: Any) -> float:
        return 3600.0

    def reported(self, _report: object) -> None:
        pass

    def __call__(self, _request: Any, _start_response: Any) -> list[bytes]:
        return []


@pytest.mark.parametrize("action", ["log", "kill", pytest.param("raise", marks=needs_raise)])
def test_an_application_that_is_wrapped_anew_for_each_request_is_let_go(base: str, action: str) -> None:
    """Also if its limit, and what is called with a report, belong to it, and it refers to its own middleware."""
    sites = []
    for _ in range(6):
        site: Any = Site()
        site.wsgi_app = TracebackerMiddleware(
            site, base, harakiri=site.limit, on_harakiri=site.reported, harakiri_action=action
        )
        assert serve(site.wsgi_app).error is None
        sites.append(weakref.ref(site))
        del site
    gc.collect()
    # The worker keeps those of its first request, and the core those of its last one.
    assert sum(site() is not None for site in sites) <= 2
