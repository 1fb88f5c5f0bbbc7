"""What a recording consists of: how long requests stood in which stacks, by route, with what they waited for."""

from __future__ import annotations

from typing import NamedTuple

from wsgi_tracebacker.model.snapshot import Frame  # noqa: TC001  (a value needs it)

#: The version of the raw form, ``.jsonl``.
RECORDING_SCHEMA = 1

#: The last row of a stack whose thread was on a CPU or ready to be, and of one that waited for the interpreter's lock.
#: Every other last row is what was waited for.
ON_CPU, FOR_GIL = "CPU", "GIL"

#: The last row of time that a thread was on a CPU, by its clock, where looks from inside found it only waiting.
PLACE_UNKNOWN = "on a CPU, place unknown"

#: The route of time of which it is not known to which request it belongs.
UNKNOWN_ROUTE = "(request not known)"

#: What became of a look: the whole stack, the stack without its innermost calls, nothing that is sure.
EXACT, CUT, TORN = "exact", "cut", "torn"

#: How a worker was recorded.
OUTSIDE, INSIDE = "outside", "inside"


class RecordedStack(NamedTuple):
    """Requests of one route that stood in one stack and waited for the same, added up."""

    #: ``GET /orders/:``.
    route: str
    #: The worker's number. Workers of several bases may have the same one, and so may a worker and its successor.
    worker: int
    pid: int
    #: ON_CPU, FOR_GIL, or what was waited for: ``postgresql 10.0.0.5:5432``, ``lock``, ``sleep`` …
    waits_for: str
    #: Outermost first.
    frames: tuple[Frame, ...]
    #: The innermost frames are missing: they changed while they were read.
    is_cut: bool
    #: Of requests' wall clock: three requests that stood here for a second are three.
    seconds: float
    samples: int
    #: What the operator calls its host; None for this machine.
    host: str | None = None


class RecordedWorker(NamedTuple):
    """A worker of a recording."""

    number: int
    pid: int
    #: OUTSIDE: its memory was read; INSIDE: a thread in it looked.
    engine: str = OUTSIDE


class Recording(NamedTuple):
    """All workers of a base, for some seconds."""

    started_at: float
    #: How long it was to last, and how long it did.
    wanted_seconds: float
    seconds: float
    #: Looks a second.
    rate: float
    host: str
    workers: tuple[RecordedWorker, ...]
    application: str | None
    cwd: str | None
    #: Requests that were seen at least once.
    requests: int
    exact: int
    cut: int
    #: Looks that were thrown away, and the seconds of requests that are missing for it.
    torn: int
    torn_seconds: float
    #: How long the threads that serve requests were on a CPU meanwhile, by the kernel's clock.
    cpu_seconds: float
    stacks: tuple[RecordedStack, ...]

    @property
    def total_seconds(self) -> float:
        """Seconds of requests' wall clock, of all stacks."""
        return sum(stack.seconds for stack in self.stacks)

    @property
    def torn_share(self) -> float:
        """How many looks were thrown away, from 0 to 1."""
        return self.torn / max(1, self.exact + self.cut + self.torn)
