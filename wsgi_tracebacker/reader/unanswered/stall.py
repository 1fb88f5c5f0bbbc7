"""Proves that Python cannot run in a worker, from three samples of it, half a second apart.

It tells a worker whose GIL is held from one that is merely overloaded. That matters because the signal that asks a
stalled worker for its stacks can crash one that runs. No signal is sent here.

In every proof the table does not change, no thread starts or ends, and the listener, which has a request to answer,
wakes up for the GIL every 5 ms. That alone proves nothing: beside 64 CPU-bound threads the listener waits for the GIL
for seconds, with 800 to 1,500 switches in half a second, and each thread has 1.5 % of a CPU (measured). So one of these
has to be true as well:

- *One thread never releases the GIL.* It wants a CPU all the time (it runs, or is ready to) and never sleeps. A thread
  that runs Python releases the GIL when another one wants it, and sleeps until its turn. All others together have far
  less CPU time; otherwise it might be a computation without the GIL, beside threads that run Python.
- *No thread wants a CPU*, except for waking up, and none waits for a disk: the thread that holds the GIL sleeps. Where
  Python runs, some thread always wants a CPU.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection

    from wsgi_tracebacker.reader.finding.processes import Processes, ThreadTimes

#: Between two samples.
INTERVAL_SECONDS = 0.5

#: The share of the time that a thread that never releases the GIL wants a CPU, at least. Measured: 99 %; the rest is
#: for the time that a sample takes.
_ALWAYS_SHARE = 0.85
#: How often it may sleep between two samples: never, except that the kernel may count a page fault as a sleep.
_SLEEPS = 3
#: The CPU time of all others, as a share of its own, at most. Threads that wait for the GIL have 0.3 to 0.5 % of a CPU
#: each; threads that run Python beside it have as much as it has.
_OTHERS_SHARE = 0.25
#: The share of the time that all threads together may want a CPU if the thread that holds the GIL sleeps.
_NOBODY_SHARE = 0.2

#: Voluntary switches of a listener that waits for the GIL, per second. Measured per half second: stalled 98 to 120,
#: beside 8 CPU-bound threads 11, idle 2; this is 60 per half second.
_WAITING_SWITCHES_PER_SECOND = 120.0
#: It wakes up less often if it has to wait for a CPU; the share of the switches that is required at least.
_MIN_AWAKE_SHARE = 0.25

#: How much the switches of two threads that wait for the same GIL may differ. Both wake up at the same interval, by
#: default every 5 ms. Measured in the same second, on a busy machine: 180 to 196.
_ALIKE_SHARE = 0.25

#: Switches are compared only if two samples are this far apart.
_MIN_SECONDS = 0.05

_NANOSECONDS = 1_000_000_000


class Sample(NamedTuple):
    """A worker's table and the times of its threads, at one instant."""

    #: The reader's monotonic clock.
    at: float
    #: The whole table.
    table: bytes
    #: By native id.
    threads: dict[int, ThreadTimes]
    #: The listener; several threads if it is not known which of them it is.
    listeners: frozenset[int]


def sample(
    processes: Processes, pid: int, listener: int, serving: Collection[int], table: bytes, at: float
) -> Sample | None:
    """Take a sample of a worker; None if a part of it cannot be read.

    ``listener`` is 0 if it never ran: the first request started its thread, and has held the GIL ever since. Then it is
    one of the threads except the main one and those in ``serving``.
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
    return Sample(at, table, threads, listeners)


def why_not(first: Sample, second: Sample, third: Sample) -> str | None:
    """Why three samples do not prove that Python cannot run; None if they do."""
    if min(second.at - first.at, third.at - second.at) < INTERVAL_SECONDS * 0.99:
        return "they are too close together"
    for earlier, later in ((first, second), (second, third)):
        reason = why_not_so_far(earlier, later)
        if reason is not None:
            return reason
    if not _waiting(first, second) & _waiting(second, third):
        return _NOT_WAITING
    if never_released(first, second) & never_released(second, third):
        return None
    if _nobody_wanted(first, second) and _nobody_wanted(second, third):
        return None
    return _AT_WORK


def waiting(first: Sample, last: Sample) -> set[int]:
    """The threads that wait for the GIL: they have woken up as often as the listener, which waits for it."""
    switches = {
        native_id: after.switches - first.threads[native_id].switches for native_id, after in last.threads.items()
    }
    often = [switches[listener] for listener in _waiting(first, last)]
    return {
        native_id
        for native_id, count in switches.items()
        if any(abs(count - as_often) <= as_often * _ALIKE_SHARE for as_often in often)
    }


def why_not_so_far(first: Sample, second: Sample) -> str | None:
    """Why two samples cannot be the first two of a proof; None if they can."""
    reason = _why_not_between(first, second)
    if reason is None and not _waiting(first, second):
        reason = _NOT_WAITING
    if reason is None and not never_released(first, second) and not _nobody_wanted(first, second):
        reason = _AT_WORK
    return reason


def why_no_longer(last: Sample, now: Sample) -> str | None:
    """Why a proof is no longer valid; None if nothing has changed since its last sample."""
    reason = _why_not_between(last, now)
    if reason is None and now.at - last.at >= _MIN_SECONDS and not _waiting(last, now):
        reason = _NOT_WAITING
    return reason


_NOT_WAITING = "its listener does not wait for the GIL"
_AT_WORK = "more than one thread is at work"


def _why_not_between(earlier: Sample, later: Sample) -> str | None:
    if earlier.table != later.table:
        return "its table has changed"
    if earlier.threads.keys() != later.threads.keys():
        return "threads have begun or ended"
    return None


def _waiting(earlier: Sample, later: Sample) -> set[int]:
    """The threads that may be the listener and have waited for the GIL all the time."""
    seconds = later.at - earlier.at
    found = set()
    for native_id in earlier.listeners & later.listeners:
        before, after = earlier.threads[native_id], later.threads[native_id]
        awake = max(_MIN_AWAKE_SHARE, 1 - (after.delayed - before.delayed) / _NANOSECONDS / seconds)
        if after.switches - before.switches >= _WAITING_SWITCHES_PER_SECOND * seconds * awake:
            found.add(native_id)
    return found


def never_released(earlier: Sample, later: Sample) -> set[int]:
    """The thread that wanted a CPU all the time, did not sleep, and had most of the CPU time; at most one."""
    always = (later.at - earlier.at) * _ALWAYS_SHARE * _NANOSECONDS
    ran = {native_id: after.ran - earlier.threads[native_id].ran for native_id, after in later.threads.items()}
    return {
        native_id
        for native_id, after in later.threads.items()
        if after.wanted - earlier.threads[native_id].wanted >= always
        and after.switches - earlier.threads[native_id].switches <= _SLEEPS
        and sum(ran.values()) - ran[native_id] <= ran[native_id] * _OTHERS_SHARE
    }


def _nobody_wanted(earlier: Sample, later: Sample) -> bool:
    if any(seen.letter == "D" for each in (earlier, later) for seen in each.threads.values()):
        # A thread waits for memory or a disk: a process that is being swapped does that all the time.
        return False
    wanted = sum(after.wanted - earlier.threads[native_id].wanted for native_id, after in later.threads.items())
    return wanted <= (later.at - earlier.at) * _NOBODY_SHARE * _NANOSECONDS
