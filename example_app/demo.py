"""Real gunicorn, four slow requests, and what ``wsgi-tb`` says of them: ``make demo``.

Prints every command, so that it can be done again by hand. Waits until the four requests are seen, never for a time.
Everything that it starts or makes is gone when it ends, also after a failure or ^C. Exit code 0 if all four stacks
were seen, else 1.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from wsgi_tracebacker.reader import postmortems

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

WORKERS = 2
THREADS = 4
REQUESTS = 4

#: Longer than the demonstration takes; the requests do not outlive it.
REQUEST_SECONDS = 60

#: Starting gunicorn takes about half a second; this is for a machine under heavy load.
PATIENCE_SECONDS = 20.0
POLL_SECONDS = 0.02

PROJECT = Path(__file__).resolve().parent.parent


class DemoError(Exception):
    """What did not come about; ``str()`` is the line for people."""


class WorkerConnection(http.client.HTTPConnection):
    """HTTP to a worker's socket: what ``curl --unix-socket PATH http://worker/`` does."""

    def __init__(self, path: Path) -> None:
        super().__init__("worker", timeout=PATIENCE_SECONDS)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self.path))


def installed(program: str) -> str:
    """The path of a program in this virtual environment, short enough to be read."""
    return os.path.relpath(Path(sys.executable).with_name(program))


def show(command: str) -> None:
    print(f"\n$ {command}", flush=True)


def wait_until(condition: Callable[[], bool], what: str, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        if server.poll() is not None:
            raise DemoError(f"gunicorn ended with {server.returncode}; waited until {what}")
        if time.monotonic() > deadline:
            raise DemoError(f"waited {PATIENCE_SECONDS:g} s in vain until {what}")
        # Between two looks.
        time.sleep(POLL_SECONDS)


def port_in(log: Path) -> int:
    """The port that gunicorn says it listens at, 0 while it has not said so; it chose a free one itself."""
    found = re.search(r"Listening at: http://127\.0\.0\.1:(\d+)", log.read_text())
    return int(found[1]) if found else 0


def sockets(base: Path) -> list[Path]:
    """The workers' sockets behind the base. A worker opens its own at its first request."""
    return [path for path in base.parent.glob(f"{base.name}*") if path.is_socket()]


def ask(port: int, target: str, count: int, clients: contextlib.ExitStack) -> list[http.client.HTTPConnection]:
    """Put requests in flight, all at once, and leave their responses unread."""
    asked = []
    for _ in range(count):
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_SECONDS)
        asked.append(clients.enter_context(contextlib.closing(client)))
        client.request("GET", target)
    return asked


def all_workers_have_served(base: Path, port: int) -> bool:
    """Ask the quick page some times more, unless each worker has served a request by now."""
    if len(sockets(base)) < WORKERS:
        with contextlib.ExitStack() as clients:
            for client in ask(port, "/quick", WORKERS * THREADS, clients):
                client.getresponse().read()
    return len(sockets(base)) == WORKERS


def sleepers(base: Path) -> int:
    """How many threads of all workers behind the base sleep in ``dormi``; their sockets are asked one by one."""
    count = 0
    for path in sockets(base):
        with contextlib.closing(WorkerConnection(path)) as connection:
            connection.request("GET", "/snapshot")
            for thread in json.load(connection.getresponse())["threads"]:
                count += bool(thread["frames"]) and thread["frames"][-1]["function"] == "dormi"
    return count


@contextlib.contextmanager
def gunicorn(folder: Path, base: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run the example under gunicorn, and end it again."""
    command = [
        *(installed("gunicorn"), "--worker-class", "gthread"),
        *("--workers", str(WORKERS), "--threads", str(THREADS)),
        *("--bind", "127.0.0.1:0"),
        # It waits so many seconds for requests that run when it is told to end; ours are to be cut off.
        *("--graceful-timeout", "1"),
        "--no-control-socket",
        "example_app.wsgi:application",
    ]
    show(f"WSGI_TB_SOCKET={shlex.quote(str(base))} {shlex.join(command)} &")
    with log.open("wb") as output:
        server = subprocess.Popen(
            command,
            cwd=PROJECT,
            env={**os.environ, "WSGI_TB_SOCKET": str(base), "TMPDIR": str(folder)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            # ^C is for us; we end the server.
            start_new_session=True,
        )
    try:
        yield server
    finally:
        server.send_signal(signal.SIGQUIT)  # at once; SIGTERM is the graceful end
        try:
            server.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            # Its process group is its own: it and its workers.
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


@contextlib.contextmanager
def no_black_boxes(base: Path) -> Iterator[None]:
    """gunicorn kills workers that are still in a request, and these leave their black boxes for a successor."""
    try:
        yield
    finally:
        postmortems.clear(str(base))


def run(*arguments: str) -> str:
    """Run ``wsgi-tb`` and print what it prints; its output."""
    command = [installed("wsgi-tb"), *arguments]
    show(shlex.join(command))
    shown = subprocess.run(command, cwd=PROJECT, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    print(shown.stdout, end="", flush=True)
    if shown.returncode != 0:
        raise DemoError(f"wsgi-tb ended with {shown.returncode}: {shown.stderr.strip()}")
    return shown.stdout


def demonstrate(folder: Path) -> None:
    base = folder / "tb"
    log = folder / "gunicorn.log"
    with gunicorn(folder, base, log) as server, contextlib.ExitStack() as clients:
        try:
            wait_until(lambda: port_in(log) > 0, "gunicorn listens", server)
            port = port_in(log)
            show(f"curl 'http://127.0.0.1:{port}/quick'    # until each worker has served one")
            wait_until(lambda: all_workers_have_served(base, port), f"{WORKERS} workers have served", server)
            show(f"for n in 1 2 3 4; do curl 'http://127.0.0.1:{port}/slow?seconds={REQUEST_SECONDS}' & done")
            ask(port, f"/slow?seconds={REQUEST_SECONDS}", REQUESTS, clients)
            wait_until(lambda: sleepers(base) == REQUESTS, f"{REQUESTS} requests are in flight", server)
            run("list", str(base))
            stacks = run("read", str(base))
        except DemoError:
            print(f"\ngunicorn's log:\n{log.read_text()}", file=sys.stderr)
            raise
    seen = len(re.findall(r"^  worker \d+ core \d+, pid \d+  GET /slow ", stacks, re.MULTILINE))
    if seen != REQUESTS or not re.search(r":\d+ dormi$", stacks, re.MULTILINE):
        raise DemoError(f"{seen} requests were seen, not {REQUESTS} and their stack")
    print(f"\nAll {REQUESTS} slow requests were seen, with the place where they stand. gunicorn has been ended.")


def end(signal_number: int, _frame: FrameType | None) -> None:
    """Make a signal an ordinary end, so that everything is taken down."""
    sys.exit(128 + signal_number)


def main() -> int:
    signal.signal(signal.SIGTERM, end)
    # Under nohup it is ignored.
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        signal.signal(signal.SIGHUP, end)
    try:
        # Not where TMPDIR says: the path of a UNIX socket has at most 107 bytes.
        with tempfile.TemporaryDirectory(prefix="wsgi-tb-", dir="/tmp") as folder, no_black_boxes(Path(folder) / "tb"):
            demonstrate(Path(folder))
    except (DemoError, OSError, http.client.HTTPException) as error:
        print(f"The demonstration failed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    return 0


if __name__ == "__main__":
    sys.exit(main())
