"""What the environment refuses, and faults of ours: one line in the log, and the application is served."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import resource
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import clients
from tests.support.interpreters import drop_what_nobody_has
from tests.support.logs import messages
from tests.support.programs import PROJECT, cannot_be_tried, require_program
from tests.support.waiting import wait_until
from tests.unit.wsgi import environ, requests_in, serve, snapshot
from wsgi_tracebacker import ConfigurationError, TracebackerMiddleware, stop
from wsgi_tracebacker.linux import proc
from wsgi_tracebacker.linux.net import peers
from wsgi_tracebacker.wire.documents import snapshot_json as json_format
from wsgi_tracebacker.worker import agent
from wsgi_tracebacker.worker.listening import listener, slot
from wsgi_tracebacker.worker.reporting import faults
from wsgi_tracebacker.worker.stacks import snapshot as snapshots
from wsgi_tracebacker.worker.stacks import walk
from wsgi_tracebacker.worker.threads import primitives
from wsgi_tracebacker.worker.tracking import admission, cores

if TYPE_CHECKING:
    from collections.abc import Iterator


def application(request: Any, start_response: Any) -> Any:
    start_response("200 OK", [])
    return (chunk for chunk in [request["PATH_INFO"].encode()])


@pytest.fixture(autouse=True)
def nothing_logged_before(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """What was said once in this process may be said again in each test."""
    faults.forget()
    yield
    stop()
    faults.forget()


def served(wrapped: TracebackerMiddleware, times: int = 3) -> bool:
    return all(serve(wrapped, environ(f"/{number}")).chunks == [b"/%d" % number] for number in range(times))


def descriptors() -> set[str]:
    drop_what_nobody_has()  # a map, that of the black box, has a descriptor of its own
    return set(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("folder", ["missing/", "file/", "x" * 90 + "/"])
def test_a_folder_that_cannot_hold_the_socket_is_one_warning(
    short_path: Path, caplog: pytest.LogCaptureFixture, folder: str, base: str
) -> None:
    """A missing folder, or one that is none: one warning that names the path; every request is served."""
    (short_path / "file").write_bytes(b"")
    path = f"{str(short_path)[:5]}{folder}tb" if len(folder) > 50 else str(short_path / folder / "tb")
    assert served(TracebackerMiddleware(application, path))
    (message,) = messages(caplog)
    assert path in message
    assert not os.path.exists(f"{path}1")


def test_the_folder_that_appears_later_gets_its_socket(
    short_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, base: str
) -> None:
    """A runtime folder that is made after the first request: the next tick opens the socket."""
    monkeypatch.setattr(agent, "TICK_SECONDS", 0.02)
    path = str(short_path / "later" / "tb")
    wrapped = TracebackerMiddleware(application, path)
    assert served(wrapped)
    os.mkdir(short_path / "later")

    def answers() -> bool:
        # Between its bind() and its listen() a socket is there and refuses.
        try:
            return bool(snapshot(path)["worker"]["requests_finished"] == 3)
        except (FileNotFoundError, ConnectionRefusedError):
            return False

    wait_until(answers, "it answers")
    assert len(messages(caplog)) == 1
    stop()


@pytest.mark.parametrize("gone", ["socket", "card", "both", "folder"])
def test_paths_that_vanish_come_back(
    short_path: Path, monkeypatch: pytest.MonkeyPatch, gone: str, base: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Cleaners that remove socket, card or folder under a running worker: a tick later it can be read again, and that
    is within a minute, with one tick that is missed.
    """
    assert 2 * listener.TICK_SECONDS < 60
    monkeypatch.setattr(agent, "TICK_SECONDS", 0.02)
    folder = short_path / "run"
    folder.mkdir()
    path = str(folder / "tb")
    wrapped = TracebackerMiddleware(application, path)
    assert served(wrapped)
    if gone != "card":
        os.unlink(path + "1")
    if gone != "socket":
        (folder / "tb1.worker").unlink(missing_ok=True)
    if gone == "folder":
        for rest in folder.iterdir():
            rest.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # a tick was quicker, and has put its own there again
            folder.rmdir()
        folder.mkdir(exist_ok=True)

    def is_back() -> bool:
        try:
            return os.path.lexists(path + "1.worker") and snapshot(path)["worker"]["number"] == 1
        except OSError:
            return False

    wait_until(is_back, "worker 1 can be read again")
    assert served(wrapped)
    stop()


def limit_descriptors(free: int) -> tuple[int, int]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = [os.open("/dev/null", os.O_RDONLY) for _ in range(free)]
    limit = max([*taken, *map(int, os.listdir("/proc/self/fd"))][: free or None]) + (1 if free else 0)
    for descriptor in taken:
        os.close(descriptor)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit if free else 3, hard))
    return soft, hard


@pytest.mark.parametrize("free", range(6))
def test_without_descriptors_the_application_is_served(base: str, caplog: pytest.LogCaptureFixture, free: int) -> None:
    """However many descriptors are missing: at most one warning for the socket and one for the watchdog, no fault, and
    nothing half open is left.
    """
    before = descriptors()
    limits = limit_descriptors(free)
    try:
        assert served(TracebackerMiddleware(application, base))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert faults.count() == 0
    said = messages(caplog)
    of_watchdog = [message for message in said if message.startswith("no watchdog can be started")]
    assert len(of_watchdog) <= 1
    assert len(said) <= 1 + len(of_watchdog)
    (found,) = agent._agents.values()
    if found.presence.number() is None:
        assert len(said) == 1 + len(of_watchdog)
        assert not os.path.lexists(base + "1")
    else:
        assert snapshot(base)["worker"]["number"] == 1
    stop()
    assert descriptors() == before
    assert os.listdir(os.path.dirname(base)) == []


def test_a_thread_that_comes_without_descriptors_finds_the_same_worker(
    base: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A first request of a thread, when nothing can be opened: nobody takes the process for another one."""
    wrapped = TracebackerMiddleware(application, base)
    assert served(wrapped)
    before = list(agent._agents.values())
    found: list[bool] = []
    limits = limit_descriptors(0)
    try:
        thread = threading.Thread(target=lambda: found.append(served(wrapped)))
        thread.start()
        thread.join()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert (found, list(agent._agents.values()), messages(caplog), faults.count()) == ([True], before, [], 0)
    assert snapshot(base)["worker"]["requests_finished"] == 6


def test_without_threads_the_application_is_served(
    base: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A system that gives no thread: one warning for each that is missing, on stderr because logging may hang; no
    socket on which nobody answers; and every request is served.
    """
    before = descriptors()
    real = primitives.bind

    def refuse(*_: Any) -> int:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(primitives, "bind", lambda: dataclasses.replace(real(), start_new_thread=refuse))
    assert served(TracebackerMiddleware(application, base))
    listener_line, watchdog_line = capfd.readouterr().err.splitlines()
    assert "no listener can be started (can't start new thread)" in listener_line
    assert "no watchdog can be started (can't start new thread)" in watchdog_line
    assert (faults.count(), os.listdir(os.path.dirname(base))) == (0, [])
    stop()
    assert descriptors() == before


def test_a_group_that_does_not_exist_is_one_warning(base: str, caplog: pytest.LogCaptureFixture) -> None:
    """An unknown group: the socket is opened for the owner alone, and that is said."""
    assert served(TracebackerMiddleware(application, base, group="no-such-group"))
    (message,) = messages(caplog)
    assert "no-such-group" in message
    assert (os.lstat(base + "1").st_mode & 0o777, snapshot(base)["worker"]["number"]) == (0o600, 1)


@pytest.mark.parametrize("word", ["1", "true", "YES"])
def test_it_can_be_switched_off(
    base: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, word: str
) -> None:
    """With WSGI_TB_DISABLE the application itself is called, nothing is opened, and one line says so."""
    monkeypatch.setenv("WSGI_TB_DISABLE", word)
    result = (chunk for chunk in [b"x"])

    def bare(*_: object) -> Iterator[bytes]:
        return result

    wrapped = TracebackerMiddleware(bare, base)
    assert wrapped.__call__ is bare
    before = descriptors()
    assert wrapped(environ(), lambda *_: print) is result
    assert wrapped(environ(), lambda *_: print) is result
    assert (len(messages(caplog)), os.listdir(os.path.dirname(base)), descriptors()) == (1, [], before)


@pytest.mark.parametrize("variable", ["WSGI_TB_DISABLE", "WSGI_TB_SHOW_QUERY", "WSGI_TB_NAME_THREADS"])
def test_a_switch_that_is_neither_on_nor_off_is_an_error(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the same rule for each: the message names the variable and shows its value."""
    monkeypatch.setenv(variable, "maybe")
    with pytest.raises(ConfigurationError, match=f"^{variable} must be 1 or 0 .*, not 'maybe'$"):
        TracebackerMiddleware(application)


def test_an_unknown_variable_is_one_warning(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the nearest name, or what other packages call it, if there is one."""
    monkeypatch.setenv("WSGI_TB_APP", "shop:app")
    monkeypatch.setenv("WSGI_TB_HARIKIRI", "3")
    monkeypatch.setenv("WSGI_TB_TIMEOUT", "3")
    monkeypatch.setenv("WSGI_TB_XYZ", "3")
    for _ in range(2):
        TracebackerMiddleware(application)
    assert messages(caplog) == [
        "WSGI_TB_HARIKIRI is set, but there is no such variable, so it has no effect; did you mean WSGI_TB_HARAKIRI?",
        "WSGI_TB_TIMEOUT is set, but there is no such variable, so it has no effect; did you mean WSGI_TB_HARAKIRI?",
        "WSGI_TB_XYZ is set, but there is no such variable, so it has no effect",
    ]
    faults.forget()


@pytest.mark.parametrize("word", ["0", "", "false"])
def test_a_switch_that_is_off_changes_nothing(base: str, monkeypatch: pytest.MonkeyPatch, word: str) -> None:
    """WSGI_TB_DISABLE=0 is not set."""
    monkeypatch.setenv("WSGI_TB_DISABLE", word)
    assert served(TracebackerMiddleware(application, base))
    assert snapshot(base)["worker"]["requests_finished"] == 3


def test_elsewhere_than_on_linux_it_stands_aside(
    base: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On another platform the application is served as if it were not wrapped, and one line names the platform."""
    monkeypatch.setattr(sys, "platform", "darwin")
    wrapped = TracebackerMiddleware(application, base)
    TracebackerMiddleware(application, base)
    assert served(wrapped)
    (message,) = messages(caplog)
    assert "darwin" in message
    assert os.listdir(os.path.dirname(base)) == []


def test_without_the_gil_it_stands_aside(
    base: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a free-threaded build without its GIL, where other threads' frames must not be touched, it does nothing."""
    monkeypatch.setattr(sys, "_is_gil_enabled", lambda: False, raising=False)
    assert served(TracebackerMiddleware(application, base))
    assert (len(messages(caplog)), os.listdir(os.path.dirname(base))) == (1, [])


FAULTS: dict[str, tuple[Any, str]] = {
    "where an agent is made": (agent.Agent, "__init__"),
    "where it starts": (agent.Agent, "start"),
    "where a number is taken": (slot, "claim"),
    "where the card is written": (slot.Slot, "write_card"),
    "where a core is taken": (cores.Cores, "take"),
    "where a core is looked for": (admission.Admission, "idle_core"),
    "where a listener is made": (listener.Listener, "__init__"),
    "where /proc is read": (proc, "stat"),
}


@pytest.mark.parametrize("where", FAULTS)
def test_a_fault_of_ours_is_logged_once_and_the_application_is_served(
    base: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """Whatever of ours raises while a request begins: one log entry, and every request is served in full."""

    def fail(*_: Any, **__: Any) -> Any:
        raise AssertionError("a fault of ours")

    before = descriptors()
    with monkeypatch.context() as patched:
        patched.setattr(*FAULTS[where], fail)
        assert served(TracebackerMiddleware(application, base), 5)
    assert len(messages(caplog)) == 1
    assert faults.count() >= 1
    stop()
    assert (os.listdir(os.path.dirname(base)), descriptors() - before) == ([], set())


@pytest.mark.parametrize(("owner", "name"), [(snapshots, "describe"), (walk, "walk"), (json_format, "snapshot_bytes")])
def test_a_fault_in_a_snapshot_is_a_500_and_requests_go_on(
    base: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str
) -> None:
    """The reader is told, with a status, not left with an empty answer; the next snapshot works again."""
    body: Any = TracebackerMiddleware(application, base)(environ(), lambda *_: print)

    def fail(*_: Any, **__: Any) -> Any:
        raise AssertionError("a fault of ours")

    with monkeypatch.context() as patched:
        patched.setattr(owner, name, fail)
        assert [clients.request(base + "1", "/snapshot").status for _ in range(2)] == [500, 500]
    assert (len(messages(caplog)), faults.count()) == (1, 2)
    assert len(requests_in(snapshot(base))) == 1
    body.close()


def test_peers_whose_credentials_cannot_be_had_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that says nothing about its peer is nobody's."""

    class Mute:
        def getsockopt(self, *_: Any) -> bytes:
            raise OSError(errno.ENOPROTOOPT, "no")

    assert peers.is_permitted(Mute(), None) is False  # type: ignore[arg-type]


def test_restart_after_stop(base: str) -> None:
    """stop() takes everything away, also twice; the next request of any middleware brings it back, with its number."""
    one, other = TracebackerMiddleware(application, base), TracebackerMiddleware(application, base)
    assert served(one)
    assert served(other)
    before = len(os.listdir("/proc/self/task"))

    def stopping(request: Any, start_response: Any) -> Any:
        stop()
        return [b"x"]

    # A request that is in flight while everything is taken away, and ends afterwards.
    assert serve(TracebackerMiddleware(stopping, base)).chunks == [b"x"]
    stop()
    assert os.listdir(os.path.dirname(base)) == []
    wait_until(lambda: len(os.listdir("/proc/self/task")) < before, "the threads have ended")
    assert served(one)
    found: list[Any] = []

    def watching(request: Any, start_response: Any) -> Any:
        found.append(requests_in(snapshot(base)))
        return []

    serve(TracebackerMiddleware(watching, base))
    body: Any = other(environ("/other"), lambda *_: print)
    assert [request["path"] for request in requests_in(snapshot(base))] == ["/other"]
    body.close()
    assert (len(found[0]), snapshot(base)["worker"]["requests_finished"]) == (1, 5)


_IN_A_PRIVATE_TMP = """
mount --bind "$1/systemd-private-0ac1-shop.service-q1w2e3/tmp" /var/tmp && exec "$2" -c '
from tests.unit.wsgi import environ, serve
from wsgi_tracebacker import TracebackerMiddleware, stop
from tests.integration.test_worker_environment import application
wrapped = TracebackerMiddleware(application, "/var/tmp/tb")
for _ in range(2):
    assert serve(wrapped, environ("/")).chunks == [b"/"]
stop()'
"""


def test_a_socket_in_a_private_tmp_is_one_warning(short_path: Path) -> None:
    """Where systemd made the folder for the service alone, nobody else would find the socket: that is said once."""
    if os.geteuid() != 0:
        cannot_be_tried("only root may mount")
    (short_path / "systemd-private-0ac1-shop.service-q1w2e3" / "tmp").mkdir(parents=True)
    command = [require_program("unshare"), "--mount", "sh", "-c", _IN_A_PRIVATE_TMP, "sh", str(short_path)]
    done = subprocess.run([*command, sys.executable], capture_output=True, text=True, cwd=PROJECT, check=False)
    assert done.returncode == 0, done.stderr
    [line] = done.stderr.splitlines()
    assert line.startswith("WARNING wsgi_tracebacker: /var/tmp is one that systemd made for this service alone")
    assert "/var/tmp/tb<N>" in line


_WITHOUT_PROC = """
mount -t tmpfs tmpfs /proc && exec "$2" -c '
import sys
from tests.unit.wsgi import environ, serve
from wsgi_tracebacker import TracebackerMiddleware, stop
from tests.integration.test_worker_environment import application
wrapped = TracebackerMiddleware(application, sys.argv[1])
for _ in range(2):
    assert serve(wrapped, environ("/")).chunks == [b"/"]
stop()' "$1"
"""


@pytest.mark.parametrize("left", [True, False], ids=["a card is left", "first"])
def test_without_proc_it_is_served_after_one_warning(base: str, left: bool) -> None:
    """A card and a socket cannot be opened and set up safely there: the worker cannot be read, and says why."""
    if os.geteuid() != 0:
        cannot_be_tried("only root may mount")
    card = Path(f"{base}1.worker")
    if left:
        card.touch()
    command = [require_program("unshare"), "--mount", "sh", "-c", _WITHOUT_PROC, "sh", base, sys.executable]
    done = subprocess.run(command, capture_output=True, text=True, cwd=PROJECT, check=False)
    assert done.returncode == 0, done.stderr
    # PyPy misses /proc itself, and says so first.
    [line] = [
        line for line in done.stderr.splitlines() if not line.startswith("Warning: cannot find your CPU L2 cache")
    ]
    assert line.startswith(f"WARNING wsgi_tracebacker: cannot open a socket at {base}<N>")
    assert "/proc" in line
    assert list(card.parent.iterdir()) == ([card] if left else [])
