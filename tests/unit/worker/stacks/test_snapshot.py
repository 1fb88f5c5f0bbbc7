"""Snapshots: where threads stand, and which request is whose."""

from __future__ import annotations

import _thread
import contextlib
import json
import threading
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import clients
from tests.support.waiting import wait_until
from tests.unit.wsgi import environ, serve
from wsgi_tracebacker import TracebackerMiddleware
from wsgi_tracebacker.linux import proc
from wsgi_tracebacker.linux import threads as kernel_threads
from wsgi_tracebacker.model.code_ownership import CodeOwnership
from wsgi_tracebacker.model.snapshot import Counters, Snapshot, Stack, Worker
from wsgi_tracebacker.reader.survey import survey
from wsgi_tracebacker.wire import uwsgi_text as uwsgi_format
from wsgi_tracebacker.wire.documents import snapshot_json as json_format
from wsgi_tracebacker.worker.options.settings import from_options
from wsgi_tracebacker.worker.stacks import hubs, places, walk
from wsgi_tracebacker.worker.stacks.snapshot import MAX_KERNEL_VIEWS, Snapshots
from wsgi_tracebacker.worker.tracking.cores import Cores
from wsgi_tracebacker.worker.waits.sources import WaitSources

if TYPE_CHECKING:
    from collections.abc import Iterator

    from _typeshed.wsgi import StartResponse, WSGIEnvironment

    from wsgi_tracebacker.worker.tracking.core import Core


def place_one(gate: threading.Event) -> None:
    gate.wait()


def place_two(gate: threading.Event) -> None:
    gate.wait()


class Mover:
    """A thread that stands in one place, then in another."""

    def __init__(self) -> None:
        self._gates = threading.Event(), threading.Event()
        self.thread = threading.Thread(target=self._run, name="mover")
        self.thread.start()
        self.ident = self.thread.ident or 0
        wait_until(lambda: self.stands_in("place_one"), "it stands in the first place")

    def _run(self) -> None:
        place_one(self._gates[0])
        place_two(self._gates[1])

    def stands_in(self, function: str) -> bool:
        return function in [code.co_name for code, _ in walk.walk((), [self.ident])[0].get(self.ident, [])]

    def move(self) -> None:
        self._gates[0].set()
        wait_until(lambda: self.stands_in("place_two"), "it stands in the second place")

    def end(self) -> None:
        for gate in self._gates:
            gate.set()
        self.thread.join()


@pytest.fixture
def mover() -> Iterator[Mover]:
    found = Mover()
    yield found
    found.end()


@pytest.fixture
def cores() -> Cores:
    return Cores(_thread.allocate_lock)


@pytest.fixture
def taker(cores: Cores) -> Snapshots:
    return Snapshots(cores, hubs.Hubs(), places.Places(None), WaitSources(None, CodeOwnership()))


def of_thread(taker: Snapshots, ident: int) -> dict[str, Any]:
    """What a snapshot as JSON says of one thread."""
    document = json.loads(taker.json(Worker(number=1)))
    [thread] = [thread for thread in document["threads"] if thread["ident"] == ident]
    return dict(thread)


def functions(thread: dict[str, Any]) -> list[str]:
    """Those of this file that a thread stands in."""
    names = [frame["function"] for frame in thread["frames"] if frame["filename"] == __file__]
    return [name for name in names if name.startswith("place_")]


def test_a_thread_that_moves_is_shown_where_it_is(taker: Snapshots, mover: Mover) -> None:
    """In both formats, also if the snapshot before was of the other."""
    assert functions(of_thread(taker, mover.ident)) == ["place_one"]
    assert b"thread_id = mover filename" in taker.text()
    mover.move()
    assert b"function = place_two" in (text := taker.text())
    assert b"function = place_one" not in text
    assert functions(of_thread(taker, mover.ident)) == ["place_two"]
    assert functions(of_thread(taker, mover.ident)) == ["place_two"]


def test_parts_make_the_document(taker: Snapshots, mover: Mover, cores: Cores) -> None:
    """The parts that a worker caches make the same document as encoding the values at once."""
    core, _marker = cores.take(mover.ident, mover.thread.native_id, mover.thread)
    noted(core, "/one", 5.0)
    core.environ, core.settings, core.started = {}, from_options(), 5.0
    for _ in range(2):
        document = taker.json(Worker(number=1, requests_finished=7))
        snapshot = json_format.decode(document)
        assert json_format.encode(snapshot) == document
        assert snapshot.worker.requests_in_flight == 1
        text = uwsgi_format.encode(stack for stack in snapshot.stacks if stack.ident == mover.ident)
        assert text.removeprefix(uwsgi_format.HEADER) in taker.text()


def noted(core: Core, path: str, started: float) -> None:
    core.write_row({"REQUEST_METHOD": "GET", "SCRIPT_NAME": "", "PATH_INFO": path}, started)


def test_the_last_request_is_that_of_the_instant(
    taker: Snapshots, cores: Cores, mover: Mover, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not that of another thread, which gets the row while /proc is read."""
    core, _marker = cores.take(mover.ident, mover.thread.native_id, mover.thread)
    noted(core, "/old", 5.0)
    core.ended = 6.0
    read = kernel_threads.thread_status

    def reading(*arguments: Any) -> Any:
        noted(core, "/of/another", 7.0)
        return read(*arguments)

    monkeypatch.setattr(kernel_threads, "thread_status", reading)
    assert of_thread(taker, mover.ident)["last_request"]["path"] == "/old"


def test_a_request_that_ends_meanwhile_is_not_the_last_one_too(
    taker: Snapshots, cores: Cores, mover: Mover, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is shown as in flight, as it was when the stack was walked."""
    core, _marker = cores.take(mover.ident, mover.thread.native_id, mover.thread)
    noted(core, "/one", 5.0)
    core.environ, core.settings, core.started = {}, from_options(), 5.0
    read = kernel_threads.thread_status

    def reading(*arguments: Any) -> Any:
        core.end(6.0)
        return read(*arguments)

    monkeypatch.setattr(kernel_threads, "thread_status", reading)
    found = of_thread(taker, mover.ident)
    assert (found["request"]["path"], found["last_request"]) == ("/one", None)


@contextlib.contextmanager
def held(base: str, requests: int) -> Iterator[None]:
    """A worker that serves so many requests, one after the other begun, each of which waits for a lock."""
    gate = threading.Event()

    def application(_: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        start_response("200 OK", [])
        gate.wait()
        return []

    wrapped = TracebackerMiddleware(application, base)
    threads = [threading.Thread(target=serve, args=(wrapped, environ(f"/{number}"))) for number in range(requests)]
    try:
        for number, thread in enumerate(threads, 1):
            thread.start()
            wait_until(lambda number=number: waiting_for_a_lock() >= number, "it is there")  # type: ignore[misc]
            wait_until(lambda thread=thread: sleeps(thread.native_id), "it sleeps")  # type: ignore[misc]
        yield
    finally:
        gate.set()
        for thread in threads:
            thread.join()


def sleeps(native_id: int) -> bool:
    """Whether it has got as far as to sleep for the lock."""
    folder = f"/proc/self/task/{native_id}"
    found = proc.stat(folder)
    return found is not None and found.letter == "S" and "futex" in (proc.wait_channel(folder) or "")


def waiting_for_a_lock() -> int:
    return sum(
        code.co_name == "wait" and any(outer.co_name == "application" for outer, _ in stack)
        for stack in walk.walk(())[0].values()
        for code, _ in stack[:1]
    )


def requests_of(snapshot: Snapshot) -> list[Stack]:
    return [stack for stack in snapshot.stacks if stack.request is not None]


def test_readers_get_the_kernels_view_however_often_they_ask(base: str) -> None:
    """A list, a snapshot or another reader just before makes no difference."""
    with held(base, 8):
        for without_stacks in (False, True, False, False):
            [answer] = survey([base], without_stacks=without_stacks).answers
            assert answer.snapshot is not None
            assert answer.snapshot.worker.requests_in_flight == 8
            assert (answer.snapshot.worker.oldest_request_seconds or 0.0) > 0.0
            if not without_stacks:
                shown = requests_of(answer.snapshot)
                assert [stack.state for stack in shown] == ["S"] * 8
                assert all("futex" in (stack.wait_channel or "") for stack in shown)


def test_the_kernels_view_is_that_of_the_64_oldest_requests(base: str) -> None:
    """The CPU time is that of all."""
    with held(base, MAX_KERNEL_VIEWS + 2):
        [answer] = survey([base]).answers
    assert answer.snapshot is not None
    shown = sorted(requests_of(answer.snapshot), key=lambda stack: stack.request.age_seconds, reverse=True)  # type: ignore[union-attr]
    assert [stack.state for stack in shown] == ["S"] * 64 + [None] * 2
    assert [stack.wait_channel is None for stack in shown] == [False] * 64 + [True] * 2
    assert all(stack.cpu_seconds is not None for stack in shown)


def test_a_list_takes_no_snapshot(base: str) -> None:
    """It costs the worker no walk over its threads."""
    with held(base, 1):
        before = counters(base).snapshots
        survey([base], without_stacks=True)
        assert counters(base).snapshots == before
        survey([base])
        assert counters(base).snapshots == before + 1


def counters(base: str) -> Counters:
    return json_format.decode_worker(clients.request(f"{base}1", "/worker").body)[1]
