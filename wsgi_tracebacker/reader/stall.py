"""The proof that Python cannot run in a worker: a rule over three looks at it, half a second apart.

Knows what tells a worker whose GIL is held from one that is merely overloaded, as measured: a busy worker's table
changes or many of its threads gain CPU time, and its listener, if it waits at all, waits for a CPU. Where the GIL is
held nothing changes, one thread at most burns a CPU, and the listener, which has a question to answer, wakes up for
the GIL every 5 ms. Refuses to signal.

This matters because the signal that asks a stalled worker for its stacks can crash one that runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection

    from wsgi_tracebacker.reader.process import Processes

#: Between two looks.
HALF_SECONDS = 0.5

#: A thread with more of a CPU than this is at work. Measured in a real stall: 1000, 3, 2 ... ms per second; in an
#: overloaded worker 21 threads were above 1 %.
_WORKING_SHARE = 0.05

#: Voluntary switches of a listener that waits for the GIL, per second. Measured per half second: stalled 98, beside 8
#: CPU-bound threads 11, idle 2; this is 60 per half second.
_WAITING_SWITCHES_PER_SECOND = 120.0

#: For a look so soon after the last one nothing can be said about its switches.
_MIN_SECONDS = 0.05

_NANOSECONDS = 1_000_000_000

_NOT_WAITING = "its listener does not wait for the GIL"


class Look(NamedTuple):
    """What was seen of a worker at one instant."""

    #: The reader's monotonic clock.
    at: float
    #: The whole table.
    table: bytes
    #: Nanoseconds on a CPU, by native id.
    cpu: dict[int, int]
    #: Voluntary switches of the listener's thread, or of each that may be it.
    switches: dict[int, int]


def look(
    processes: Processes, pid: int, listener: int, serving: Collection[int], table: bytes, at: float
) -> Look | None:
    """Look at a worker; None if anything of it cannot be seen.

    ``listener`` is 0 for one that has not said who it is: its thread was started by the first request, which has held
    the GIL ever since. Then it is any thread but the main one and those that ``serving`` names.
    """
    threads = processes.threads(pid)
    listeners = {listener} if listener else set(threads).difference(serving, (pid,))
    switches = {native_id: processes.voluntary_switches(pid, native_id) for native_id in listeners}
    cpu = {native_id: processes.cpu_nanoseconds(pid, native_id) for native_id in threads}
    if not switches or None in switches.values() or None in cpu.values():
        return None
    return Look(at, table, _known(cpu), _known(switches))


def _known(counts: dict[int, int | None]) -> dict[int, int]:
    return {native_id: count for native_id, count in counts.items() if count is not None}


def why_not(first: Look, second: Look, third: Look) -> str | None:
    """Why three looks are no proof that Python cannot run there; None if they are."""
    if min(second.at - first.at, third.at - second.at) < HALF_SECONDS * 0.99:
        return "they are too close together"
    reason = _why_not_between(first, third)
    if reason is None and not _waiting(first, second) & _waiting(second, third):
        reason = _NOT_WAITING
    return reason


def why_not_still(last: Look, now: Look) -> str | None:
    """Why a proof does not hold any more; None if nothing has changed since its last look."""
    reason = _why_not_between(last, now)
    if reason is None and now.at - last.at >= _MIN_SECONDS and not _waiting(last, now):
        reason = _NOT_WAITING
    return reason


def _why_not_between(earlier: Look, later: Look) -> str | None:
    if earlier.table != later.table:
        return "its table has changed"
    if earlier.cpu.keys() != later.cpu.keys():
        return "threads have begun or ended"
    # Of a moment, a millisecond is more than the share: a listener that wakes up for the GIL needs some of it.
    allowed = max(later.at - earlier.at, HALF_SECONDS) * _WORKING_SHARE * _NANOSECONDS
    working = sum(1 for native_id, before in earlier.cpu.items() if later.cpu[native_id] - before > allowed)
    if working > 1:
        return f"{working} threads are at work"
    return None


def _waiting(earlier: Look, later: Look) -> set[int]:
    """Those that may be the listener and have waited for the GIL all the time."""
    wanted = _WAITING_SWITCHES_PER_SECOND * (later.at - earlier.at)
    return {
        native_id
        for native_id, before in earlier.switches.items()
        if later.switches.get(native_id, before) - before >= wanted
    }
