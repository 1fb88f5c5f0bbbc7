"""The proof that Python cannot run in a worker: a rule over three looks at it, half a second apart.

Knows what tells a worker whose GIL is held from one that is merely overloaded. Refuses to signal. It matters because
the signal that asks a stalled worker for its stacks can crash one that runs.

In all cases the table does not change, no thread begins or ends, and the listener, which has a question to answer,
wakes up for the GIL every 5 ms. That alone proves nothing: beside 64 CPU-bound threads the listener waits for the GIL
for seconds, with 800 to 1,500 switches in half a second, and each thread has 1.5 % of a CPU (measured). So there has
to be one of these as well:

- *A thread that never lets go.* It wants a CPU all the time (it runs, or would if it were given one) and never sleeps.
  A thread that runs Python gives up the GIL when another one wants it, and sleeps until its turn. All others together
  have far less CPU time: that tells it from a computation which holds no GIL, beside threads that run Python.
- *Nobody wants a CPU*, but for waking up, and nobody waits for a disk: the GIL's holder sleeps with it. Where Python
  runs, somebody always does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection

    from wsgi_tracebacker.reader.processes import Processes, ThreadTimes

#: Between two looks.
HALF_SECONDS = 0.5

#: What a thread that never lets go of the GIL spends on a CPU or waiting for one, with room for the time that a look
#: takes. Measured: 99 %.
_ALWAYS_SHARE = 0.85
#: And how often it may sleep between two looks: never, but for what the kernel makes of a page fault.
_SLEEPS = 3
#: CPU time of all others, as a share of its own. Those that wait for the GIL have 0.3 to 0.5 % of a CPU each; threads
#: that run Python beside it have as much as it has.
_OTHERS_SHARE = 0.25
#: What all threads together may want where the holder sleeps.
_NOBODY_SHARE = 0.2

#: Voluntary switches of a listener that waits for the GIL, per second. Measured per half second: stalled 98 to 120,
#: beside 8 CPU-bound threads 11, idle 2; this is 60 per half second.
_WAITING_SWITCHES_PER_SECOND = 120.0
#: Where it has to wait for a CPU, it wakes up less often. So much of it counts at least.
_MIN_AWAKE_SHARE = 0.25

#: By how much the switches of two threads that wait for the same GIL may differ: both wake up every 5 ms, unless the
#: application has set another interval. Measured in the same second, on a busy machine: 180 to 196.
_ALIKE_SHARE = 0.25

#: For a look so soon after the last one nothing can be said about its switches.
_MIN_SECONDS = 0.05

_NANOSECONDS = 1_000_000_000


class Look(NamedTuple):
    """What was seen of a worker at one instant."""

    #: The reader's monotonic clock.
    at: float
    #: The whole table.
    table: bytes
    #: By native id.
    threads: dict[int, ThreadTimes]
    #: Which thread is the listener; several for a listener that has not said who it is.
    listeners: frozenset[int]


def look(
    processes: Processes, pid: int, listener: int, serving: Collection[int], table: bytes, at: float
) -> Look | None:
    """Look at a worker; None if anything of it cannot be seen.

    ``listener`` is 0 for one that has not said who it is: its thread was started by the first request, which has held
    the GIL ever since. Then it is any thread but the main one and those that ``serving`` names.
    """
    threads = {}
    for native_id in processes.threads(pid):
        found = processes.thread_times(pid, native_id)
        if found is None:
            return None
        threads[native_id] = found
    listeners = frozenset({listener} if listener else set(threads).difference(serving, (pid,)))
    if not listeners or not listeners <= threads.keys():
        return None
    return Look(at, table, threads, listeners)


def why_not(first: Look, second: Look, third: Look) -> str | None:
    """Why three looks are no proof that Python cannot run there; None if they are."""
    if min(second.at - first.at, third.at - second.at) < HALF_SECONDS * 0.99:
        return "they are too close together"
    for earlier, later in ((first, second), (second, third)):
        reason = why_not_so_far(earlier, later)
        if reason is not None:
            return reason
    if not _waiting(first, second) & _waiting(second, third):
        return _NOT_WAITING
    if _never_let_go(first, second) & _never_let_go(second, third):
        return None
    if _nobody_wanted(first, second) and _nobody_wanted(second, third):
        return None
    return _AT_WORK


def waiting(first: Look, last: Look) -> set[int]:
    """The threads that wait for the GIL: they have woken up as often as the listener, which does."""
    switches = {
        native_id: after.switches - first.threads[native_id].switches for native_id, after in last.threads.items()
    }
    often = [switches[listener] for listener in _waiting(first, last)]
    return {
        native_id
        for native_id, count in switches.items()
        if any(abs(count - as_often) <= as_often * _ALIKE_SHARE for as_often in often)
    }


def why_not_so_far(first: Look, second: Look) -> str | None:
    """Why two looks cannot be the first two of a proof; None if they can."""
    reason = _why_not_between(first, second)
    if reason is None and not _waiting(first, second):
        reason = _NOT_WAITING
    if reason is None and not _never_let_go(first, second) and not _nobody_wanted(first, second):
        reason = _AT_WORK
    return reason


def why_not_still(last: Look, now: Look) -> str | None:
    """Why a proof does not hold any more; None if nothing has changed since its last look."""
    reason = _why_not_between(last, now)
    if reason is None and now.at - last.at >= _MIN_SECONDS and not _waiting(last, now):
        reason = _NOT_WAITING
    return reason


_NOT_WAITING = "its listener does not wait for the GIL"
_AT_WORK = "more than one thread is at work"


def _why_not_between(earlier: Look, later: Look) -> str | None:
    if earlier.table != later.table:
        return "its table has changed"
    if earlier.threads.keys() != later.threads.keys():
        return "threads have begun or ended"
    return None


def _waiting(earlier: Look, later: Look) -> set[int]:
    """Those that may be the listener and have waited for the GIL all the time."""
    seconds = later.at - earlier.at
    found = set()
    for native_id in earlier.listeners & later.listeners:
        before, after = earlier.threads[native_id], later.threads[native_id]
        awake = max(_MIN_AWAKE_SHARE, 1 - (after.delayed - before.delayed) / _NANOSECONDS / seconds)
        if after.switches - before.switches >= _WAITING_SWITCHES_PER_SECOND * seconds * awake:
            found.add(native_id)
    return found


def _never_let_go(earlier: Look, later: Look) -> set[int]:
    """The thread that has wanted a CPU all the time, without a sleep, and had most of what all had; if there is one."""
    always = (later.at - earlier.at) * _ALWAYS_SHARE * _NANOSECONDS
    ran = {native_id: after.ran - earlier.threads[native_id].ran for native_id, after in later.threads.items()}
    return {
        native_id
        for native_id, after in later.threads.items()
        if after.wanted - earlier.threads[native_id].wanted >= always
        and after.switches - earlier.threads[native_id].switches <= _SLEEPS
        and sum(ran.values()) - ran[native_id] <= ran[native_id] * _OTHERS_SHARE
    }


def _nobody_wanted(earlier: Look, later: Look) -> bool:
    if any(seen.letter == "D" for each in (earlier, later) for seen in each.threads.values()):
        # Somebody waits for memory or a disk: a process that is being swapped does that all the time.
        return False
    wanted = sum(after.wanted - earlier.threads[native_id].wanted for native_id, after in later.threads.items())
    return wanted <= (later.at - earlier.at) * _NOBODY_SHARE * _NANOSECONDS
