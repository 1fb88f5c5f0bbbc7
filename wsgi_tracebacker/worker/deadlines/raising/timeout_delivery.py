"""Deliver HarakiriTimeout to one overdue request: on a thread, or in a greenlet through its hub."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wsgi_tracebacker.text.units import SHARED_IDS
from wsgi_tracebacker.worker.deadlines.raising import interrupt
from wsgi_tracebacker.worker.deadlines.raising.interrupt import Throw
from wsgi_tracebacker.worker.deadlines.thresholds import NEVER
from wsgi_tracebacker.worker.threads import interpreters

if TYPE_CHECKING:
    from wsgi_tracebacker.worker.stacks.hubs import Hub
    from wsgi_tracebacker.worker.tracking.core import Core

#: How long a greenlet has to give way to its hub, which then throws into it.
_GIVES_WAY_SECONDS = 0.3


class TimeoutDelivery:
    """The exception for one request. Used by the watchdog's thread."""

    def __init__(self, core: Core, token: float) -> None:
        self._core = core
        self._token = token
        self._is_raised_in_thread = False
        #: In a greenlet: its hub does the throwing.
        self._throw: Throw | None = None
        #: When retry() is due.
        self.retry_at = NEVER

    @property
    def is_raised(self) -> bool:
        """Whether the exception was raised or thrown."""
        return self._is_raised_in_thread or (self._throw is not None and self._throw.is_raised)

    def begin(self, hub: Hub | None, now: float) -> str | None:
        """Raise the exception in the thread, or ask the hub to throw it; what was done, for the report.

        None: the request was not inside the application.
        """
        if interpreters.own_id_is_shared():
            return f"not raised into: {SHARED_IDS}"
        if hub is None:
            self._is_raised_in_thread = interrupt.raise_into(self._core, self._token)
            if not self._is_raised_in_thread:
                return None
            return (
                "HarakiriTimeout raised in its thread, which takes effect when Python code runs there again (a C call"
                " is not interrupted)"
            )
        self._throw = Throw(self._core, self._token)
        if not self._throw.begin(hub):
            return None
        self.retry_at = now + _GIVES_WAY_SECONDS
        return (
            "HarakiriTimeout is thrown into its greenlet as soon as the hub runs, or raised in the thread if it is this"
            " greenlet that blocks the hub"
        )

    def retry(self, now: float) -> None:
        """Raise in the thread if the greenlet runs there and has not given way to its hub."""
        self.retry_at = NEVER
        if self._throw is not None and not self._throw.is_over and not self._throw.raise_into_running():
            # Another greenlet keeps the hub from running; after that one, this one may do so.
            self.retry_at = now + _GIVES_WAY_SECONDS
