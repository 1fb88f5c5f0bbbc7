"""gunicorn's hooks: workers can be read from their first moment, and what kills them finds its way into the error log.

Alone, without a change to the application::

    gunicorn -c python:wsgi_tracebacker.servers.gunicorn mysite.wsgi:application

Or in a project's own configuration file::

    from wsgi_tracebacker.servers.gunicorn import *

A file that has such a hook already calls ours in it::

    from wsgi_tracebacker.servers import gunicorn as tracebacker

    def post_fork(server, worker):
        tracebacker.post_fork(server, worker)
        ...

The names of this module that gunicorn takes for its settings are those of ``__all__``; all others it leaves alone.
Options come from their ``WSGI_TB_*`` variables, which ``raw_env`` may set too.

Knows when gunicorn (20 to 27) calls what. Refuses to do anything in the master but to look after the dead: what is
started there would be inherited by every worker.
"""

from __future__ import annotations

import functools
import logging
import os
from time import monotonic, time
from typing import TYPE_CHECKING, Any

from wsgi_tracebacker.errors import ConfigurationError
from wsgi_tracebacker.middleware import TracebackerMiddleware, settings_of
from wsgi_tracebacker.model.questions import in_flight
from wsgi_tracebacker.servers.application import wrapped
from wsgi_tracebacker.text import snapshot as traceback_format
from wsgi_tracebacker.text.postmortem import lines as postmortem_lines
from wsgi_tracebacker.text.units import plural
from wsgi_tracebacker.wire import postmortem_json as postmortem_format
from wsgi_tracebacker.wire import snapshot_json as json_format
from wsgi_tracebacker.worker import agent, disabled
from wsgi_tracebacker.worker import settings as settings_module
from wsgi_tracebacker.worker.blackbox import predecessor
from wsgi_tracebacker.worker.reporting import faults, logs, reporter

if TYPE_CHECKING:
    from collections.abc import Callable

    from gunicorn.arbiter import Arbiter
    from gunicorn.workers.base import Worker

    from wsgi_tracebacker.model.snapshot import Snapshot, Stack
    from wsgi_tracebacker.worker.agent import Agent
    from wsgi_tracebacker.worker.settings import Settings

__all__ = ["child_exit", "post_fork", "worker_abort"]

#: The modules of gunicorn's workers that call a WSGI application, and nothing else. What others call (gunicorn's asgi
#: and tornado, uvicorn's) may be something else, which a middleware would break.
_WSGI_WORKERS = (
    "gunicorn.workers.sync",
    "gunicorn.workers.gthread",
    "gunicorn.workers.base_async",
)
_SYNC = "gunicorn.workers.sync"

#: How long before gunicorn's timeout a sync worker's request is reported: a second, or a quarter of what is left of the
#: timeout where that is little.
_BEFORE_TIMEOUT_SECONDS = 1.0
_BEFORE_TIMEOUT_SHARE = 0.25
#: The shortest limit. The master looks once a second, so that a worker may outlive its timeout by as much.
_LEAST_SECONDS = 0.05

#: The master sends SIGKILL about a second after SIGABRT. What hangs is on stderr sooner than that.
_ABORT_SECONDS = 1.0


def post_fork(server: Arbiter, worker: Worker) -> None:  # noqa: ARG001
    """In a new worker: have it started up by us when gunicorn loads the application.

    Not here: gunicorn has not yet set the worker's user, its ``raw_env`` and its signals, and gevent's worker has not
    yet patched. All of that comes right before ``load_wsgi()``.
    """
    worker.load_wsgi = functools.partial(_load, worker, worker.load_wsgi)


def _load(worker: Worker, load_wsgi: Any) -> None:
    """Start listening, load the application, wrap it."""
    if disabled.reason() is not None:
        disabled.log_reason()
        load_wsgi()
        return
    settings = settings_module.from_options()
    early: Agent | None = None
    try:
        # An application that was loaded in the master may say more than the environment does.
        early = _start(settings_of(getattr(worker.app, "callable", None)) or settings, worker)
    except Exception:
        faults.caught("when a gunicorn worker started")
    load_wsgi()
    own = settings_of(getattr(worker, "wsgi", None))
    try:
        if own is not None and early is not None and not _same_place(own, early.settings):
            # Now it is known which socket, name and group the application's own code wants.
            agent.stop()
            _start(own, worker)
    except Exception:
        faults.caught("when a gunicorn worker moved to its application's socket")
    if not _modules(worker).isdisjoint(_WSGI_WORKERS):
        limit = _limit_before_timeout(worker, own or settings)
        if own is None:
            worker.wsgi = wrapped(worker.wsgi, harakiri=limit)
        elif limit is not None and own.harakiri in (None, settings.harakiri) and own.decide is None:
            # The middleware of the application's own code has no limit and cannot be given one any more. It lets
            # requests pass that another one like it tracks already.
            options = {**settings_module.options_of(own), "harakiri": limit}
            worker.wsgi = TracebackerMiddleware(worker.wsgi, **options)
    else:
        faults.warn_once(
            "worker class",
            "under gunicorn's %s the application is not wrapped: threads are seen, requests are not",
            type(worker).__qualname__,
        )


def _start(settings: Settings, worker: Worker) -> Agent | None:
    from gunicorn import SERVER_SOFTWARE  # noqa: PLC0415  (only a process that gunicorn started has it for sure)

    name = getattr(worker.app, "app_uri", None) or worker.cfg.proc_name
    return agent.agent_for(settings, {"SERVER_SOFTWARE": SERVER_SOFTWARE}, str(name))


def _modules(worker: Worker) -> set[str]:
    """Where a worker's class and its bases are: a project may have derived its own."""
    return {kind.__module__ for kind in type(worker).__mro__}


def _same_place(one: Settings, other: Settings) -> bool:
    names = ("base", "group", "application", "name_threads", "dump_signal")
    return all(getattr(one, name) == getattr(other, name) for name in names)


def _limit_before_timeout(worker: Worker, settings: Settings) -> Callable[[object], float] | None:
    """What says after how many seconds a sync worker's request is reported because gunicorn is about to end the worker.

    None where there is to be no limit, where overdue requests are to be raised into or killed for (the time-out is
    gunicorn's business), and for workers whose heartbeat does not wait for requests.
    """
    timeout: float = worker.cfg.timeout
    if not timeout or _SYNC not in _modules(worker) or settings.harakiri_action != "log":
        return None
    own = settings.harakiri
    # 0 is for who wants no reports.
    if own is None and os.environ.get(settings_module.ENVIRONMENT_VARIABLES["harakiri"], "").strip():
        return None

    def limit(_: object) -> float:
        left = timeout - _silent_seconds(worker)
        left -= min(_BEFORE_TIMEOUT_SECONDS, left * _BEFORE_TIMEOUT_SHARE)
        # Reports show it.
        left = max(round(left, 2), _LEAST_SECONDS)
        return left if own is None else min(left, own)

    return limit


def _silent_seconds(worker: Worker) -> float:
    """How long ago a sync worker's last heartbeat was, which is what gunicorn goes by.

    That is before it accepted the connection, and a client may take its time to send the request. With several
    addresses it is before the worker waited for a connection: up to half of the timeout ago.
    """
    try:
        last: float = worker.tmp.last_update()
    except OSError:
        # The application has closed what is not its own.
        return 0.0
    now = monotonic()
    # Up to gunicorn 21 it is the wall clock's time, which is far beyond the other's.
    return max(0.0, now - last if last < now + 1.0 else time() - last)


def worker_abort(worker: Worker) -> None:
    """In a worker that gunicorn's timeout aborts: write what it was doing into gunicorn's error log.

    Runs as a signal handler in whatever the main thread was doing: Python has to get there. It does not while a C
    call does not return; then the watchdog's report a second before, and the black box, are what is left.
    """
    try:
        found = agent.running()
        if found is not None:
            lines = reporter.current()
            lines.post(_LastWords(found, worker))
            lines.flush(_ABORT_SECONDS)
    except Exception:
        faults.caught("when a gunicorn worker was aborted")


class _LastWords(reporter.Entry):
    """What an aborted worker was doing, on its way into gunicorn's log."""

    def __init__(self, found: Agent, worker: Worker) -> None:
        super().__init__("gunicorn.error", logging.ERROR, "%s")
        self._agent = found
        self._worker = worker
        self._text: str | None = None

    def text(self) -> str:
        """Made by a thread of the reporter: what the signal interrupted may hold a lock that this needs."""
        if self._text is None:
            try:
                snapshot = _without_the_handler(json_format.decode(self._agent.snapshot_json()), self._worker)
                self._text = "\n".join(_abort_lines(snapshot, self._worker))
                self._agent.keep(self._text + "\n\n")
            except Exception:
                faults.caught("when a gunicorn worker was aborted")
                self._text = f"Worker (pid:{os.getpid()}) is aborted"
        return self._text

    def emit(self) -> None:
        self._worker.log.error("%s", self.text())


def _abort_lines(snapshot: Snapshot, worker: Worker) -> list[str]:
    count = in_flight(snapshot)
    what = plural(count, "request") if count else "no request"
    timeout = f" (gunicorn's timeout is {worker.cfg.timeout:g} s)" if worker.cfg.timeout else ""
    return [
        f"Worker (pid:{os.getpid()}) is aborted with {what} in flight{timeout}; this is what it was doing:",
        # Without a request it is stuck somewhere else: while it loads the application, or in a thread of its own.
        *traceback_format.lines(snapshot, all_threads=not count),
    ]


def _without_the_handler(snapshot: Snapshot, worker: Worker) -> Snapshot:
    """The main thread as it was when the signal came: without gunicorn's handler and us on top of it."""
    code = getattr(getattr(worker.handle_abort, "__func__", None), "__code__", None)
    if code is None:
        return snapshot

    def cut(stack: Stack) -> Stack:
        for index, frame in enumerate(stack.frames):
            if frame.filename == code.co_filename and frame.function.rpartition(".")[2] == code.co_name:
                # It waits for us now; what it did before the kernel does not tell.
                return stack._replace(frames=stack.frames[:index], state=None, wait_channel=None)
        return stack

    return snapshot._replace(stacks=tuple(cut(stack) for stack in snapshot.stacks))


def child_exit(server: Arbiter, worker: Worker) -> None:
    """In the master, when a worker has ended: log what one that was killed was doing, and remove its files.

    Its successor does the same if it gets the lock of its number first.
    """
    try:
        if disabled.reason() is not None:
            return
        settings = settings_of(getattr(server.app, "callable", None))
        if settings is None:
            settings = settings_module.from_options(environment={**os.environ, **server.cfg.env})
        died = predecessor.clean_up_after(settings.base, worker.pid)
        if died is not None:
            content = {"kind": "postmortem", **postmortem_format.document(died)}
            text = "\n".join(postmortem_lines(died))
            try:
                server.log.error("postmortem: %s", text, extra={logs.EXTRA_KEY: content})
            except TypeError:
                # A logger class of the project's own need not take everything that logging takes.
                server.log.error("postmortem: %s", text)  # noqa: TRY400  (what is said is not about that error)
    except ConfigurationError:
        # Its worker said so.
        pass
    except Exception:
        faults.caught("when a gunicorn worker had ended")
