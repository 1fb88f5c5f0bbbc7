"""How the time between two looks is shared out."""

from __future__ import annotations

import random

import pytest

from wsgi_tracebacker.worker.recordings.sampler import Shares, share_out

TICK = 0.05


@pytest.mark.parametrize(
    ("kind", "cpu", "others", "expected"),
    [
        ("sleep", 0.0, 0.0, Shares(waiting=0.05)),
        # What it ran in between has no place.
        ("sleep", 0.02, 0.0, Shares(unknown=0.02, waiting=0.03)),
        # A clock that is ahead of ours.
        ("sleep", 0.06, 0.0, Shares(unknown=0.05, waiting=0.0)),
        ("CPU", 0.05, 0.0, Shares(on_cpu=0.05)),
        # Ready to run, and not waiting for anything.
        ("CPU", 0.01, 0.04, Shares(on_cpu=0.05)),
        # One of four threads that compute.
        ("GIL", 0.0125, 0.0375, Shares(on_cpu=0.0125, for_gil=0.0375)),
        # Nobody else had the GIL.
        ("GIL", 0.02, 0.0, Shares(on_cpu=0.05)),
    ],
)
def test_one_tick(kind: str, cpu: float, others: float, expected: Shares) -> None:
    """By what the look found, the thread's clock, and that of all others."""
    shares, _ = share_out(kind, TICK, cpu, others, 0.0)
    assert shares == pytest.approx(expected)
    assert sum(shares) == pytest.approx(TICK)


def test_what_looks_found_on_a_cpu_is_not_counted_again() -> None:
    """Half of the time on a CPU, in bursts that some looks see and others do not: in all it is half."""
    chosen = random.Random(1)
    found, balance = [0.0] * 4, 0.0
    for _ in range(2000):
        kind = "CPU" if chosen.random() < 0.3 else "sleep"
        shares, balance = share_out(kind, TICK, 0.025, 0.0, balance)
        found = [before + share for before, share in zip(found, shares, strict=True)]
    on_cpu, for_gil, unknown, waiting = found
    assert on_cpu + unknown == pytest.approx(50, abs=0.6)
    assert on_cpu == pytest.approx(30, abs=3)
    assert waiting == pytest.approx(50, abs=0.6)
    assert not for_gil
