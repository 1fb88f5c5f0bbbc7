"""A lock around starting and stopping, so that one process never has two worker numbers.

| asked for      | while parts start                        | while they end                         |
|----------------|------------------------------------------|----------------------------------------|
| a request      | goes on; waits if it needs a part itself | is served untracked                    |
| start parts    | waits                                    | does not                               |
| stop()         | waits                                    | waits                                  |
| stop() in the handler of a signal that interrupted the same thread | returns; done when they started | returns |

A fork leaves nothing locked: each agent has a lifecycle of its own, and a child makes a new agent.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from wsgi_tracebacker.worker.threads import primitives

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: How long a request waits while another thread starts parts, which takes milliseconds.
_PATIENCE_SECONDS = 0.1
#: How long stop() waits for a thread that starts or ends parts.
_STOP_SECONDS = 10.0


class Lifecycle:
    """The lifecycle of one agent, which starts once, adds parts when it needs them, and ends once."""

    def __init__(self, end: Callable[[], None]) -> None:
        """``end`` ends all parts; it may be called twice."""
        self.is_stopping = False
        self._end = end
        #: Whether the thread that starts parts ends them right afterwards.
        self._ends_afterwards = False
        # Not a plain lock: a signal handler may call stop() in the thread that holds it.
        self._lock: Any = primitives.original("_thread", "RLock")()

    @contextlib.contextmanager
    def starting(self, patience_seconds: float = _PATIENCE_SECONDS) -> Iterator[bool]:
        """Hold the lock while parts are started; the value is whether they may be."""
        if not self._lock.acquire(timeout=patience_seconds):
            yield False
            return
        try:
            yield not self.is_stopping
        finally:
            try:
                if self._ends_afterwards:
                    self._end()
            finally:
                self._lock.release()

    def stop(self) -> None:
        """End all parts for good. When it returns they have ended, unless it was called as in the table's last row."""
        self.is_stopping = True
        # Not for ever: the starting thread may itself wait for a lock of the code that a signal's handler interrupted.
        if self._lock._is_owned() or not self._lock.acquire(timeout=_STOP_SECONDS):  # noqa: SLF001
            self._ends_afterwards = True
            return
        try:
            self._end()
        finally:
            self._lock.release()
