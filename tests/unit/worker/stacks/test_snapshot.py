"""Snapshots: what one takes from the one before, and what it must not."""

from __future__ import annotations

import _thread
import json
import threading
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.interpreters import drop_what_nobody_has
from tests.support.waiting import wait_until
from wsgi_tracebacker.model.snapshot import Worker
from wsgi_tracebacker.wire import snapshot_json as json_format
from wsgi_tracebacker.wire import uwsgi_text as uwsgi_format
from wsgi_tracebacker.worker import kernel
from wsgi_tracebacker.worker.cores import Cores
from wsgi_tracebacker.worker.settings import from_options
from wsgi_tracebacker.worker.stacks import hubs, places, snapshot, walk
from wsgi_tracebacker.worker.stacks.snapshot import Snapshots

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wsgi_tracebacker.worker.requests import Core


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
    return Snapshots(cores, hubs.Hubs(), places.Places(None), set)


def of_thread(taker: Snapshots, ident: int) -> dict[str, Any]:
    """What a snapshot as JSON says of one thread."""
    document = json.loads(taker.json(lambda in_flight: Worker(number=1, requests_in_flight=in_flight)))
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
    """What a worker puts together from frames and heads that it keeps is what the formats give for the same values."""
    core, _marker = cores.take(mover.ident, mover.thread.native_id, mover.thread)
    noted(core, "/one", 5.0)
    core.environ, core.settings, core.started = {}, from_options(), 5.0
    for _ in range(2):
        document = taker.json(lambda in_flight: Worker(number=1, requests_finished=7, requests_in_flight=in_flight))
        snapshot = json_format.decode(document)
        assert json_format.encode(snapshot) == document
        assert snapshot.worker.requests_in_flight == 1
        text = uwsgi_format.encode(stack for stack in snapshot.stacks if stack.ident == mover.ident)
        assert text.removeprefix(uwsgi_format.HEADER) in taker.text()


def test_a_thread_that_stands_still_is_shown_by_its_new_name(taker: Snapshots, mover: Mover) -> None:
    """Its frames are kept, its name is not."""
    assert of_thread(taker, mover.ident)["name"] == "mover"
    assert b"thread_id = mover filename" in taker.text()
    mover.thread.name = "settled"
    text = taker.text()
    assert (b"thread_id = mover" in text, b"thread_id = settled filename" in text) == (False, True)
    assert of_thread(taker, mover.ident)["name"] == "settled"
    assert functions(of_thread(taker, mover.ident)) == ["place_one"]


def test_a_number_that_another_thread_has_now_says_nothing_of_the_one_before(taker: Snapshots, cores: Cores) -> None:
    """Two threads that stand in the same place, one after the other on core 0."""
    movers = [Mover(), Mover()]
    try:
        for mover in movers:
            taken = cores.take(mover.ident, mover.thread.native_id, mover.thread)
            mover.thread.name = f"mover {mover.ident}"
            found = of_thread(taker, mover.ident)
            assert (found["core"], found["name"], found["native_id"], functions(found)) == (
                *(0, f"mover {mover.ident}", mover.thread.native_id),
                ["place_one"],
            )
            del taken
            drop_what_nobody_has()
    finally:
        for mover in movers:
            mover.end()


def test_two_who_look_at_once_see_each_their_own(
    taker: Snapshots, mover: Mover, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread of an aborted worker's last snapshot, and the listener's: the second one begins, the watched thread
    having moved, while the first one has walked and is being written.
    """
    kind_of = snapshot._kind
    second: list[dict[str, Any]] = []

    def interrupted(entry: Any, thread: Any) -> str:
        if entry.ident == mover.ident and not second:
            second.append({})
            mover.move()
            second[0] = of_thread(taker, mover.ident)
        return kind_of(entry, thread)

    monkeypatch.setattr(snapshot, "_kind", interrupted)
    assert functions(of_thread(taker, mover.ident)) == ["place_one"]
    assert functions(second[0]) == ["place_two"]
    assert functions(of_thread(taker, mover.ident)) == ["place_two"]


def noted(core: Core, path: str, started: float) -> None:
    core.note({"REQUEST_METHOD": "GET", "SCRIPT_NAME": "", "PATH_INFO": path}, started)


def test_the_last_request_is_that_of_the_instant(
    taker: Snapshots, cores: Cores, mover: Mover, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not that of another thread, which gets the row while /proc is read."""
    core, _marker = cores.take(mover.ident, mover.thread.native_id, mover.thread)
    noted(core, "/old", 5.0)
    core.ended = 6.0
    read = kernel.thread_statuses

    def reading(*arguments: Any) -> Any:
        noted(core, "/of/another", 7.0)
        return read(*arguments)

    monkeypatch.setattr(kernel, "thread_statuses", reading)
    assert of_thread(taker, mover.ident)["last_request"]["path"] == "/old"


def test_a_request_that_ends_meanwhile_is_not_the_last_one_too(
    taker: Snapshots, cores: Cores, mover: Mover, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is shown as in flight, as it was when the stack was walked."""
    core, _marker = cores.take(mover.ident, mover.thread.native_id, mover.thread)
    noted(core, "/one", 5.0)
    core.environ, core.settings, core.started = {}, from_options(), 5.0
    read = kernel.thread_statuses

    def reading(*arguments: Any) -> Any:
        core.end(6.0)
        return read(*arguments)

    monkeypatch.setattr(kernel, "thread_statuses", reading)
    found = of_thread(taker, mover.ident)
    assert (found["request"]["path"], found["last_request"]) == ("/one", None)
