"""Greenlets: which one runs, where the others stand, whether their hub runs, and how one is raised into."""

from __future__ import annotations

import functools
import gc
import json
import os
import re
import sys
import threading
import weakref
from typing import TYPE_CHECKING, Any

import pytest

from tests.unit.wsgi import environ, serve, snapshot
from wsgi_tracebacker import HarakiriTimeout, TracebackerMiddleware
from wsgi_tracebacker.model.code_ownership import CodeOwnership
from wsgi_tracebacker.model.report import OtherRequest
from wsgi_tracebacker.model.snapshot import HubState
from wsgi_tracebacker.text.folding import folded
from wsgi_tracebacker.worker import agent
from wsgi_tracebacker.worker.deadlines.hub_watch import HubWatch
from wsgi_tracebacker.worker.deadlines.make_report import ReportMaker
from wsgi_tracebacker.worker.deadlines.publisher import Publisher
from wsgi_tracebacker.worker.deadlines.raising.interrupt import Throw
from wsgi_tracebacker.worker.deadlines.recording.garbage import GarbageWatch
from wsgi_tracebacker.worker.deadlines.thresholds import NEVER
from wsgi_tracebacker.worker.options.settings import from_options
from wsgi_tracebacker.worker.stacks import greenlets, places, walk
from wsgi_tracebacker.worker.stacks.hubs import Hub, Hubs
from wsgi_tracebacker.worker.threads import current_greenlet
from wsgi_tracebacker.worker.tracking.core import Core
from wsgi_tracebacker.worker.tracking.cores import Cores
from wsgi_tracebacker.worker.tracking.describe import describe
from wsgi_tracebacker.worker.waits.sources import WaitSources

if sys.implementation.name != "cpython":
    pytest.skip("gevent is compiled for CPython only", allow_module_level=True)

import gevent
import gevent.event
import greenlet

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from _typeshed.wsgi import StartResponse, WSGIEnvironment

    from wsgi_tracebacker.worker.reporting.reporter import Entry


@pytest.fixture
def hub() -> Iterator[Any]:
    """A hub in this thread, which has none before and none after."""
    yield gevent.get_hub()
    gevent.get_hub().destroy(destroy_loop=True)


class FakeHub:
    """A hub that calls what it was asked to when the test says so."""

    def __init__(self) -> None:
        self.asked: list[Callable[[], object]] = []
        self.greenlet = greenlet.greenlet(lambda: None)
        self.hub = Hub("gevent", threading.get_ident(), threading.get_native_id(), self.greenlet, self.asked.append)

    def run(self) -> None:
        while self.asked:
            self.asked.pop(0)()


def core_of(served: greenlet.greenlet, ident: int | None = None) -> Core:
    core = Core(0, ident or threading.get_ident(), threading.get_native_id(), None)
    core.greenlet = weakref.ref(served)
    return core


def functions(stack: walk.RawStack) -> list[str]:
    return [code.co_name for code, _ in stack]


def waits_in_the_middle(body: Callable[[], object] = lambda: None) -> None:
    body()
    greenlet.getcurrent().parent.switch()


def suspended() -> greenlet.greenlet:
    made = greenlet.greenlet(waits_in_the_middle)
    made.switch()
    return made


# --- who serves


def test_an_ordinary_thread_has_no_greenlet() -> None:
    """The greenlet that every thread has of its own does not count where nothing is patched."""
    assert current_greenlet.current() is None
    assert type(current_greenlet.local_storage()).__module__ == "_thread"


def test_code_of_a_library_that_uses_greenlets_for_itself_is_no_server() -> None:
    """SQLAlchemy runs ordinary code in bare greenlets: without a hub there is nothing that others wait in."""
    seen: list[object] = []
    greenlet.greenlet(lambda: seen.append(current_greenlet.current())).switch()
    assert seen == [None]


def test_each_greenlet_has_a_storage_of_its_own(hub: object) -> None:
    """Also where nothing is patched, as under gevent's own server."""
    storage: list[Any] = []

    def note(name: str) -> str | None:
        if not storage:
            storage.append(current_greenlet.local_storage())
        before = getattr(storage[0], "name", None)
        storage[0].name = name
        gevent.sleep(0)
        assert storage[0].name == name
        return before

    jobs = [gevent.spawn(note, name) for name in "ab"]
    gevent.joinall(jobs, raise_error=True)
    assert [job.value for job in jobs] == [None, None]


def hold_until(event: gevent.event.Event) -> Callable[[WSGIEnvironment, StartResponse], list[bytes]]:
    def application(_: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        event.wait()
        start_response("200 OK", [])
        return [b""]

    return application


def snapshot_from_elsewhere(base: str) -> dict[str, Any]:
    """Asked by a thread without a hub, while this one runs it."""
    found: list[dict[str, Any]] = []
    thread = threading.Thread(target=lambda: found.append(snapshot(base)))
    thread.start()
    while thread.is_alive():
        gevent.sleep(0.005)
    return found[0]


def test_every_suspended_greenlet_that_serves_is_shown(hub: object, base: str) -> None:
    """With its request and its stack, under a name of its own; the hub with what it does."""
    event = gevent.event.Event()
    application = TracebackerMiddleware(hold_until(event), base)
    jobs = [gevent.spawn(serve, application, environ(f"/{name}")) for name in "abc"]
    gevent.sleep(0)
    document = snapshot_from_elsewhere(base)
    event.set()
    gevent.joinall(jobs, raise_error=True)
    serving = [thread for thread in document["threads"] if thread["request"] is not None]
    assert [thread["request"]["path"] for thread in serving] == ["/a", "/b", "/c"]
    assert [thread["name"] for thread in serving] == [f"WSGIWorker1Core{number}" for number in range(3)]
    for thread in serving:
        assert (thread["kind"], thread["greenlet"], thread["state"]) == ("greenlet", "suspended", None)
        assert "application" in [frame["function"].split(".")[-1] for frame in thread["frames"]]
    [its_hub] = [thread for thread in document["threads"] if thread["kind"] == "hub"]
    assert its_hub["hub"]["library"] == "gevent"
    assert its_hub["hub"]["state"] in ("idle", "running")
    assert threading.main_thread().name == "MainThread"


def test_the_core_of_a_greenlet_that_has_ended_is_free(hub: object, base: str) -> None:
    """A greenlet for each connection takes no new number each time, and nothing of it stays."""
    event = gevent.event.Event()
    event.set()
    application = TracebackerMiddleware(hold_until(event), base)
    known = len(threading._active)  # type: ignore[attr-defined]
    for _ in range(50):
        gevent.spawn(serve, application).join()
        gc.collect()
    [own] = agent._agents.values()
    assert {core.number for core in own.cores.all()} <= {0, 1}
    assert own.cores.finished() == 50
    assert len(threading._active) == known  # type: ignore[attr-defined]


def test_a_server_that_patches_after_the_start_gets_a_core_for_each_greenlet(hub: object, base: str) -> None:
    """What was bound for threads is bound again: a thread's storage would be one for all of its greenlets."""
    event = gevent.event.Event()
    event.set()
    application = TracebackerMiddleware(hold_until(event), base)
    serve(application)
    event.clear()
    jobs = [gevent.spawn(serve, application, environ(f"/{name}")) for name in "ab"]
    gevent.sleep(0)
    document = snapshot_from_elsewhere(base)
    event.set()
    gevent.joinall(jobs, raise_error=True)
    [own] = agent._agents.values()
    assert own.admission.serves_greenlets
    # The first one took the core of its thread, which nobody could know to be a greenlet's.
    paths = {thread["request"]["path"] for thread in document["threads"] if thread["request"]}
    assert "/b" in paths


# --- stacks


def test_a_suspended_greenlet_shows_where_it_waits() -> None:
    """Its own stack, not that of its thread."""
    waiting = suspended()
    core = core_of(waiting)
    walked = greenlets.walk_with([core], ())
    assert walked.state_of(core) == "suspended"
    assert functions(walked.stack_of(core)) == ["waits_in_the_middle"]
    waiting.switch()


def test_the_greenlet_that_runs_has_the_stack_of_its_thread() -> None:
    """And the others have theirs, at the same instant."""
    waiting = suspended()
    ident = threading.get_ident()
    seen: list[walk.Walked] = []
    cores = [core_of(waiting)]

    def looks_from_another_thread() -> None:
        thread = threading.Thread(
            target=lambda: seen.append(greenlets.walk_with(cores, (threading.get_ident(),), (ident,)))
        )
        thread.start()
        thread.join()

    running = greenlet.greenlet(lambda: waits_in_the_middle(looks_from_another_thread))
    cores.append(core_of(running))
    running.switch()
    [walked] = seen
    assert [walked.state_of(core) for core in cores] == ["suspended", "running"]
    assert functions(walked.stack_of(cores[0])) == ["waits_in_the_middle"]
    assert "looks_from_another_thread" in functions(walked.stack_of(cores[1]))
    for one in (waiting, running):
        one.switch()


def test_a_greenlet_that_has_ended_has_no_stack() -> None:
    """Nor one that is gone."""
    ended = greenlet.greenlet(lambda: None)
    ended.switch()
    core, gone = core_of(ended), core_of(greenlet.greenlet(lambda: None))
    walked = greenlets.walk_with([core, gone], ())
    assert walked.stack_of(core) == walked.stack_of(gone) == []


def test_stacks_are_whole_while_greenlets_switch_all_the_time(hub: object) -> None:
    """A look from another thread finds each greenlet in its own function and nowhere else."""
    cores: list[Core] = []
    stopped = threading.Event()
    faults: list[list[str]] = []
    looks = 0

    def first() -> None:
        while not stopped.is_set():
            gevent.sleep(0)

    def second() -> None:
        while not stopped.is_set():
            gevent.sleep(0)

    ident = threading.get_ident()

    def look() -> None:
        nonlocal looks
        while looks < 500:
            walked = greenlets.walk_with(cores, (), (ident,))
            looks += 1
            for core, name in zip(cores, ("first", "second"), strict=True):
                own = set(functions(walked.stack_of(core))) & {"first", "second"}
                if own and own != {name}:
                    faults.append(functions(walked.stack_of(core)))
        stopped.set()

    jobs = [gevent.spawn(first), gevent.spawn(second)]
    cores += [core_of(job, ident) for job in jobs]
    thread = threading.Thread(target=look)
    thread.start()
    gevent.joinall(jobs, raise_error=True)
    thread.join()
    assert looks == 500
    assert len(faults) <= 2, faults


# --- hubs


def test_a_hub_that_answers_is_not_silent() -> None:
    """One that was asked and has not answered yet is, since then."""
    fake = FakeHub()
    assert fake.hub.silent_seconds(10.0) == 0.0
    fake.hub.ask(10.0)
    fake.hub.ask(11.0)
    assert fake.hub.silent_seconds(11.5) == 1.5
    assert fake.hub.state(11.5) == HubState("gevent", "blocked", 1.5)
    fake.run()
    assert fake.hub.silent_seconds(12.0) == 0.0
    assert fake.hub.state(12.0) == HubState("gevent", "running", None)


def test_a_hub_that_is_gone_owes_nothing() -> None:
    """A worker that ends destroys it."""

    def gone(_: object) -> None:
        raise AttributeError("no loop")

    lost = Hub("gevent", 1, 1, greenlet.greenlet(lambda: None), gone)
    lost.ask(1.0)
    assert lost.is_gone
    assert lost.silent_seconds(5.0) == 0.0


def test_the_hub_of_a_greenlet_is_found_and_answers(hub: object) -> None:
    """A thread that has none of its own asks it, and it answers as soon as it runs."""
    hubs = Hubs()

    def find() -> Hub | None:
        return hubs.note()

    found = gevent.spawn(find).get()
    assert found is not None
    assert found.library == "gevent"
    thread = threading.Thread(target=lambda: found.ask(1.0))
    thread.start()
    thread.join()
    assert found.asked_at == 1.0
    gevent.sleep(0.01)
    assert found.asked_at is None
    assert hubs.all() == [found]
    hubs.close()
    assert hubs.all() == []


class Said:
    """A reporter that keeps what it is given."""

    def __init__(self) -> None:
        self.messages: list[str] = []
        self.contents: list[dict[str, Any]] = []

    def post(self, entry: Entry) -> Entry:
        assert entry.logger == "wsgi_tracebacker.hub"
        json.dumps(entry.content, allow_nan=False)
        self.messages.append(entry.text().removeprefix("hub: "))
        self.contents.append(entry.content or {})
        return entry


def watching(fake: FakeHub, in_flight: list[tuple[Core, OtherRequest]], limit: float = 1.0) -> tuple[HubWatch, Said]:
    said = Said()
    hubs = Hubs()
    hubs._hubs[fake.hub.ident] = fake.hub
    cores = Cores(threading.Lock)
    cores._taken.update(enumerate(core for core, _ in in_flight))
    fold = functools.partial(folded, ownership=CodeOwnership())
    publisher = Publisher(said, lambda: None, lambda: None, fold)  # type: ignore[arg-type]
    ownership = CodeOwnership()
    maker = ReportMaker(
        cores, hubs, places.Places(None), WaitSources(None, ownership), ownership, lambda: 3, GarbageWatch()
    )
    # Their ages are part of what the tests expect.
    maker._in_flight = in_flight
    maker._tokens = {core: core.started for core, _ in in_flight}
    watch = HubWatch(hubs, maker, publisher)
    assert watch.watch(limit)
    return watch, said


def in_flight(path: str, core: Core) -> tuple[Core, OtherRequest]:
    core.settings = from_options(environment={})
    core.environ = environ(path)
    core.started = 1.0
    core.write_row(core.environ, 1.0)
    request = describe(core, core.started, 2.5, 1000.0)
    assert request is not None
    return core, OtherRequest(core.number, request)


def test_a_blocked_hub_is_reported_once_with_the_request_that_blocks_it() -> None:
    """And once more when it runs again, with how long it was blocked."""
    fake = FakeHub()
    waiting = suspended()
    ident = threading.get_ident()
    seen: list[tuple[HubWatch, Said]] = []

    def blocks_the_hub() -> None:
        here = [
            in_flight("/waits", core_of(waiting, ident)),
            in_flight("/blocks", core_of(greenlet.getcurrent(), ident)),
        ]
        watch, said = watching(fake, here)

        def look() -> None:
            assert watch.check(10.0, 0.0) == 10.5
            assert said.messages == []
            for now in (10.5, 11.0, 11.5):
                watch.check(now, 0.0)

        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
        seen.append((watch, said))

    blocking = greenlet.greenlet(blocks_the_hub)
    blocking.switch()
    [(watch, said)] = seen
    [report] = said.messages
    assert report.splitlines()[0] == (
        f"gevent's hub is blocked for 1.0 s at least by GET /blocks 1.5 s, worker 3 core 0, pid {os.getpid()}: it does"
        " not give way, and all other greenlets wait"
    )
    assert "blocks_the_hub\n" in report
    assert re.search(r"\n1 other request in flight .*:\n  GET /waits 1.5 s \(core 0\)  stacks/test_\w+.py:\d+ ", report)
    assert said.contents[0]["request"]["path"] == "/blocks"
    fake.run()
    watch.check(13.0, 0.0)
    assert said.messages[1].startswith("gevent's hub runs again, after it was blocked for 3.0 s by GET /blocks")
    assert said.contents[1]["kind"] == "hub-runs-again"
    assert len(said.messages) == 2
    waiting.switch()


def test_time_in_which_python_could_not_run_is_not_held_against_a_hub() -> None:
    """It was asked before, and could not answer: it has its whole limit from then on."""
    fake = FakeHub()
    watch, said = watching(fake, [])
    watch.check(10.0, 0.0)
    watch.check(20.0, 9.5)
    watch.check(20.5, 0.0)
    assert said.messages == []
    watch.check(21.0, 0.0)
    [report] = said.messages
    assert report.startswith("gevent's hub is blocked for 11.0 s at least by a greenlet that serves no request")


def test_the_same_block_again_is_counted() -> None:
    """A page that blocks for every client is one report a minute."""
    fake = FakeHub()
    watch, said = watching(fake, [])
    for start in (10.0, 20.0, 30.0):
        watch.check(start, 0.0)
        watch.check(start + 1.0, 0.0)
        fake.run()
        watch.check(start + 2.0, 0.0)
        fake.run()
    assert len(said.messages) == 2
    assert "by a greenlet that serves no request" in said.messages[0]
    watch._publisher.log_summaries(100.0)
    assert said.messages[2].startswith(
        "2 more blocks in the last minute at the same place as a greenlet that serves no"
    )


def test_a_hub_that_only_works_much_is_not_blocked() -> None:
    """One that answers each time, late, but within the limit."""
    fake = FakeHub()
    watch, said = watching(fake, [])
    for tenth in range(100, 200):
        watch.check(tenth / 10, 0.0)
        if tenth % 9 == 0:
            fake.run()
    assert said.messages == []


def test_hubs_are_not_asked_if_the_option_is_off() -> None:
    """``hub_blocked=0``."""
    fake = FakeHub()
    hubs = Hubs()
    hubs._hubs[fake.hub.ident] = fake.hub
    watch = HubWatch(hubs, None, None)  # type: ignore[arg-type]
    assert watch.check(1.0, 0.0) == NEVER
    assert fake.asked == []


# --- raising


def raised_into(fake: FakeHub, core: Core) -> Throw:
    core.started = core.inside_token = 5.0
    throw = Throw(core, 5.0)
    assert throw.begin(fake.hub)
    return throw


def test_a_greenlet_that_waits_is_thrown_into_by_its_hub() -> None:
    """Where it waits, and once."""
    caught: list[str] = []

    def waits() -> None:
        try:
            greenlet.getcurrent().parent.switch()
        except HarakiriTimeout:
            caught.append("here")

    waiting = greenlet.greenlet(waits)
    waiting.switch()
    fake = FakeHub()
    core = core_of(waiting)
    throw = raised_into(fake, core)
    assert not throw.raise_into_running()
    fake.run()
    assert caught == ["here"]
    assert throw.is_raised
    assert throw.is_over


def test_a_request_that_ended_before_its_hub_ran_is_left_alone() -> None:
    """Nor is the next one of its greenlet, nor what the server does between them."""
    waiting = suspended()
    fake = FakeHub()
    for change in ("inside_token", "started"):
        core = core_of(waiting)
        throw = raised_into(fake, core)
        setattr(core, change, 0.0 if change == "inside_token" else 6.0)
        fake.run()
        assert (throw.is_raised, throw.is_over) == (False, True)
    assert waiting
    waiting.switch()
    assert waiting.dead


def test_a_greenlet_that_is_not_in_the_application_waits_for_its_next_chunk() -> None:
    """It is marked, and the hub is not asked."""
    waiting = suspended()
    fake = FakeHub()
    core = core_of(waiting)
    core.started = 5.0
    assert not Throw(core, 5.0).begin(fake.hub)
    assert core.interrupt_token == 5.0
    assert fake.asked == []
    waiting.switch()
