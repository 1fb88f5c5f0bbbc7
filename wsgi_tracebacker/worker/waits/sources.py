"""Asks the sources what each request in flight waits for, the most exact first.

Never called while frames are held: source files may be read and parsed here.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from wsgi_tracebacker.model.waits import Holder, WaitsFor
from wsgi_tracebacker.text.waits import place_name, with_sentence
from wsgi_tracebacker.worker.reporting import faults
from wsgi_tracebacker.worker.threads import interpreters
from wsgi_tracebacker.worker.threads.signal_handlers import IN_HANDLER
from wsgi_tracebacker.worker.tracking.cores import thread_name
from wsgi_tracebacker.worker.waits import locks, other_threads, pools
from wsgi_tracebacker.worker.waits.calls import Calls, Statement, Subject
from wsgi_tracebacker.worker.waits.clients import Clients
from wsgi_tracebacker.worker.waits.frames.expressions import Expressions
from wsgi_tracebacker.worker.waits.look import Look

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from types import CodeType

    from wsgi_tracebacker.linux.source import SourceFile
    from wsgi_tracebacker.model.code_ownership import CodeOwnership
    from wsgi_tracebacker.model.snapshot import Request
    from wsgi_tracebacker.worker.tracking.core import Core
    from wsgi_tracebacker.worker.waits.locks import LockWait

    Stack = list[tuple[CodeType, int]]

#: What a younger request waits for is not asked: it would be something else by the time that somebody reads it.
MIN_AGE_SECONDS = 0.5
#: So many requests are asked about, the oldest ones.
MAX_REQUESTS = 64

#: The state of a greenlet that does not run, see stacks.greenlets.
SUSPENDED = "suspended"


class WaitSources:
    """Finds the waits of one process. Several threads may ask at the same time."""

    def __init__(self, process_started_at: float | None, ownership: CodeOwnership) -> None:
        """Nothing is read before find().

        :param process_started_at: Unix seconds, see Expressions.
        :param ownership: which code is the application's own.
        """
        self._expressions = Expressions(process_started_at)
        self._calls = Calls(self._expressions, ownership)

    def find(
        self,
        threads: Mapping[int, Stack],
        in_flight: Mapping[Core, Request],
        idents: Mapping[Core, int],
        greenlets: Mapping[Core, tuple[Stack, str]],
        min_age_seconds: float = MIN_AGE_SECONDS,
    ) -> dict[Core, WaitsFor]:
        """What the oldest of these requests wait for; those that wait for nothing that is known are not in it.

        :param threads: the stacks of all threads, by ident.
        :param in_flight: the requests with their cores.
        :param idents: the thread that works on each of them; that of a stack which is not in ``threads`` if none does.
        :param greenlets: the cores that greenlets serve, with their stacks and states: what their threads run is not
            their own.
        :param min_age_seconds: younger requests are not asked about.
        """
        tokens = {core: core.started for core in in_flight}
        asked = sorted(
            (
                core
                for core, request in in_flight.items()
                # What a thread waits for within a signal handler is not its request's.
                if request.age_seconds >= min_age_seconds and idents[core] not in IN_HANDLER
            ),
            key=lambda core: -in_flight[core].age_seconds,
        )[:MAX_REQUESTS]
        if not asked:
            return {}
        found: dict[Core, WaitsFor] = {}
        try:
            look, keys = _look_at(threads, idents, greenlets)
            with contextlib.closing(look):
                found = self._ask(look, keys, in_flight, [core for core in asked if core in keys])
            clients = Clients()
            for core in asked:
                cause = core.cause
                if cause is not None and cause[0] == tokens[core] and _is_better(cause[1], found.get(core)):
                    found[core] = cause[1]
                stack = greenlets[core][0] if core in greenlets else threads.get(idents[core], [])
                address = in_flight[core].remote_address
                with_client = clients.added(found.get(core), core.environ, stack, address)
                if with_client is not None:
                    found[core] = with_client
        except Exception:
            faults.caught("when it was asked what requests wait for")
        # What was found of a thread belongs to its request only if that is still the same one.
        return {core: with_sentence(waits_for) for core, waits_for in found.items() if core.started == tokens[core]}

    def _ask(
        self, look: Look, keys: Mapping[Core, int], in_flight: Mapping[Core, Request], asked: list[Core]
    ) -> dict[Core, WaitsFor]:
        """Ask the sources in turn; what the first one knows is not asked of the next.

        :param keys: the idents in the look.
        """
        files: dict[str, SourceFile | None] = {}
        served = {keys[core]: core for core in in_flight if core.outer is None and core in keys}
        waits = locks.find(look, self._expressions, files)
        serving = _Serving(served, in_flight, waits)
        found = {core: serving.waits_for(keys[core]) for core in asked if keys[core] in waits}
        left = {keys[core]: core for core in asked if core not in found}
        for ident, waits_for in _for_pools_and_threads(look, left).items():
            found[left[ident]] = waits_for
        subjects = _subjects({core: keys[core] for core in asked if core not in found}, look)
        answers = self._calls.find(look, list(subjects.values()), files, serving.holder)
        found.update((core, answer) for core, answer in zip(subjects, answers, strict=True) if answer is not None)
        return {core: waits_for for core, waits_for in found.items() if look.has_stayed(keys[core])}

    def statement(
        self, core: Core, ident: int, threads: Mapping[int, Stack], greenlets: Mapping[Core, tuple[Stack, str]]
    ) -> Statement | None:
        """The statement that a core's request runs on a database; None if that is not known. See find()."""
        look, keys = _look_at(threads, {core: ident}, greenlets)
        with contextlib.closing(look):
            return next((self._calls.statement(look, each) for each in _subjects(keys, look).values()), None)


def _look_at(
    threads: Mapping[int, Stack], idents: Mapping[Core, int], greenlets: Mapping[Core, tuple[Stack, str]]
) -> tuple[Look, dict[Core, int]]:
    """The look, and under which ident each core's request is there: its thread's, or its greenlet's if suspended."""
    keys = dict(idents)
    suspended: dict[int, tuple[object, Stack]] = {}
    running: dict[int, int] = {}
    for core, (stack, state) in greenlets.items():
        greenlet = core.greenlet() if core.greenlet is not None else None
        if greenlet is None:
            keys.pop(core, None)
        elif state == SUSPENDED:
            keys[core] = id(greenlet)
            suspended[id(greenlet)] = greenlet, stack
        else:
            running[id(greenlet)] = core.ident
    # Another thread may read a body.
    native_ids = {core.ident: core.native_id for core, ident in keys.items() if ident == core.ident and core.native_id}
    return Look(threads, suspended, running, native_ids), keys


def _is_better(cause: WaitsFor, waits: WaitsFor | None) -> bool:
    """Whether what the recorder saw over some seconds says more than what a request waits for at this moment."""
    # Of many short statements, one is always waited for.
    return waits is None or (cause.kind == "repeated_statement" and waits.kind == "database")


def _subjects(keys: Mapping[Core, int], look: Look) -> dict[Core, Subject]:
    """The threads and greenlets to look at."""
    found: dict[Core, Subject] = {}
    if interpreters.ids_are_shared():
        # Which of the stacks is whose is not known.
        return found
    for core, ident in keys.items():
        settings = core.settings
        reads_frames = settings is not None and settings.show_statements
        known_frames = settings.known_frames if settings is not None else ()
        stack = look.stacks.get(ident, [])
        native_id = look.native_id(ident)
        if native_id is not None or look.is_suspended(ident):
            found[core] = Subject(ident, native_id, look.greenlet(ident), stack, reads_frames, known_frames)
    return found


def _for_pools_and_threads(look: Look, idents: Collection[int]) -> dict[int, WaitsFor]:
    """The waits for a connection of a pool, and for a thread that works for another one, by ident."""
    found = {
        ident: WaitsFor("pool", pool=wait.pool, pool_size=wait.size, pool_in_use=wait.in_use)
        for ident, wait in pools.find(look, idents).items()
    }
    for ident, other in other_threads.find(look, idents).items():
        # Of a joined one the call says it, and where it was made.
        if not other.is_joined:
            found[ident] = WaitsFor("other_thread", thread=thread_name(other.ident))
    return found


class _Serving:
    """The requests that threads serve, to say who has a lock."""

    def __init__(
        self, cores: Mapping[int, Core], in_flight: Mapping[Core, Request], waits: Mapping[int, LockWait]
    ) -> None:
        self._cores = cores
        self._in_flight = in_flight
        self._waits = waits
        self._cycles = locks.cycles(waits)

    def waits_for(self, ident: int) -> WaitsFor:
        """What the thread waits for, which waits for a lock."""
        wait = self._waits[ident]
        place = place_name(wait.filename, wait.lineno)
        cycle = self._cycles.get(ident)
        if cycle is not None:
            holders = tuple(
                self.holder(each, self._has(before), self._waits[each].lock)
                for before, each in zip((cycle[-1], *cycle), cycle, strict=False)
            )
            return WaitsFor("deadlock", lock=wait.lock, lock_place=place, holders=holders)
        return WaitsFor(
            "lock", lock=wait.lock, lock_place=place, holders=tuple(self.holder(each) for each, _ in wait.holders)
        )

    def _has(self, waiting: int) -> str:
        """How the holder of the lock that a thread waits for names it, else how that thread does."""
        wait = self._waits[waiting]
        return wait.holders[0][1] or wait.lock

    def holder(self, ident: int, has: str | None = None, wants: str | None = None) -> Holder:
        """The request that a thread serves, or the thread."""
        core = self._cores.get(ident)
        if core is None:
            return Holder("", "", 0.0, has=has, wants=wants, thread=thread_name(ident))
        request = self._in_flight[core]
        return Holder(request.method, request.path, request.age_seconds, core.number, None, has, wants)
