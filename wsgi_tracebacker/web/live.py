"""The workers as the page shows them: one reading a second at most, and what comes of comparing it with the one before.

Readings are taken when somebody asks: nobody who looks costs the workers nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from wsgi_tracebacker.analysis.live import advance
from wsgi_tracebacker.web.shared import Shared

if TYPE_CHECKING:
    from collections.abc import Callable

    from wsgi_tracebacker.analysis.live import Picture
    from wsgi_tracebacker.reader.elsewhere.gathered import Gathered
    from wsgi_tracebacker.reader.survey import Survey
    from wsgi_tracebacker.top.readings import Taken

#: After a pause of this nothing is compared: what has ended meanwhile is no news.
_FORGOTTEN_SECONDS = 15.0


class Moment(NamedTuple):
    """One reading for everybody who asks within a second."""

    picture: Picture
    found: Survey | Gathered


class Live:
    """The latest moment."""

    def __init__(self, ask: Callable[[], Taken]) -> None:
        self._ask = ask
        self._before: Picture | None = None
        self._shared = Shared(self._next)

    def moment(self) -> Moment:
        return self._shared.get()

    def _next(self) -> Moment:
        # Of one thread at a time: the lock of what is shared is held.
        taken = self._ask()
        before = self._before
        if before is not None and taken.reading.at - before.reading.at > _FORGOTTEN_SECONDS:
            before = None
        self._before = advance(before, taken.reading)
        return Moment(self._before, taken.found)
