"""Hooks for gunicorn: workers can be read from their start, and the error log has what a killed worker was doing.

Alone, without a change to the application::

    gunicorn -c python:wsgi_tracebacker.servers.gunicorn mysite.wsgi:application

Or in a project's own configuration file::

    from wsgi_tracebacker.servers.gunicorn import *

A file that has such a hook already calls ours in it::

    from wsgi_tracebacker.servers import gunicorn as tracebacker

    def post_fork(server, worker):
        tracebacker.post_fork(server, worker)
        ...

Of this module gunicorn takes only the names in ``__all__`` as settings. Options come from their ``WSGI_TB_*``
variables, which ``raw_env`` may set too.

Written for gunicorn 20 to 27. Nothing is started in the master, because every worker would inherit it.
"""

from __future__ import annotations

import functools
import logging
import os
from _thread import get_ident
from typing import TYPE_CHECKING, Any

from wsgi_tracebacker.errors import ConfigurationError
from wsgi_tracebacker.linux.clock import monotonic, unix_time
from wsgi_tracebacker.middleware import TracebackerMiddleware, settings_of
from wsgi_tracebacker.model.questions import in_flight
from wsgi_tracebacker.model.report import DEFAULT, GIVEN, SERVER
from wsgi_tracebacker.servers.application import wrapped
from wsgi_tracebacker.text.postmortem import lines as postmortem_lines
from wsgi_tracebacker.text.snapshot import lines as snapshot_lines
from wsgi_tracebacker.text.units import plural
from wsgi_tracebacker.wire.documents import postmortem_json, snapshot_json
from wsgi_tracebacker.worker import agent, disabled
from wsgi_tracebacker.worker.blackbox import predecessor
from wsgi_tracebacker.worker.deadlines.begin import load_timers
from wsgi_tracebacker.worker.options.limits import ServerLimit
from wsgi_tracebacker.worker.options.settings import from_options
from wsgi_tracebacker.worker.reporting import faults, logs, reporter
from wsgi_tracebacker.worker.threads.signal_handlers import IN_HANDLER

if TYPE_CHECKING:
    from gunicorn.arbiter import Arbiter
    from gunicorn.workers.base import Worker

    from wsgi_tracebacker.model.snapshot import Snapshot
    from wsgi_tracebacker.worker.agent import Agent
    from wsgi_tracebacker.worker.options.settings import Settings

__all__ = ["child_exit", "post_fork", "worker_abort"]

#: The modules of gunicorn's worker classes that call WSGI applications only. The application of other classes
#: (gunicorn's asgi and tornado, uvicorn's) may be none, and then a middleware would break it.
_SYNC = "gunicorn.workers.sync"
_GTHREAD = "gunicorn.workers.gthread"
_WSGI_WORKERS = (_SYNC, _GTHREAD, "gunicorn.workers.base_async")

#: How long before gunicorn's timeout a sync worker's request is reported: a second, or a quarter of the time that is
#: left, if that is shorter.
_BEFORE_TIMEOUT_SECONDS = 1.0
_BEFORE_TIMEOUT_SHARE = 0.25
#: The shortest limit. The master checks once a second, so a worker may outlive its timeout by up to a second.
_LEAST_SECONDS = 0.05

#: How long the report of an aborted worker may take. The master sends SIGKILL about a second after SIGABRT.
_ABORT_SECONDS = 1.0


# Here and not in the workers: those share it, and in a forked child an import lock may be held for ever.
load_timers()


def post_fork(server: Arbiter, worker: Worker) -> None:  # noqa: ARG001
    """gunicorn calls this in a new worker: start listening right before it loads the application.

    Not at once: gunicorn has not set the worker's user, ``raw_env`` and signals yet, and gevent's worker has not
    patched yet. All of that happens right before ``load_wsgi()``.
    """
    worker.load_wsgi = functools.partial(_load, worker, worker.load_wsgi)


def _load(worker: Worker, load_wsgi: Any) -> None:
    """Start listening, load the application, wrap it."""
    if disabled.reason() is not None:
        disabled.log_reason()
        load_wsgi()
        return
    settings = from_options()
    early: Agent | None = None
    try:
        # An application that was loaded in the master may have options of its own.
        early = _start(settings_of(getattr(worker.app, "callable", None)) or settings, worker)
    except Exception:
        faults.caught("when a gunicorn worker started")
    load_wsgi()
    own = settings_of(getattr(worker, "wsgi", None))
    try:
        if own is not None and early is not None and not _same_place(own, early.settings):
            # Only now the socket, name and group that the application's own code chose are known.
            agent.stop()
            _start(own, worker)
    except Exception:
        faults.caught("when a gunicorn worker moved to its application's socket")
    _wrap(worker, settings, own)


def _wrap(worker: Worker, settings: Settings, own: Settings | None) -> None:
    """Wrap the application, except one that has what we would give it; ``own``: the options of its own middleware."""
    if _modules(worker).isdisjoint(_WSGI_WORKERS):
        faults.warn_once(
            "worker class",
            "under gunicorn's %s the application is not wrapped: threads are seen, requests are not",
            type(worker).__qualname__,
        )
        return
    limit = _limit_before_timeout(worker, own or settings)
    if own is None:
        worker.wsgi = wrapped(worker.wsgi, harakiri=limit)
    elif limit is not None and (own.limit_source == DEFAULT or own.harakiri == settings.harakiri):
        # The application's own middleware cannot be given this limit any more. A second middleware has it; the inner
        # one lets requests pass that another middleware tracks already.
        worker.wsgi = TracebackerMiddleware(worker.wsgi, **{**own.options, "harakiri": limit})


def _start(settings: Settings, worker: Worker) -> Agent | None:
    from gunicorn import SERVER_SOFTWARE  # noqa: PLC0415  (it may not be installed)

    name = getattr(worker.app, "app_uri", None) or worker.cfg.proc_name
    started = agent.agent_for(settings, {"SERVER_SOFTWARE": SERVER_SOFTWARE}, str(name))
    if started is not None:
        started.answers.configured_slots = _slots(worker)
        if worker.cfg.timeout:
            started.deadlines.set_server_timeout(worker.cfg.timeout, functools.partial(_silent_seconds, worker))
    return started


def _slots(worker: Worker) -> int | None:
    """How many requests a worker can serve at once; None for those that serve them in greenlets or coroutines."""
    modules = _modules(worker)
    if _GTHREAD in modules:
        threads: int = worker.cfg.threads
        return threads
    return 1 if _SYNC in modules else None


def _modules(worker: Worker) -> set[str]:
    """The modules of a worker's class and its bases: a project may have derived its own class."""
    return {kind.__module__ for kind in type(worker).__mro__}


def _same_place(one: Settings, other: Settings) -> bool:
    names = ("base", "group", "application", "name_threads", "dump_signal")
    return all(getattr(one, name) == getattr(other, name) for name in names)


def _limit_before_timeout(worker: Worker, settings: Settings) -> ServerLimit | None:
    """Return the harakiri limit with which a sync worker's request is reported before gunicorn's timeout.

    None if no limit is wanted (0) or the application decides, if harakiri raises or kills (it then has its own limits
    only), and for worker classes whose heartbeat does not wait for requests.
    """
    timeout: float = worker.cfg.timeout
    if not timeout or _SYNC not in _modules(worker) or settings.harakiri_action != "log" or settings.harakiri is None:
        return None
    own = None if settings.limit_source == DEFAULT else settings.harakiri

    def limit(_: dict[str, Any]) -> float:
        left = timeout - _silent_seconds(worker)
        left -= min(_BEFORE_TIMEOUT_SECONDS, left * _BEFORE_TIMEOUT_SHARE)
        left = max(round(left, 2), _LEAST_SECONDS)  # rounded because reports show it
        return left if own is None else min(left, own)

    hooks = worker.cfg.worker_abort, worker.cfg.child_exit
    is_earlier = own is not None and own + _BEFORE_TIMEOUT_SECONDS < timeout
    # A project's own hooks may not call ours, and then nothing else logs the stack.
    return ServerLimit(limit, GIVEN if is_earlier or hooks != (worker_abort, child_exit) else SERVER)


def _silent_seconds(worker: Worker) -> float:
    """How long ago a worker's last heartbeat was, from which gunicorn counts its timeout.

    A sync worker's comes before the connection is accepted, and the client may send its request later. With several
    addresses it comes before the worker waits for a connection: up to half of the timeout ago.
    """
    try:
        last: float = worker.tmp.last_update()
    except OSError:
        # The application has closed gunicorn's file.
        return 0.0
    now = monotonic()
    # Up to gunicorn 21 it is Unix time, which is far greater than any monotonic time.
    return max(0.0, now - last if last < now + 1.0 else unix_time() - last)


def worker_abort(worker: Worker) -> None:
    """gunicorn calls this in a worker that its timeout aborts: log what the worker was doing to gunicorn's error log.

    This is a signal handler in the main thread, so it does not run while a C call there does not return. Then the
    watchdog's report of a second before, and the stacks that a timer has had written, are logged by child_exit().
    """
    try:
        found = agent.running()
        if found is not None:
            handler = getattr(type(worker).handle_abort, "__code__", None)
            if handler is not None:
                IN_HANDLER[get_ident()] = handler
            current = reporter.current()
            current.post(_AbortReport(found, worker))
            current.flush(_ABORT_SECONDS)
    except Exception:
        faults.caught("when a gunicorn worker was aborted")
    finally:
        # The application may go on: it may catch SystemExit.
        IN_HANDLER.pop(get_ident(), None)


class _AbortReport(reporter.Entry):
    """Logs what an aborted worker was doing."""

    def __init__(self, found: Agent, worker: Worker) -> None:
        super().__init__("gunicorn.error", logging.ERROR, "%s")
        self._agent = found
        self._worker = worker
        self._text: str | None = None

    def text(self) -> str:
        """Called in a thread of the reporter: the code that the signal interrupted may hold a lock that this needs."""
        if self._text is None:
            try:
                snapshot = snapshot_json.decode(self._agent.answers.snapshot_json())
                self._text = "\n".join(_abort_lines(snapshot, self._worker))
                self._agent.presence.keep(self._text + "\n\n")
            except Exception:
                faults.caught("when a gunicorn worker was aborted")
                self._text = f"Worker (pid:{os.getpid()}) is aborted"
        return self._text

    def emit(self) -> None:
        self._worker.log.error("%s", _encodable(self._worker.log, self.text()))
        self._agent.presence.keep(_logged_when_aborted(os.getpid()))


def _logged_when_aborted(pid: int) -> str:
    """The last line of the stacks file of a worker whose stacks are in gunicorn's error log already."""
    return f"gunicorn's error log has its stacks, at 'Worker (pid:{pid}) is aborted'\n"


def _encodable(log: object, text: str) -> str:
    """The text as gunicorn's error log can write it: ``--error-logfile`` is opened in the locale's encoding."""
    logger = getattr(log, "error_log", None)
    # A logger class of the project may have another, of which nothing is known.
    return logs.encodable(logger if isinstance(logger, logging.Logger) else logging.getLogger("gunicorn.error"), text)


def _abort_lines(snapshot: Snapshot, worker: Worker) -> list[str]:
    count = in_flight(snapshot)
    what = plural(count, "request") if count else "no request"
    timeout = f" (gunicorn's timeout is {worker.cfg.timeout:g} s)" if worker.cfg.timeout else ""
    return [
        f"Worker (pid:{os.getpid()}) is aborted with {what} in flight{timeout}; this is what it was doing:",
        # Without a request it is stuck somewhere else, while it loads the application for instance: show all threads.
        *snapshot_lines(snapshot, all_threads=not count),
    ]


def child_exit(server: Arbiter, worker: Worker) -> None:
    """gunicorn calls this in the master when a worker has ended: log what a killed one was doing, remove its files.

    If its successor locks the same number first, it does that instead.
    """
    try:
        if disabled.reason() is not None:
            return
        settings = settings_of(getattr(server.app, "callable", None))
        if settings is None:
            settings = from_options(environment={**os.environ, **server.cfg.env})
        died = predecessor.clean_up_after(settings.base, worker.pid)
        if died is not None:
            content = {"kind": "postmortem", **postmortem_json.document(died)}
            logged = _logged_when_aborted(died.pid).rstrip()
            is_logged = died.stacks is not None and died.stacks.rstrip().endswith(logged)
            shown = [*postmortem_lines(died._replace(stacks=None)), logged] if is_logged else postmortem_lines(died)
            text = _encodable(server.log, "\n".join(shown))
            try:
                server.log.error("postmortem: %s", text, extra={logs.EXTRA_KEY: content})
            except TypeError:
                # A logger class of the project may not accept ``extra``.
                server.log.error("postmortem: %s", text)  # noqa: TRY400  (that error is not the message)
    except ConfigurationError:
        # The worker has logged it.
        pass
    except Exception:
        faults.caught("when a gunicorn worker had ended")
