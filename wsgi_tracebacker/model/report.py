"""The values of the reports: on an overdue or slow request, a blocked hub, a stalled worker, a dead one.

Not in ``model.snapshot``, because ``wsgi-tb read`` needs no reports and would load these classes at every start.
"""

from __future__ import annotations

from typing import NamedTuple

from wsgi_tracebacker.model.snapshot import Frame, HubState, LastRequest, Request, Stack  # noqa: TC001  (a value needs it)

#: Where a limit comes from: an option, a mapping, a callable or set_harakiri(); nobody gave one; what is left once the
#: client has gone; or it is a moment before the time-out of the server.
GIVEN, DEFAULT, CLIENT_GONE, SERVER = "given", "default", "client_gone", "server"


#: What can be done about an overdue request, and the kinds of verdict. The black box counts by both, in this order.
ACTIONS = ("log", "raise", "kill")
VERDICTS = ("waiting", "frozen", "busy", "progressing", "starved", "unknown")


class Span(NamedTuple):
    """A stretch of a request's time that was spent in one place."""

    #: Seconds since the start of the request.
    from_seconds: float
    to_seconds: float
    #: The innermost frame of the application's own code, and the innermost of all; None where that is the same.
    application: Frame | None
    innermost: Frame | None
    samples: int
    #: How often two samples in a row had different stacks.
    changes: int
    #: Different places that this stretch holds, the one shown (the most frequent) included.
    places: int
    #: Shares of the stretch in which the thread was on a CPU, and runnable but not on one; None if not known.
    cpu_share: float | None
    run_delay_share: float | None
    #: The call that the application's innermost frame made into a library; None if it made none.
    call: Frame | None = None
    #: What the request waited for, in a sentence for people; None if that is not known.
    waits_for: str | None = None


class Verdict(NamedTuple):
    """What the flight recorder concludes from the last stretch."""

    #: One of VERDICTS.
    kind: str
    explanation: str


class Memory(NamedTuple):
    """The resident size of the worker, in bytes; None if the kernel does not say."""

    #: When the recording of the request began.
    start_bytes: int | None = None
    #: At the report or, if the request has ended, at its end.
    end_bytes: int | None = None


class OtherRequest(NamedTuple):
    """Another request in flight in the same worker, and the core that serves it."""

    core: int | None
    request: Request
    #: Its innermost call of the application's own code; None if that is not known.
    place: Frame | None = None


class HarakiriReport(NamedTuple):
    """One overdue or slow request: what it is, where its time went, and what was done about it."""

    #: ``harakiri`` for an overdue request, ``slow`` for one that was slow and has ended.
    kind: str
    request: Request
    worker: int | None
    core: int | None
    pid: int
    #: The limit that it has overrun, in seconds since its start; None if it has none.
    limit_seconds: float | None
    #: How much later than its deadline the report was made.
    late_seconds: float
    #: One of ACTIONS.
    action: str
    #: What was done about it, for people.
    outcome: str
    timeline: tuple[Span, ...]
    verdict: Verdict
    #: The stack of its thread, without its request (that stands above); None if it has ended.
    stack: Stack | None
    system_call: str | None
    others: tuple[OtherRequest, ...]
    #: Of a request that a greenlet serves: what the hub was doing, and if it was blocked, the request whose greenlet
    #: blocked it (None: a greenlet that serves no request).
    hub: HubState | None = None
    hub_blocked_by: OtherRequest | None = None
    #: Of a request that another thread works for, or that waits for the end of one: that thread's stack.
    other_thread: Stack | None = None
    memory: Memory = Memory()
    #: ``given``, ``default``, ``client_gone`` or ``server``.
    limit_source: str = GIVEN


class HubReport(NamedTuple):
    """A hub of gevent or eventlet that is blocked: one of its greenlets does not give way, and all others wait."""

    hub: HubState
    worker: int | None
    pid: int
    #: The request that this greenlet serves; None if it serves none.
    by: OtherRequest | None
    #: Where that greenlet is.
    stack: Stack
    #: The requests in flight that wait for it.
    others: tuple[OtherRequest, ...]


class StallReport(NamedTuple):
    """Python could not run in a worker for a while: something kept the GIL, or the process was stopped."""

    stalled_seconds: float
    worker: int | None
    pid: int
    #: The requests in flight when Python ran again, the oldest first.
    in_flight: tuple[OtherRequest, ...]
    #: The last request of each core that ended during the stall, or right after it.
    ended: tuple[LastRequest, ...]


class LostRequest(NamedTuple):
    """A request that was in flight when its worker died."""

    core: int
    native_id: int
    method: str
    path: str
    started_at: float
    remote_address: str | None
    request_id: str | None
    #: The resident size of the worker when the request became slow, in bytes; None if it did not.
    resident_bytes: int | None = None


class Postmortem(NamedTuple):
    """What a worker was doing when it died."""

    number: int
    base: str
    pid: int
    server: str | None
    application: str | None
    started_at: float
    #: When the last of its requests in flight began or, if none is known, when its table was made. It was alive then.
    last_written_at: float
    #: When the postmortem was made.
    found_at: float
    #: The oldest first; of very many requests the oldest only.
    requests: tuple[LostRequest, ...]
    #: More requests in flight, which began later than those.
    unlisted_requests: int
    #: More requests in flight, which were being written down: nothing else is known of them.
    torn_requests: int
    #: Cores without a row in the table: whether they served anything is not known.
    unrecorded_cores: int
    #: Its last reports and stacks, if there are any.
    stacks: str | None
    #: When the last of them was written; None where there are none, or that is not known.
    stacks_written_at: float | None = None
    #: The resident size of the worker when it was last measured, in bytes; None if it was not.
    resident_bytes: int | None = None
    #: The user whose file it is, as a reader found it; None in the file itself.
    uid: int | None = None
