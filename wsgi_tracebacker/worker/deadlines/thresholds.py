"""When a request becomes slow, when it is overdue, and when its process may be killed for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wsgi_tracebacker.worker.settings import Settings
    from wsgi_tracebacker.worker.tracking.core import Core

NEVER = float("inf")


def limit_of(core: Core, token: float, settings: Settings) -> tuple[float, float | None]:
    """The age of the request ``token`` of a core when its limit was set, and the limit; both in seconds."""
    own = core.own_limit
    return (own[1], own[2]) if own is not None and own[0] == token else (0.0, settings.harakiri)


def thresholds(core: Core, token: float) -> tuple[float, float]:
    """The monotonic times at which the request ``token`` of a core becomes slow and overdue; slow is never later."""
    settings = core.settings
    if settings is None or token <= 0.0:
        return NEVER, NEVER
    since, harakiri = limit_of(core, token, settings)
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
    return thresholds(core, token)[1]


def first_threshold(settings: Settings) -> float | None:
    """The shortest time after which a request without a limit of its own can become slow under these settings."""
    slow = settings.slow
    if slow is None and settings.harakiri is not None:
        slow = settings.harakiri / 2
    times = [seconds for seconds in (slow, settings.harakiri) if seconds is not None]
    return min(times) if times else None
