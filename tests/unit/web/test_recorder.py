"""One recording at a time, and how long it may last."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from tests.unit.wire.profiles.recordings import RECORDING
from wsgi_tracebacker.errors import MemoryUnreadable, Misuse
from wsgi_tracebacker.web.recorder import MAX_SECONDS, Recorder, seconds_of
from wsgi_tracebacker.web.workers import Recorded

if TYPE_CHECKING:
    from wsgi_tracebacker.analysis.live import WorkerReading


def test_one_at_a_time() -> None:
    """Who asks meanwhile gets none, and whoever asks after it gets the next one."""
    recorded = Recorded(RECORDING, ())
    begun, may_end = threading.Event(), threading.Event()
    made: list[Recorded | None] = []

    def record(_seconds: float, _worker: WorkerReading | None) -> Recorded:
        begun.set()
        assert may_end.wait(60)
        return recorded

    recorder = Recorder(record)
    first = threading.Thread(target=lambda: made.append(recorder.record(1, None)))
    first.start()
    assert begun.wait(60)
    assert recorder.record(1, None) is None
    may_end.set()
    first.join()
    assert [*made, recorder.record(1, None)] == [recorded, recorded]


def test_after_a_failure_the_next_one_can_be_made() -> None:
    """It is not taken for one that still runs."""

    def record(_seconds: float, _worker: WorkerReading | None) -> Recorded:
        raise MemoryUnreadable("not permitted")

    recorder = Recorder(record)
    for _ in range(2):
        with pytest.raises(MemoryUnreadable):
            recorder.record(1, None)


@pytest.mark.parametrize("word", ["", "x", "0", "-1", "nan", "inf", str(MAX_SECONDS + 1)])
def test_what_is_no_length(word: str) -> None:
    """Nobody waits for longer."""
    with pytest.raises(Misuse):
        seconds_of(word)
    assert seconds_of("0.5") == 0.5
