"""Records the requests of a worker from inside: a thread in it looks, and sends what it saw each second.

For workers whose memory cannot be read, and for those with greenlets.
"""

from __future__ import annotations

import contextlib
import socket
import time
from typing import TYPE_CHECKING

from wsgi_tracebacker.errors import BadReply, FormatError, WorkerTimedOut, WrongPeer
from wsgi_tracebacker.linux.net import peers
from wsgi_tracebacker.model.recording import INSIDE
from wsgi_tracebacker.model.snapshot import Worker
from wsgi_tracebacker.reader.asking import client, peer_check
from wsgi_tracebacker.reader.asking.reply import Reply
from wsgi_tracebacker.reader.recording.worker_key import WorkerKey
from wsgi_tracebacker.wire import record_lines
from wsgi_tracebacker.wire.record_lines import NO_REQUEST

if TYPE_CHECKING:
    from wsgi_tracebacker.model.card import Card
    from wsgi_tracebacker.model.snapshot import Frame
    from wsgi_tracebacker.reader.finding.processes import Processes
    from wsgi_tracebacker.reader.recording.record import Totals

#: Looks a second. More of them would see no more of what runs, and cost the worker.
RATE = 20
#: The most that a worker records.
_MAX_SECONDS = 600.0
#: It is asked for more than is wanted: the end is this side's.
_MORE_SECONDS = 5.0

#: How long it may take until a worker begins, and until it has sent its last line.
_PATIENCE_SECONDS = 5.0
_READ_BYTES = 256 * 1024
#: One line, and the whole of a recording: of hundreds of threads in thousands of places for ten minutes.
_MAX_LINE_BYTES = 16 * 1024 * 1024
_MAX_BYTES = 256 * 1024 * 1024


class InsideRecorder:
    """One worker while it is recorded. Close it when done."""

    engine = INSIDE

    def __init__(self, card: Card, path: str, seconds: float, rate: float, processes: Processes) -> None:
        """``path``: of its socket. Raises WorkerUnreachable or FormatError."""
        self.card = card
        self.key = WorkerKey.of(card)
        self.pid = card.pid
        self._received = b""
        self._bytes = 0
        self._has_ended = False
        self._cpu_seconds = 0.0
        #: Parent and call of each node; that of no node comes first.
        self._nodes: list[tuple[int, Frame | None]] = [(0, None)]
        self._stacks: dict[int, tuple[Frame, ...]] = {0: ()}
        self._requests: list[tuple[str, str]] = [("", "")]
        self._socket = socket.socket(socket.AF_UNIX)
        question = (
            f"GET /record?seconds={min(_MAX_SECONDS, seconds + _MORE_SECONDS):g}&rate={min(rate, RATE):g} HTTP/1.0"
        )
        try:
            while not self._ask(path, f"{question}\r\n\r\n".encode("ascii")):
                self._socket.close()
                self._socket, self._received, self._has_ended = socket.socket(socket.AF_UNIX), b"", False
            self._check_head(processes)
        except OSError as error:
            self.close()
            raise client.refusal(error) from error
        except BaseException:
            self.close()
            raise

    def _ask(self, path: str, question: bytes) -> bool:
        """Whether there is an answer to the question; where this process is too slow, there is one to silence."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        self._socket.settimeout(_PATIENCE_SECONDS)
        client.connect(self._socket, path)
        with contextlib.suppress(BrokenPipeError):
            self._socket.sendall(question)
        while not self._has_ended and b"\n" not in self._received.partition(b"\r\n\r\n")[2]:
            if time.monotonic() > deadline:
                raise WorkerTimedOut(f"it did not begin to record within {_PATIENCE_SECONDS:g} s")
            self._receive(max(0.01, deadline - time.monotonic()))
        return not client.is_for_silence(self._received)

    def _check_head(self, processes: Processes) -> None:
        head, _, rest = self._received.partition(b"\r\n\r\n")
        if head.split(b" ", 2)[1:2] != [b"200"]:
            reason = rest.partition(b"\n")[0][:500].decode("utf-8", "replace")
            raise BadReply(reason or "it closed the connection without an answer")
        first, _, self._received = rest.partition(b"\n")
        peer_pid, peer_uid, _ = peers.credentials(self._socket)
        self.pid = peer_pid or self.card.pid
        pid = record_lines.parse(first).pid
        peer_check.check(Reply(first, peer_pid, peer_uid), Worker(pid=pid), self.card, processes)
        if pid != self.card.pid:
            raise WrongPeer(f"it is process {pid}, and its card says {self.card.pid}")

    def _receive(self, seconds: float) -> None:
        self._socket.settimeout(seconds)
        try:
            content = self._socket.recv(_READ_BYTES)
        except (BlockingIOError, TimeoutError):
            return
        except OSError:
            content = b""
        self._has_ended = not content
        self._received += content
        self._bytes += len(content)
        if len(self._received) > _MAX_LINE_BYTES or self._bytes > _MAX_BYTES:
            raise FormatError("its recording is too large")

    def look(self, totals: Totals) -> bool:
        """Add what has arrived; False if the worker is gone, or says what it may not."""
        try:
            if not self._has_ended:
                self._receive(0.0)
            *lines, self._received = self._received.split(b"\n")
            for line in lines:
                self._add(record_lines.parse(line), totals)
        except FormatError:
            self._has_ended = True
        return not self._has_ended

    def finish(self, totals: Totals, _: float) -> None:
        """End it, and add the last line."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)
        deadline = time.monotonic() + _PATIENCE_SECONDS
        with contextlib.suppress(FormatError):
            while self.look(totals) and time.monotonic() < deadline:
                self._receive(0.1)

    def _add(self, line: record_lines.Line, totals: Totals) -> None:
        if line.end is not None:
            self._has_ended = True
        for parent, frame in line.nodes:
            if not 0 <= parent < len(self._nodes):
                raise FormatError("its recording names calls that it does not have")
            self._nodes.append((parent, frame))
        self._requests += line.requests
        self._cpu_seconds += line.cpu_seconds
        for each in line.added:
            if not (0 <= each.node < len(self._nodes) and 0 <= each.request < len(self._requests)):
                raise FormatError("its recording names what it does not have")
            method, path = self._requests[each.request]
            request = (each.request, method, path) if each.request != NO_REQUEST else None
            if totals.wanted(path if request is not None else None):
                totals.add_seconds(
                    self.key,
                    request,
                    each.waits_for,
                    self._frames(each.node),
                    each.samples,
                    each.seconds,
                    is_cut=each.is_cut,
                )

    def _frames(self, node: int) -> tuple[Frame, ...]:
        """The calls of a stack, outermost first."""
        if node not in self._stacks:
            frames = []
            parent = node
            while parent:
                parent, frame = self._nodes[parent]
                if frame is not None:
                    frames.append(frame)
            self._stacks[node] = tuple(reversed(frames))
        return self._stacks[node]

    def close(self) -> None:
        self._socket.close()

    def seconds_of_a_look(self) -> float:
        """Each says itself how long it stands for."""
        return 0.0

    def cpu_seconds(self) -> float:
        """How long the threads that serve requests were on a CPU, by the kernel's clock."""
        return self._cpu_seconds
