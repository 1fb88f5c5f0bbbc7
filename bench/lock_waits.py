"""What it takes to say which locks 20 threads wait for, and how long a busy request is kept waiting meanwhile.

The threads stand 30 calls deep and wait for five locks, each of which another thread is inside of. One more thread
looks at the clock, as in ``pauses``. The switch interval is what the listener sets for a dump.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import threading
import time
from typing import TYPE_CHECKING

from bench import pauses
from bench.samples import Row, in_turns, row
from wsgi_tracebacker.worker.stacks import walk
from wsgi_tracebacker.worker.waits import locks
from wsgi_tracebacker.worker.waits.frames.expressions import Expressions
from wsgi_tracebacker.worker.waits.look import Look

if TYPE_CHECKING:
    from collections.abc import Callable

TOPIC = pauses.TOPIC
CASE = "the locks that 20 threads wait for"
TIME, LONGEST = "time to find them", "longest pause meanwhile"

WAITING, LOCKS, DEPTH = 20, 5, 30
ROUNDS, QUICK_ROUNDS = 200, 20
#: What the listener sets while it takes a dump.
_SWITCH_INTERVAL_SECONDS = 50e-6


class Shelf:
    """Something with a lock."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def hold(self, release: threading.Event) -> None:
        with self._lock:
            release.wait()

    def want(self) -> None:
        with self._lock:
            pass


def deep(calls: int, function: Callable[[], object]) -> object:
    return deep(calls - 1, function) if calls else function()


def measure(quick: bool) -> list[Row]:
    shelves = [Shelf() for _ in range(LOCKS)]
    release = threading.Event()
    functions = [functools.partial(shelf.hold, release) for shelf in shelves]
    threads = [threading.Thread(target=deep, args=(DEPTH, function)) for function in functions]
    for thread in threads:
        thread.start()
    wait_until_they_wait(threads)
    waiting = [threading.Thread(target=deep, args=(DEPTH, shelves[i % LOCKS].want)) for i in range(WAITING)]
    for thread in waiting:
        thread.start()
    wait_until_they_wait(waiting)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH_INTERVAL_SECONDS)
    try:
        return _rows(QUICK_ROUNDS if quick else ROUNDS)
    finally:
        sys.setswitchinterval(interval)
        release.set()
        for thread in [*threads, *waiting]:
            thread.join()


def _rows(rounds: int) -> list[Row]:
    expressions = Expressions(None)
    longest: list[float] = []

    def look() -> None:
        with contextlib.closing(Look(walk.walk(())[0])) as taken:
            assert len(locks.find(taken, expressions, {})) == WAITING

    def timed() -> float:
        started = time.perf_counter()
        look()
        return (time.perf_counter() - started) * 1e3

    def beside_a_clock() -> float:
        longest.append(_longest_gap(look) * 1e3)
        return longest[-1]

    found = in_turns({TIME: timed, LONGEST: beside_a_clock}, rounds)
    return [row(TOPIC, CASE, name, "ms", values, None) for name, values in found.items()]


def _longest_gap(look: Callable[[], None]) -> float:
    """The longest time that a thread which looks at the clock did not get to, while ``look`` ran."""
    gaps = [0.0]
    is_over = False
    begun = threading.Event()

    def watch() -> None:
        last = time.perf_counter()
        begun.set()
        while not is_over:
            now = time.perf_counter()
            gaps[0] = max(gaps[0], now - last)
            last = now

    watching = threading.Thread(target=watch)
    watching.start()
    begun.wait()
    look()
    is_over = True
    watching.join()
    return gaps[0]


def wait_until_they_wait(threads: list[threading.Thread]) -> None:
    """Wait until none of them runs Python code any more."""
    before: list[tuple[int, int]] = []
    while True:
        frames = sys._current_frames()
        innermost = [frames[thread.ident] for thread in threads if thread.ident in frames]
        now = [(id(frame), frame.f_lasti) for frame in innermost]
        if len(now) == len(threads) and now == before:
            return
        before = now
        # Between two looks.
        time.sleep(0.05)
