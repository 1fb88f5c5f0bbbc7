"""The parts that this package has in one worker process: started by the first request, ended in order, left at a fork.

Nothing is started before the first request: a pre-forking master imports the application and must own nothing that its
workers would inherit. A hook that knows that a process is a worker (gunicorn's) may start the agent sooner.
"""

from __future__ import annotations

import functools
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from wsgi_tracebacker.linux.net import peers
from wsgi_tracebacker.model.code_ownership import CodeOwnership
from wsgi_tracebacker.text.folding import LOG_ELLIPSIS, folded
from wsgi_tracebacker.worker import at_exit, disabled, last_act, startup_warnings
from wsgi_tracebacker.worker.answers import Answers
from wsgi_tracebacker.worker.blackbox.own_threads import OwnThreads
from wsgi_tracebacker.worker.deadlines.parts import DeadlineParts
from wsgi_tracebacker.worker.deadlines.watchdog import Watchdog
from wsgi_tracebacker.worker.identity import Identity, application_name, uwsgi_worker_id, working_directory
from wsgi_tracebacker.worker.lifecycle import Lifecycle
from wsgi_tracebacker.worker.listening.listener import TICK_SECONDS, Listener
from wsgi_tracebacker.worker.presence import Presence
from wsgi_tracebacker.worker.recordings.recordings import Recordings
from wsgi_tracebacker.worker.reporting import faults, reporter
from wsgi_tracebacker.worker.stacks import hubs, places, snapshot
from wsgi_tracebacker.worker.threads import primitives
from wsgi_tracebacker.worker.tracking.admission import STARTED_HERE, Admission
from wsgi_tracebacker.worker.tracking.core import value_in
from wsgi_tracebacker.worker.tracking.cores import Cores
from wsgi_tracebacker.worker.tracking.handle import set_note, set_own_limit
from wsgi_tracebacker.worker.waits.sources import WaitSources

if TYPE_CHECKING:
    from wsgi_tracebacker.worker.deadlines.begin import Begin
    from wsgi_tracebacker.worker.options.settings import Settings
    from wsgi_tracebacker.worker.tracking.core import Core

#: How long stop() waits for each thread to end, and for the last lines to be logged.
_STOP_SECONDS = 2.0

#: The agent of this process, by the process's pid: two threads that serve the first two requests at the same time agree
#: on one through dict.setdefault(), which is atomic and needs no lock that a fork could leave held.
_agents: dict[int, Agent] = {}


class Agent:
    """What this process has: a worker number, a socket with its listener, a black box, cores, a watchdog."""

    def __init__(self, settings: Settings, environ: dict[str, Any], application: object) -> None:
        """Without side effects: of two that are made at the same time, one is thrown away."""
        self.settings = settings
        originals = primitives.bind()
        self.own_threads = OwnThreads(originals)
        self._primitives = replace(originals, start_new_thread=self.own_threads.start)
        software = value_in(environ, "SERVER_SOFTWARE")
        self._identity = Identity.of_this_process(
            settings.base,
            server=software if type(software) is str else None,
            application=settings.application or application_name(application),
        )
        self._reporter = reporter.current()
        self._lifecycle = Lifecycle(self._end)
        self.cores = Cores(self._primitives.allocate_lock)
        self._hubs = hubs.Hubs()
        self._places = places.Places(self._identity.started_at)
        # Not from sysconfig: it imports a module, which a worker that has changed its user may be unable to read.
        self._ownership = CodeOwnership(self._identity.application, os.path.dirname(os.__file__))
        self._waits = WaitSources(self._identity.started_at, self._ownership)
        self.admission = Admission(self.cores, self._hubs.note)
        self.presence = Presence(self._identity, settings, self.cores, self.own_threads)
        self.recordings = Recordings(self._primitives, self.cores, self.presence.number)
        self.listener: Listener | None = None
        self._stays_readable = False
        self.answers = Answers(
            identity=self._identity,
            cores=self.cores,
            snapshots=snapshot.Snapshots(self.cores, self._hubs, self._places, self._waits),
            worker_number=self.presence.number,
            restarts=self.presence.restarts,
            listener=lambda: self.listener,
        )
        self.deadlines = self.cores.watcher = DeadlineParts(
            lifecycle=self._lifecycle,
            cores=self.cores,
            make_watchdog=self._make_watchdog,
            dump_signal=self.presence.dump_signal,
            warn_if_not_replaced=functools.partial(
                startup_warnings.warn_if_not_replaced,
                self._identity.server,
                is_multiprocess=bool(value_in(environ, "wsgi.multiprocess")),
            ),
        )

    @property
    def is_stopping(self) -> bool:
        """Whether it ends, or has ended: no request begins in it any more."""
        return self._lifecycle.is_stopping

    def start(self) -> None:
        """Claim a worker number, open the socket, start the listener. What is refused is one warning each."""
        # Starts the reporter's thread as one of ours, so that snapshots leave it out.
        self._reporter.begin(self._primitives.start_new_thread)
        with self._lifecycle.starting() as may_start:
            if may_start:
                self._start()

    def _start(self) -> None:
        startup_warnings.warn_if_without_threads()
        try:
            # First: without a thread, a socket on which nobody answers would be worse than none.
            listener = self._start_listener()
        except (OSError, RuntimeError) as error:
            faults.warn_once("listener", "no listener can be started (%s); this worker cannot be read", error)
            return
        self.listener = listener
        listening = None
        try:
            listening = self.presence.open(uwsgi_worker_id())
        finally:
            listener.serve(listening)

    def _start_listener(self) -> Listener:
        listener = Listener(
            primitives=self._primitives,
            answer=self.answers.response,
            record=self.recordings.begin,
            silent_path="/",
            is_permitted=lambda connection: peers.is_permitted(connection, self.presence.group_id),
            on_tick=self.presence.check,
            on_start=self.presence.listener_started,
            tick_seconds=TICK_SECONDS,
        )
        try:
            listener.start()
        except BaseException:
            listener.forget()
            raise
        return listener

    def _make_watchdog(self) -> Watchdog:
        return Watchdog(
            primitives=self._primitives,
            cores=self.cores,
            reporter=self._reporter,
            stacks_file=self.presence.stacks_file,
            table=self.presence.table,
            places=self._places,
            waits=self._waits,
            ownership=self._ownership,
            fold=functools.partial(
                folded, ownership=self._ownership, cwd=working_directory() or None, ellipsis=LOG_ELLIPSIS
            ),
            worker_number=self.presence.number,
            hubs=self._hubs,
        )

    def stop(self, *, stays_readable: bool = False) -> None:
        """End the threads and remove the files.

        :param stays_readable: the process ends: leave the listener and the files until the interpreter is taken down.
        """
        self._stays_readable = stays_readable
        self._lifecycle.stop()

    def _end(self) -> None:
        if self._stays_readable:
            self.deadlines.stop(_STOP_SECONDS)
            self.cores.abandon()
            self.presence.close_at_last()
            return
        try:
            self.deadlines.stop(_STOP_SECONDS)
            self._reporter.flush(_STOP_SECONDS)
            if self.listener is not None:
                self.listener.stop(_STOP_SECONDS)
                self.listener = None
            self.recordings.stop(_STOP_SECONDS)
            self._hubs.close()
            self.cores.abandon()
            self.presence.close()
        finally:
            self.cores.abandon()
            # Not before: what the next request starts would run beside this.
            if running() is self:
                del _agents[self._identity.pid]

    def forget(self) -> None:
        """In a forked child: close what is the parent's, and leave its files as they are."""
        self.deadlines.forget()
        if self.listener is not None:
            self.listener.forget()
        self.recordings.forget()
        self._hubs.forget()
        self.presence.forget()
        self.cores.abandon()


def agent_for(settings: Settings, environ: dict[str, Any], application: object) -> Agent | None:
    """The agent of this process; the first call starts it. None while it stops, and when the process ends.

    :param application: the callable, or its name.
    """
    pid = os.getpid()
    agent = _agents.get(pid)
    if agent is None:
        if at_exit.has_begun():
            return None
        # First of all: from here on something may be logged.
        reporter.current().begin(primitives.bind().start_new_thread)
        _register_hooks()
        made = Agent(settings, environ, application)
        agent = _agents.setdefault(pid, made)
        if agent is made:
            # There are others if this is a child that was forked in C: no hook has run.
            _forget_parents()
            STARTED_HERE[0] = 1
            agent.admission.detect_greenlets()
            agent.start()
    if agent.is_stopping:
        return None
    STARTED_HERE[0] = 1
    agent.admission.detect_greenlets()
    if agent.settings.base != settings.base:
        faults.warn_once(
            f"base {settings.base}",
            "this process listens at %s<N> already; socket=%r of another middleware in it is not used",
            agent.settings.base,
            settings.base,
        )
    return agent


def admit(app: object, settings: Settings, environ: dict[str, Any]) -> tuple[Core, Any, Begin | None] | None:
    """Make an idle core ready for a request; None: serve it untracked.

    With where its thread finds it, and what the requests under these settings call when they begin.
    """
    try:
        agent = agent_for(settings, environ, app)
        if agent is None:
            return None
        admission = agent.admission
        begin = agent.deadlines.watch(settings, serves_greenlets=admission.serves_greenlets)
        core = admission.idle_core(environ)
    except Exception as error:
        if faults.is_of_signal_handler(error):
            raise
        faults.caught("when a request began")
        return None
    return None if core is None else (core, admission.local, begin)


def running() -> Agent | None:
    """The agent of this process, if it was started."""
    return _agents.get(os.getpid())


def serving_core() -> Core | None:
    """The core of the request that the calling thread serves, idle perhaps; None if it never served one."""
    for agent in _agents.values():
        return agent.admission.own_core()
    return None


def set_harakiri(seconds: float) -> None:
    """Give the request that the calling thread serves ``seconds`` from now on; 0 takes its limit away.

    Like uWSGI's ``set_user_harakiri``. Works with and without ``harakiri=``. Does nothing where the middleware does
    nothing (``WSGI_TB_DISABLE=1``, not Linux).

    :raises NotInRequest: the thread serves no request.
    :raises ConfigurationError: not a number of seconds.
    """
    if disabled.reason() is not None:
        # Switching us off must not break an application that uses this.
        return
    set_own_limit(serving_core(), seconds)


def note(text: str) -> None:
    """Say what the request is doing that the calling thread serves, as in ``charging card 4711``.

    It is shown beside the request, and with its time in reports. The first 200 characters count, and the last 16 notes.
    Does nothing if the thread serves no request.

    :raises ConfigurationError: not a string.
    """
    set_note(serving_core(), text)


def stop() -> None:
    """End the listener of this process, if it runs, and remove its socket and card.

    The next request starts everything again; one that begins meanwhile is served untracked. Runs by itself when the
    process exits in order.
    """
    _forget_parents()
    agent = running()
    if agent is not None:
        agent.stop()


def _forget_parents() -> None:
    own = os.getpid()
    for pid in list(_agents):
        agent = _agents.pop(pid, None) if pid != own else None
        if agent is not None:
            agent.forget()
            faults.forget()


def _stop_at_exit() -> None:
    _forget_parents()
    agent = running()
    if agent is not None:
        agent.stop(stays_readable=last_act.is_certain())


# Now and not at the first request: the application registers its own functions in between.
at_exit.register_at_import(_stop_at_exit)

_hooks_registered = False


def _register_hooks() -> None:
    global _hooks_registered
    if not _hooks_registered:
        _hooks_registered = True
        os.register_at_fork(after_in_child=_after_fork)
    at_exit.register(stop)


def _after_fork() -> None:
    """In the child: close what is the parent's, above all the lock, which would outlive the worker here."""
    try:
        for agent in list(_agents.values()):
            agent.admission.forget_own_core()
        _forget_parents()
        faults.forget()
    except Exception:
        faults.caught("after a fork")
