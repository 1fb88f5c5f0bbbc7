"""Measures how much of the time collections of garbage take, while requests are recorded.

The collector calls a callback at the start and at the end of each collection, on whichever thread runs then. Ours is C
code alone: an exception that is raised into a thread (``interrupt``) would land in a callback in Python, and be lost
there, because the collector ignores what its callbacks raise.
"""

from __future__ import annotations

import contextlib
import gc
import operator
import sys
from collections import deque
from functools import partial
from itertools import accumulate
from typing import TYPE_CHECKING

from wsgi_tracebacker.linux.clock import monotonic_ns
from wsgi_tracebacker.model.waits import WaitsFor
from wsgi_tracebacker.text.waits import with_sentence

if TYPE_CHECKING:
    from collections.abc import Callable

#: PyPy has no such callbacks.
_IS_SUPPORTED = sys.implementation.name == "cpython"
#: What a report says is about so much time, if that was measured.
_WINDOW_SECONDS = 2.0
#: A shorter measurement proves nothing.
_MIN_SECONDS = 0.5
#: How often the sum is written down.
_MARK_SECONDS = 0.1
#: From this share on, collections are why a request is slow.
_CAUSE_SHARE = 0.5


class GarbageWatch:
    """Measures the collections of one process. Used by the watchdog's thread."""

    def __init__(self, clock_ns: Callable[[], int] = monotonic_ns) -> None:
        """Nothing is measured before check()."""
        self._clock_ns = clock_ns
        #: The callback while it is registered, and when it was registered.
        self._callback: Callable[..., object] | None = None
        self._registered_ns = 0
        #: When the collection began that is under way; empty if there is none.
        self._began_ns: deque[int] = deque(maxlen=1)
        #: How long all collections took that have ended.
        self._took_ns: deque[int] = deque((0,), maxlen=1)
        #: When that was written down, on the monotonic clock, and how much it was.
        self._marks: deque[tuple[float, int]] = deque()

    def check(self, now: float) -> None:
        """Begin to measure, or write down what was measured so far."""
        if not _IS_SUPPORTED:
            return
        if self._callback is None:
            self._start()
        if not self._marks or now - self._marks[-1][0] >= _MARK_SECONDS:
            self._marks.append((now, self._sum_ns()))
        while len(self._marks) > 1 and now - self._marks[1][0] >= _WINDOW_SECONDS:
            self._marks.popleft()

    def cause(self, now: float) -> WaitsFor | None:
        """That collections took most of the last seconds; None if they did not, or that is not known."""
        if not self._marks:
            return None
        since, before_ns = self._marks[0]
        seconds = now - since
        share = min(1.0, (self._sum_ns() - before_ns) / 1e9 / seconds) if seconds >= _MIN_SECONDS else 0.0
        return with_sentence(WaitsFor("garbage", share=share, since_seconds=seconds)) if share >= _CAUSE_SHARE else None

    def stop(self) -> None:
        """Measure no more: the collector calls nothing of ours any longer."""
        callback, self._callback = self._callback, None
        if callback is not None:
            # The application may have cleared the list.
            with contextlib.suppress(ValueError):
                gc.callbacks.remove(callback)
        self._marks.clear()

    def _sum_ns(self) -> int:
        """How long all collections took, with the one under way: callbacks and destructors let other threads run."""
        under_way = [self._clock_ns() - began for began in self._began_ns if began != self._registered_ns]
        return self._took_ns[0] + sum(under_way)

    def _start(self) -> None:
        # The collector calls callback(phase, info), which gets the attribute "start" or "stop" of an object. Both are
        # properties: "start" keeps the time, "stop" takes it away and adds the time since then to the sum. The time of
        # registration stands for the start of a collection that is under way now.
        clock_ns = self._clock_ns
        self._registered_ns = clock_ns()
        began_ns = self._began_ns = deque((self._registered_ns,), maxlen=1)
        took_ns = self._took_ns = deque((0,), maxlen=1)
        starts = map(began_ns.append, iter(clock_ns, None))
        times = map(operator.sub, iter(clock_ns, None), iter(began_ns.pop, None))
        stops = map(took_ns.append, accumulate(times))
        # next() gets the object of the property as the value to return at the end, which these iterators do not have.
        events = type("Events", (), {"start": property(partial(next, starts)), "stop": property(partial(next, stops))})
        self._callback = partial(getattr, events())
        gc.callbacks.append(self._callback)
