"""When a request becomes slow, when it is overdue, and when its process may be killed for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from wsgi_tracebacker.model.report import CLIENT_GONE, DEFAULT
from wsgi_tracebacker.worker.tracking.core import APP
from wsgi_tracebacker.worker.tracking.describe import is_websocket

if TYPE_CHECKING:
    from wsgi_tracebacker.worker.options.settings import Settings
    from wsgi_tracebacker.worker.tracking.core import Core

NEVER = float("inf")


class Limit(NamedTuple):
    """The limit of one request."""

    #: The age of the request when its limit was set, in seconds.
    since: float
    #: How many seconds it has from then on; None: it has no limit.
    seconds: float | None
    #: See HarakiriReport.limit_source.
    source: str


def limit_of(core: Core, token: float, settings: Settings) -> Limit:
    """The limit of the request ``token`` of a core."""
    own, gone = core.own_limit, core.client_gone
    if own is not None and own[0] == token:
        limit = Limit(own[1], own[2], own[3])
    else:
        limit = Limit(0.0, settings.harakiri, settings.limit_source)
    if gone is None or gone[0] != token or gone[2] is None:
        return limit
    is_earlier = limit.seconds is None or gone[1] + gone[2] < limit.since + limit.seconds
    # A body has no limit by default.
    is_body = limit.source == DEFAULT and core.phase != APP
    return Limit(gone[1], gone[2], CLIENT_GONE) if is_earlier or is_body else limit


def thresholds(core: Core, token: float) -> tuple[float, float]:
    """The monotonic times at which the request ``token`` of a core becomes slow and overdue; slow is never later."""
    settings = core.settings
    if settings is None or token <= 0.0:
        return NEVER, NEVER
    since, harakiri, source = limit_of(core, token, settings)
    if source == DEFAULT and (core.phase != APP or is_websocket(core.environ)):
        # Nobody said that these must end: downloads, server-sent events and websockets last.
        harakiri = None
    slow = settings.slow
    if slow is None and harakiri is not None:
        slow = harakiri / 2
    # A limit that was set while the request ran counts from then on: ``since`` seconds after its start.
    overdue_at = token + since + harakiri if harakiri is not None else NEVER
    if slow is None:
        return NEVER, overdue_at
    slow_at = token + slow + (since if settings.slow is None else 0.0)
    return min(slow_at, overdue_at), overdue_at


def kill_deadline(core: Core, token: float) -> float:
    """The monotonic time from which the process may be killed for the request ``token`` of a core; infinite: never."""
    settings = core.settings
    if settings is None or settings.harakiri_action != "kill" or core.outer is not None:
        return NEVER
    # Nobody asked to have the process killed after the default time.
    return NEVER if limit_of(core, token, settings).source == DEFAULT else thresholds(core, token)[1]


def first_threshold(settings: Settings) -> float | None:
    """The shortest time after which a request without a limit of its own can become slow under these settings."""
    slow = settings.slow
    if slow is None and settings.harakiri is not None:
        slow = settings.harakiri / 2
    times = [seconds for seconds in (slow, settings.harakiri) if seconds is not None]
    return min(times) if times else None
