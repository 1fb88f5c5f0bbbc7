"""What the application itself can ask of its request in flight, and set: its age and its limit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wsgi_tracebacker.errors import NotInRequest
from wsgi_tracebacker.linux.clock import monotonic
from wsgi_tracebacker.worker import limits

if TYPE_CHECKING:
    from wsgi_tracebacker.worker.tracking.core import Core

#: The environ key of the request's handle.
HANDLE_KEY = "wsgi_tracebacker.request"


class RequestHandle:
    """What ``environ["wsgi_tracebacker.request"]`` holds: the request, for the application that serves it.

    It is good while the request is in flight, on whatever thread the application works on it. A copy of it is over.
    """

    __slots__ = ("_core",)

    def __init__(self, core: Core | None) -> None:
        self._core = core

    @property
    def age_seconds(self) -> float:
        """Seconds since the request began.

        :raises NotInRequest: the request is over.
        """
        return monotonic() - _in_flight(self._core)[1]

    def set_harakiri(self, seconds: float) -> None:
        """Give the request ``seconds`` from now on; 0 takes its limit away.

        :raises NotInRequest: the request is over.
        :raises ConfigurationError: not a number of seconds.
        """
        set_own_limit(self._core, seconds)

    def __reduce__(self) -> tuple[type[RequestHandle], tuple[None]]:
        # For a copied or pickled environ: the copy is not in flight.
        return RequestHandle, (None,)


def set_own_limit(core: Core | None, seconds: float) -> None:
    """Give the request in flight a limit of its own, from now on."""
    while core is not None and core.outer is not None:
        # A WSGI call within a request has no deadline of its own.
        core = core.outer
    limit = limits.checked_seconds("set_harakiri()", seconds)
    core, token = _in_flight(core)
    core.own_limit = (token, monotonic() - token, limit)
    if core.watcher is not None:
        core.watcher.limit_changed(core)


def _in_flight(core: Core | None) -> tuple[Core, float]:
    """The core, with the token of its request."""
    token = core.started if core is not None else 0.0
    if core is None or token <= 0.0:
        raise NotInRequest("there is no request in flight here; set_harakiri() is for code that serves one")
    return core, token
