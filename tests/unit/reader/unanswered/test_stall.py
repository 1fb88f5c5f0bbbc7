from __future__ import annotations

import os
import time

import pytest

from wsgi_tracebacker.reader.finding.processes import Processes, ThreadTimes
from wsgi_tracebacker.reader.unanswered import stall
from wsgi_tracebacker.reader.unanswered.stall import Sample

MAIN, LISTENER, OTHER = 10, 11, 12
MILLISECOND = 1_000_000

#: Milliseconds on a CPU and waiting for one, and sleeps, that a thread gains in half a second. As measured.
HOLDER = (495, 5, 0)
HOLDER_BESIDE_THREE_ON_TWO_CPUS = (110, 400, 0)
WAITS_FOR_THE_GIL = (2, 5, 98)
WAITS_FOR_THE_GIL_AND_A_CPU = (1, 160, 48)
ASLEEP = (0, 0, 0)
ONE_OF_64_THAT_SPIN = (8, 3, 400)
ITS_LISTENER = (8, 20, 800)

BUSY = "more than one thread is at work"
NOT_WAITING = "its listener does not wait for the GIL"

Gain = tuple[int, int, int]


def samples(
    *gains: Gain,
    listener: Gain = WAITS_FOR_THE_GIL,
    second_half: dict[int, Gain] | None = None,
    seconds: tuple[float, float] = (0.5, 0.5),
) -> list[Sample]:
    """Three samples of a listener and other threads that gain so much between them."""
    first = {LISTENER: listener, **dict(enumerate(gains, OTHER))}
    second = {**first, **(second_half or {})}
    threads = {native_id: ThreadTimes(5 * MILLISECOND, 0, 7, "S") for native_id in first}
    found = [Sample(100.0, b"table", threads, frozenset((LISTENER,)))]
    for half, length in zip((first, second), seconds, strict=True):
        threads = {
            native_id: ThreadTimes(
                before.ran + half[native_id][0] * MILLISECOND,
                before.delayed + half[native_id][1] * MILLISECOND,
                before.switches + half[native_id][2],
                "S",
            )
            for native_id, before in threads.items()
        }
        found.append(Sample(found[-1].at + length, b"table", threads, frozenset((LISTENER,))))
    return found


@pytest.mark.parametrize("holder", [HOLDER, HOLDER_BESIDE_THREE_ON_TWO_CPUS])
def test_a_thread_that_never_releases_the_gil_is_a_stall(holder: Gain) -> None:
    """One thread wants a CPU all the time, the listener waits for the GIL, whatever else sleeps or waits for it too."""
    assert stall.why_not(*samples(holder, ASLEEP)) is None
    assert stall.why_not(*samples(holder, ASLEEP, *[WAITS_FOR_THE_GIL] * 10)) is None


def test_a_holder_that_sleeps_is_a_stall_too() -> None:
    """Then nobody wants a CPU: a C call that waits with the GIL held."""
    assert stall.why_not(*samples(ASLEEP, ASLEEP)) is None
    waits_for_a_disk = [
        each._replace(threads={**each.threads, OTHER: each.threads[OTHER]._replace(letter="D")})
        for each in samples(ASLEEP)
    ]
    assert stall.why_not(*waits_for_a_disk) == BUSY


def test_a_thread_that_waits_for_the_gil_wakes_up_as_often_as_the_listener() -> None:
    """A holder, a sleeping thread, and one that wakes up at another rate (a loop in C), do not."""
    gains = (HOLDER, ASLEEP, WAITS_FOR_THE_GIL, (2, 5, 80), (2, 5, 500), (2, 5, 30))
    first, _, last = samples(*gains)
    assert stall.waiting(first, last) == {LISTENER, OTHER + 2, OTHER + 3}
    first, _, last = samples(*gains, listener=ASLEEP)
    assert stall.waiting(first, last) == set()


def test_threads_that_take_turns_are_busy() -> None:
    """64 CPU-bound threads: the table stands still, each has little CPU, and the listener waits for the GIL."""
    assert stall.why_not(*samples(*[ONE_OF_64_THAT_SPIN] * 64, listener=ITS_LISTENER)) == BUSY
    # On a machine that has hardly any CPU time for them.
    assert stall.why_not(*samples(*[(1, 490, 80)] * 64, listener=(1, 20, 98))) == BUSY


def test_a_computation_beside_threads_that_run_python_is_no_stall() -> None:
    """It holds no GIL: the others have as much CPU time as it has."""
    assert stall.why_not(*samples(HOLDER, *[ONE_OF_64_THAT_SPIN] * 64, listener=ITS_LISTENER)) == BUSY
    assert stall.why_not(*samples((60, 440, 0), *[(1, 490, 80)] * 64, listener=(1, 20, 98))) == BUSY


def test_it_has_to_be_one_thread_all_the_time() -> None:
    """Two that have one half each have let go in between."""
    assert stall.why_not(*samples(HOLDER, ASLEEP, second_half={OTHER: ASLEEP, OTHER + 1: HOLDER})) == BUSY
    assert stall.why_not(*samples(HOLDER, ASLEEP, second_half={OTHER: (495, 5, 20)})) == BUSY


@pytest.mark.parametrize(("first", "second"), [(98, 11), (11, 98), (59, 98), (2, 2)])
def test_a_listener_has_to_wait_in_both_halves(first: int, second: int) -> None:
    """Measured per half second: stalled 98, beside 8 CPU-bound threads 11, idle 2."""
    found = samples(HOLDER, listener=(2, 0, first), second_half={LISTENER: (2, 0, second)})
    assert stall.why_not(*found) == NOT_WAITING


def test_a_listener_that_waits_for_a_cpu_wakes_up_less_often() -> None:
    """Not less than a quarter of the switches, however long it waits."""
    assert stall.why_not(*samples(HOLDER, listener=WAITS_FOR_THE_GIL_AND_A_CPU)) is None
    assert stall.why_not(*samples(HOLDER, listener=(1, 499, 14))) == NOT_WAITING


def test_a_late_sample_wants_more_switches() -> None:
    """The rule is a rate: a reader that overslept must not take a second's worth for half a second's."""
    late = samples((990, 5, 0), listener=(2, 0, 61), seconds=(0.5, 1.0))
    assert stall.why_not(*late) == NOT_WAITING


def test_samples_too_close_together_prove_nothing() -> None:
    """It has to last a full second."""
    assert stall.why_not(*samples(HOLDER, seconds=(0.5, 0.3))) == "they are too close together"


@pytest.mark.parametrize("tables", [(b"a", b"b", b"b"), (b"a", b"a", b"b"), (b"a", b"b", b"a")])
def test_a_table_that_changes_is_written_by_python(tables: tuple[bytes, bytes, bytes]) -> None:
    """In either half, and also if it is as before at the end."""
    changed = [each._replace(table=table) for each, table in zip(samples(HOLDER), tables, strict=True)]
    assert stall.why_not(*changed) == "its table has changed"


def test_threads_that_come_or_go_run() -> None:
    """A thread that begins or ends needs the GIL for it."""
    first, second, third = samples(HOLDER, ASLEEP)
    fewer = {native_id: seen for native_id, seen in third.threads.items() if native_id != OTHER + 1}
    more = {**third.threads, 99: ThreadTimes(0, 0, 0, "S")}
    for threads in (fewer, more):
        assert stall.why_not(first, second, third._replace(threads=threads)) == "threads have begun or ended"


def test_a_listener_that_is_not_known_is_one_and_the_same_thread() -> None:
    """Two threads that wait in one half each are no listener that waits all the time."""
    halves = samples(HOLDER, ASLEEP, listener=WAITS_FOR_THE_GIL, second_half={LISTENER: ASLEEP, 13: WAITS_FOR_THE_GIL})
    either = [each._replace(listeners=frozenset((LISTENER, 13))) for each in halves]
    assert stall.why_not(*either) == NOT_WAITING
    both = [each._replace(listeners=frozenset((LISTENER, 13))) for each in samples(HOLDER, ASLEEP)]
    assert stall.why_not(*both) is None


def test_the_proof_is_checked_again_right_before_the_signal() -> None:
    """Any change since its last sample ends it; switches are not compared over some milliseconds."""
    last = samples(HOLDER)[2]
    assert stall.why_no_longer(last, last._replace(at=last.at + 0.001)) is None
    assert stall.why_no_longer(last, last._replace(at=last.at + 0.1)) == NOT_WAITING
    seen = last.threads[LISTENER]
    threads = {**last.threads, LISTENER: seen._replace(switches=seen.switches + 20)}
    waiting = last._replace(at=last.at + 0.1, threads=threads)
    assert stall.why_no_longer(last, waiting) is None
    assert stall.why_no_longer(last, waiting._replace(table=b"x")) == "its table has changed"


def test_a_sample_of_a_real_process() -> None:
    """It has every thread with its times, and the listener; there is none of a process that does not exist."""
    found = stall.sample(Processes(), os.getpid(), os.getpid(), (), b"", time.monotonic())
    assert found is not None
    assert set(found.threads) == {int(name) for name in os.listdir("/proc/self/task")}
    assert found.threads[os.getpid()].ran > 0
    assert found.listeners == {os.getpid()}
    assert stall.sample(Processes(), os.getpid(), 1, (), b"", 0.0) is None
    assert stall.sample(Processes(), 2**22 + 1, 1, (), b"", 0.0) is None
