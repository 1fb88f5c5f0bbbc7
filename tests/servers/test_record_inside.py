"""``wsgi-tb record`` of real servers that cannot be read from outside: greenlets, and memory that is refused."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.servers.matrix.starting import eventlet_python
from tests.support import clients
from tests.support.programs import PROJECT, require_program
from tests.support.waiting import wait_until
from tests.unit.wsgi import snapshot
from wsgi_tracebacker.wire.profiles import raw

if TYPE_CHECKING:
    from tests.conftest import StartGunicorn
    from wsgi_tracebacker.model.recording import Recording


def record(base: str, *arguments: str, before: tuple[str, ...] = ()) -> tuple[Recording, str]:
    """What a recording of one worker shows, and what the command says."""
    path = f"{base}.jsonl"
    command = [*before, sys.executable, "-m", "wsgi_tracebacker", "record", base, "-o", path, *arguments]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr
    with open(path, encoding="utf-8") as file:
        return raw.parse(file), done.stderr


def in_flight(base: str) -> int:
    try:
        return sum(bool(thread["request"]) for thread in snapshot(base)["threads"])
    except OSError:
        return 0


def sleepers(base: str) -> int:
    """Threads that sleep in example_app's slow page."""
    path = f"{base}1"
    try:
        return clients.request(path, "/").text.count(" function = dormi ")
    except OSError:
        return 0


@pytest.mark.parametrize("kind", ["gevent", "eventlet"])
def test_every_suspended_greenlet_is_recorded_in_its_own_stack(base: str, gunicorn: StartGunicorn, kind: str) -> None:
    """Of gunicorn's workers, without being told: each request for the whole time, in its own function."""
    python, env = sys.executable, {}
    if kind == "eventlet":
        # gunicorn itself warns of it.
        python, env = eventlet_python(), {"PYTHONWARNINGS": "ignore"}
    server = gunicorn("tests.programs.greenlets:application", "--worker-class", kind, python=python, env=env)
    assert clients.request(server.address, "/").text == "done\n"
    with contextlib.ExitStack() as requests:
        for _ in range(20):
            requests.enter_context(clients.in_flight(server.address, "/wait"))
        wait_until(lambda: in_flight(base) == 20, "all are served", 60)
        found, err = record(base, "-d", "2", "--route", "/wa*")
    assert [worker.engine for worker in found.workers] == ["inside"]
    # Where memory may be read at all, or is of a known layout, it is left alone for another reason.
    assert "from inside: " in err
    assert "1 worker from inside" in err
    assert (found.requests, {stack.route for stack in found.stacks}) == (20, {"GET /wait"})
    for stack in found.stacks:
        assert stack.waits_for == "sleep"
        assert {"wait_for_ever", "give_way"} <= {frame.function for frame in stack.frames}
    # Each was there all the time, so they have a whole number of the looks' time.
    assert sum(stack.samples for stack in found.stacks) % 20 == 0
    assert found.total_seconds > 10


def test_three_requests_of_three_seconds_are_nine(base: str, gunicorn: StartGunicorn) -> None:
    """Of gunicorn's gthread worker, where the kernel refuses its memory: it says so, and what is asked is the same."""
    server = gunicorn("example_app.wsgi:application", "--worker-class", "gthread", "--threads", "4")
    arguments: tuple[str, ...] = ("-d", "3")
    before: tuple[str, ...] = ()
    if os.geteuid() == 0:
        before = (require_program("setpriv"), "--bounding-set", "-sys_ptrace", "--inh-caps", "-sys_ptrace")
    else:
        arguments = (*arguments, "--from-inside")
    with contextlib.ExitStack() as requests:
        for _ in range(3):
            requests.enter_context(clients.in_flight(server.address, "/slow?seconds=100"))
        wait_until(lambda: sleepers(base) == 3, "all are served", 60)
        found, err = record(base, *arguments, before=before)
    assert (found.requests, [worker.engine for worker in found.workers]) == (3, ["inside"])
    assert before == () or "run wsgi-tb as root" in err
    [stack] = [stack for stack in found.stacks if stack.waits_for == "sleep"]
    assert stack.frames[-1].function == "dormi"
    assert found.total_seconds == pytest.approx(stack.seconds, rel=0.1)
    # On a busy machine some of it is missing, or it takes longer.
    assert stack.seconds > 1.5 * found.seconds
    assert stack.samples % 3 == 0
