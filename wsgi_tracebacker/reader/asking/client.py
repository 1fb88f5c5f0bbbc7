"""Asks many workers for their snapshots at once, each within its own time limit, and returns reply or failure.

It knows sockets and how they fail, and does not read what is in a reply. One poll loop instead of a thread for each
worker: 32 replies arrive while a thread pool is still starting.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
import time
from collections import Counter, deque
from contextlib import suppress
from itertools import zip_longest
from typing import TYPE_CHECKING, NamedTuple

from wsgi_tracebacker.errors import BadReply, PermissionDenied, WorkerDead, WorkerTimedOut, WorkerUnreachable
from wsgi_tracebacker.linux import files
from wsgi_tracebacker.reader.asking.reply import Reply
from wsgi_tracebacker.reader.finding.processes import STOPPED
from wsgi_tracebacker.wire.documents.card_json import MAX_SOCKET_PATH_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Generator, Iterator, Sequence

    from wsgi_tracebacker.reader.unanswered.examine import Findings

    #: Starts to examine a worker that has not answered for so many seconds. The generator yields the seconds until its
    #: next step, and is sent the pid of the process that listens there (0: unknown).
    Examine = Callable[[float], Generator[float, int, Findings]]

#: The two requests: all stacks, or only who the worker is and how much it serves, which costs it next to nothing.
SNAPSHOT = b"GET /snapshot HTTP/1.0\r\nHost: worker\r\n\r\n"
WORKER = b"GET /worker HTTP/1.0\r\nHost: worker\r\n\r\n"

#: The largest reply that is accepted: a snapshot of 500 threads with 200 frames each is 22 MB.
MAX_REPLY_BYTES = 32 * 1024 * 1024

#: The same for all replies of one user together: a user who binds thousands of sockets in the folder must not fill the
#: reader's memory, or keep it reading for minutes. 128 workers with 64 threads each are 64 MB. Each user has a limit of
#: their own, so that none can use up another's.
MAX_USER_BYTES = 128 * 1024 * 1024

#: Connections open at a time; the usual limit of descriptors is 1,024.
_MAX_OPEN = 256

#: A worker is examined only after this: nearly all workers answer in milliseconds, and the modules of an examination
#: are a third of the command's start.
EXAMINE_AFTER_SECONDS = 0.25

#: connect(2) of a UNIX socket whose backlog is full fails with EAGAIN at once, and poll(2) cannot wait for room there.
_BACKLOG_RETRY_SECONDS = 0.01

_READ_BYTES = 256 * 1024

#: ``struct ucred``: pid, uid, gid.
_CREDENTIALS = struct.Struct("iII")


class Failure(NamedTuple):
    """Why there is no reply."""

    error: WorkerUnreachable
    #: The process that listens there; 0 if there was no connection.
    peer_pid: int = 0
    #: If it was examined.
    findings: Findings | None = None


Outcome = Reply | Failure


def ask_all(
    questions: Sequence[tuple[str, float]],
    examiners: Sequence[Examine | None] = (),
    owners: Sequence[int] = (),
    *,
    request: bytes = SNAPSHOT,
    clock: Callable[[], float] = time.monotonic,
) -> list[Outcome]:
    """Ask the workers behind these sockets, each within its own seconds; the outcomes come in the same order.

    A worker that has an examiner is examined while its answer is awaited, and the examiner decides how long that lasts.
    A late answer still replaces the findings while other workers are awaited. ``owners`` are the users that the sockets
    belong to: if not all can be asked at once, the sockets of one user do not wait for another's.
    """
    received: Counter[int] = Counter()
    conversations = [
        _Conversation(path, seconds, request, received, examine, owner)
        for (path, seconds), examine, owner in zip_longest(questions, examiners, owners)
    ]
    waiting = _Queue(conversations)
    connecting: list[_Conversation] = []
    connected: dict[int, _Conversation] = {}
    poll = select.poll()
    try:
        while waiting or any(c.outcome is None for c in (*connecting, *connected.values())):
            for conversation in waiting.next_ones(_MAX_OPEN, (*connecting, *connected.values())):
                conversation.start(clock())
                connecting.append(conversation)
            for conversation in connecting:
                if conversation.connect():
                    connected[conversation.fileno()] = conversation
                    poll.register(conversation.fileno(), select.POLLIN)
            connecting = [c for c in connecting if c.outcome is None and c.fileno() not in connected]
            _receive(poll, connected, _wait_seconds(connecting, connected, clock()))
            for descriptor in [d for d, c in connected.items() if c.is_unheard]:
                poll.unregister(descriptor)
                connecting.append(connected.pop(descriptor))
                connecting[-1].disconnect()
            now = clock()
            for conversation in (*connecting, *connected.values()):
                if conversation.outcome is None and conversation.deadline <= now:
                    conversation.pass_deadline(clock)
            connecting = [c for c in connecting if c.outcome is None]
            if waiting:
                # The others need the descriptors of those that might still answer.
                for conversation in connected.values():
                    conversation.is_over = conversation.outcome is not None
            for descriptor in [d for d, c in connected.items() if c.is_over]:
                poll.unregister(descriptor)
                connected.pop(descriptor).close()
    finally:
        for conversation in conversations:
            conversation.close()
    return [conversation.outcome for conversation in conversations if conversation.outcome is not None]


def _wait_seconds(connecting: Sequence[_Conversation], connected: dict[int, _Conversation], now: float) -> float:
    deadline = min((c.deadline for c in (*connecting, *connected.values()) if c.outcome is None), default=now)
    return min(deadline - now, _BACKLOG_RETRY_SECONDS) if connecting else deadline - now


def _receive(poll: select.poll, connected: dict[int, _Conversation], wait_seconds: float) -> None:
    """Receive what is possible within these seconds."""
    if not connected and wait_seconds <= 0:
        return
    # poll counts in whole milliseconds; rounded up, so that it does not spin through the last one.
    for descriptor, _ in poll.poll(max(0, int(wait_seconds * 1000) + 1)):
        connected[descriptor].receive()


class _Queue:
    """Conversations that have not started: first those of the reader's own user, then of the user with the fewest open.

    So the silent sockets of one user delay each other, and not the workers of another.
    """

    def __init__(self, conversations: Sequence[_Conversation]) -> None:
        self._of_owner: dict[int, deque[_Conversation]] = {}
        # Of users with equally many open, the lowest uid comes first: services have lower ones than people.
        for conversation in sorted(conversations, key=lambda each: each.owner):
            self._of_owner.setdefault(conversation.owner, deque()).append(conversation)

    def __bool__(self) -> bool:
        return bool(self._of_owner)

    def next_ones(self, limit: int, opened: Collection[_Conversation]) -> Iterator[_Conversation]:
        """Remove and return the next ones, so that with those already open there are at most ``limit``."""
        if not self._of_owner:
            return
        own = os.geteuid()
        opened_of = Counter(conversation.owner for conversation in opened)
        for _ in range(limit - len(opened)):
            owner = min(self._of_owner, key=lambda each: (each != own, opened_of[each]))
            opened_of[owner] += 1
            yield self._of_owner[owner].popleft()
            if not self._of_owner[owner]:
                del self._of_owner[owner]
                if not self._of_owner:
                    return


class _Conversation:
    """One request to one worker, and its reply as far as it has arrived."""

    def __init__(
        self,
        path: str,
        limit_seconds: float,
        request: bytes,
        received: Counter[int],
        examine: Examine | None,
        owner: int | None,
    ) -> None:
        self._path = path
        self._limit_seconds = limit_seconds
        self._request = request
        #: Bytes received from each user, in all conversations.
        self._received = received
        self._examine = examine
        #: The user that the socket belongs to; decides whose turn it is, and nothing else.
        self.owner = owner or 0
        self._started = 0.0
        #: When pass_deadline() is due: the next step of the examination if it has an examiner, else the time limit.
        self.deadline = 0.0
        self.outcome: Outcome | None = None
        #: Whether the outcome is final. A worker that was examined might still answer.
        self.is_over = False
        #: Whether it was so late with its request that the worker took it for a silent client: it has to ask again.
        self.is_unheard = False
        #: pid and uid.
        self._peer = (0, 0)
        self._examination: Generator[float, int, Findings] | None = None
        self._socket: socket.socket | None = None
        self._chunks: list[bytes] = []
        self._received_bytes = 0

    def start(self, now: float) -> None:
        self._started = now
        seconds = self._limit_seconds
        self.deadline = now + (seconds if self._examine is None else min(seconds, EXAMINE_AFTER_SECONDS))

    def fileno(self) -> int:
        assert self._socket is not None
        return self._socket.fileno()

    def connect(self) -> bool:
        """Return whether it is connected, and has asked. If not, ``outcome`` says why, or it is worth another try."""
        try:
            if self._socket is None:
                self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            connect(self._socket, self._path)
            credentials = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
            self._peer = _CREDENTIALS.unpack(credentials)[:2]
            # It is so short that it fits into an empty buffer. uWSGI needs no request, and may have answered and
            # closed already.
            with suppress(BrokenPipeError, ConnectionResetError):
                self._socket.send(self._request, socket.MSG_NOSIGNAL)
            return True
        except BlockingIOError:
            return False
        except OSError as error:
            self._fail(refusal(error))
            self.close()
            return False

    def receive(self) -> None:
        """Receive what is there; sets the outcome at the end of the reply or when it fails."""
        assert self._socket is not None
        try:
            # Once, and not until nothing is left: a flood must not keep the loop from the other workers.
            chunk = self._socket.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except ConnectionResetError:
            # A UNIX socket is reset after the reply if the other side closed it before it had read our request.
            chunk = b""
        except OSError as error:
            self._fail(BadReply(f"reading from it failed: {error.strerror}"))
            return
        if not chunk:
            self._finish()
            return
        self._chunks.append(chunk)
        self._received_bytes += len(chunk)
        if self._received_bytes > MAX_REPLY_BYTES:
            self._fail(BadReply(f"its reply is larger than {MAX_REPLY_BYTES >> 20} MiB"))
        uid = self._peer[1]
        # One that has timed out counts too: it is read as long as others are awaited.
        self._received[uid] += len(chunk)
        if self._received[uid] > MAX_USER_BYTES:
            self._fail(BadReply(f"the replies of uid {uid} together are larger than {MAX_USER_BYTES >> 20} MiB"))

    def pass_deadline(self, clock: Callable[[], float]) -> None:
        """Start to examine the worker, or take the next step, or give up."""
        if self._examine is None:
            self._time_out(self._limit_seconds)
            return
        try:
            if self._examination is None:
                self._examination = self._examine(clock() - self._started)
                seconds = next(self._examination)
            else:
                seconds = self._examination.send(self._peer[0])
            # From now on and not from the deadline: what the examiner measures must not take less than it asked for.
            self.deadline = clock() + seconds
        except StopIteration as done:
            self._examination = None
            # That may be sooner or later than its limit.
            self._time_out(clock() - self._started, done.value)

    def _time_out(self, waited_seconds: float, findings: Findings | None = None) -> None:
        seconds = f"{round(waited_seconds, 2 if waited_seconds < 1 else 1):g} s"
        if findings is not None and findings.state == STOPPED:
            error = WorkerTimedOut(f"it is stopped, so it was waited for no longer than {seconds}")
        elif self._chunks:
            error = WorkerTimedOut(f"it began to answer but was not done within {seconds}")
        else:
            error = WorkerTimedOut(f"it did not answer within {seconds}")
        self.outcome = Failure(error, self._peer[0], findings)
        self.is_over = findings is None

    def close(self) -> None:
        if self._examination is not None:
            # Releases its table and its lock at once.
            self._examination.close()
            self._examination = None
        self.disconnect()

    def disconnect(self) -> None:
        """From here on it can connect again."""
        self.is_unheard = False
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _finish(self) -> None:
        pid, uid = self._peer
        content = b"".join(self._chunks)
        self._chunks.clear()
        self._received_bytes = 0
        if is_for_silence(content):
            self.is_unheard = self.outcome is None
            self.is_over = not self.is_unheard
        elif content:
            self.is_over = True
            self.outcome = Reply(content, pid, uid)
        elif os.geteuid() not in (0, uid):
            self._fail(PermissionDenied(f"it answers only its own user (uid {uid}) and root: try as one of them"))
        else:
            self._fail(BadReply("it closed the connection without a byte: too many readers, or a fault of its own"))

    def _fail(self, error: WorkerUnreachable) -> None:
        self._chunks.clear()
        self.is_over = True
        if self.outcome is None:
            self.outcome = Failure(error, self._peer[0])


def is_for_silence(content: bytes) -> bool:
    """Whether a reply is what our workers send to clients that ask nothing: it has less than what was asked for."""
    if content.startswith(b"HTTP/1."):
        return False
    # Imported only here: nearly always the worker has heard us.
    from wsgi_tracebacker.wire import uwsgi_text  # noqa: PLC0415

    return content.startswith(uwsgi_text.HEADER)


def connect(connection: socket.socket, path: str) -> None:
    """Connect to a socket by its path, however long that is. Raises OSError."""
    if len(os.fsencode(path)) <= MAX_SOCKET_PATH_BYTES:
        connection.connect(path)
        return
    # The path of a container's folder, seen from outside, can be too long for connect(2): use a shorter one.
    folder, name = os.path.split(path)
    descriptor = files.refer(folder, follow=True)
    try:
        connection.connect(f"{files.path_of(descriptor)}/{name}")
    finally:
        os.close(descriptor)


def refusal(error: OSError) -> WorkerUnreachable:
    """Why a socket cannot be connected to."""
    if error.errno == errno.ECONNREFUSED:
        return WorkerDead("nobody listens on its socket any more")
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return WorkerDead("its socket has vanished")
    if error.errno in (errno.EACCES, errno.EPERM):
        return PermissionDenied("its socket may not be opened: try as the user that runs the worker, or as root")
    if error.errno == errno.EPROTOTYPE:
        return BadReply("its socket is not a stream socket, so it is no tracebacker's")
    return BadReply(f"connecting failed: {error.strerror or error}")
