"""Seven endpoints that hang in seven places: what an overview has to tell apart.

Each request hangs until the process ends. ``seven_places_flask`` and ``seven_places_django`` serve them.
"""

from __future__ import annotations

import os
import queue
import socket
import subprocess
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_lock = threading.Lock()
_lock.acquire()
_event = threading.Event()
_jobs: queue.Queue[int] = queue.Queue()
_ours, _theirs = socket.socketpair()
_reads, _writes = os.pipe()


def sleep_long() -> None:
    """Wait for time."""
    time.sleep(3600)


def take_lock() -> None:
    """Wait for a lock that nobody gives back."""
    with _lock:
        pass


def await_event() -> None:
    """Wait for an event that nobody sets."""
    _event.wait()


def take_job() -> None:
    """Wait for an entry of a queue."""
    _jobs.get()


def read_socket() -> None:
    """Wait for a byte of a peer."""
    _ours.recv(1)


def read_pipe() -> None:
    """Wait for a byte of a pipe."""
    os.read(_reads, 1)


def run_child() -> None:
    """Wait for a child process; it ends with its standard input."""
    child = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    child.wait()


#: The paths, without the id that each request has.
PLACES: dict[str, Callable[[], None]] = {
    "sleep": sleep_long,
    "lock": take_lock,
    "event": await_event,
    "queue": take_job,
    "socket": read_socket,
    "pipe": read_pipe,
    "child": run_child,
}


def hang(place: str) -> str:
    """Serve one request: never returns."""
    PLACES[place]()
    return "done"
