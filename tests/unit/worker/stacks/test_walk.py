"""The walk: of one instant, whatever other threads and the collector do."""

from __future__ import annotations

import subprocess
import sys
import threading

from tests.support.interpreters import only_on_cpython
from tests.support.programs import PROJECT
from tests.support.waiting import wait_until
from wsgi_tracebacker.worker.stacks import walk


@only_on_cpython("PyPy's collector has no thresholds")
def test_a_collection_during_a_walk_does_not_free_the_frames() -> None:
    """CPython 3.11 went on with a frame whose memory was gone, and the worker ended with SIGSEGV."""
    command = [sys.executable, "-m", "tests.programs.collected"]
    ended = subprocess.run(command, cwd=PROJECT, check=False, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (0, "")


class _Alternating:
    """A thread that is a hundred calls deep in left(), then in right(), and so on."""

    def __init__(self) -> None:
        self._is_over = False
        self.rounds = 0
        self.thread = threading.Thread(target=self._run)
        self.thread.start()
        wait_until(lambda: self.rounds, "it runs")

    def _run(self) -> None:
        while not self._is_over:
            left(100)
            right(100)
            self.rounds += 1

    def end(self) -> None:
        self._is_over = True
        self.thread.join()


def left(calls: int) -> None:
    if calls:
        left(calls - 1)


def right(calls: int) -> None:
    if calls:
        right(calls - 1)


@only_on_cpython("PyPy's threads change at other places")
def test_a_stack_is_of_one_instant() -> None:
    """No thread goes on between its innermost and its outermost frame, however short its turns are."""
    interval = sys.getswitchinterval()
    alternating = _Alternating()
    ident = alternating.thread.ident or 0
    calls: set[tuple[str, int]] = set()
    sys.setswitchinterval(1e-6)
    try:
        # Until it was met in both: CPython 3.14 seldom lets another thread run within left().
        while alternating.rounds < 5_000 or (len(calls) < 2 and alternating.rounds < 200_000):
            threads, _, _, _ = walk.walk((), [ident])
            functions = [code.co_name for code, _ in threads[ident]]
            where = functions.index("_run")
            if where:
                calls.add((functions[where - 1], threads[ident][where][1]))
    finally:
        sys.setswitchinterval(interval)
        alternating.end()
    # Each of the two is called from one place.
    assert sorted(function for function, _ in calls) == ["left", "right"]


def test_only_the_wanted_threads_are_walked() -> None:
    """Skipped threads, and threads that have ended, are not."""
    here = threading.get_ident()
    ended = threading.Thread(target=len, args=((),))
    ended.start()
    ended.join()
    assert list(walk.walk((), [here, ended.ident or 0])[0]) == [here]
    assert here in walk.walk(())[0]
    assert here not in walk.walk({here})[0]
    assert walk.walk({here}, [here])[0] == {}
