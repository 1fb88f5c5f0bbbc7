"""Any application, also a wicked one: what comes out of it is what comes out without us.

Hypothesis makes applications that break PEP 3333 in every way it knows, and servers that stop half-way. Everything
that either does is written down, in order, with and without the middleware, with each of harakiri's actions armed.
"""

from __future__ import annotations

import asyncio
import gc
import io
import re
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from wsgiref.handlers import SimpleHandler
from wsgiref.util import FileWrapper
from wsgiref.validate import IteratorWrapper, validator

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.support.interpreters import drop_what_nobody_has, needs_raise
from tests.unit.wsgi import environ, requests_in, snapshot
from wsgi_tracebacker import TracebackerMiddleware
from wsgi_tracebacker.worker import agent
from wsgi_tracebacker.worker.reporting import faults

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Events = list[tuple[Any, ...]]


class Exit(BaseException):
    """As a server raises into a request: no Exception."""


ERRORS: tuple[type[BaseException], ...] = (
    *(ValueError, OSError, AttributeError, TypeError, KeyError, StopIteration, RecursionError, MemoryError),
    *(GeneratorExit, KeyboardInterrupt, SystemExit, asyncio.CancelledError, Exit),
)
STATUSES = ("200 OK", "404 Not Found", "500 Oops", "nonsense", "", 200, None, b"200 OK")
HEADERS: tuple[Any, ...] = (
    [],
    [("Content-Type", "text/plain")],
    [("Content-Length", "3"), ("Set-Cookie", "a=b")],
    [("X", "a\nb")],
    [("X", 1)],
    None,
)
#: What an application may do with its list of headers when start_response() has returned: a server that keeps the very
#: list sends what is in it then.
CHANGES: dict[str, Callable[[list[Any]], object]] = {
    "append": lambda headers: headers.append(("X-Late", "1")),
    "clear": lambda headers: headers.clear(),
}


@dataclass(frozen=True)
class Plan:
    """What an application does, and how far the server goes along."""

    #: While its callable runs: ``("start", status, headers, with exc_info)``, ``("write", chunk)``,
    #: ``("change", one of CHANGES)`` for the list of headers that start_response() was given last, and
    #: ``("raise", error)``.
    call: tuple[tuple[Any, ...], ...]
    #: The same before its first chunk, where its body has code of its own.
    body: tuple[tuple[Any, ...], ...]
    #: One of BODIES.
    kind: str
    chunks: tuple[Any, ...]
    fails_at: str | None
    error: type[BaseException]
    #: Chunks that the server takes before it closes; None for all.
    takes: int | None
    closes: int

    @property
    def closings(self) -> int:
        """How often the server closes what it got. A class has a ``close``, which is for its objects."""
        return 0 if self.kind == "class" else self.closes


class Story:
    """One request to an application of a plan; ``events`` has all that anybody did."""

    def __init__(self, plan: Plan, *, changes_headers: bool = True) -> None:
        self.plan = plan
        #: Whether the changes of the plan are made.
        self.changes_headers = changes_headers
        self.events: Events = []
        #: What the application returned.
        self.returned: Any = None

    def fail(self, where: str) -> None:
        self.events.append((where,))
        if self.plan.fails_at == where:
            raise self.plan.error(where)

    def application(self, request: Any, start_response: Any) -> Any:
        self.events.append(("call",))
        self._start_response = start_response
        self._write: Any = None
        self._headers: Any = None
        self._perform(self.plan.call)
        self.returned = BODIES[self.plan.kind](self, request)
        return self.returned

    def _perform(self, steps: tuple[tuple[Any, ...], ...]) -> None:
        for what, *arguments in steps:
            if what == "raise":
                raise arguments[0]("planned")
            if what == "start":
                status, shared, with_exc_info = arguments
                # Servers add to what they are given.
                headers = self._headers = None if shared is None else list(shared)
                if with_exc_info:
                    try:
                        raise ValueError("shown to the server")
                    except ValueError:
                        self._write = self._start_response(status, headers, sys.exc_info())
                else:
                    self._write = self._start_response(status, headers)
            elif what == "change":
                if self._headers is not None and self.changes_headers:
                    CHANGES[arguments[0]](self._headers)
            elif self._write is not None:
                self._write(*arguments)

    def begin_body(self) -> None:
        self._perform(self.plan.body)


class Body:
    """An iterable that tells everything, and fails where it is to."""

    def __init__(self, story: Story) -> None:
        self.story = story

    def __iter__(self) -> Any:
        self.story.fail("iter")
        return self.chunks()

    def chunks(self) -> Iterator[Any]:
        self.story.begin_body()
        for number, chunk in enumerate(self.story.plan.chunks):
            self.story.fail(f"next {number}")
            yield chunk
        self.story.fail("end")

    def close(self) -> None:
        self.story.fail("close")


class OwnIterator(Body):
    """Its own iterator, and no generator."""

    def __init__(self, story: Story) -> None:
        super().__init__(story)
        self.rest = self.chunks()

    def __iter__(self) -> Any:
        self.story.fail("iter")
        return self

    def __next__(self) -> Any:
        return next(self.rest)


class Sized(Body):
    def __len__(self) -> int:
        self.story.fail("length")
        return len(self.story.plan.chunks)


class WronglySized(Body):
    def __len__(self) -> int:
        self.story.fail("length")
        return 1


class Indexed:
    """Iterable only by the old protocol."""

    def __init__(self, story: Story) -> None:
        self.story = story

    def __getitem__(self, index: int) -> Any:
        self.story.fail(f"next {index}")
        return self.story.plan.chunks[index]


class WickedAttributes(Body):
    """Whatever else a server looks at raises."""

    def __bool__(self) -> bool:
        raise RuntimeError("no truth")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("no equal")

    __hash__ = None  # type: ignore[assignment]  # as a class has it that defines __eq__ only

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(name)


class Impostor(Body):
    """Its class says that it is a list."""

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        return list


class CloseIsNoFunction(Body):
    close = 5  # type: ignore[assignment]


class IterGivesNothing(Body):
    def __iter__(self) -> Any:
        return 5


class OwnList(list[Any]):
    def __init__(self, story: Story) -> None:
        super().__init__(story.plan.chunks)
        self.story = story

    def close(self) -> None:
        self.story.fail("close")


class File(io.BytesIO):
    """A real file tells where it is."""

    def __init__(self, story: Story) -> None:
        super().__init__(b"".join(chunk for chunk in story.plan.chunks if isinstance(chunk, bytes)))
        self.story = story

    def close(self) -> None:
        self.story.fail("close")
        super().close()


def generator(story: Story, _: Any) -> Iterator[Any]:
    try:
        yield from Body(story).chunks()
    finally:
        story.fail("close")


def wrapped_file(story: Story, request: Any) -> Any:
    return request["wsgi.file_wrapper"](File(story))


#: Returned as the very object that the application returned.
WHOLE: dict[str, Callable[[Story, Any], Any]] = {
    "list": lambda story, _: list(story.plan.chunks),
    "tuple": lambda story, _: tuple(story.plan.chunks),
    "own list": lambda story, _: OwnList(story),
    "none": lambda story, _: None,
    "text": lambda story, _: "text",
    "bytes": lambda story, _: b"bytes",
    "file wrapper": wrapped_file,
    "impostor": lambda story, _: Impostor(story),
}
BODIES: dict[str, Callable[[Story, Any], Any]] = {
    **WHOLE,
    "number": lambda story, _: 7,
    "object": lambda story, _: object(),
    "class": lambda story, _: Body,
    "dict": lambda story, _: dict.fromkeys(story.plan.chunks),
    "bytearray": lambda story, _: bytearray(b"ab"),
    "iterator": lambda story, _: iter(story.plan.chunks),
    "map": lambda story, _: map(bytes, story.plan.chunks),
    "file": lambda story, _: File(story),
    "generator": generator,
    "iterable": lambda story, _: Body(story),
    "own iterator": lambda story, _: OwnIterator(story),
    "sized": lambda story, _: Sized(story),
    "wrongly sized": lambda story, _: WronglySized(story),
    "indexed": lambda story, _: Indexed(story),
    "wicked attributes": lambda story, _: WickedAttributes(story),
    "close is no function": lambda story, _: CloseIsNoFunction(story),
    "iter gives nothing": lambda story, _: IterGivesNothing(story),
}

_errors = st.sampled_from(ERRORS)
_good_start = st.just(("start", STATUSES[0], HEADERS[1], False))
_start = st.tuples(st.just("start"), st.sampled_from(STATUSES), st.sampled_from(HEADERS), st.booleans())
_writes = st.tuples(st.just("write"), st.binary(max_size=2) | st.sampled_from([None, "x"]))
_change = st.tuples(st.just("change"), st.sampled_from(sorted(CHANGES)))
_raise = st.tuples(st.just("raise"), _errors)
_steps = st.lists(_good_start | _start | _writes | _change | _raise, max_size=3).map(tuple)
_orderly = st.tuples(_good_start) | st.tuples(_good_start, _change)
_chunks = st.binary(max_size=3) | st.binary(max_size=3) | st.sampled_from([None, "x", 5])
plans = st.builds(
    Plan,
    call=_orderly | _orderly | _steps,
    body=st.just(()) | st.tuples(_change) | _steps,
    kind=st.sampled_from(sorted(BODIES)),
    chunks=st.lists(_chunks, max_size=3).map(tuple),
    fails_at=st.none() | st.none() | st.sampled_from(["iter", "next 0", "next 1", "end", "close", "length"]),
    error=_errors,
    takes=st.none() | st.none() | st.integers(0, 3),
    closes=st.sampled_from([1, 1, 1, 0, 2]),
)


class Server:
    """Calls, iterates and closes, strictly by PEP 3333 where that says what a server has to refuse."""

    def __init__(self, story: Story) -> None:
        self.story = story
        self.has_started = False
        self.has_sent = False
        self.headers: Any = None

    def note(self, *event: Any) -> None:
        self.story.events.append(event)

    def start_response(self, status: Any, headers: Any, exc_info: Any = None, /) -> Any:
        self.note("started", status, headers and list(headers), exc_info and exc_info[0])
        if exc_info:
            if self.has_sent:
                raise exc_info[1].with_traceback(exc_info[2])
        elif self.has_started:
            raise AssertionError("started twice")
        if type(status) is not str:
            raise AssertionError("a status is text")
        self.has_started = True
        # Not a copy: what is in it when they are sent is sent.
        self.headers = headers
        return self.write

    def write(self, chunk: Any) -> None:
        self.note("sent", chunk)
        if type(chunk) is not bytes:
            raise AssertionError("a chunk is bytes")
        if not self.has_started:
            raise AssertionError("not started")
        self.send_headers()

    def send_headers(self) -> None:
        if not self.has_sent:
            self.note("sent headers", self.headers and list(self.headers))
            self.has_sent = True

    def serve(self, application: Any, request: Any) -> Any:
        """What the application, wrapped or not, gave to the server."""
        plan = self.story.plan
        result: Any = None
        try:
            result = application(request, self.start_response)
            self.note("returned")
            try:
                self.note("length is", len(result))
            except TypeError:
                self.note("no length")
            if plan.takes is None or plan.takes:
                for number, chunk in enumerate(result, 1):
                    self.write(chunk)
                    if number == plan.takes:
                        break
            if self.has_started:
                self.send_headers()
            self.note("taken")
        except BaseException as error:
            self.note("raised", type(error), error.args)
        for _ in range(plan.closings):
            try:
                if hasattr(result, "close"):
                    result.close()
            except BaseException as error:
                self.note("close raised", type(error), error.args)
        return result


class Current:
    """The application of the story that is told just now."""

    def __init__(self) -> None:
        self.story: Any = None

    def __call__(self, request: Any, start_response: Any) -> Any:
        return self.story.application(request, start_response)


def request() -> Any:
    made = environ()
    made["wsgi.file_wrapper"] = FileWrapper
    return made


#: What is armed; none of it strikes within an hour.
ACTIONS: dict[str, dict[str, Any]] = {
    "none": {},
    "log": {"harakiri": 3600, "harakiri_action": "log"},
    "kill": {"harakiri": 3600, "harakiri_action": "kill"},
    "raise": {"harakiri": 3600, "harakiri_action": "raise"},
    "log by path": {"harakiri": {"/": 3600, "/none": None}},
    "kill by callable": {"harakiri": lambda _: 3600, "harakiri_action": "kill"},
    "raise by callable": {"harakiri": lambda _: 3600, "harakiri_action": "raise"},
}
HOLDS_BACK = {"raise", "raise by callable"}


@pytest.fixture
def unclosed_bodies(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a server forgot to close is closed when it is collected; where that is to fail, Python only tells of it."""
    tell = sys.unraisablehook

    def tell_of_others(unraisable: sys.UnraisableHookArgs) -> None:
        if getattr(unraisable.exc_value, "args", None) != ("close",):
            tell(unraisable)

    monkeypatch.setattr(sys, "unraisablehook", tell_of_others)
    yield
    gc.collect()


@pytest.fixture(
    params=[pytest.param(action, marks=[needs_raise] * (action in HOLDS_BACK)) for action in sorted(ACTIONS)]
)
def armed(
    unclosed_bodies: None, request: pytest.FixtureRequest, base: str
) -> Iterator[tuple[str, Current, TracebackerMiddleware]]:
    """An application that can be exchanged, wrapped once."""
    faults.forget()
    current = Current()
    yield request.param, current, TracebackerMiddleware(current, base, **ACTIONS[request.param])
    # A fault of ours would have been swallowed.
    assert faults.count() == 0


def told(plan: Plan, wrap: Callable[[Current], Any]) -> tuple[Story, Any]:
    story, current = Story(plan), Current()
    current.story = story
    return story, Server(story).serve(wrap(current), request())


def in_flight() -> set[tuple[int | None, float]]:
    return {
        (core.number, core.started) for found in agent._agents.values() for core in found.cores.all() if core.started
    }


many = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    max_examples=60 if settings().max_examples == 100 else settings().max_examples,
)


def changing(change: str, kind: str) -> Plan:
    """An orderly application, but that it changes its headers before there is a chunk: in its call, and in its body."""
    return Plan(
        call=(("start", STATUSES[0], HEADERS[1], False), ("change", change)),
        body=(("change", "append"),),
        kind=kind,
        chunks=(b"ab", b"c"),
        fails_at=None,
        error=ValueError,
        takes=None,
        closes=1,
    )


@many
@given(plans=st.lists(plans, min_size=1, max_size=3))
@example(plans=[changing(change, kind) for change in CHANGES for kind in ("list", "generator", "iterable")])
def test_all_that_happens_happens_as_without_us(
    armed: tuple[str, Current, TracebackerMiddleware], base: str, plans: list[Plan]
) -> None:
    """Calls, chunks, lengths, exceptions and closes: the same ones, in the same order; whole bodies are the very
    objects.
    """
    action, current, wrapped = armed
    # What an example before this one left, when Hypothesis keeps its exception.
    earlier = in_flight()
    for plan in plans:
        plain, _ = told(plan, lambda current: current)
        story = current.story = Story(plan)
        result = Server(story).serve(wrapped, request())
        second_closes = plan.closes > 1 and plan.kind not in WHOLE
        if action not in HOLDS_BACK and not second_closes:
            assert story.events == plain.events
            if plan.kind in WHOLE and result is not None:
                assert result is story.returned
        # With ``raise`` a server refuses a wrong start_response() when there is a body already, which is closed then.
        elif plain.returned is not None or story.returned is None:
            closes = plain.events.count(("close",))
            assert story.events.count(("close",)) == (min(closes, 1) if second_closes else closes)
        # What a server forgot to close ends when it is collected.
        del result, story
        current.story = None
    if not in_flight() <= earlier:
        drop_what_nobody_has()
    if all(plan.closings for plan in plans):
        assert in_flight() <= earlier
    else:
        gc.collect()
        assert len(requests_in(snapshot(base))) <= len(earlier)


class Wire(SimpleHandler):
    """The standard library's own server, without a network."""

    server_software = "test"

    def __init__(self) -> None:
        self.output = io.BytesIO()
        made = request()
        super().__init__(io.BytesIO(), self.output, io.StringIO(), made, multithread=False, multiprocess=False)

    def log_exception(self, exc_info: Any) -> None:
        pass


def on_the_wire(application: Any) -> bytes:
    """All bytes of a response, but for the time of day."""
    wire = Wire()
    raised = b""
    try:
        wire.run(application)
    except BaseException as error:
        raised = repr(type(error)).encode()
    return re.sub(rb"(?m)^Date: .*\r$", b"Date:\r", wire.output.getvalue(), count=1) + raised


#: Its ``iter`` ends with what ends a loop.
ITER_STOPS = Plan(
    call=(("start", STATUSES[0], HEADERS[1], False),),
    body=(),
    kind="iterable",
    chunks=(b"never",),
    fails_at="iter",
    error=StopIteration,
    takes=None,
    closes=1,
)


@many
@given(plan=plans)
@example(plan=ITER_STOPS)
@example(plan=changing("append", "list"))
@example(plan=changing("clear", "generator"))
def test_the_client_reads_what_it_reads_without_us(
    armed: tuple[str, Current, TracebackerMiddleware], plan: Plan
) -> None:
    """Byte for byte what the standard library's handler sends, and the body is closed as often.

    That handler keeps the application's list of headers. With ``raise`` the response is held back until there is a
    chunk, and then begun with the headers as they were when the application called start_response().
    """
    action, current, wrapped = armed
    plain = current.story = Story(plan, changes_headers=action not in HOLDS_BACK)
    expected = on_the_wire(current)
    story = current.story = Story(plan)
    assert on_the_wire(wrapped) == expected
    # With ``raise`` a server refuses a wrong start_response() when there is a body already, which is closed then.
    if plain.returned is not None or story.returned is None:
        assert story.events.count(("close",)) == plain.events.count(("close",))


@pytest.fixture
def quiet_validator(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The validator's iterators complain when they are collected, those that were refused in the making by a fault of
    theirs.
    """
    # Not deleted: what PyPy is given as __del__ when the class exists, it does not call.
    monkeypatch.setattr(IteratorWrapper, "__del__", lambda _: None)
    yield
    gc.collect()


@many
# The validator compares what it is given with False, which only the application's own object can refuse.
@given(plan=plans.filter(lambda plan: plan.kind != "wicked attributes" and plan.closes == 1))
@pytest.mark.filterwarnings("ignore::wsgiref.validate.WSGIWarning")
def test_the_referee_says_what_it_says_without_us(
    armed: tuple[str, Current, TracebackerMiddleware], quiet_validator: None, plan: Plan
) -> None:
    """An application that wsgiref.validate passes is passed through us, and one that it refuses is refused."""
    action, current, wrapped = armed
    plain = current.story = Story(plan)
    Server(plain).serve(validator(current), request())
    story = current.story = Story(plan)
    Server(story).serve(validator(wrapped), request())
    if action not in HOLDS_BACK:
        assert kinds(story.events) == kinds(plain.events)


def kinds(events: Events) -> Events:
    """Without the words of exceptions: the validator's have addresses in them."""
    return [event[:2] if event[0].endswith("raised") else event for event in events]
