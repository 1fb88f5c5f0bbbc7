"""Real servers as processes: started, waited for until they are ready, ended by their process id.

Each server has a process group of its own, and the end of the test proves that nobody of it is left.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support import clients
from tests.support.programs import PROJECT, require_program
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    import http.client
    from collections.abc import Mapping, Sequence
    from types import TracebackType

    from typing_extensions import Self

    from tests.support.clients import Address

#: Seconds for an end in order; then the whole process group is killed and the test fails.
END_SECONDS = 20.0


def stat_fields(pid: int) -> tuple[str, int, int] | None:
    """State, parent and process group of a process, from ``/proc/<pid>/stat``; None if there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name, in parentheses, may hold anything, parentheses too.
    state, parent, group = text.rpartition(")")[2].split()[:3]
    return state, int(parent), int(group)


def processes() -> dict[int, tuple[str, int, int]]:
    """All processes that are not zombies: their state, parent and process group."""
    pids = [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]
    return {pid: fields for pid in pids if (fields := stat_fields(pid)) is not None and fields[0] != "Z"}


def process_group(group: int) -> list[int]:
    """Who lives in a process group."""
    return sorted(pid for pid, fields in processes().items() if fields[2] == group)


def children_of(pid: int) -> list[int]:
    """The live children of a process, of a server's master: its workers."""
    return sorted(child for child, fields in processes().items() if fields[1] == pid)


class Server:
    """One server process and what it started. A context manager: leaving it ends the server."""

    def __init__(
        self,
        command: Sequence[str],
        log: Path,
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path = PROJECT,
        end_signal: signal.Signals = signal.SIGTERM,
    ) -> None:
        self.command = list(command)
        self.log = log
        self.end_signal = end_signal
        # The end of a test may come while its requests run; a left-over setting of the developer's must not count.
        clean = {name: value for name, value in os.environ.items() if not name.startswith("WSGI_TB_")}
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                self.command,
                cwd=cwd,
                env={**clean, "PYTHONUNBUFFERED": "1", **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    def log_text(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def workers(self) -> list[int]:
        """The pids of the children of the process that was started."""
        return children_of(self.pid)

    def wait_for_log(self, pattern: str) -> re.Match[str]:
        """The first match of a pattern in the log, once it is there."""

        def found() -> re.Match[str] | None:
            self.check_running()
            return re.search(pattern, self.log_text(), re.MULTILINE)

        match = wait_until(found, lambda: f"the log shows {pattern!r}; it is:\n{self.log_text()}")
        assert match is not None
        return match

    def wait_for_lines(self, pattern: str, count: int) -> None:
        """Wait until a pattern is in so many places of the log."""
        # Not one pattern for all of them: with 32 of them it is tried in more ways than anybody can wait for.

        def found() -> bool:
            self.check_running()
            return len(re.findall(pattern, self.log_text())) >= count

        wait_until(found, lambda: f"the log shows {pattern!r} {count} times; it is:\n{self.log_text()}")

    def wait_until_connectable(self, address: Address) -> None:

        def connectable() -> bool:
            self.check_running()
            return _connectable(address)

        wait_until(connectable, lambda: f"{address} can be connected to; the log is:\n{self.log_text()}")

    def check_running(self) -> None:
        """AssertionError, with the log, if the server has ended."""
        code = self.process.poll()
        if code is not None:
            raise AssertionError(f"{self.command[0]} ended with {code}; its log is:\n{self.log_text()}")

    def is_idle(self) -> bool:
        """Whether the server itself says that it is done with all requests; no server but uWSGI says anything."""
        return True

    def stop(self) -> None:
        """End the server and prove that nobody of its process group is left. May be said twice."""
        if self.process.poll() is None:
            self.process.send_signal(self.end_signal)
        timed_out = False
        try:
            self.process.wait(END_SECONDS)
            # A worker that outlives its master by a moment is in order: it notices by itself.
            wait_until(lambda: not process_group(self.pid), "the process group is empty", END_SECONDS)
        except (subprocess.TimeoutExpired, AssertionError):
            timed_out = True
        left = process_group(self.pid)
        if left:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
        self.process.wait(END_SECONDS)
        if timed_out:
            raise AssertionError(f"{self.command[0]} left {left} running; its log is:\n{self.log_text()}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()


class Gunicorn(Server):
    """gunicorn on a port that it chooses, or on a UNIX socket; when it is made, all its workers have been started.

    ``--graceful-timeout 1`` and SIGQUIT, so that a test with requests in flight ends soon.
    """

    address: Address

    def __init__(
        self,
        application: str,
        *arguments: str,
        log: Path,
        unix: Path | None = None,
        env: Mapping[str, str] | None = None,
        cwd: Path = PROJECT,
        python: str = sys.executable,
        before: Sequence[str] = (),
    ) -> None:
        """``before`` is a command that runs it: the command's words follow, and its process becomes gunicorn's."""
        bind = "127.0.0.1:0" if unix is None else f"unix:{unix}"
        super().__init__(
            [
                *before,
                *(python, "-m", "gunicorn"),
                *("--bind", bind, "--graceful-timeout", "1", "--no-control-socket"),
                *arguments,
                application,
            ],
            log,
            env=env,
            cwd=cwd,
            end_signal=signal.SIGQUIT,
        )
        try:
            if unix is None:
                port = int(self.wait_for_log(r"Listening at: http://127\.0\.0\.1:(\d+)")[1])
                self.address = ("127.0.0.1", port)
            else:
                self.address = str(unix)
            count = int(arguments[arguments.index("--workers") + 1]) if "--workers" in arguments else 1
            self.wait_for_lines("Booting worker with pid", count)
            self.wait_until_connectable(self.address)
        except BaseException:
            self.stop()
            raise

    def get(self, target: str, **headers: str) -> clients.Response:
        """GET one page; keyword arguments become headers, ``X_Request_ID="1"`` is ``X-Request-ID: 1``."""
        return clients.request(
            self.address, target, headers={name.replace("_", "-"): value for name, value in headers.items()}
        )

    def in_flight(self, target: str) -> contextlib.AbstractContextManager[http.client.HTTPConnection]:
        """Put a request in flight; leaving the context closes its connection."""
        return clients.in_flight(self.address, target)


class SimpleServer(Server):
    """wsgiref's, werkzeug's or gevent's, started by our program; with the wrapped example if no other is named."""

    address: Address

    def __init__(self, kind: str, log: Path, env: Mapping[str, str], *module: str) -> None:
        super().__init__([sys.executable, "-m", "tests.programs.simple_server", kind, *module], log, env=env)
        try:
            self.address = ("127.0.0.1", int(self.wait_for_log(r"^listens on (\d+)$")[1]))
        except BaseException:
            self.stop()
            raise


class Uwsgi(Server):
    """uWSGI with a master; when it is made, its workers have been started and its own tracebackers listen."""

    address: Address

    def __init__(self, *arguments: str, log: Path, env: Mapping[str, str], enable_threads: bool = True) -> None:
        processes = arguments[arguments.index("--processes") + 1] if "--processes" in arguments else "1"
        # In no folder: the path of a log may be too long for a socket.
        self._stats = f"wsgi-tb-{secrets.token_hex(8)}"
        super().__init__(
            [
                *(require_program("uwsgi"), "--http-socket", "127.0.0.1:0", "--master", "--stats", f"@{self._stats}"),
                *(("--enable-threads",) if enable_threads else ()),
                *("--virtualenv", sys.prefix, "--pythonpath", str(PROJECT)),
                *arguments,
            ],
            log,
            env=env,
            # SIGTERM would reload it.
            end_signal=signal.SIGINT,
        )
        try:
            self.address = ("127.0.0.1", int(self.wait_for_log(r"bound to TCP address 127\.0\.0\.1:(\d+)")[1]))
            count = int(processes)
            self.wait_for_lines("spawned uWSGI worker ", count)
            if "--py-tracebacker" in arguments:
                self.wait_for_lines(r"python tracebacker for worker \d+ available", count)
            if "--lazy-apps" in arguments:
                self.wait_for_lines("WSGI app 0 .* ready in ", count)
        except BaseException:
            self.stop()
            raise

    def is_idle(self) -> bool:
        """Whether none of its cores is in a request: for a moment after its response it still is, and a worker that is
        ended then runs no atexit (``uwsgi_worker_is_busy()`` in uWSGI's ``python_plugin.c``).
        """
        with socket.socket(socket.AF_UNIX) as connection:
            # The abstract name that uWSGI makes of its argument ends in a NUL as well.
            connection.connect(f"\0{self._stats}\0")
            told = json.loads(b"".join(iter(lambda: connection.recv(65536), b"")))
        return not any(core["in_request"] for worker in told["workers"] for core in worker["cores"])

    def worker_pids(self) -> dict[int, int]:
        """As uWSGI itself numbers its workers: the pid that was started last for each number."""
        lines = re.findall(r"spawned uWSGI worker (\d+) \(pid: (\d+)", self.log_text())
        lines += re.findall(r"Respawned uWSGI worker (\d+) \(new pid: (\d+)", self.log_text())
        return {int(number): int(pid) for number, pid in lines}


def _connectable(address: Address) -> bool:
    try:
        clients.connect(address).close()
    except (ConnectionError, FileNotFoundError):
        return False
    return True
