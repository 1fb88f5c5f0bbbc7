"""The hooks for gunicorn, called as gunicorn calls them, with stand-ins for its objects."""

from __future__ import annotations

import dataclasses
import functools
import os
import sys
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import gunicorn.config
import pytest
from gunicorn.workers.gthread import ThreadWorker
from gunicorn.workers.sync import SyncWorker

from tests.programs import unwrapped
from tests.servers import asking
from tests.support.interpreters import needs_raise
from tests.support.logs import messages
from tests.unit.worker.blackbox.test_predecessor import DEAD, leave
from tests.unit.wsgi import environ, serve
from wsgi_tracebacker import ConfigurationError, TracebackerMiddleware
from wsgi_tracebacker.middleware import settings_of
from wsgi_tracebacker.servers import gunicorn as hooks
from wsgi_tracebacker.worker import agent
from wsgi_tracebacker.worker.options.settings import from_options
from wsgi_tracebacker.worker.threads import primitives

if TYPE_CHECKING:
    from collections.abc import Callable

    from wsgi_tracebacker.worker.options.settings import Settings


class _Log:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def error(self, message: str, *arguments: object, **_: object) -> None:
        self.lines.append(message % arguments)


class _OwnSyncWorker(SyncWorker):  # type: ignore[misc]
    """What a project derives."""


class _Framework:
    """What Flask's own way of wrapping leaves outside."""

    def __init__(self, wsgi_app: Any) -> None:
        self.wsgi_app = wsgi_app

    def __call__(self, *arguments: Any) -> Any:
        return self.wsgi_app(*arguments)


class _Foreign:
    def handle_abort(self) -> None: ...


def worker_of(kind: Any, app: object = unwrapped.application, *, timeout: float = 30, preloaded: bool = False) -> Any:
    """A worker of gunicorn as it is when it was just forked."""
    worker = kind.__new__(kind)
    worker.cfg = SimpleNamespace(
        timeout=timeout, proc_name="shop:app", worker_abort=hooks.worker_abort, child_exit=hooks.child_exit
    )
    worker.app = SimpleNamespace(wsgi=lambda: app, app_uri="shop:app", callable=app if preloaded else None)
    worker.log = _Log()
    worker.tmp = SimpleNamespace(last_update=time.monotonic)
    if kind is _Foreign:
        worker.load_wsgi = lambda: setattr(worker, "wsgi", app)
    return worker


def limit_of(worker: Any, settings: Settings) -> float | None:
    """The limit of a request that the worker has just accepted."""
    limit = hooks._limit_before_timeout(worker, settings)
    return None if limit is None else limit({})


def test_gunicorn_takes_nothing_but_the_hooks() -> None:
    """No other name of the module is one of gunicorn's settings, and none is anything else but a function of ours."""
    settings = gunicorn.config.make_settings()
    assert {name for name in vars(hooks) if name in settings} == set(hooks.__all__)
    for name in hooks.__all__:
        settings[name].set(getattr(hooks, name))


def test_nothing_is_started_before_the_application_is_loaded(base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """gunicorn sets the worker's user and environment, and gevent's worker patches, after post_fork."""
    worker = worker_of(SyncWorker)
    hooks.post_fork(None, worker)
    assert agent.running() is None
    monkeypatch.setenv("WSGI_TB_SOCKET", base)
    seen: list[list[str]] = []

    def load() -> object:
        seen.append(asking.files(base))
        return unwrapped.application

    worker.app.wsgi = load
    worker.load_wsgi()
    assert seen == [["1", "1.worker"]]
    assert isinstance(worker.wsgi, TracebackerMiddleware)
    assert asking.ask(base, 1, "/worker")["worker"]["application"] == "shop:app"


def test_a_preloaded_application_that_is_wrapped_says_where_to_listen(base: str) -> None:
    """From the start: there is no time at another place."""
    worker = worker_of(SyncWorker, TracebackerMiddleware(unwrapped.application, socket=base), preloaded=True)
    hooks.post_fork(None, worker)
    worker.load_wsgi()
    assert asking.files(base) == ["1", "1.worker"]
    assert isinstance(worker.wsgi, TracebackerMiddleware)


def test_a_worker_that_calls_something_else_has_its_application_left_alone(
    base: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An ASGI application in a WSGI middleware would be broken; that its requests are not seen is said."""
    monkeypatch.setenv("WSGI_TB_SOCKET", base)
    worker = worker_of(_Foreign)
    hooks.post_fork(None, worker)
    worker.load_wsgi()
    assert worker.wsgi is unwrapped.application
    assert asking.files(base) == ["1", "1.worker"]
    assert any("under gunicorn's _Foreign the application is not wrapped" in message for message in messages(caplog))


def test_what_the_import_raises_comes_through(base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """gunicorn knows what to do with it."""
    monkeypatch.setenv("WSGI_TB_SOCKET", base)
    worker = worker_of(SyncWorker)
    error = RuntimeError("of the application")

    def fail() -> None:
        raise error

    worker.app.wsgi = fail
    hooks.post_fork(None, worker)
    with pytest.raises(RuntimeError) as raised:
        worker.load_wsgi()
    assert raised.value is error


def test_an_option_that_can_never_work_is_the_workers_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is where the code has the middleware."""
    monkeypatch.setenv("WSGI_TB_HARAKIRI", "soon")
    worker = worker_of(SyncWorker)
    hooks.post_fork(None, worker)
    with pytest.raises(ConfigurationError):
        worker.load_wsgi()


@pytest.mark.parametrize(
    ("kind", "timeout", "options", "limit"),
    [
        (SyncWorker, 30, {}, 29.0),
        (SyncWorker, 2, {}, 1.5),
        (SyncWorker, 0, {}, None),
        (_OwnSyncWorker, 30, {}, 29.0),
        (ThreadWorker, 30, {}, None),
        (SyncWorker, 90, {}, 89.0),
        (SyncWorker, 30, {"harakiri": 10.0}, 10.0),
        (SyncWorker, 30, {"harakiri": 60.0}, 29.0),
        pytest.param(SyncWorker, 30, {"harakiri_action": "raise"}, None, marks=needs_raise),
        (SyncWorker, 30, {"harakiri_action": "kill"}, None),
    ],
)
def test_the_limit_before_the_time_out(
    kind: type, timeout: float, options: dict[str, Any], limit: float | None
) -> None:
    """Only where the time-out looks at requests, and where nobody asked for something else that comes first."""
    settings: Settings = from_options(**options)
    assert limit_of(worker_of(kind, timeout=timeout), settings) == limit


@pytest.mark.parametrize("clock", [time.monotonic, time.time])
@pytest.mark.parametrize(
    ("silent_seconds", "options", "limit"),
    [
        (6.0, {}, 23.0),
        (28.0, {}, 1.5),
        # The master has yet to see it.
        (30.5, {}, 0.05),
        (6.0, {"harakiri": 10.0}, 10.0),
        (25.0, {"harakiri": 10.0}, 4.0),
    ],
)
def test_the_limit_counts_from_the_heartbeat(
    silent_seconds: float, options: dict[str, Any], limit: float, clock: Callable[[], float]
) -> None:
    """As the time-out does, by gunicorn's old clock and by its new one: the request may have come late on its
    connection.
    """
    worker = worker_of(SyncWorker)
    worker.tmp.last_update = lambda: clock() - silent_seconds
    assert limit_of(worker, from_options(**options)) == pytest.approx(limit, abs=0.1 if limit > 1 else 0)


def test_a_heartbeat_that_cannot_be_read_is_one_of_now() -> None:
    """The application may have closed gunicorn's file, as all that is not its own."""
    worker = worker_of(SyncWorker)
    worker.tmp.last_update = functools.partial(os.fstat, -1)
    assert limit_of(worker, from_options()) == 29.0


def test_no_limit_is_one_that_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """An operator who says 0 wants no reports; an empty variable is none."""
    for text, limit in (("0", None), (" ", 29.0)):
        monkeypatch.setenv("WSGI_TB_HARAKIRI", text)
        assert limit_of(worker_of(SyncWorker), from_options()) == limit


def test_the_limit_reaches_the_middleware(base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if it had been given to it."""
    monkeypatch.setenv("WSGI_TB_SOCKET", base)
    worker = worker_of(SyncWorker, timeout=8)
    hooks.post_fork(None, worker)
    worker.load_wsgi()
    settings = settings_of(worker.wsgi)
    assert settings is not None
    assert settings.decide is not None
    assert (settings.decide({}), settings.harakiri_action) == (7.0, "log")


@pytest.mark.parametrize(
    ("options", "limit"),
    [
        ({}, 7.0),
        ({"harakiri": 20}, None),
        ({"harakiri": 3}, None),
        ({"harakiri": 0}, None),
        ({"harakiri": {"/": 20}}, None),
        ({"harakiri_action": "kill"}, None),
    ],
    ids=["no limit", "one", "a shorter one", "none wanted", "one by path", "kill"],
)
@pytest.mark.parametrize("way", ["by hand", "Flask's way"])
def test_the_limit_of_an_application_that_wraps_itself(
    options: dict[str, Any], limit: float | None, way: str, base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it has none, it has the one before the time-out, and is else as its own code wants it; where it has one,
    nothing is changed.
    """
    monkeypatch.setenv("WSGI_TB_SOCKET", base)
    app: Any = TracebackerMiddleware(unwrapped.application, base, show_query=True, application="mine", **options)
    if way != "by hand":
        app = _Framework(app)
    own = settings_of(app)
    worker = worker_of(SyncWorker, app, timeout=8)
    hooks.post_fork(None, worker)
    worker.load_wsgi()
    settings = settings_of(worker.wsgi)
    assert settings is not None
    assert own is not None
    if limit is None:
        assert worker.wsgi is app
    else:
        assert settings.decide is not None
        assert settings.decide({}) == limit
        source = own.limit_source
        assert dataclasses.replace(settings, decide=None, harakiri=own.harakiri, limit_source=source) == own
        served = serve(worker.wsgi, environ("/quick"))
        assert served.chunks == [b"done\n"]
        [document] = asking.snapshots(base)
        assert document["worker"]["requests_finished"] == 1


def test_switched_off_there_is_nothing(base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No hook does anything; the switch may be in ``raw_env``, which gunicorn sets after post_fork."""
    worker = worker_of(SyncWorker)
    hooks.post_fork(None, worker)
    monkeypatch.setenv("WSGI_TB_SOCKET", base)
    monkeypatch.setenv("WSGI_TB_DISABLE", "1")
    worker.load_wsgi()
    hooks.worker_abort(worker)
    hooks.child_exit(SimpleNamespace(app=worker.app, cfg=SimpleNamespace(env={}), log=worker.log), worker)
    assert worker.wsgi is unwrapped.application
    assert asking.files(base) == []
    assert worker.log.lines == []


def test_an_abort_that_cannot_be_logged_is_on_stderr(
    base: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The handler's lock may be held by what was interrupted: then it is written past the log, in time."""
    monkeypatch.setenv("WSGI_TB_SOCKET", base)
    worker = worker_of(SyncWorker)
    hooks.post_fork(None, worker)
    worker.load_wsgi()
    held = primitives.bind().allocate_lock()
    held.acquire()
    worker.log.error = lambda *_: held.acquire()
    hooks.worker_abort(worker)
    held.release()
    said = capfd.readouterr().err
    assert "ERROR gunicorn.error (logging hangs): Worker (pid:" in said
    assert "is aborted with no request in flight" in said
    assert sys._getframe().f_code.co_name in said


def test_a_fault_of_ours_does_not_keep_a_worker_from_serving(
    base: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged, and the application is loaded and wrapped as ever."""
    monkeypatch.setenv("WSGI_TB_SOCKET", base)

    def fail(*_: object) -> None:
        raise RuntimeError("of ours")

    monkeypatch.setattr(agent, "agent_for", fail)
    worker = worker_of(SyncWorker)
    hooks.post_fork(None, worker)
    worker.load_wsgi()
    assert isinstance(worker.wsgi, TracebackerMiddleware)
    assert any("when a gunicorn worker started" in message for message in messages(caplog))


def test_a_postmortem_reaches_a_logger_of_the_projects_own(base: str) -> None:
    """Also one whose methods take a text and nothing else."""
    leave(base, in_flight=True).forget()
    worker = worker_of(SyncWorker)
    worker.pid = DEAD

    class Plain(_Log):
        def error(self, message: str, *arguments: object) -> None:  # type: ignore[override]
            super().error(message, *arguments)

    log = Plain()
    server = SimpleNamespace(app=worker.app, cfg=SimpleNamespace(env={"WSGI_TB_SOCKET": base}), log=log)
    hooks.child_exit(server, worker)
    [line] = log.lines
    assert line.startswith(f"postmortem: worker 1, pid {DEAD}, died with 1 request in flight; ")
    hooks.child_exit(server, worker)
    assert len(log.lines) == 1


def test_a_worker_without_an_agent_is_aborted_in_silence() -> None:
    """It never got so far."""
    worker = worker_of(SyncWorker)
    hooks.worker_abort(worker)
    assert worker.log.lines == []


def test_the_masters_hook_survives_what_it_cannot_know() -> None:
    """Options that can never work are for the worker to say; anything else is a fault of ours, and goes no further."""
    worker = worker_of(SyncWorker)
    worker.pid = 1
    server = SimpleNamespace(app=worker.app, cfg=SimpleNamespace(env={"WSGI_TB_HARAKIRI": "soon"}), log=worker.log)
    hooks.child_exit(server, worker)
    hooks.child_exit(SimpleNamespace(), worker)
    assert worker.log.lines == []
