"""What goes wrong around a worker, for real: its folder, its disk, its limits, its clock, its process.

Each time requests are served on with the same answers, what is wrong is said once, and when it is over the worker can
be read again.
"""

from __future__ import annotations

import contextlib
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.servers import asking
from tests.servers.faulty import can_be_read, check_served, look_on, said, wait_until_read
from tests.support import black_boxes, clients
from tests.support.programs import PROJECT, cannot_be_tried, require_program
from tests.support.servers import stat_fields
from tests.support.waiting import wait_until
from wsgi_tracebacker.wire import table_layout as layout

if TYPE_CHECKING:
    from pathlib import Path

    from tests.servers.faulty import StartFaulty
    from tests.support.servers import Gunicorn


#: A wall clock that goes as far ahead as a file says. Not libfaketime, which sets the monotonic clock too, or breaks
#: what sleeps by it.
CLOCK = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
int clock_gettime(clockid_t clock, struct timespec *found) {
    int result = syscall(SYS_clock_gettime, clock, found);
    if (clock == CLOCK_REALTIME) {
        long ahead = 0;
        FILE *file = fopen(getenv("CLOCK_AHEAD"), "re");
        if (file) { if (fscanf(file, "%ld", &ahead) != 1) ahead = 0; fclose(file); }
        found->tv_sec += ahead;
    }
    return result;
}
time_t time(time_t *where) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (where) *where = now.tv_sec;
    return now.tv_sec;
}
"""


def as_root(base: str) -> None:
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        cannot_be_tried("only root can mount a file system of its own")
    if subprocess.run(["unshare", "-m", "true"], check=False, capture_output=True).returncode:
        cannot_be_tried("file systems cannot be mounted here")
    os.mkdir(os.path.dirname(base))


def mounted(base: str, options: str, then: str = "true") -> list[str]:
    """A command that runs another one with a small file system of its own in the folder of ``base``."""
    folder = os.path.dirname(base)
    script = f'mount -t tmpfs -o {options} tmpfs {folder} && {then} && exec "$@"'
    return ["unshare", "-m", "sh", "-c", script, "sh"]


def seen_from_outside(server: Gunicorn, base: str) -> str:
    return f"/proc/{server.pid}/root{base}"


def run_inside(server: Gunicorn, *command: str) -> None:
    """Run a command where the server's file systems are."""
    subprocess.run(["nsenter", "-t", str(server.pid), "-m", *command], check=True)


def test_its_folder_is_removed(faulty: StartFaulty, base: str, short_path: Path) -> None:
    """For as long as it is gone requests are served, which is said once; when it is there again, so is the socket."""
    folder = short_path / "run"
    folder.mkdir()
    base = str(folder / "tb")
    server = faulty(base)
    check_served(server)
    wait_until_read(base)
    shutil.rmtree(folder)
    server.wait_for_log("^WARNING wsgi_tracebacker")
    look_on(server)
    folder.mkdir()
    wait_until_read(base)
    [warning] = said(server)
    assert "No such file or directory" in warning
    # The same again.
    shutil.rmtree(folder)
    look_on(server)
    folder.mkdir()
    wait_until_read(base)
    assert said(server) == [warning]


def test_its_file_system_becomes_read_only(faulty: StartFaulty, base: str, short_path: Path) -> None:
    """Who listens goes on; a successor has one warning and no socket, until the file system can be written to."""
    base = str(short_path / "run" / "tb")
    as_root(base)
    server = faulty(base, before=mounted(base, "size=1m"))
    outside = seen_from_outside(server, base)
    check_served(server)
    wait_until_read(outside)
    # A second mount over the first, because that one is written to.
    folder = os.path.dirname(base)
    run_inside(server, "mount", "--bind", folder, folder)
    run_inside(server, "mount", "-o", "remount,bind,ro", folder)
    look_on(server)
    assert can_be_read(outside)
    assert said(server) == []
    [victim] = server.workers()
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: server.workers() not in ([], [victim]), "there is a successor")
    check_served(server)
    look_on(server)
    assert not can_be_read(outside)
    [warning] = said(server)
    assert "Read-only file system" in warning
    run_inside(server, "umount", folder)
    wait_until_read(outside)
    check_served(server)
    assert said(server) == [warning]


def test_its_disk_is_full(faulty: StartFaulty, base: str, short_path: Path) -> None:
    """No byte for the card: one warning, nothing half-written is left, and the socket comes with the first free one."""
    base = str(short_path / "run" / "tb")
    as_root(base)
    filled = os.path.join(os.path.dirname(base), "everything")
    before = mounted(base, "size=64k", f"(cat /dev/zero >{filled} 2>/dev/null || true)")
    server = faulty(base, before=before)
    outside = seen_from_outside(server, base)
    look_on(server)
    [warning] = said(server)
    assert "No space left on device" in warning
    # It tries again at each tick, and a card is there for the moment of a try.
    wait_until(lambda: asking.files(outside) == [], lambda: f"nothing is left: {asking.files(outside)}")
    os.truncate(f"/proc/{server.pid}/root{filled}", 0)
    wait_until_read(outside)
    check_served(server)
    assert said(server) == [warning]


def test_it_runs_out_of_descriptors(faulty: StartFaulty, base: str) -> None:
    """While it has none left, a connection that it has is served on; readers wait, and are answered afterwards."""
    server = faulty(base)
    check_served(server)
    [pid] = server.workers()
    with contextlib.closing(clients.connection_to(server.address)) as connection:

        def ask() -> None:
            connection.request("GET", "/stream/kept")
            assert connection.getresponse().read() == b"/stream/kept"

        ask()
        limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, limits[1]))
        try:
            with clients.connect(f"{base}1") as reader:
                reader.sendall(b"GET /worker HTTP/1.0\r\n\r\n")
                # A moment of gunicorn's own: it keeps a connection for two seconds.
                for _ in range(5):
                    ask()
                reader.settimeout(0.3)
                with pytest.raises(TimeoutError):
                    reader.recv(1)
                resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
                reader.settimeout(clients.TIMEOUT_SECONDS)
                assert reader.recv(12) == b"HTTP/1.0 200"
        finally:
            resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
    assert can_be_read(base)
    check_served(server)
    assert said(server) == []


def test_there_are_no_threads(faulty: StartFaulty, base: str) -> None:
    """A user who may have no thread more is served without a socket, which is logged once."""
    if os.geteuid() != 0:
        cannot_be_tried("only root can run a worker as another user")
    require_program("prlimit")
    other = 54_321
    os.chmod(os.path.dirname(base), 0o777)
    server = faulty(
        base,
        # Loaded before the user is changed, who may not even see our files.
        *(
            "--preload",
            "--worker-class",
            "sync",
            "--threads",
            "1",
            "--user",
            str(other),
            "--group",
            str(other),
            "--worker-tmp-dir",
            "/dev/shm",
        ),
        before=["prlimit", "--nproc=1:100", "--"],
    )
    check_served(server)
    look_on(server)
    [warning] = said(server)
    assert "can't start new thread" in warning
    assert asking.files(base) == []
    # By itself: to do it to another user's process is more than root may in many containers.
    assert server.get("/do/allow_threads").status == 200
    check_served(server)
    assert said(server) == [warning]


def test_its_black_box_is_deleted(faulty: StartFaulty, base: str, tmp_path: Path) -> None:
    """As logging out does with a user's shared memory: it is made anew, with what is in flight, and a death is told."""
    server = faulty(base)
    gate = tmp_path / "gate"
    with server.in_flight(f"/wait/for/it?{gate}"):
        wait_until(lambda: asking.serving(base, "/wait/for/it"), "it is in flight")
        black_boxes.remove(base)
        table = black_boxes.path_of(base, 1, layout.TABLE)
        wait_until(table.exists, "there is a table again")
        check_served(server)

        def row_paths() -> list[str]:
            content = table.read_bytes()
            return [row.path for row in layout.decode_rows(content, content)[0]]

        wait_until(lambda: row_paths() == ["/wait/for/it"], lambda: f"it has the request: {row_paths()}")
        assert can_be_read(base)
        [pid] = server.workers()
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: server.workers() not in ([], [pid]), "there is a successor")
        check_served(server)
        told = server.wait_for_log(r"worker 1, pid (\d+), died with 1 request in flight[^\n]*\n  GET (\S+)")
        assert (int(told[1]), told[2]) == (pid, "/wait/for/it")
    assert len(said(server)) == 1


def test_its_clock_is_set_back(faulty: StartFaulty, base: str, tmp_path: Path) -> None:
    """By a day, under a request: its age and its limit go by a clock that nobody sets."""
    compiler = require_program("gcc")
    library, clock, gate = tmp_path / "clock.so", tmp_path / "ahead", tmp_path / "gate"
    (tmp_path / "clock.c").write_text(CLOCK)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, tmp_path / "clock.c"], check=True)
    clock.write_text("0")
    server = faulty(
        base,
        LD_PRELOAD=str(library),
        CLOCK_AHEAD=str(clock),
        WSGI_TB_HARAKIRI="0.6",
    )
    with server.in_flight(f"/wait/a/day?{gate}") as connection:
        [before] = wait_until(lambda: asking.serving(base, "/wait/a/day"), "it is in flight")
        clock.write_text("-86400")
        [after] = asking.serving(base, "/wait/a/day")
        assert before["request"]["age_seconds"] <= after["request"]["age_seconds"] < 30
        # The clock was really set.
        assert after["request"]["started_at"] < before["request"]["started_at"] - 80_000
        report = server.wait_for_log(r"^ERROR wsgi_tracebacker\.harakiri: harakiri: GET /wait/a/day .*")
        assert re.search(r"\b0\.[6-9]\d* s\b|\b1\.\d+ s\b", report[0]), report[0]
        clock.write_text("86400")
        check_served(server)
        gate.touch()
        assert connection.getresponse().read() == b"/wait/a/day"
    check_served(server)
    assert can_be_read(base)
    reading = [sys.executable, "-m", "wsgi_tracebacker", "list", base]
    assert subprocess.run(reading, cwd=PROJECT, capture_output=True, check=False, timeout=60).returncode == 0
    ours = [line for line in said(server) if "/wait/a/day" not in line]
    assert ours == []


def test_it_is_stopped_and_goes_on(faulty: StartFaulty, base: str, tmp_path: Path) -> None:
    """A stopped worker is shown from its table; when it goes on, its requests end and it answers for itself."""
    server = faulty(base)
    gate = tmp_path / "gate"
    [pid] = server.workers()
    with server.in_flight(f"/wait/stopped?{gate}") as connection:
        wait_until(lambda: asking.serving(base, "/wait/stopped"), "it is in flight")
        os.kill(pid, signal.SIGSTOP)
        try:
            wait_until(lambda: (stat_fields(pid) or "?")[0] == "T", "it is stopped")
            command = [sys.executable, "-m", "wsgi_tracebacker", "read", base]
            shown = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False, timeout=60)
            assert "stopped" in shown.stdout
            assert "/wait/stopped" in shown.stdout
        finally:
            os.kill(pid, signal.SIGCONT)
        gate.touch()
        assert connection.getresponse().read() == b"/wait/stopped"
    wait_until_read(base)
    check_served(server)
    assert server.workers() == [pid]
    assert said(server) == []


def test_a_debugger_is_attached(faulty: StartFaulty, base: str, short_path: Path) -> None:
    """gdb stops it in a request, looks and leaves: the request is answered, and it serves and can be read again."""
    gdb = require_program("gdb")
    server = faulty(base)
    check_served(server)
    [pid] = server.workers()
    held, leave, gate = (short_path / name for name in ("held", "leave", "gate"))
    commands = [
        "set auto-solib-add off",
        f"attach {pid}",
        f"shell touch {held}; until [ -e {leave} ]; do sleep 0.02; done",
        "thread apply all backtrace 1",
        "detach",
    ]
    line = [gdb, "--nx", "--batch", "--quiet", *(part for each in commands for part in ("-ex", each))]
    with server.in_flight(f"/wait/held?{gate}") as connection:
        wait_until(lambda: asking.serving(base, "/wait/held"), "it is in flight")
        with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as debugger:
            try:
                wait_until(lambda: held.exists() or debugger.poll() is not None, "gdb has attached")
                is_held = (stat_fields(pid) or "?")[0] == "t"
                leave.touch()
                output, errors = debugger.communicate(timeout=60)
            finally:
                leave.touch()
                debugger.kill()
        if "Operation not permitted" in errors:
            cannot_be_tried("processes cannot be traced here")
        assert is_held, errors
        assert "Thread 1" in output, errors
        gate.touch()
        assert connection.getresponse().read() == b"/wait/held"
    wait_until_read(base)
    check_served(server)
    assert server.workers() == [pid]
    assert said(server) == []


@pytest.mark.parametrize("handler", ["blocks", "raises"])
def test_a_handler_of_its_log(faulty: StartFaulty, base: str, short_path: Path, handler: str) -> None:
    """What we have to say at the first request, and at an overdue one, keeps nobody waiting, and is on stderr."""
    folder = short_path / "run"
    base = str(folder / "tb")
    server = faulty(base, FAULTY_LOGGING=handler, WSGI_TB_HARAKIRI="0.3")
    check_served(server)
    gate = short_path / "gate"
    server.wait_for_log("cannot open a socket at")
    with server.in_flight(f"/wait/overdue?{gate}") as connection:
        server.wait_for_log("harakiri: GET /wait/overdue")
        look_on(server)
        gate.touch()
        assert connection.getresponse().read() == b"/wait/overdue"
    folder.mkdir()
    wait_until_read(base)
    check_served(server)
    assert server.log_text().count("cannot open a socket at") == 1
