"""Recordings of several hosts as one."""

from __future__ import annotations

import pytest

from tests.unit.wire.profiles.recordings import RECORDING
from wsgi_tracebacker.analysis.recordings import merge


def test_what_is_counted_is_added_up() -> None:
    """Times of requests too; how long it lasted is no sum."""
    other = RECORDING._replace(host="web-2", seconds=7.0, stacks=RECORDING.stacks[:1])
    both = merge([RECORDING, other])
    assert (both.host, both.seconds, both.wanted_seconds, both.rate) == ("web-1, web-2", 7.0, 10.0, 100)
    assert (both.requests, both.exact, both.cut, both.torn) == (84, 1880, 20, 2)
    assert both.total_seconds == pytest.approx(RECORDING.total_seconds + other.total_seconds)
    assert [stack.seconds for stack in both.stacks] == sorted((stack.seconds for stack in both.stacks), reverse=True)
    assert len(both.workers) == 4
    assert merge([RECORDING._replace(host=f"web{number}") for number in range(100)]).host == "100 hosts"


def test_one_is_itself() -> None:
    """But for the order of its stacks: those with the most seconds come first."""
    stacks = tuple(sorted(RECORDING.stacks, key=lambda stack: -stack.seconds))
    assert merge([RECORDING]) == RECORDING._replace(stacks=stacks)
