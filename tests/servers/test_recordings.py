"""wsgi-tb record on real gunicorn: many workers, and workers that are replaced meanwhile."""

from __future__ import annotations

import contextlib
import signal
from typing import TYPE_CHECKING

import pytest

from tests.servers import asking
from tests.support.pythons import needs_recordings_from_outside
from tests.support.recordings import interrupted, recording, wait_for_looks
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import StartGunicorn
    from tests.support.servers import Gunicorn

pytestmark = needs_recordings_from_outside

WAITING_ROOM = "tests.programs.waiting_room:application"
#: For a machine on which much else runs.
PATIENT = 60.0


def fill(server: Gunicorn, base: str, path: str, gate: Path, count: int) -> contextlib.ExitStack:
    """A request in flight in each of so many sync workers."""
    connections = contextlib.ExitStack()
    for _ in range(count):
        connections.enter_context(server.in_flight(f"{path}?{gate}"))
    wait_until(lambda: len(asking.serving(base, path)) == count, lambda: str(asking.serving(base)), PATIENT)
    return connections


@pytest.mark.parametrize("count", [3, pytest.param(32, marks=pytest.mark.slow)])
def test_all_workers_are_recorded_at_once(gunicorn: StartGunicorn, base: str, tmp_path: Path, count: int) -> None:
    """Each with its request, as often as any other one, and hardly a look is thrown away."""
    server = gunicorn(WAITING_ROOM, "--workers", str(count), "--preload")
    with fill(server, base, "/wait", tmp_path / "gate", count), recording(base) as process:
        wait_for_looks(process, set(server.workers()))
        found, _ = interrupted(base, process)
    assert {worker.pid for worker in found.workers} == set(asking.pids(base).values()) == set(server.workers())
    samples = {each.number: 0 for each in found.workers}
    for stack in found.stacks:
        assert (stack.route, "wait_to_be_called" in [frame.function for frame in stack.frames]) == ("GET /wait", True)
        samples[stack.worker] += stack.samples
    assert found.requests == count
    assert found.torn_share < 0.02
    assert min(samples.values()) == pytest.approx(max(samples.values()), abs=3)


def test_workers_that_are_replaced_are_recorded_before_and_after(
    gunicorn: StartGunicorn, base: str, tmp_path: Path
) -> None:
    """A reload: the old ones while they finish, the new ones from their first request on."""
    server = gunicorn(WAITING_ROOM, "--workers", "2", "--graceful-timeout", "120")
    old, old_gate, new_gate = set(server.workers()), tmp_path / "old", tmp_path / "new"
    with contextlib.ExitStack() as stack:
        stack.enter_context(fill(server, base, "/old", old_gate, 2))
        process = stack.enter_context(recording(base))
        wait_for_looks(process, old)
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: len(server.workers()) == 4, "new workers run beside the old ones", PATIENT)
        new = set(server.workers()) - old
        stack.enter_context(fill(server, base, "/new", new_gate, 2))
        wait_for_looks(process, new)
        old_gate.touch()
        wait_until(lambda: set(server.workers()) == new, "the old ones have ended", PATIENT)
        wait_for_looks(process, new)
        found, _ = interrupted(base, process)
        new_gate.touch()
    assert {worker.pid for worker in found.workers} == old | new
    numbers = [each.number for each in found.workers]
    routes = {number: {each.route for each in found.stacks if each.worker == number} for number in numbers}
    assert routes == {1: {"GET /old"}, 2: {"GET /old"}, 3: {"GET /new"}, 4: {"GET /new"}}
    assert found.torn_share < 0.02
