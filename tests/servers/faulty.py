"""gunicorn with the pages of ``tests.programs.faulty``: that it serves, what it has said, whether it can be read."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Protocol

from tests.servers import asking
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.support.servers import Gunicorn

APPLICATION = "tests.programs.faulty:application"
#: How often a worker looks after its files.
TICK_SECONDS = 0.1
#: So many looks pass, and nothing is said twice.
LOOKS = 5


class StartFaulty(Protocol):
    """How a test starts gunicorn with the pages that answer whatever happens."""

    def __call__(
        self, base: str, *arguments: str, before: Sequence[str] = (), application: str = APPLICATION, **env: str
    ) -> Gunicorn: ...


def check_served(server: Gunicorn) -> None:
    for path in ("/any/path", "/stream/of/it"):
        response = server.get(path)
        assert (response.status, response.text, response.headers["x-faulty"]) == (200, path, "no")


def said(server: Gunicorn) -> list[str]:
    """The lines of ours in the log, first lines only."""
    return re.findall(r"^(?:WARNING|ERROR|CRITICAL) wsgi_tracebacker.*$", server.log_text(), re.MULTILINE)


def can_be_read(base: str, number: int = 1) -> bool:
    try:
        return bool(asking.ask(base, number, "/snapshot")["worker"]["number"] == number)
    except OSError:
        return False


def wait_until_read(base: str) -> None:
    wait_until(lambda: can_be_read(base), "worker 1 can be read")


def look_on(server: Gunicorn) -> None:
    """Several looks of the worker after its files pass, and requests are served meanwhile."""
    until = time.monotonic() + LOOKS * TICK_SECONDS

    def have_passed() -> bool:
        check_served(server)
        return time.monotonic() > until

    wait_until(have_passed, "several looks have passed")
