"""The time that collections of garbage take is measured while requests are recorded, and never longer."""

from __future__ import annotations

import gc
import itertools
import sys
from typing import TYPE_CHECKING

import pytest

from wsgi_tracebacker.worker.deadlines.recording.garbage import GarbageWatch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

    from wsgi_tracebacker.model.waits import WaitsFor

pytestmark = pytest.mark.skipif(sys.implementation.name != "cpython", reason="PyPy has no callbacks of its collector")

SECOND = 1_000_000_000


def clock(step_ns: int) -> Callable[[], int]:
    """Goes on by so much at each reading."""
    return itertools.count(5 * SECOND, step_ns).__next__


@pytest.fixture(autouse=True)
def no_other_collection() -> Iterator[None]:
    """Only those of the tests; and nothing is left in the collector's list."""
    before = list(gc.callbacks)
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
    assert gc.callbacks == before


def watched(collections: int, step_ns: int) -> tuple[WaitsFor | None, GarbageWatch]:
    """What is said after two seconds with so many collections, each of which takes so long."""
    watch = GarbageWatch(clock(step_ns))
    watch.check(10.0)
    for _ in range(collections):
        gc.collect()
    found = watch.cause(12.0)
    watch.stop()
    return found, watch


def test_collections_that_take_most_of_the_time_are_a_cause() -> None:
    """With their share of it."""
    found, watch = watched(3, SECOND * 42 // 100)
    assert found is not None
    assert (found.kind, found.since_seconds) == ("garbage", 2.0)
    assert found.share == pytest.approx(0.63)
    assert watch.cause(12.0) is None, "it has stopped"


def test_few_collections_are_none() -> None:
    """Less than half of the time, or too short a time to say."""
    assert watched(3, SECOND * 3 // 10)[0] is None
    watch = GarbageWatch(clock(SECOND))
    watch.check(10.0)
    gc.collect()
    assert watch.cause(10.1) is None
    watch.stop()


def test_only_the_last_seconds_count() -> None:
    """A storm of collections that is over is no cause any more."""
    watch = GarbageWatch(clock(SECOND))
    watch.check(10.0)
    gc.collect()
    gc.collect()
    assert watch.cause(12.0) is not None
    for tenths in range(1, 40):
        watch.check(10.0 + tenths / 10)
    assert watch.cause(14.0) is None
    watch.stop()


class Dies:
    """Does something in a collection."""

    def __init__(self, act: Callable[[], object]) -> None:
        self._itself = self
        self._act = act

    def __del__(self) -> None:
        self._act()


def share(found: WaitsFor | None) -> float | None:
    return found.share if found is not None else None


def test_a_collection_under_way_counts_as_far_as_it_got() -> None:
    """The watchdog runs then, if a destructor or another callback lets it."""
    watch = GarbageWatch(clock(SECOND))
    watch.check(10.0)
    shares: list[float | None] = []
    Dies(lambda: shares.append(share(watch.cause(12.0))))
    gc.collect()
    shares.append(share(watch.cause(12.0)))
    watch.stop()
    assert shares == [0.5, 1.0]


def test_a_collection_that_began_before_the_measurement_counts_from_there() -> None:
    """The collector calls a callback at its end that it has not called at its start."""
    watch = GarbageWatch(clock(SECOND))
    Dies(lambda: watch.check(10.0))
    gc.collect()
    assert share(watch.cause(12.0)) == 0.5
    gc.collect()
    assert share(watch.cause(12.0)) == 1.0
    watch.stop()


def python_calls_of_a_collection() -> list[str]:
    called: list[str] = []

    def trace(frame: FrameType, event: str, _: object) -> None:
        if event == "call":
            called.append(frame.f_code.co_name)

    sys.setprofile(trace)
    try:
        gc.collect()
    finally:
        sys.setprofile(None)
    return called


def test_the_callback_runs_no_line_of_python() -> None:
    """An exception that is raised into the thread meanwhile would be lost there."""
    # Hypothesis has a callback too.
    others = python_calls_of_a_collection()
    watch = GarbageWatch()
    watch.check(10.0)
    called = python_calls_of_a_collection()
    watch.stop()
    assert called == others
