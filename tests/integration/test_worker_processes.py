"""Worker processes: who has which number, what a fork leaves to whom, and who may read."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import clients
from tests.support.programs import PROJECT
from tests.support.strangers import needs_root
from tests.support.waiting import wait_until
from tests.unit.wsgi import environ, request_in_flight, requests_in, serve, snapshot
from wsgi_tracebacker import TracebackerMiddleware
from wsgi_tracebacker.errors import FormatError
from wsgi_tracebacker.wire.documents import card_json
from wsgi_tracebacker.worker import agent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: Serves one request, says its number on stdout, and waits for the end of its stdin.
WORKER = """
import sys
from wsgi_tracebacker import TracebackerMiddleware
from wsgi_tracebacker.worker import agent
list(TracebackerMiddleware(lambda *_: [], sys.argv[1])({"REQUEST_METHOD": "GET"}, print))
(found,) = agent._agents.values()
print(found.presence.number() or 0, flush=True)
sys.stdin.read()
"""


class Worker:
    """A process that holds a number until it is told to go, or killed."""

    def __init__(self, base: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-S", "-c", WORKER, base], cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self._number: int | None = None

    @property
    def number(self) -> int:
        if self._number is None:
            assert self.process.stdout is not None
            self._number = int(self.process.stdout.readline())
        return self._number

    def end(self, *, killed: bool) -> None:
        if killed:
            self.process.kill()
        self.process.communicate(timeout=30)


@contextlib.contextmanager
def workers(base: str, count: int) -> Iterator[list[Worker]]:
    made = [Worker(base) for _ in range(count)]
    try:
        yield made
    finally:
        for one in made:
            one.end(killed=True)


def test_a_killed_workers_number_goes_to_its_successor(base: str) -> None:
    """SIGKILL leaves files behind; the respawned worker gets the number and can be read there."""
    with workers(base, 3) as three:
        assert sorted(one.number for one in three) == [1, 2, 3]
        (second,) = (one for one in three if one.number == 2)
        second.end(killed=True)
        assert os.path.lexists(base + "2")
        with workers(base, 1) as (heir,):
            assert heir.number == 2
            assert snapshot(base, 2)["worker"]["pid"] == heir.process.pid


def test_a_process_that_exits_in_order_leaves_no_file(base: str) -> None:
    """At exit socket and card are gone."""
    with workers(base, 1) as (one,):
        assert one.number == 1
        one.end(killed=False)
        assert os.listdir(os.path.dirname(base)) == []


#: A server whose workers are children of multiprocessing, as granian's are; the one that it has forks once, and says
#: which files there are then.
CHILD = """
import multiprocessing, multiprocessing.util, os, sys
from wsgi_tracebacker import TracebackerMiddleware

application = TracebackerMiddleware(lambda *_: [], sys.argv[1])

def serve(forks):
    list(application({"REQUEST_METHOD": "GET"}, print))
    if forks:
        pid = os.fork()
        if pid == 0:
            multiprocessing.util._exit_function()
            os._exit(0)
        os.waitpid(pid, 0)
        print(*sorted(os.listdir(os.path.dirname(sys.argv[1]))), flush=True)

if sys.argv[2] == "parent too":
    serve(False)
worker = multiprocessing.get_context("fork").Process(target=serve, args=(True,))
worker.start()
worker.join()
print(*sorted(os.listdir(os.path.dirname(sys.argv[1]))), flush=True)
"""


@pytest.mark.parametrize(("parent", "number"), [("parent not", 1), ("parent too", 2)])
def test_a_child_of_multiprocessing_leaves_no_file(parent: str, number: int, base: str) -> None:
    """It runs no atexit, but its finalizers: they take away what is its own. What it forks takes nothing away, and what
    its parent has asked for is not its end.
    """
    # From 3.12 on Python warns of each fork where there are threads, and ours are.
    quiet = ("-W", "ignore:This process:DeprecationWarning")
    command = [sys.executable, "-S", *quiet, "-c", CHILD, base, parent]
    ended = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=30, check=True)
    of_parent = ["tb1", "tb1.worker"] if number == 2 else []
    assert ended.stderr == ""
    assert [line.split() for line in ended.stdout.splitlines()] == [
        [*of_parent, f"tb{number}", f"tb{number}.worker"],
        of_parent,
    ]
    assert os.listdir(os.path.dirname(base)) == []


def in_child(work: Callable[[], object], fork: Callable[[], int] = os.fork) -> Any:
    """Run in a forked child; what it returns, through JSON; its exception's text where it raised."""
    read_end, write_end = os.pipe()
    pid = fork()
    if pid == 0:
        try:
            try:
                answer: object = work()
            except BaseException as error:
                answer = f"{type(error).__name__}: {error}"
            os.write(write_end, json.dumps(answer).encode())
        finally:
            os._exit(0)
    os.close(write_end)
    with open(read_end, "rb") as file:
        content = file.read()
    os.waitpid(pid, 0)
    return json.loads(content)


def fork_without_our_hook() -> int:
    """What is left of us in a child after a fork in C, as uWSGI's: our hook has let go of nothing.

    Not libc's fork() itself: beside other threads it leaves the GIL of the child locked now and then.
    """
    kept = dict(agent._agents)
    agent._agents.clear()
    try:
        return os.fork()
    finally:
        agent._agents.update(kept)


@pytest.mark.parametrize("fork", [os.fork, fork_without_our_hook])
def test_a_child_that_serves_has_a_number_of_its_own(base: str, fork: Callable[[], int]) -> None:
    """A forked child's first request takes the next number; the parent's socket goes on answering with the parent."""
    wrapped = TracebackerMiddleware(lambda *_: [b"x"], base)
    serve(wrapped)

    def in_the_child() -> object:
        assert serve(wrapped).chunks == [b"x"]
        child, parent = snapshot(base, 2)["worker"], snapshot(base, 1)["worker"]
        mine = child["pid"] == os.getpid(), parent["pid"] == os.getppid(), child["requests_finished"]
        agent.stop()
        return mine

    assert in_child(in_the_child, fork) == [True, True, 1]
    assert snapshot(base)["worker"]["pid"] == os.getpid()
    assert sorted(os.listdir(os.path.dirname(base))) == ["tb1", "tb1.worker"]


def test_a_child_holds_neither_lock_nor_connection(base: str) -> None:
    """A child that an application forked and that lives on keeps nothing: number and files are the parent's alone."""
    wrapped = TracebackerMiddleware(lambda *_: [b"x"], base)
    serve(wrapped)
    read_end, write_end = os.pipe()
    with clients.connect(base + "1") as client:
        client.sendall(b"GET /wor")
        time_of_accept = wait_until(lambda: agent_of().listener and agent_of().listener._clients, "it is accepted")
        assert time_of_accept
        pid = os.fork()
        if pid == 0:
            with contextlib.suppress(BaseException):
                os.close(write_end)
                os.read(read_end, 1)
            os._exit(0)
        try:
            client.sendall(b"ker HTTP/1.0\r\n\r\n")
            received = b""
            while part := client.recv(65536):  # the end comes although the child lives
                received += part
            assert b" 200 OK" in received
            wait_until(lambda: not held_by(pid, base), "the child has let go of the lock")
            agent.stop()
            serve(wrapped)
            assert snapshot(base)["worker"]["number"] == 1  # the lock was free at once
        finally:
            os.close(write_end)
            os.close(read_end)
            os.waitpid(pid, 0)


def held_by(pid: int, base: str) -> list[str]:
    """The files of ours that another process has open."""
    folder = Path(f"/proc/{pid}/fd")
    targets = [os.readlink(link) for link in folder.iterdir() if link.is_symlink()]
    return [target for target in targets if target.startswith(base)]


def agent_of() -> Any:
    (found,) = agent._agents.values()
    return found


@pytest.mark.parametrize("fork", [os.fork, fork_without_our_hook])
def test_an_application_that_forks_in_a_request_keeps_its_request(base: str, fork: Callable[[], int]) -> None:
    """The child exits, or serves on in its copy of the request; in the parent the request is still in flight."""
    found: list[Any] = []

    def nested() -> object:
        return serve(wrapped, environ("/nested")).chunks[0].decode()

    def application(request: Any, start_response: Any) -> Any:
        if request["PATH_INFO"] == "/":
            found.append(in_child(nested, fork))
            found.append(request_in_flight(base)["path"])
        return [b"nested"]

    wrapped = TracebackerMiddleware(application, base)
    for _ in range(2):
        assert serve(wrapped, environ("/")).error is None
    assert found == ["nested", "/"] * 2
    assert requests_in(snapshot(base)) == []


def test_a_preloading_master_owns_nothing(base: str) -> None:
    """An application wrapped in the master and served in its children: each child has its number, the master none."""
    wrapped = TracebackerMiddleware(lambda *_: [b"x"], base)
    before = set(os.listdir("/proc/self/fd")), os.listdir("/proc/self/task")

    def numbered() -> object:
        serve(wrapped)
        number = agent_of().presence.number()
        agent.stop()
        return number

    assert [in_child(numbered) for _ in range(3)] == [1, 1, 1]
    assert (set(os.listdir("/proc/self/fd")), os.listdir("/proc/self/task")) == before


def test_the_card_says_who_the_worker_is(base: str) -> None:
    """Number, base, process and user on the card are those of this very process."""
    serve(TracebackerMiddleware(lambda *_: [], base, application="shop"), environ(SERVER_SOFTWARE="server/1"))
    card = card_json.decode(Path(base + "1.worker").read_bytes())
    assert (card.number, card.base, card.pid, card.uid, card.application, card.server, card.cwd) == (
        1,
        base,
        os.getpid(),
        os.geteuid(),
        "shop",
        "server/1",
        os.getcwd(),
    )
    assert abs(card.started_at - time.time()) < 100_000
    with pytest.raises(FormatError):
        card_json.decode(b"")


OTHER, MEMBERS = 54_321, 54_322


def become(uid: int, groups: list[int]) -> None:
    os.setgroups(groups)
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


@pytest.mark.parametrize(
    ("group", "groups", "gets"),
    [
        (None, [], False),
        (MEMBERS, [], False),
        (MEMBERS, [MEMBERS], True),
        (MEMBERS, [1, 2, MEMBERS], True),
        (OTHER, [], True),
    ],
)
def test_only_the_owner_and_the_group_get_a_byte(base: str, group: int | None, groups: list[int], gets: bool) -> None:
    """Even where the socket's mode lets everybody connect: another user gets EOF and no byte, a member the answer."""
    needs_root()
    serve(TracebackerMiddleware(lambda *_: [], base, group=group))
    mode = os.stat(base + "1").st_mode & 0o777
    assert (mode, os.stat(base + "1.worker").st_mode & 0o777) == (0o600 if group is None else 0o660, 0o600)
    os.chmod(os.path.dirname(base), 0o755)
    if not gets:
        os.chmod(base + "1", 0o666)

    def read() -> object:
        become(OTHER, groups)
        received = b""
        with clients.connect(base + "1", 10) as client:
            with contextlib.suppress(OSError):
                client.sendall(b"GET /worker HTTP/1.0\r\n\r\n")
            with contextlib.suppress(ConnectionResetError):
                while part := client.recv(65536):
                    received += part
        return received[:12].decode()

    assert in_child(read) == ("HTTP/1.0 200" if gets else "")
    wait_until(lambda: agent_of().listener.refused == int(not gets), "it is counted")


@pytest.mark.parametrize("umask", [0o777, 0o277])
def test_a_successor_can_open_the_card_whatever_the_umask_was(base: str, umask: int) -> None:
    """Without root's rights: a worker with a hard umask is killed, and its successor still gets the number."""
    needs_root()
    os.chmod(os.path.dirname(base), 0o1777)

    def serve_and_die() -> object:
        become(OTHER, [])
        os.umask(umask)
        serve(TracebackerMiddleware(lambda *_: [], base))
        return agent_of().presence.number()

    assert [in_child(serve_and_die) for _ in range(3)] == [1, 1, 1]
