"""How long one look at all workers may take."""

from __future__ import annotations

import os

from wsgi_tracebacker.reader.finding.processes import Processes
from wsgi_tracebacker.reader.look import END_SECONDS, LEAST_SECONDS, LOOK_SECONDS, seconds_left


def test_a_command_that_started_late_looks_for_a_shorter_time() -> None:
    """Each worker has half a second, less where the machine was busy, and in any case a quarter of a second."""
    processes = Processes()
    started = processes.started_after_boot(os.getpid())
    assert started is not None
    assert seconds_left(processes, started + 0.1) == LOOK_SECONDS
    assert abs(seconds_left(processes, started + 0.4) - (END_SECONDS - 0.4)) < 1e-6
    assert seconds_left(processes, started + 5.0) == LEAST_SECONDS
    assert seconds_left(processes, started - 5.0) == LOOK_SECONDS, "a process of another time namespace"
