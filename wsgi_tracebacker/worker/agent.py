"""One per process: starts, owns and takes down the rest; survives fork.

Knows the life of the parts: number, socket, listener, cores. Refuses to start by itself before the first request,
because a pre-forking master imports the application and must own nothing that its workers would inherit; who knows
that a process is a worker (gunicorn's hook) may start it sooner.

What says that this is still the process that started everything is one byte in a page that the kernel wipes in a
forked child (``MADV_WIPEONFORK``). ``os.register_at_fork`` is not enough: uWSGI and mod_wsgi fork in C.
"""

from __future__ import annotations

import _thread
import grp
import logging
import mmap
import os
import sys
from dataclasses import replace
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from wsgi_tracebacker.errors import NotInRequest
from wsgi_tracebacker.linux import peers
from wsgi_tracebacker.model.snapshot import Counters, Worker
from wsgi_tracebacker.text.postmortem import lines as postmortem_lines
from wsgi_tracebacker.wire import http10 as http
from wsgi_tracebacker.wire import postmortem_json as postmortem_format
from wsgi_tracebacker.wire import snapshot_json as json_format
from wsgi_tracebacker.worker import at_exit, disabled, startup_warnings
from wsgi_tracebacker.worker.blackbox import predecessor
from wsgi_tracebacker.worker.blackbox.black_box import BlackBox
from wsgi_tracebacker.worker.blackbox.own_threads import OwnThreads
from wsgi_tracebacker.worker.deadlines import interrupt
from wsgi_tracebacker.worker.deadlines.begin import on_begin
from wsgi_tracebacker.worker.deadlines.thresholds import kill_deadline
from wsgi_tracebacker.worker.deadlines.watchdog import Watchdog
from wsgi_tracebacker.worker.identity import Identity, working_directory
from wsgi_tracebacker.worker.lifecycle import Lifecycle
from wsgi_tracebacker.worker.listening import slot
from wsgi_tracebacker.worker.listening.listener import TICK_SECONDS, Listener
from wsgi_tracebacker.worker.reporting import faults, logs, reporter
from wsgi_tracebacker.worker.reporting.reporter import Entry
from wsgi_tracebacker.worker.stacks import greenlets, hubs, places, snapshot
from wsgi_tracebacker.worker.threads import primitives
from wsgi_tracebacker.worker.tracking import core as requests
from wsgi_tracebacker.worker.tracking.core import Core
from wsgi_tracebacker.worker.tracking.cores import Cores, known_thread

if TYPE_CHECKING:
    from wsgi_tracebacker.linux.descriptor import OwnDescriptor
    from wsgi_tracebacker.model.report import Postmortem
    from wsgi_tracebacker.worker.blackbox.table import Table
    from wsgi_tracebacker.worker.deadlines.begin import Begin
    from wsgi_tracebacker.worker.deadlines.kill_timer import KillTimer
    from wsgi_tracebacker.worker.settings import Settings

#: From <linux/mman.h>; the mmap module has no name for it. Linux 4.14 and up.
_MADV_WIPEONFORK = 18

#: How long stop() waits for the listener to end.
_STOP_SECONDS = 2.0

_LEAVES_LOCKS = (
    'CPython 3.14 does not give back the lock of a "with" statement that harakiri_action="raise" interrupts while it '
    "waits for that lock: whoever wants it next waits for ever; other versions give it back"
)


class _PidMark:
    """Does what the wiped page does, where the kernel has none: ten times slower, see os.getpid()."""

    __slots__ = ("_pid",)

    def __init__(self) -> None:
        self._pid = 0

    def __getitem__(self, index: int) -> int:
        return int(self._pid == os.getpid())

    def __setitem__(self, index: int, value: int) -> None:
        self._pid = os.getpid() if value else 0


def _make_started_here() -> mmap.mmap | _PidMark:
    try:
        page = mmap.mmap(-1, mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        page.madvise(_MADV_WIPEONFORK)
    except (OSError, AttributeError, ValueError):
        return _PidMark()
    return page


#: ``STARTED_HERE[0]`` is 1 in a process whose agent was made in it, and 0 in a child that was forked since.
STARTED_HERE: Final = _make_started_here()

#: The real ident of a thread, the key of sys._current_frames(); under monkey patching ``threading.get_ident`` is the
#: greenlet's. Bound when this module is loaded: the original is the same at any time.
get_ident: Final = primitives.original("_thread", "get_ident")

#: The agent of this process, by the process's pid: two threads that serve the first two requests at the same time agree
#: on one through dict.setdefault(), which is atomic and needs no lock that a fork could leave held.
_agents: dict[int, Agent] = {}


class Agent:
    """What this process has: a number, a socket with its listener, and its cores."""

    def __init__(self, settings: Settings, environ: dict[str, Any], application: str) -> None:
        """Cheap, without side effects: of two that are made at the same time, one is thrown away."""
        self.settings = settings
        #: Holds ``core`` and ``marker`` for each thread (each greenlet, where those serve).
        self.local = greenlets.local_storage()
        #: Whether greenlets serve here.
        self.serves_greenlets = False
        self.hubs = hubs.Hubs()
        originals = primitives.bind()
        self.own_threads = OwnThreads(originals)
        self.primitives = replace(originals, start_new_thread=self.own_threads.start)
        self.cores = Cores(self.primitives.allocate_lock)
        self.slot: slot.Slot | None = None
        self.listener: Listener | None = None
        software = environ.get("SERVER_SOFTWARE")
        self.identity = Identity.of_this_process(
            settings.base,
            server=software if type(software) is str else None,
            application=settings.application or application,
        )
        self._is_multiprocess = bool(environ.get("wsgi.multiprocess"))
        self._snapshots = snapshot.Snapshots(self.cores, self.hubs, places.Places(self.identity.started_at))
        self._group_id: int | None = None
        self._reporter = reporter.current()
        self._black_box: BlackBox | None = None
        self._watchdog: Watchdog | None = None
        self.kill_timer: KillTimer | None = None
        #: The settings under which requests come, with what those do when they begin.
        self._watched: list[tuple[Settings, Begin | None]] = []
        self._hubs_watched: list[Settings] = []
        self._lifecycle = Lifecycle(self._end)
        self.cores.watcher = self

    # --- start and end

    @property
    def is_stopping(self) -> bool:
        """Whether it ends, or has ended: no request begins in it any more."""
        return self._lifecycle.is_stopping

    def start(self) -> None:
        """Take a number, open the socket, start the listener. What the environment refuses is one warning."""
        # As this agent starts them, snapshots leave its threads out.
        self._reporter.begin(self.primitives.start_new_thread)
        with self._lifecycle.starting() as may_start:
            if may_start:
                self._start()

    def _start(self) -> None:
        self._group_id = _group_id(self.settings.group)
        if (reason := startup_warnings.no_threads()) is not None:
            faults.warn_once_here("uwsgi threads", reason)
        try:
            # First: without a thread, a socket on which nobody answers would be worse than none.
            listener = self._start_listener()
        except (OSError, RuntimeError) as error:
            faults.warn_once("listener", "no listener can be started (%s); this worker cannot be read", error)
            return
        self.listener = listener
        try:
            self._take_slot(_uwsgi_worker_id())
        finally:
            listener.serve(self.slot.listening if self.slot is not None else None)

    def _start_listener(self) -> Listener:
        listener = Listener(
            primitives=self.primitives,
            answer=self.answer,
            silent_path="/",
            is_permitted=lambda connection: peers.is_permitted(connection, self._group_id),
            on_tick=self._check_paths,
            on_start=self._listener_started,
            tick_seconds=TICK_SECONDS,
        )
        try:
            listener.start()
        except BaseException:
            listener.forget()
            raise
        return listener

    def adapt(self) -> None:
        """Notice that greenlets serve here: a server may patch threads after this was started."""
        if not self.serves_greenlets and greenlets.current() is not None:
            self.serves_greenlets = True
            # One local storage for the whole thread would give all its greenlets one core.
            self.local = greenlets.local_storage()

    def watch(self, settings: Settings) -> Begin | None:
        """From now on there are requests under these settings: have them watched if they may need it.

        What each of them does about that when it begins; None: nothing.
        """
        blocked = settings.hub_blocked
        if self.serves_greenlets and blocked is not None and not any(known is settings for known in self._hubs_watched):
            with self._lifecycle.starting() as may_start:
                watchdog = self._ensure_watchdog() if may_start else None
            if watchdog is not None:
                self._hubs_watched.append(settings)
                watchdog.attend_hubs(blocked)
        # By identity: comparing settings would compare whatever callables the application put into them.
        if not settings.needs_watchdog:
            return None
        for known, begin in self._watched:
            if known is settings:
                return begin
        with self._lifecycle.starting() as may_start:
            if not may_start:
                # The next request comes here as well.
                STARTED_HERE[0] = 0
                return None
            for known, begin in self._watched:
                if known is settings:
                    return begin
            watchdog = self._ensure_watchdog()
            kill_timer = None
            if settings.harakiri_action == "kill" and watchdog is not None:
                kill_timer = self._ensure_kill_timer(settings, watchdog)
            begin = on_begin(settings, watchdog, kill_timer)
            # Not before: another thread's first request would go on, and may stall before there are timers to set.
            self._watched.append((settings, begin))
        if watchdog is not None:
            watchdog.watch(settings)
        if settings.harakiri_action == "kill" or settings.harakiri_grace is not None:
            reason = startup_warnings.nothing_respawns(self.identity.server, is_multiprocess=self._is_multiprocess)
            _warn("respawn", reason)
        if settings.harakiri_action == "raise" and interrupt.LEAVES_LOCKS:
            faults.warn_once("locks", _LEAVES_LOCKS)
        return begin

    def _ensure_kill_timer(self, settings: Settings, watchdog: Watchdog) -> KillTimer | None:
        if self.kill_timer is not None:
            return self.kill_timer
        try:
            # Here and not above: ctypes is 10 ms, and only with this action. The middleware has loaded it already.
            from wsgi_tracebacker.worker.deadlines.kill_timer import KillTimer  # noqa: PLC0415

            watchdog.kill_timer = self.kill_timer = KillTimer(
                dump_signal=self._black_box.signal_number if self._black_box is not None else None,
                margin_seconds=settings.harakiri_margin,
                serving=self.cores.serving,
                deadline_of=kill_deadline,
                wake=watchdog.wake,
            )
        except (ImportError, OSError, AttributeError, RuntimeError) as error:
            faults.warn_once("timers", "no timers (%s); a worker in which Python cannot run will not be killed", error)
        return self.kill_timer

    def limit_changed(self, core: Core) -> None:
        """A request has given itself a limit. See requests.Watcher."""
        watchdog = self._watchdog
        if watchdog is None:
            with self._lifecycle.starting() as may_start:
                watchdog = self._ensure_watchdog() if may_start else None
        if watchdog is not None:
            watchdog.limit_changed(core)

    def request_ended(self, core: Core) -> None:  # noqa: ARG002  (whichever it was)
        """See requests.Watcher."""
        kill_timer = self.kill_timer
        if kill_timer is not None:
            kill_timer.request_ended()

    def _ensure_watchdog(self) -> Watchdog | None:
        if self._watchdog is not None:
            return self._watchdog
        watchdog = None
        try:
            watchdog = Watchdog(
                primitives=self.primitives,
                cores=self.cores,
                reporter=self._reporter,
                stacks_file=lambda: self._black_box.stacks_file if self._black_box is not None else None,
                table=self._table,
                places=places.Places(self.identity.started_at),
                worker_number=lambda: self.slot.number if self.slot is not None else None,
                hubs=self.hubs,
            )
            watchdog.start()
        except (OSError, RuntimeError) as error:
            if watchdog is not None:
                watchdog.forget()
            faults.warn_once("watchdog", "no watchdog can be started (%s); harakiri is off in this worker", error)
            return None
        self._watchdog = watchdog
        return watchdog

    def stop(self) -> None:
        """End the threads and take the files away."""
        self._lifecycle.stop()

    def _end(self) -> None:
        try:
            if self.kill_timer is not None:
                self.kill_timer.close()
                self.kill_timer = None
            if self._watchdog is not None:
                self._watchdog.stop(_STOP_SECONDS)
                self._watchdog = None
            self._reporter.flush(_STOP_SECONDS)
            if self.listener is not None:
                self.listener.stop(_STOP_SECONDS)
                self.listener = None
            self.hubs.close()
            self.cores.abandon()
            self._close_black_box(remove=True)
            if self.slot is not None:
                self.slot.release()
                self.slot = None
        finally:
            self.cores.abandon()
            # Not before: what the next request starts would run beside this.
            if running() is self:
                del _agents[self.identity.pid]

    def forget(self) -> None:
        """In a forked child: let go of what is the parent's, without a trace in its files."""
        if self.kill_timer is not None:
            self.kill_timer.close()
            self.kill_timer = None
        if self.listener is not None:
            self.listener.forget()
        if self._watchdog is not None:
            self._watchdog.forget()
        self.hubs.forget()
        self._close_black_box(remove=False)
        if self.slot is not None:
            self.slot.forget()
        self.cores.abandon()

    def _take_slot(self, preferred: int | None = None) -> None:
        base = self.settings.base
        try:
            taken = slot.claim(base, preferred)
            if taken is None:
                faults.warn_once(
                    "numbers",
                    "no worker number is free below %d for %s; this worker cannot be read",
                    slot.MAX_NUMBER,
                    base,
                )
                return
            # The predecessor's files are read before they make room for ours.
            self._log_postmortem(predecessor.make_postmortem(base, taken.number))
            box = BlackBox(self.identity, taken.number, self.settings.dump_signal, self._black_box)
            try:
                taken.write_card(box.card())
                taken.bind(self._group_id)
            except BaseException:
                box.close(remove=True)
                taken.release()
                raise
        except OSError as error:
            faults.warn_once(
                "socket", "cannot open a socket at %s<N> (%s); the application is served without it", base, error
            )
            return
        self.slot = taken
        self._record_in(box)
        # Not before: where there is no socket either, one warning is enough.
        self._warn_of_surroundings(taken.number, box)
        if self.settings.name_threads:
            self.cores.name_threads(taken.number)

    def _warn_of_surroundings(self, number: int, box: BlackBox) -> None:
        copies = startup_warnings.other_copies(self.identity, number)
        _warn("copies", copies)
        for key, message, reason in box.refused:
            # The signal is the first copy's: that was said.
            if key != "signal" or copies is None:
                faults.warn_once(key, message, reason)
        _warn("hidden", startup_warnings.hidden(self.identity.base))

    def _record_in(self, box: BlackBox) -> None:
        self._black_box = box
        if box.table is not None:
            self.cores.record_in(box.table)
            self.own_threads.write_to(box.table)
            if self.listener is not None and self.listener.native_id is not None:
                box.table.set_listener(self.listener.native_id)

    def _close_black_box(self, *, remove: bool) -> None:
        if self._black_box is not None:
            self.own_threads.write_to(None)
            self.cores.leave_table()
            self._black_box.close(remove=remove)
            self._black_box = None

    def _table(self) -> Table | None:
        box = self._black_box
        return box.table if box is not None else None

    def _listener_started(self, native_id: int) -> None:
        table = self._table()
        if table is not None:
            table.set_listener(native_id)

    def _log_postmortem(self, died: Postmortem | None) -> None:
        if died is not None:
            text = "\n".join(postmortem_lines(died))
            content = {"kind": "postmortem", **postmortem_format.document(died)}
            self._reporter.post(Entry(logs.POSTMORTEM, logging.ERROR, "postmortem: %s", text, content=content))

    def _check_paths(self) -> OwnDescriptor | None:
        """Once a tick: what vanished comes back, under the same number if that is still free."""
        self._note_those_that_stay()
        current, box = self.slot, self._black_box
        if current is not None and not (current.is_intact() and (box is None or box.is_there())):
            # Not release() first: the number would be anybody's for a moment. What is left of ours has no lock file
            # that others could find, so nobody is kept from anything by it.
            self.slot = None
            current.release()
        if self.slot is None:
            self._take_slot(current.number if current is not None else None)
        return self.slot.listening if self.slot is not None else None

    def _note_those_that_stay(self) -> None:
        """Complete the rows of requests that are in flight for long; where there is a watchdog, it was sooner."""
        now, table = monotonic(), self._table()
        for core in self.cores.all():
            token = core.started
            if token > 0.0 and table is not None and core.number is not None:
                request = requests.describe(core, token, now, 0.0)
                if request is not None:
                    table.describe(core.number, token, request.remote_address, request.request_id)

    # --- for those who see the process end

    def keep(self, text: str) -> None:
        """Add a report to the file of the last ones, for whoever asks what this worker did when it is gone."""
        box = self._black_box
        if box is not None:
            box.stacks_file.write(text)

    # --- who we are

    def _worker(self) -> Worker:
        started = [core.started for core in self.cores.all() if core.started > 0.0]
        return self.identity.worker(
            self.slot.number if self.slot is not None else None,
            cwd=working_directory(),
            requests_finished=self.cores.finished(),
            requests_in_flight=len(started),
            oldest_request_seconds=max(0.0, monotonic() - min(started)) if started else None,
        )

    def _counters(self) -> Counters:
        listener = self.listener
        return Counters(
            snapshots=self._snapshots.taken,
            clients_accepted=listener.accepted if listener is not None else 0,
            clients_refused=listener.refused if listener is not None else 0,
            clients_dropped=listener.dropped if listener is not None else 0,
            faults=faults.count(),
        )

    # --- answers

    def answer(self, path: str) -> bytes | None:
        """The response to ``GET path``; None for a path there is not. Runs on the listener's thread."""
        try:
            if path in ("/", "/snapshot.txt"):
                return http.response(200, http.TEXT, self._snapshots.text(self.own_threads.idents()))
            if path == "/snapshot":
                return http.response(200, http.JSON, self.snapshot_json())
            if path == "/worker":
                return http.response(200, http.JSON, json_format.worker_bytes(self._worker(), self._counters()))
        except Exception:
            faults.caught("while a snapshot was taken")
            return http.response(500, http.TEXT, b"a fault of wsgi_tracebacker: see the worker's log\n")
        return None

    def snapshot_json(self) -> bytes:
        """All stacks with their requests, as JSON."""
        return self._snapshots.json(self.own_threads.idents(), self._worker())


def agent_for(settings: Settings, environ: dict[str, Any], application: str) -> Agent | None:
    """The agent of this process; the first call starts it. None while it stops, and when the process ends."""
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
            # There are others if we are a child that was forked in C: no hook has run.
            _forget_parents()
            STARTED_HERE[0] = 1
            agent.adapt()
            agent.start()
    if agent.is_stopping:
        return None
    STARTED_HERE[0] = 1
    agent.adapt()
    if agent.settings.base != settings.base:
        faults.warn_once(
            f"base {settings.base}",
            "this process listens at %s<N> already; socket=%r of another middleware in it is not used",
            agent.settings.base,
            settings.base,
        )
    return agent


def running() -> Agent | None:
    """The agent of this process, if it was started."""
    return _agents.get(os.getpid())


def serving_core() -> Core | None:
    """The core of the request that the calling thread serves, idle perhaps; None if it never served one."""
    for agent in _agents.values():
        core: Core | None = getattr(agent.local, "core", None)
        return core
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
    core = serving_core()
    if core is None:
        raise NotInRequest("there is no request in flight here; set_harakiri() is for code that serves one")
    requests.set_own_limit(core, seconds)


def idle_core(agent: Agent, environ: dict[str, Any]) -> Core | None:
    """Make an idle core the calling thread's; None for a request that it is already seen to serve."""
    core: Core | None = getattr(agent.local, "core", None)
    if core is None:
        return _new_core(agent, environ)
    if core.phase != requests.APP:
        # Perhaps its body was dropped without close().
        agent.cores.settle(core)
    elif core.started > 0.0 and core.environ is None:
        # It was on its way out when the handler of a signal raised.
        core.end(monotonic())
    if core.started == 0.0:
        return core
    if core.started < 0.0:
        return _new_core(agent, environ)
    if _is_tracked(core, environ):
        return None
    if core.phase == requests.APP or _is_made_from(environ, core):
        return _nested_core(agent, core)
    # Its body lives on while its thread begins another request: it keeps its core, the thread goes on with a new one.
    return _new_core(agent, environ)


def _new_core(agent: Agent, environ: dict[str, Any]) -> Core:
    greenlet = greenlets.current()
    if greenlet is not None:
        agent.hubs.note()
    # uWSGI says there which of its cores serves, if it has more than one.
    of_server = environ.get("uwsgi.core")
    core, marker = agent.cores.take(
        get_ident(),
        _thread.get_native_id(),
        # A thread that has many greenlets cannot be named after one of them.
        known_thread(_thread.get_ident()) if greenlet is None or greenlet.parent is None else None,
        greenlets.reference_to(greenlet),
        of_server if type(of_server) is int else None,
    )
    agent.local.core = core
    # The former marker goes here, and with it the claim of this thread to the former core.
    agent.local.marker = marker
    return core


def _is_tracked(core: Core, environ: dict[str, Any]) -> bool:
    """Middleware within middleware: the environ is that of a request which the calling thread is in."""
    outer: Core | None = core
    while outer is not None:
        if outer.environ is environ:
            return True
        outer = outer.outer
    return False


def _is_made_from(environ: object, core: Core) -> bool:
    """A call that is made while a body is read has a copy of that request's environ, as a rule; a server's next not.

    Whether the body runs just now would tell it whatever the environ is, but nothing of ours may hold the body.
    """
    handle = environ.get(requests.HANDLE_KEY) if isinstance(environ, dict) else None
    outer: Core | None = core
    while outer is not None:
        if outer.handle is handle:
            return True
        outer = outer.outer
    return False


def _nested_core(agent: Agent, outer: Core) -> Core:
    """A core for a WSGI call that the application makes while it serves ``outer``."""
    core = Core(None, outer.ident, outer.native_id, outer.thread)
    core.greenlet = outer.greenlet
    core.outer = outer
    # What has ended goes, and of what was left unclosed by the application too.
    agent.cores.settle(outer)
    outer.nested = [other for other in outer.nested if other.started > 0.0]
    outer.nested.append(core)
    agent.local.core = core
    return core


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
            # This thread is the one that forked: it must not take its core for one of the new process.
            vars(agent.local).clear()
        _forget_parents()
        faults.forget()
    except Exception:
        faults.caught("after a fork")


def _uwsgi_worker_id() -> int | None:
    uwsgi = sys.modules.get("uwsgi")
    try:
        number = uwsgi.worker_id() if uwsgi is not None else 0
    except Exception:
        return None
    return number if type(number) is int and number > 0 else None


def _warn(key: str, text: str | None) -> None:
    if text is not None:
        faults.warn_once(key, "%s", text)


def _group_id(group: str | int | None) -> int | None:
    if group is None or isinstance(group, int):
        return group
    try:
        return grp.getgrnam(group).gr_gid
    except (KeyError, OSError, ValueError):
        faults.warn_once("group", "there is no group %r on this system; only the owner can read the socket", group)
        return None
