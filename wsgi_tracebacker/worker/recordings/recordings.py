"""Records for whoever asks with ``GET /record``: on a thread of its own, while it is read, and one at a time.

Nobody records: there is no thread, no descriptor, and nothing on the path of a request. The thread is a real one also
under gevent and eventlet, a daemon, and does not survive a fork; the child closes what it inherits.

| the recording ends                  | what the client gets                           |
|-------------------------------------|------------------------------------------------|
| its time is over                    | the last line, ``{"end": "its time is over"}`` |
| the client ends its sending side    | the same, within a tick, with another reason   |
| the client goes away                | nothing                                        |
| a line is not taken within 5 s      | its connection is closed                       |
| the agent stops                     | its connection is closed                       |
"""

from __future__ import annotations

import _socket
import os
import select
import time
from typing import TYPE_CHECKING

from wsgi_tracebacker.linux import proc
from wsgi_tracebacker.linux.clock import monotonic, monotonic_ns, unix_time
from wsgi_tracebacker.linux.descriptor import OwnDescriptor
from wsgi_tracebacker.linux.net import peers
from wsgi_tracebacker.wire import http10, record_lines
from wsgi_tracebacker.worker.recordings.call_tree import CallTree
from wsgi_tracebacker.worker.recordings.sampler import Sampler
from wsgi_tracebacker.worker.reporting import faults

if TYPE_CHECKING:
    from collections.abc import Callable

    from wsgi_tracebacker.worker.threads.primitives import Primitives
    from wsgi_tracebacker.worker.tracking.cores import Cores

#: One that records, and one that sends its last lines.
MAX_CONNECTIONS = 2
MAX_SECONDS = 600.0
#: Looks a second. More would cost the application more than they show: see sampler.
MAX_RATE = 100.0
_DEFAULTS = {"seconds": 10.0, "rate": 20.0}
_LIMITS = {"seconds": MAX_SECONDS, "rate": MAX_RATE}
#: Fewer looks a second, and stop() would wait for long.
_MIN_RATE = 1.0

_LINE_SECONDS = 1.0
#: How long a client may take for a line.
_PATIENCE_SECONDS = 5.0
#: The share of a tick by which it may come early or late, so that ticks keep no step with the application's timers.
_JITTER = 0.3

_FLAGS = _socket.MSG_DONTWAIT | _socket.MSG_NOSIGNAL


class Recordings:
    """The recordings of one process."""

    def __init__(self, primitives: Primitives, cores: Cores, worker_number: Callable[[], int | None]) -> None:
        """Nothing runs before begin()."""
        self._primitives = primitives
        self._cores = cores
        self._worker_number = worker_number
        #: Whose thread runs: at most one that records, and one whose last line is not taken yet.
        self._live: list[_Recording] = []

    def begin(self, query: str, connection: _socket.socket) -> http10.Refusal | None:
        """Record for a client, whose connection is closed when that is over; if it is refused, the reason."""
        wanted = parse_query(query)
        if isinstance(wanted, http10.Refusal):
            return wanted
        live = list(self._live)
        if len(live) >= MAX_CONNECTIONS or any(each.is_recording for each in live):
            return http10.Refusal(409, live[-1].who())
        made = _Recording(self._primitives, self._cores, OwnDescriptor(connection), **wanted)
        self._live.append(made)
        try:
            self._primitives.start_new_thread(self._run, (made,))
        except RuntimeError:
            self._live.remove(made)
            return http10.Refusal(503, "the system has no thread for it")
        return None

    def _run(self, recording: _Recording) -> None:
        try:
            recording.run(self._worker_number())
        finally:
            self._live.remove(recording)

    def stop(self, timeout_seconds: float) -> None:
        """End what runs, and wait for it."""
        for recording in list(self._live):
            recording.stop(timeout_seconds)

    def forget(self) -> None:
        """In a forked child: close the descriptors; the thread and its client are the parent's."""
        for recording in list(self._live):
            recording.close_descriptors()
        self._live.clear()


def parse_query(query: str) -> dict[str, float] | http10.Refusal:
    """The seconds and the rate that a query wants."""
    wanted = dict(_DEFAULTS)
    for part in filter(None, query.split("&")):
        name, _, text = part.partition("=")
        if name not in wanted:
            return http10.Refusal(400, f"there is no parameter {name[:100]!r}: there are seconds and rate")
        try:
            wanted[name] = float(text)
        except ValueError:
            wanted[name] = -1.0
        # Not the other way round: nan is no number of anything.
        if not (_MIN_RATE if name == "rate" else 0.01) <= wanted[name] <= _LIMITS[name]:
            least = f"from {_MIN_RATE:g} to" if name == "rate" else "up to"
            return http10.Refusal(400, f"{name} has to be a number {least} {_LIMITS[name]:g}")
    return wanted


class _Recording:
    """One recording, on its thread."""

    def __init__(
        self, primitives: Primitives, cores: Cores, connection: OwnDescriptor, *, seconds: float, rate: float
    ) -> None:
        self._poll = primitives.poll
        self._connection = connection
        self._seconds = seconds
        self._rate = rate
        self._ends_at = monotonic() + seconds
        self._tree = CallTree()
        self._sampler = Sampler(cores, self._tree)
        self._outgoing = b""
        #: Since when its client has not taken all that there is to send.
        self._behind_since = 0.0
        self._is_gone = False
        #: Held until the thread has ended.
        self._end_lock = primitives.allocate_lock()
        self._end_lock.acquire()
        self.is_recording = True

    def who(self) -> str:
        """Who records, and until when: ``wsgi-tb record`` asks for more time than it wants, and ends it itself."""
        left = max(0.0, self._ends_at - monotonic())
        until = time.strftime("%H:%M:%S", time.localtime(unix_time() + left))
        try:
            assert self._connection.socket is not None
            pid, uid, _ = peers.credentials(self._connection.socket)
        except (OSError, AssertionError):
            pid = uid = -1
        program = proc.program(f"/proc/{pid}") or "a process"
        return f"{program} (pid {pid}, uid {uid}) records until {until} at the latest, {left:.1f} s from now"

    def run(self, worker_number: int | None) -> None:
        """Record until the end. Runs on its own thread."""
        try:
            # Before its client is told that it has begun: on a busy worker the first look takes long.
            self._sampler.look()
            self._outgoing = http10.stream_head(http10.JSON_LINES)
            self._outgoing += record_lines.head(worker_number, os.getpid(), self._rate, self._seconds)
            self._record()
        except Exception:
            faults.caught("while requests were recorded")
        finally:
            self.is_recording = False
            self._shut_down()
            self.close_descriptors()
            self._end_lock.release()

    def stop(self, timeout_seconds: float) -> None:
        self._is_gone = True
        # Wakes the thread.
        self._shut_down()
        if self._end_lock.acquire(timeout=timeout_seconds):
            self._end_lock.release()

    def close_descriptors(self) -> None:
        self._sampler.close()
        self._connection.close()

    def _shut_down(self) -> None:
        """End the connection, for a child that was forked meanwhile too."""
        connection = self._connection.socket
        if connection is not None and self._connection.is_ours():
            try:
                connection.shutdown(_socket.SHUT_RDWR)
            except OSError:
                pass

    def _record(self) -> None:
        now = monotonic()
        self._ends_at = now + self._seconds
        due, line_at = now + 1 / self._rate, now + _LINE_SECONDS
        reason = None
        while reason is None:
            now = monotonic()
            if now >= self._ends_at:
                reason = "its time is over"
            if now >= due or reason is not None:
                self._sampler.look()
                # Those that a busy machine made it miss are not made up for.
                due = max(due, now - 1 / self._rate) + (1 + _JITTER * _random()) / self._rate
            if now >= line_at:
                line_at = max(line_at + _LINE_SECONDS, now)
                self._send(self._line())
            if reason is None and not self._waits(min(due, self._ends_at)):
                reason = "its client has ended it"
                self._sampler.look()
            if self._is_gone:
                return
        # Before the client knows: it may ask for the next one at once.
        self.is_recording = False
        self._send(self._line() + record_lines.end(reason))
        while self._outgoing and not self._is_gone:
            self._waits(self._behind_since + _PATIENCE_SECONDS, only_sends=True)

    def _line(self) -> bytes:
        return self._tree.line(*self._sampler.take_times())

    def _send(self, content: bytes = b"") -> None:
        """Send what is possible now; ``_is_gone`` if the client is gone, or has not taken it for too long."""
        now = monotonic()
        if content:
            if not self._outgoing:
                self._behind_since = now
            self._outgoing += content
        connection = self._connection.socket
        if connection is None or not self._connection.is_ours():
            self._is_gone = True
            return
        try:
            while self._outgoing:
                self._outgoing = self._outgoing[connection.send(self._outgoing, _FLAGS) :]
        except BlockingIOError:
            self._is_gone = self._is_gone or now >= self._behind_since + _PATIENCE_SECONDS
        except OSError:
            self._is_gone = True

    def _waits(self, until: float, *, only_sends: bool = False) -> bool:
        """Send until then, or until the client takes something; False if it has ended its side."""
        events = (select.POLLOUT if self._outgoing else 0) | (0 if only_sends else select.POLLIN)
        poll = self._poll()
        poll.register(self._connection.number, events)
        ready = poll.poll(max(0.0, until - monotonic()) * 1000)
        if self._outgoing:
            self._send()
        if not any(found & ~select.POLLOUT for _, found in ready):
            return True
        connection = self._connection.socket
        if connection is None or not self._connection.is_ours():
            self._is_gone = True
            return False
        try:
            return bool(connection.recv(4096, _FLAGS))
        except BlockingIOError:
            return True
        except OSError:
            self._is_gone = True
            return False


def _random() -> float:
    """From -1 to 1. Not of ``random``: the application may have seeded that, and count on what comes."""
    return (monotonic_ns() // 64 * 2654435761 % 2048) / 1023.5 - 1.0
