"""Records workers for some seconds, by whichever engine each of them is read, and adds up what the engines saw."""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple, Protocol

from wsgi_tracebacker.analysis.routes import Routes
from wsgi_tracebacker.model.recording import (
    CUT,
    EXACT,
    OUTSIDE,
    TORN,
    UNKNOWN_ROUTE,
    RecordedStack,
    RecordedWorker,
    Recording,
)
from wsgi_tracebacker.reader.recording import from_inside

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from wsgi_tracebacker.model.card import Card
    from wsgi_tracebacker.model.snapshot import Frame
    from wsgi_tracebacker.reader.recording.worker_key import WorkerKey

#: The share of the interval by which a look may come early or late: looks at a fixed distance would keep step with an
#: application that does something at a fixed distance itself.
_JITTER = 0.3

#: How often new workers are looked for.
_RENEW_SECONDS = 1.0

#: Different stacks that are kept; what comes beyond is added up without frames.
_MAX_STACKS = 50_000
#: Paths whose routes are remembered.
_MAX_PATHS = 10_000


class Engine(Protocol):
    """One worker while it is recorded."""

    card: Card
    #: What tells it from all others.
    key: WorkerKey
    #: Its pid here; the one on its card if it cannot be seen from here.
    pid: int
    #: See RecordedWorker.
    engine: str

    def look(self, totals: Totals) -> bool:
        """Add what there is to see now; False if the worker is gone."""

    def finish(self, totals: Totals, ended_at: float) -> None:
        """The recording is over since ``ended_at``, of the monotonic clock: add what is still missing."""

    def close(self) -> None:
        """Close what is open; safe to call twice."""

    def seconds_of_a_look(self) -> float:
        """How long each look stands for."""

    def cpu_seconds(self) -> float:
        """How long the threads that serve requests were on a CPU, by the kernel's clock."""


class _Key(NamedTuple):
    worker: WorkerKey
    route: str
    waits_for: str
    #: The frames by their identity: to hash them takes ten times as long. They are kept, so it stays theirs.
    frames: tuple[int, ...]
    is_cut: bool


class Totals:
    """What was seen so far, of all workers."""

    def __init__(self, wanted: Callable[[str], bool] | None = None) -> None:
        """``wanted``: whether requests of a path are recorded; None: all are."""
        self._wanted = wanted
        self.outcomes = {EXACT: 0, CUT: 0, TORN: 0}
        #: By the key of the worker, and what tells the requests of a worker apart.
        self.requests: set[tuple[WorkerKey, float, float]] = set()
        self._routes = Routes()
        self._known_routes: dict[tuple[str, str], str] = {}
        #: With the looks that each stack was seen in, and the seconds of those that say how long they stand for.
        self._stacks: dict[_Key, tuple[tuple[Frame, ...], int, float]] = {}
        self._torn: Counter[WorkerKey] = Counter()

    @property
    def looks(self) -> int:
        return sum(self.outcomes.values())

    def wanted(self, path: str | None) -> bool:
        """Whether requests of a path are recorded; None: of which path it is not known."""
        return self._wanted is None or (path is not None and self._wanted(path))

    def look(
        self,
        request: tuple[WorkerKey, float, float],
        method: str,
        path: str,
        waits_for: str,
        frames: tuple[Frame, ...],
        outcome: str,
    ) -> None:
        """Count one look at a request."""
        self.outcomes[outcome] += 1
        self.requests.add(request)
        if outcome == TORN:
            self._torn[request[0]] += 1
        else:
            self._add(request[0], self._route(method, path), waits_for, frames, 1, 0.0, is_cut=outcome == CUT)

    def add_seconds(
        self,
        worker: WorkerKey,
        request: tuple[int, str, str] | None,
        waits_for: str,
        frames: tuple[Frame, ...],
        samples: int,
        seconds: float,
        *,
        is_cut: bool,
    ) -> None:
        """Add looks that say how long they stand for.

        :param request: its number, method and path; None if it is not known whose time it was.
        """
        self.outcomes[CUT if is_cut else EXACT] += samples
        route = UNKNOWN_ROUTE
        if request is not None:
            self.requests.add((worker, request[0], 0.0))
            route = self._route(*request[1:])
        self._add(worker, route, waits_for, frames, samples, seconds, is_cut=is_cut)

    def _add(
        self,
        worker: WorkerKey,
        route: str,
        waits_for: str,
        frames: tuple[Frame, ...],
        samples: int,
        seconds: float,
        *,
        is_cut: bool,
    ) -> None:
        key = _Key(worker, route, waits_for, tuple(map(id, frames)), is_cut)
        if len(self._stacks) >= _MAX_STACKS and key not in self._stacks:
            key, frames = key._replace(frames=()), ()
        frames, samples_before, seconds_before = self._stacks.get(key, (frames, 0, 0.0))
        self._stacks[key] = (frames, samples_before + samples, seconds_before + seconds)

    def _route(self, method: str, path: str) -> str:
        """The route of a request; to find it takes longer than to look at the request."""
        found = self._known_routes.get((method, path))
        if found is None:
            if len(self._known_routes) >= _MAX_PATHS:
                self._known_routes.clear()
            found = self._known_routes[method, path] = self._routes.route(method, path)
        return found

    def stacks(self, workers: dict[WorkerKey, Engine]) -> tuple[RecordedStack, ...]:
        """The stacks, those with the most seconds first.

        :param workers: by their keys.
        """
        found = []
        for key, (frames, samples, seconds) in self._stacks.items():
            worker = workers[key.worker]
            whole, number = seconds + samples * worker.seconds_of_a_look(), worker.card.number
            stack = key.route, number, worker.pid, key.waits_for, frames, key.is_cut, whole, samples
            found.append(RecordedStack(*stack))
        return tuple(sorted(found, key=lambda stack: -stack.seconds))

    def torn_seconds(self, workers: dict[WorkerKey, Engine]) -> float:
        """Seconds of requests that are missing in the stacks."""
        return sum(count * workers[key].seconds_of_a_look() for key, count in self._torn.items())


def record(
    workers: Iterable[Engine],
    totals: Totals,
    seconds: float,
    rate: float,
    *,
    find_new: Callable[[], list[Engine]] = list,
    progress: Callable[[float], None] = lambda _: None,
) -> Recording:
    """Record workers that are open; those that end are closed, and the others in the end. Ctrl-C ends it early.

    :param find_new: opens workers that have started meanwhile. They are closed as well.
    :param progress: called about ten times a second with the seconds that have passed.
    """
    running = list(workers)
    known = {worker.key: worker for worker in running}
    started_at, began = time.time(), time.monotonic()
    renewed = shown = began
    due = began
    cpu_seconds = 0.0
    try:
        while (now := time.monotonic()) < began + seconds:
            for worker in list(running):
                if not worker.look(totals):
                    running.remove(worker)
                    cpu_seconds += worker.cpu_seconds()
                    worker.close()
            if now >= renewed + _RENEW_SECONDS:
                renewed = now
                found = find_new()
                running += found
                known |= {worker.key: worker for worker in found}
            if now >= shown + 0.1:
                shown = now
                progress(now - began)
            # Those that a busy machine made it miss are not made up for.
            due = max(due, now - 1 / rate) + (1 + random.uniform(-_JITTER, _JITTER)) / rate  # noqa: S311
            time.sleep(max(0.0, min(due, began + seconds) - time.monotonic()))
    except KeyboardInterrupt:
        pass
    ended_at = min(began + seconds, time.monotonic())
    try:
        for worker in running:
            worker.finish(totals, ended_at)
    except KeyboardInterrupt:
        pass
    finally:
        for worker in running:
            cpu_seconds += worker.cpu_seconds()
            worker.close()
    cards = [worker.card for worker in known.values()]
    recorded = [RecordedWorker(worker.card.number, worker.pid, worker.engine) for worker in known.values()]
    return Recording(
        started_at=started_at,
        wanted_seconds=seconds,
        seconds=ended_at - began,
        rate=rate if any(worker.engine == OUTSIDE for worker in recorded) else min(rate, from_inside.RATE),
        host=os.uname().nodename,
        workers=tuple(recorded),
        application=next((card.application for card in cards), None),
        cwd=next((card.cwd for card in cards), None),
        requests=len(totals.requests),
        exact=totals.outcomes[EXACT],
        cut=totals.outcomes[CUT],
        torn=totals.outcomes[TORN],
        torn_seconds=totals.torn_seconds(known),
        cpu_seconds=cpu_seconds,
        stacks=totals.stacks(known),
    )
