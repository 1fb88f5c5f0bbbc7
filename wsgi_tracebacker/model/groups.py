"""The values for requests of many workers, put together by the place where they stand, by their route or their wait."""

from __future__ import annotations

from typing import NamedTuple

from wsgi_tracebacker.model.code_ownership import CodeOwnership  # noqa: TC001  (a value needs it)
from wsgi_tracebacker.model.snapshot import Frame, Request, Stack  # noqa: TC001  (a value needs it)

#: By what requests can be put together; ``none``: each by itself.
GROUPINGS = ("place", "wait", "route", "none")
#: The orders of requests, and of groups by their first request.
ORDERS = ("age", "cpu", "worker", "route")


class Looks(NamedTuple):
    """What several looks at one request show, the last of which is the one that is shown."""

    #: In how many of them it was at the place where it is at the last one, that one included.
    same: int
    of: int
    #: In how many of them it was in flight.
    seen: int
    #: CPU that its thread used between the first look at it and the last, and the time between them; None: not known.
    cpu_seconds: float | None
    seconds: float | None


class ServedRequest(NamedTuple):
    """One request in flight, with the worker that serves it and where its thread is."""

    #: The number and process id of the worker; None: not known.
    worker: int | None
    pid: int | None
    #: Its thread. The request of a thread of uWSGI is None: uWSGI does not name it.
    stack: Stack
    #: The frames of the application's own code, outermost first.
    own_frames: tuple[Frame, ...]
    #: The innermost of these; where there are none, the innermost call of a library that the middleware calls.
    innermost: Frame | None
    #: Whose code its frames are.
    ownership: CodeOwnership
    #: What it waits for, as far as the kernel shows it; None: not known. The request itself may know more.
    kernel_view: str | None
    #: ``GET /checkout/:``; empty where the request is not known.
    route: str
    #: See ``Snapshot``.
    source: str = "worker"
    state: str = "alive"
    #: The thread that works for it, if it waits for one.
    other_thread: Stack | None = None
    #: With several looks.
    looks: Looks | None = None
    #: See ``Worker``.
    base: str | None = None
    cwd: str | None = None
    host: str | None = None

    @property
    def request(self) -> Request | None:
        return self.stack.request

    @property
    def age_seconds(self) -> float | None:
        """None where the request is not known."""
        return None if self.stack.request is None else self.stack.request.age_seconds


class Group(NamedTuple):
    """Requests that are shown together."""

    #: The oldest first; there is at least one.
    requests: tuple[ServedRequest, ...]
    #: What they wait for, in words: what all of them have in common. None: not known.
    waits_for: str | None
    #: Their routes, the most frequent first.
    routes: tuple[str, ...]

    @property
    def oldest(self) -> ServedRequest:
        return self.requests[0]

    @property
    def age_seconds(self) -> float | None:
        """Of the oldest of them."""
        return self.requests[0].age_seconds
