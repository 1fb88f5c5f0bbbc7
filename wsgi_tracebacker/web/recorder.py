"""Makes the recordings of the page: one at a time, on the thread of the request that asked for it.

So nothing is kept between two requests, and the page works in an application with several processes too.
"""

from __future__ import annotations

import math
import threading
from typing import TYPE_CHECKING

from wsgi_tracebacker.errors import Misuse

if TYPE_CHECKING:
    from collections.abc import Callable

    from wsgi_tracebacker.analysis.live import WorkerReading
    from wsgi_tracebacker.web.workers import Recorded

#: Somebody waits for it, and browsers and proxies wait for a minute or two.
MAX_SECONDS = 60
DEFAULT_SECONDS = 10


class Recorder:
    """Lets one recording be made at a time."""

    def __init__(self, record: Callable[[float, WorkerReading | None], Recorded]) -> None:
        """``record`` records for so many seconds one worker, or all."""
        self._record = record
        self._lock = threading.Lock()

    def record(self, seconds: float, worker: WorkerReading | None) -> Recorded | None:
        """A recording of all workers, or of one; None if another one is being made. Raises what ``record`` raises."""
        if not self._lock.acquire(blocking=False):
            return None
        try:
            return self._record(seconds, worker)
        finally:
            self._lock.release()


def seconds_of(word: str) -> float:
    """How long to record, as it was written into the form. Raises Misuse."""
    try:
        seconds = float(word)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= MAX_SECONDS:
        raise Misuse(f"a recording lasts up to {MAX_SECONDS} seconds")
    return seconds
