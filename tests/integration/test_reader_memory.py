"""Reading workers from their memory, for real: stalled, busy, stopped and healthy ones, and where it is refused."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import black_boxes
from tests.support.interpreters import needs_pydll
from tests.support.namespaces import pid_namespace
from tests.support.programs import PROJECT, require_program
from tests.support.pythons import needs_known_memory
from tests.support.stalling import telling
from tests.support.waiting import wait_until
from wsgi_tracebacker.reader.asking import client, reply
from wsgi_tracebacker.reader.finding import discovery
from wsgi_tracebacker.reader.finding.processes import Processes
from wsgi_tracebacker.reader.recording.from_outside import OutsideRecorder
from wsgi_tracebacker.wire.black_box import file_names

if TYPE_CHECKING:
    from collections.abc import Sequence

pytestmark = [
    needs_known_memory,
    pytest.mark.skipif(sys.implementation.name != "cpython", reason="only CPython's memory is known"),
]

worker = functools.partial(telling, "stalling_worker")


def read(base: str, *arguments: str, before: Sequence[str] = ()) -> tuple[int, dict[str, Any], str]:
    line = [*before, sys.executable, "-m", "wsgi_tracebacker", "read", base, "--format", "json", *arguments]
    done = subprocess.run(line, cwd=PROJECT, capture_output=True, text=True, check=False, timeout=60)
    [document] = json.loads(done.stdout)["workers"]
    return done.returncode, document, done.stderr


def functions(thread: dict[str, Any]) -> list[str]:
    return [frame["function"] for frame in thread["frames"]]


def was_signalled(base: str) -> bool:
    return black_boxes.path_of(base, 1, file_names.STACKS).stat().st_size > 0


def test_a_stalled_worker_is_shown_at_once_without_a_signal(base: str) -> None:
    """Every stack with its source lines and qualified names, and who holds the GIL."""
    with worker(base, "backtrack") as process:
        code, document, err = read(base)
        assert (code, document["state"], document["source"]) == (1, "stalled", "memory"), err
        [thread] = [each for each in document["threads"] if each["request"]]
        assert (thread["request"]["path"], thread["native_id"], thread["holds_gil"]) == (
            "/backtrack",
            process.pid,
            True,
        )
        assert functions(thread)[-3:-1] == ["tell", "backtrack_for_ever"]
        assert thread["frames"][-2]["source"] == '    re.match("(a+)+$", "a" * 40 + "b")'
        assert not thread["is_cut"]
        assert not was_signalled(base)


def test_a_stalled_worker_in_another_pid_namespace(base: str) -> None:
    """Root of the host reads its memory, too, though its black box is not at its path out here."""
    with worker(base, "backtrack", before=pid_namespace()):
        code, document, err = read(base)
        assert (code, document["state"], document["source"]) == (1, "stalled", "memory"), err
        assert document["worker"]["pid"] == 1
        [thread] = [each for each in document["threads"] if each["request"]]
        assert functions(thread)[-3:-1] == ["tell", "backtrack_for_ever"]
        assert read(base, "--from-outside")[1]["state"] == "alive"


@needs_pydll
@pytest.mark.parametrize("story", ["deadlock", "beside"])
def test_a_holder_that_sleeps_is_named(base: str, story: str) -> None:
    """Also beside a request that computes without the GIL: no other thread is said to hold it."""
    with worker(base, story):
        code, document, err = read(base)
        assert (code, document["state"], document["source"]) == (1, "stalled", "memory"), err
        holders = {each["request"]["path"]: each["holds_gil"] for each in document["threads"] if each["request"]}
        assert holders == ({"/deadlock": True} if story == "deadlock" else {"/beside": True, "/compute": False})


def test_a_busy_worker_is_not_stalled_and_is_shown_with_its_stacks(base: str) -> None:
    """64 threads take turns with the GIL: none keeps it."""
    with worker(base, "spin"):
        document = read(base, "--from-outside")[1]
        [thread] = [each for each in document["threads"] if each["request"]]
        assert functions(thread)[-1] == "tell"
        spinning = [each for each in document["threads"] if "spin" in functions(each)]
        assert len(spinning) > 32
        assert sum(each["holds_gil"] is True for each in document["threads"]) <= 1
        code, document, _ = read(base, "--timeout", "1.5")
        assert (code, document["state"]) in ((0, "alive"), (1, "busy"))
        assert not was_signalled(base)


@pytest.mark.parametrize("story", ["wait", "backtrack"])
def test_a_stopped_worker_shows_its_stacks_too(base: str, story: str) -> None:
    """Its memory can be read, though nothing in it can run; if it was stopped with the GIL, it is no stalled one."""
    with worker(base, story) as process:
        process.send_signal(signal.SIGSTOP)
        wait_until(lambda: Processes().state(process.pid) == "stopped", "it is stopped")
        code, document, _ = read(base)
        assert (code, document["state"], document["source"]) == (1, "stopped", "memory")
        [thread] = [each for each in document["threads"] if each["request"]]
        assert "tell" in functions(thread)


def test_a_healthy_worker_is_read_from_outside_without_being_asked(base: str) -> None:
    """The same threads and frames as it shows itself, and its listener has accepted nobody meanwhile."""
    with worker(base, "wait") as process:
        # It has said that it is ready, and then it may take a while until it waits.
        wait_until(lambda: "nanosleep" in Path(f"/proc/{process.pid}/wchan").read_text(), "it sleeps")
        own = read(base)[1]
        code, document, err = read(base, "--from-outside")
        assert (code, err, document["state"], document["source"]) == (0, "", "alive", "memory")
        assert [[thread["native_id"], functions(thread)] for thread in document["threads"]] == [
            [thread["native_id"], functions(thread)] for thread in own["threads"]
        ]
        lines = [[frame["lineno"] for frame in thread["frames"]] for thread in document["threads"]]
        assert lines == [[frame["lineno"] for frame in thread["frames"]] for thread in own["threads"]]
        snapshots = "GET /worker HTTP/1.0\r\n\r\n"
        with contextlib.closing(_connected(f"{base}1")) as connection:
            connection.sendall(snapshots.encode())
            reply = b"".join(iter(lambda: connection.recv(65536), b""))
        # The two that asked: the first reader, and this one.
        assert json.loads(reply.partition(b"\r\n\r\n")[2])["counters"]["clients_accepted"] == 2


def test_a_worker_is_held_against_its_own_snapshot(base: str) -> None:
    """It agrees with it, and not with one whose lines or functions are others."""
    with worker(base, "wait"):
        [targets] = discovery.find([base]).targets
        assert isinstance(targets, tuple)
        [target] = targets
        assert target.card is not None
        [answer] = client.ask_all([(target.socket, 60.0)])
        assert isinstance(answer, reply.Reply)
        snapshot = reply.snapshot(answer, 0.0)
        with contextlib.closing(OutsideRecorder(target.card, Processes())) as recorder:
            assert recorder.agrees_with(snapshot)
            for other in ({"lineno": 4711}, {"function": "elsewhere"}):
                stacks = [
                    stack._replace(frames=tuple(each._replace(**other) for each in stack.frames))
                    for stack in snapshot.stacks
                ]
                assert not recorder.agrees_with(snapshot._replace(stacks=tuple(stacks)))
            # Nothing to compare it with.
            assert recorder.agrees_with(snapshot._replace(stacks=()))


def _connected(path: str) -> Any:
    import socket

    connection = socket.socket(socket.AF_UNIX)
    connection.connect(path)
    return connection


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give up what a reader needs")
def test_where_memory_is_refused_the_signal_stays(base: str) -> None:
    """As in a container without CAP_SYS_PTRACE: the reason is named, and the stalled worker is asked by signal."""
    without = [require_program("setpriv"), "--bounding-set", "-sys_ptrace", "--inh-caps", "-sys_ptrace"]
    with worker(base, "backtrack"):
        code, document, err = read(base, "--timeout", "10", before=without)
        assert (code, document["state"], document["source"]) == (1, "stalled", "faulthandler")
        assert "its memory is not read: the kernel does not let this user read its memory" in err
        line = [*without, sys.executable, "-m", "wsgi_tracebacker", "read", base, "--from-outside"]
        done = subprocess.run(line, cwd=PROJECT, capture_output=True, text=True, check=False, timeout=60)
        assert (done.returncode, done.stdout) == (1, "")
        assert "memory not readable: " in done.stderr
        assert "run wsgi-tb as root" in done.stderr
