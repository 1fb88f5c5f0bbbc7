"""Finds the requests whose client has gone: counts them, and gives them the limit that ``client_gone`` says.

It looks at requests under settings with ``client_gone``, and at requests that are slow. What it finds it stores in the
core with the request's token, so that it is void for the core's next request.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from wsgi_tracebacker.worker.deadlines.thresholds import NEVER
from wsgi_tracebacker.worker.waits.clients import Clients

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable

    from wsgi_tracebacker.worker.tracking.core import Core

#: How often it looks, at about 2 µs a request. A client that gives up has waited for longer than this.
CHECK_SECONDS = 1.0


class ClientWatch:
    """Looks at the clients of one process. Used by the watchdog's thread."""

    def __init__(self, count: Callable[[str], None]) -> None:
        """``count`` adds 1 to a counter of the black box."""
        self._count = count
        self._next_check = 0.0

    def check(self, cores: Iterable[Core], slow: Container[int], now: float) -> float:
        """Look at the clients if it is time to; when to look again, infinite: not for the requests of now.

        :param slow: the ids of the cores whose requests are slow.
        """
        watched = [core for core in cores if _is_watched(core, slow)]
        if not watched:
            return NEVER
        if now >= self._next_check:
            self._next_check = now + CHECK_SECONDS
            clients = Clients()
            for core in watched:
                self._look_at(core, clients, now)
        return self._next_check

    def _look_at(self, core: Core, clients: Clients, now: float) -> None:
        token, settings = core.started, core.settings
        state = clients.state(core.environ)
        # The token is compared afterwards, because the environ may be another request's.
        if state is None or not state.is_closed_by_peer or settings is None or core.started != token or token <= 0.0:
            return
        core.client_gone = (token, now - token, settings.client_gone)
        self._count("clients_gone")


def _is_watched(core: Core, slow: Container[int]) -> bool:
    token, settings = core.started, core.settings
    if token <= 0.0 or settings is None or core.outer is not None:
        return False
    is_known = core.client_gone is not None and core.client_gone[0] == token
    return not is_known and (settings.client_gone is not None or id(core) in slow)
