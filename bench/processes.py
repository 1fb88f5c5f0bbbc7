"""Programs that measurements run: found in this virtual environment, started, ended by their process id."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

NOT_INSTALLED = "not installed"

#: Seconds for anything to be ready.
PATIENCE_SECONDS = 30.0


def find(name: str) -> str | None:
    """The path of a program beside this interpreter, else from PATH."""
    return shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)


@contextlib.contextmanager
def running(command: Sequence[str], env: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A program in a process group of its own, which is killed in the end."""
    process = subprocess.Popen(
        command,
        env={**os.environ, **env},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def wait_until(condition: Callable[[], bool], what: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        if process.poll() is not None:
            raise RuntimeError(f"{process.args!r} ended with {process.returncode}")
        if time.monotonic() > deadline:
            raise RuntimeError(f"waited {PATIENCE_SECONDS:g} s for {what}")
        # Between two looks.
        time.sleep(0.01)


def ask(path: str, question: bytes) -> bytes:
    """Connect, send, read until the end."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(PATIENCE_SECONDS)
        connection.connect(path)
        if question:
            connection.sendall(question)
        parts = []
        # A server that does not read the question resets the connection when it is done.
        with contextlib.suppress(ConnectionResetError):
            while part := connection.recv(262_144):
                parts.append(part)
    return b"".join(parts)


def has_requests(path: str, count: int) -> bool:
    """Whether a worker's snapshot has so many requests; False as well while its socket has not begun to listen."""
    try:
        return ask(path, b"GET /snapshot HTTP/1.0\r\n\r\n").count(b'"path":') == count
    except (ConnectionRefusedError, FileNotFoundError):
        return False


def ask_until(path: str, end: bytes) -> bytes:
    """Connect, say nothing, read until what has come ends so: for one that goes on talking after it."""
    parts: list[bytes] = []
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(PATIENCE_SECONDS)
        connection.connect(path)
        while part := connection.recv(262_144):
            parts.append(part)
            # The mark may be cut in two.
            if end in b"".join(parts[-2:]):
                break
    return b"".join(parts)


def run(command: Sequence[str]) -> None:
    """A program, from start to end; CalledProcessError if it fails, or has to be ended: what it said goes to stderr."""
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=said)
        # Not wait(timeout): it looks every 50 ms whether the program has ended.
        limit = threading.Timer(PATIENCE_SECONDS, process.kill)
        limit.start()
        code = process.wait()
        limit.cancel()
        limit.join()
        if code:
            said.seek(0)
            sys.stderr.write(said.read().decode("utf-8", "replace"))
            raise subprocess.CalledProcessError(code, command)


def milliseconds(command: Sequence[str]) -> float:
    """How long a program takes."""
    started = time.perf_counter()
    run(command)
    return (time.perf_counter() - started) * 1e3
