"""What the application itself can ask of its request in flight, and set: its age, its limit, and notes on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wsgi_tracebacker.errors import ConfigurationError, NotInRequest
from wsgi_tracebacker.linux.clock import monotonic
from wsgi_tracebacker.model.report import GIVEN
from wsgi_tracebacker.model.snapshot import Note
from wsgi_tracebacker.worker.options import limits

if TYPE_CHECKING:
    from wsgi_tracebacker.worker.tracking.core import Core

#: The environ key of the request's handle.
HANDLE_KEY = "wsgi_tracebacker.request"

#: A longer note is cut.
MAX_NOTE_CHARACTERS = 200
#: So many notes of a request are kept, the newest ones.
MAX_NOTES = 16


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

    def note(self, text: str) -> None:
        """Say what the request is doing, as in ``charging card 4711``: it is shown beside the request, and in reports.

        The first 200 characters count, and the last 16 notes. Does nothing if the request is over.

        :raises ConfigurationError: not a string.
        """
        set_note(self._core, text)

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
    core.own_limit = (token, monotonic() - token, limit, GIVEN)
    if core.watcher is not None:
        core.watcher.limit_changed(core)


def set_note(core: Core | None, text: str) -> None:
    """Add a note to the request in flight, if there is one."""
    if not isinstance(text, str):
        raise ConfigurationError(f"a note must be a string, not {type(text).__name__}")
    while core is not None and core.outer is not None:
        # A WSGI call within a request is a part of it.
        core = core.outer
    token = core.started if core is not None else 0.0
    if core is None or token <= 0.0:
        return
    # A plain string, whatever class of the application's own it had.
    cut = str.__getitem__(text, slice(MAX_NOTE_CHARACTERS))
    earlier = notes_of(core, token)[-(MAX_NOTES - 1) :]
    core.notes = (token, (*earlier, Note(monotonic() - token, cut)))


def notes_of(core: Core, token: float) -> tuple[Note, ...]:
    """The notes on a request."""
    noted_for, notes = core.notes
    return notes if noted_for == token else ()


def _in_flight(core: Core | None) -> tuple[Core, float]:
    """The core, with the token of its request."""
    token = core.started if core is not None else 0.0
    if core is None or token <= 0.0:
        raise NotInRequest("there is no request in flight here; set_harakiri() is for code that serves one")
    return core, token
