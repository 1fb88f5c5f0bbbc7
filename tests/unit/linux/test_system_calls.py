"""The system call that a thread is in, as its file has it, and what its arguments refer to."""

from __future__ import annotations

import _socket
import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.support.waiting import wait_until
from wsgi_tracebacker.linux import file_locks, proc
from wsgi_tracebacker.linux.net import sockets
from wsgi_tracebacker.linux.own_memory import OwnMemory
from wsgi_tracebacker.linux.system_calls import SystemCall, SystemCallFile, parse

LINE = b"%d 0x%x 0x7f00 0x1 0x0 0x0 0x0 0x7fff 0x7f11\n"


@pytest.mark.parametrize(
    ("machine", "number", "name"),
    [("x86_64", 45, "recvfrom"), ("aarch64", 207, "recvfrom"), ("x86_64", 9999, "9999"), ("riscv64", 45, "45")],
)
def test_a_call_is_named_by_its_number_on_this_machine(machine: str, number: int, name: str) -> None:
    """One that is not common, or of another machine, has its number."""
    call = parse(LINE % (number, 7), machine)
    assert call is not None
    assert (call.name, call.descriptor(), call.arguments[1]) == (name, 7, 0x7F00)


def test_the_upper_half_of_a_register_does_not_count() -> None:
    """A descriptor is a C int: -1 is -1, whatever stands above it."""
    call = parse(LINE % (0, 0xDEAD_FFFF_FFFF))
    assert call is not None
    assert call.descriptor() == -1


@pytest.mark.parametrize(
    "line", [b"", b"running\n", b"-1 0x7fff 0x7f11\n", b"0 x y z\n", b"0 0xg 0x1 0x1 0x1 0x1 0x1\n"]
)
def test_a_thread_in_no_call_has_none(line: bytes) -> None:
    """One that runs, one that was stopped elsewhere, and what cannot be read."""
    assert parse(line) is None


def test_the_line_of_a_thread_that_waits_stays_the_same() -> None:
    """It says what the thread waits in; that of a thread that does not exist is empty."""
    one, other = socket.socketpair()
    thread = threading.Thread(target=one.recv, args=(1,))
    thread.start()
    file = SystemCallFile(thread.native_id or 0)
    try:
        wait_until(
            lambda: (call := parse(file.line())) is not None and call.descriptor() == one.fileno(), "it receives"
        )
        assert file.line() == file.line()
    finally:
        other.send(b"x")
        thread.join()
        file.close()
        file.close()
        one.close()
        other.close()
    assert file.line() == b""
    gone = SystemCallFile(2**22 + 7)
    assert gone.line() == b""
    gone.close()


def state_of(pid: int) -> str:
    found = proc.stat(f"/proc/{pid}")
    return found.letter if found is not None else ""


STOPPED = """
import select, socket, sys, threading, time
one, other = socket.socketpair()
def poll():
    polled = select.poll()
    polled.register(one, select.POLLIN)
    polled.poll(600_000)
def receive():
    one.settimeout(600)
    one.recv(1)
def sleep():
    import ctypes
    ctypes.CDLL(None).usleep(600_000_000)
{"poll": poll, "receive": receive, "sleep": sleep, "event": lambda: threading.Event().wait(600)}[sys.argv[1]]()
"""


@pytest.mark.parametrize(
    ("wait", "names"),
    [
        ("poll", {"poll"}),
        ("receive", {"poll"}),
        ("sleep", {"clock_nanosleep", "nanosleep"}),
        ("event", {"futex"}),
    ],
)
def test_a_thread_that_was_stopped_waits_in_the_same_call(wait: str, names: set[str]) -> None:
    """As one is after a debugger, py-spy or ``docker pause``, and it may be a long wait."""
    with subprocess.Popen([sys.executable, "-c", STOPPED, wait]) as process:
        try:
            file = Path(f"/proc/{process.pid}/syscall")

            def call() -> SystemCall | None:
                return parse(file.read_bytes())

            def number() -> bytes:
                return file.read_bytes().partition(b" ")[0]

            before = wait_until(lambda: (found := call()) is not None and found.name in names and found, "it waits")
            former_number = number()
            process.send_signal(signal.SIGSTOP)
            wait_until(lambda: state_of(process.pid) == "T", "it is stopped")
            process.send_signal(signal.SIGCONT)
            wait_until(lambda: state_of(process.pid) == "S", "it goes on")
            assert number() != former_number
            assert call() == before
        finally:
            process.kill()


def test_memory_is_read_and_what_is_not_mapped_is_empty() -> None:
    """No address ends the process."""
    memory = OwnMemory()
    buffer = ctypes.create_string_buffer(b"poll")
    try:
        assert memory.read(ctypes.addressof(buffer), 4) == b"poll"
        assert [memory.read(address, 4) for address in (0, 1, 2**47 - 4096, 2**63, 2**64 - 1)] == [b""] * 5
    finally:
        memory.close()


# --------------------------------------------------------------------------------------------------------------- locks

LOCKS = b"""\
1: FLOCK  ADVISORY  WRITE 4711 08:01:77 0 EOF
1: -> FLOCK  ADVISORY  WRITE 4712 08:01:77 0 EOF
2: POSIX  ADVISORY  READ 4713 08:01:78 1073741826 1073742335
3: OFDLCK ADVISORY  WRITE -1 00:1c:79 0 0
nonsense
4: LEASE  ACTIVE    READ x 08:01:80 0 EOF
"""


def test_locks_are_read_as_the_kernel_lists_them() -> None:
    """A line that nobody understands is passed over; a lock of no process has no pid."""
    found = file_locks.parse(LOCKS)
    assert [(lock.number, lock.is_waiting, lock.kind, lock.pid, lock.inode) for lock in found] == [
        (1, False, "FLOCK", 4711, 77),
        (1, True, "FLOCK", 4712, 77),
        (2, False, "POSIX", 4713, 78),
        (3, False, "OFDLCK", None, 79),
    ]
    assert (found[2].start, found[2].end, found[0].device) == (1073741826, 1073742335, (8, 1))


def test_the_holder_is_whoever_a_process_waits_for(tmp_path: Path) -> None:
    """Not another process that waits, and nobody for a file of another inode."""
    status = os.stat_result((0o100600, 77, os.makedev(8, 1), 1, 0, 0, 0, 0, 0, 0))
    locks = file_locks.parse(LOCKS)
    found = file_locks.holder(locks, status, 4712)
    assert found is not None
    assert found.pid == 4711
    assert file_locks.holder(locks, status, 4711) is None
    assert file_locks.holder(locks, os.stat_result((0, 78, os.makedev(8, 1), 1, 0, 0, 0, 0, 0, 0)), 4712) is None
    assert file_locks.holder(locks, os.stat_result((0, 77, os.makedev(8, 2), 1, 0, 0, 0, 0, 0, 0)), 4712) is None


# ------------------------------------------------------------------------------------------------------------- sockets


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6, socket.AF_UNIX])
def test_the_ends_of_a_socket_are_known(family: int, short_path: Path) -> None:
    """By its number alone; the address as other tools write it."""
    address: object = str(short_path / "s")
    if family != socket.AF_UNIX:
        address = ("127.0.0.1" if family == socket.AF_INET else "::1", 0)
    with socket.socket(family) as server, socket.socket(family) as client:
        try:
            server.bind(address)  # type: ignore[arg-type]
        except OSError:
            pytest.skip("this machine has no IPv6")
        server.listen()
        before = sockets.ends(client.fileno())
        client.connect(server.getsockname())
        after = sockets.ends(client.fileno())
        assert before is not None
        assert after is not None
        assert (before.peer, before.is_connecting, after.is_connecting) == (None, True, False)
        if family == socket.AF_UNIX:
            assert (after.peer, after.own_port) == (address, None)
        else:
            host = "127.0.0.1" if family == socket.AF_INET else "[::1]"
            assert after.peer == f"{host}:{server.getsockname()[1]}"
            assert after.own_port == client.getsockname()[1]
        listening = sockets.ends(server.fileno())
        assert listening is not None
        assert not listening.is_connecting


def test_a_socket_that_is_asked_stays_as_it_is() -> None:
    """Open, and blocking, also where the application has set a time limit for all of its sockets."""
    one, other = socket.socketpair()
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(5.0)
    try:
        assert sockets.ends(one.fileno()) is not None
        assert os.get_blocking(one.fileno())
        other.sendall(b"x")
        assert one.recv(1) == b"x"
    finally:
        socket.setdefaulttimeout(before)
        one.close()
        other.close()
    assert sockets.ends(-1) is None
    with open(os.devnull) as file:
        assert sockets.ends(file.fileno()) is None


def test_an_address_is_read_from_bytes() -> None:
    """As connect() takes it, of each family; of too few bytes, or another family, nothing."""
    family = _socket.AF_INET.to_bytes(2, "little")
    assert sockets.address_of_bytes(family + (443).to_bytes(2, "big") + bytes((10, 0, 0, 9)) + bytes(8)) == (
        "10.0.0.9:443",
        443,
    )
    six = _socket.AF_INET6.to_bytes(2, "little") + (80).to_bytes(2, "big") + bytes(4) + bytes(15) + b"\1" + bytes(4)
    assert sockets.address_of_bytes(six) == ("[::1]:80", 80)
    unix = _socket.AF_UNIX.to_bytes(2, "little") + b"/run/db.sock\0rest"
    assert sockets.address_of_bytes(unix) == ("/run/db.sock", None)
    assert sockets.address_of_bytes(b"") == sockets.address_of_bytes(b"\x63\0" + bytes(14)) == (None, None)


def test_nothing_is_left_open() -> None:
    """Not even where what was asked is no socket."""
    before = set(os.listdir("/proc/self/fd"))
    with open(os.devnull) as file, contextlib.suppress(OSError):
        sockets.ends(file.fileno())
    assert set(os.listdir("/proc/self/fd")) == before
