"""Ask workers for their snapshots: all at once, each with one time limit for everything.

Knows the sockets and how they fail. One poll loop instead of a thread for each worker: 32 replies come in while a
thread pool is still starting. Refuses to know what is in a reply.
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
from typing import TYPE_CHECKING, NamedTuple

from wsgi_tracebacker.errors import BadReply, PermissionDenied, WorkerDead, WorkerTimedOut, WorkerUnreachable
from wsgi_tracebacker.linux import files
from wsgi_tracebacker.reader.processes import STOPPED
from wsgi_tracebacker.reader.reply import Reply
from wsgi_tracebacker.wire.card_json import MAX_SOCKET_PATH_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Generator, Iterator, Sequence

    from wsgi_tracebacker.reader.unanswered.examine import Findings

    #: Begins the examination of a worker that has not answered for so many seconds; it yields the seconds until its
    #: next step.
    Examine = Callable[[float], Generator[float, int, Findings]]

#: What a worker can be asked: all its stacks, or who it is and how much it serves, which costs it next to nothing.
SNAPSHOT = b"GET /snapshot HTTP/1.0\r\nHost: worker\r\n\r\n"
WORKER = b"GET /worker HTTP/1.0\r\nHost: worker\r\n\r\n"

#: What a reply may be at most: a snapshot of 500 threads with 200 frames each is 22 MB.
MAX_REPLY_BYTES = 32 * 1024 * 1024

#: And all replies of one user together: whoever may bind any number of sockets in the folder must not fill the reader's
#: memory, or keep it reading for minutes. 128 workers with 64 threads each are 64 MB. Users are counted apart, so that
#: one cannot use up what is another's.
MAX_USER_BYTES = 128 * 1024 * 1024

#: Connections open at a time; the usual limit of descriptors is 1,024. Whose turn it is says ``_Queue``.
_MAX_OPEN = 256

#: Who answers at all nearly always does so in milliseconds. An examination begins after this, and not before: what it
#: needs is a third of the command.
EXAMINE_AFTER_SECONDS = 0.25

#: While a worker's backlog is full there is nothing to wait on: connect(2) of a UNIX socket says EAGAIN at once.
_BACKLOG_RETRY_SECONDS = 0.01

_READ_BYTES = 256 * 1024

#: ``struct ucred``: pid, uid, gid.
_CREDENTIALS = struct.Struct("iII")


class Failure(NamedTuple):
    """Why there is no reply, and who should have given it; 0 if it never came to a connection."""

    error: WorkerUnreachable
    peer_pid: int = 0
    #: What was found out about it, if it was examined.
    examination: Findings | None = None


Outcome = Reply | Failure


def ask(path: str, timeout_seconds: float) -> Reply:
    """Ask the worker behind one socket. Raises the WorkerUnreachable that says why there is no reply."""
    outcome = ask_all([(path, timeout_seconds)])[0]
    if isinstance(outcome, Failure):
        raise outcome.error
    return outcome


def ask_all(
    questions: Sequence[tuple[str, float]],
    examiners: Sequence[Examine | None] = (),
    owners: Sequence[int] = (),
    *,
    request: bytes = SNAPSHOT,
    clock: Callable[[], float] = time.monotonic,
) -> list[Outcome]:
    """Ask the workers behind these sockets, each within its own seconds; the outcomes come in the same order.

    A worker that has an examiner is examined while it is waited for, and its examiner says when that ends. Its own
    answer is better than anything that is found out about it, so it may still give one as long as others are waited
    for. ``owners`` are the users whom the sockets belong to: where there are too many to be asked at once, one user's
    do not wait for another's.
    """
    received_of: dict[int, int] = {}
    conversations = [_Conversation(path, seconds, request, received_of) for path, seconds in questions]
    for conversation, examine in zip(conversations, examiners, strict=False):
        conversation.examine = examine
    for conversation, owner in zip(conversations, owners, strict=False):
        conversation.owner = owner
    waiting = _Queue(conversations)
    connecting: list[_Conversation] = []
    connected: dict[int, _Conversation] = {}
    poll = select.poll()
    try:
        while waiting or any(c.outcome is None for c in (*connecting, *connected.values())):
            for conversation in waiting.take(_MAX_OPEN, (*connecting, *connected.values())):
                conversation.begin(clock())
                connecting.append(conversation)
            for conversation in connecting:
                if conversation.connect():
                    connected[conversation.fileno()] = conversation
                    poll.register(conversation.fileno(), select.POLLIN | select.POLLOUT)
            connecting = [c for c in connecting if c.outcome is None and c.fileno() not in connected]
            _advance(poll, connected, _wait_seconds(connecting, connected, clock()))
            now = clock()
            for conversation in (*connecting, *connected.values()):
                if conversation.outcome is None and conversation.deadline <= now:
                    conversation.pass_deadline(clock)
            connecting = [c for c in connecting if c.outcome is None]
            if waiting:
                # Others want the descriptors of those who might yet answer.
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


def _advance(poll: select.poll, connected: dict[int, _Conversation], wait_seconds: float) -> None:
    if not connected and wait_seconds <= 0:
        return
    # poll counts in whole milliseconds; rounded up, so that it does not spin through the last one.
    for descriptor, _ in poll.poll(max(0, int(wait_seconds * 1000) + 1)):
        connected[descriptor].advance()
        # From now on only its reply is waited for.
        poll.modify(descriptor, select.POLLIN)


class _Queue:
    """Conversations that have not begun: those of the reader's own user first, then whose user has the fewest open.

    So whoever binds any number of sockets that say nothing has them wait for each other, and not the workers behind.
    """

    def __init__(self, conversations: Sequence[_Conversation]) -> None:
        self._of_owner: dict[int, deque[_Conversation]] = {}
        # Where as many are open, the lowest uid: services have lower ones than people.
        for conversation in sorted(conversations, key=lambda each: each.owner):
            self._of_owner.setdefault(conversation.owner, deque()).append(conversation)

    def __bool__(self) -> bool:
        return bool(self._of_owner)

    def take(self, limit: int, opened: Collection[_Conversation]) -> Iterator[_Conversation]:
        """The next ones, as many as may be open beside these."""
        if not self._of_owner or len(opened) >= limit:
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
    """One question and its answer, as far as they have got."""

    __slots__ = (
        "_began",
        "_chunks",
        "_examination",
        "_received_bytes",
        "_received_of",
        "_request",
        "_sent",
        "_socket",
        "deadline",
        "examine",
        "is_over",
        "limit_seconds",
        "outcome",
        "owner",
        "path",
        "peer",
    )

    def __init__(self, path: str, limit_seconds: float, request: bytes, received_of: dict[int, int]) -> None:
        self.path = path
        self._request = request
        #: The user whom the socket belongs to, as far as it matters whose turn it is.
        self.owner = 0
        #: Bytes received from each user, in all conversations.
        self._received_of = received_of
        self.limit_seconds = limit_seconds
        #: When it is to be looked after: by its examiner if it has one, else for the last time.
        self.deadline = 0.0
        self.examine: Examine | None = None
        self._began = 0.0
        self._examination: Generator[float, int, Findings] | None = None
        self.outcome: Outcome | None = None
        #: Whether the outcome is the last word; not so of one that was examined and might yet answer.
        self.is_over = False
        #: pid and uid.
        self.peer = (0, 0)
        self._socket: socket.socket | None = None
        self._sent = False
        self._chunks: list[bytes] = []
        self._received_bytes = 0

    def begin(self, now: float) -> None:
        self._began = now
        self.deadline = now + self.limit_seconds
        if self.examine is not None:
            self.deadline = now + min(self.limit_seconds, EXAMINE_AFTER_SECONDS)

    def fileno(self) -> int:
        assert self._socket is not None
        return self._socket.fileno()

    def connect(self) -> bool:
        """Whether it is connected. If not, either ``outcome`` says why or it is worth another try."""
        try:
            if self._socket is None:
                self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            _connect(self._socket, self.path)
            credentials = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
            self.peer = _CREDENTIALS.unpack(credentials)[:2]
            return True
        except BlockingIOError:
            return False
        except OSError as error:
            self._fail(_refusal(error))
            self.close()
            return False

    def advance(self) -> None:
        """Send and read what can be now; with the last of it there is an outcome, for good or ill."""
        assert self._socket is not None
        try:
            if not self._sent:
                self._sent = True
                # So short that it goes whole into an empty buffer. uWSGI, which needs no question, may have answered
                # and closed already.
                with suppress(BrokenPipeError, ConnectionResetError):
                    self._socket.send(self._request, socket.MSG_NOSIGNAL)
            # Once a turn and not until there is no more: a flood must not keep the loop from the others.
            chunk = self._socket.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except ConnectionResetError:
            # Our request lay unread when the other side closed: on a UNIX socket a reset comes then, after the reply.
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
        uid = self.peer[1]
        self._received_of[uid] = self._received_of.get(uid, 0) + len(chunk)
        if self._received_of[uid] > MAX_USER_BYTES:
            # Also one that was given up: it is still listened to while others are waited for.
            self._fail(BadReply(f"the replies of uid {uid} together are larger than {MAX_USER_BYTES >> 20} MiB"))

    def pass_deadline(self, clock: Callable[[], float]) -> None:
        """Begin its examination, go on with it, or end it."""
        if self.examine is None:
            self._time_out(self.limit_seconds)
            return
        try:
            if self._examination is None:
                self._examination = self.examine(clock() - self._began)
                seconds = next(self._examination)
            else:
                seconds = self._examination.send(self.peer[0])
            # From now on and not from the deadline: what is measured there must not be shorter than it was to be.
            self.deadline = clock() + seconds
        except StopIteration as done:
            self._examination = None
            # That may be sooner or later than its limit.
            self._time_out(clock() - self._began, done.value)

    def _time_out(self, waited_seconds: float, examination: Findings | None = None) -> None:
        seconds = f"{round(waited_seconds, 2 if waited_seconds < 1 else 1):g} s"
        if examination is not None and examination.state == STOPPED:
            error = WorkerTimedOut(f"it is stopped, so it was waited for no longer than {seconds}")
        elif self._chunks:
            error = WorkerTimedOut(f"it began to answer but was not done within {seconds}")
        else:
            error = WorkerTimedOut(f"it did not answer within {seconds}")
        self.outcome = Failure(error, self.peer[0], examination)
        self.is_over = examination is None

    def close(self) -> None:
        if self._examination is not None:
            # What it holds (a table, a lock) is given back at once.
            self._examination.close()
            self._examination = None
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _finish(self) -> None:
        pid, uid = self.peer
        if self._chunks:
            self.is_over = True
            self.outcome = Reply(b"".join(self._chunks), pid, uid)
            self._chunks.clear()
        elif os.geteuid() not in (0, uid):
            self._fail(PermissionDenied(f"it answers only its own user (uid {uid}) and root: try as one of them"))
        else:
            self._fail(BadReply("it closed the connection without a byte: too many readers, or a fault of its own"))

    def _fail(self, error: WorkerUnreachable) -> None:
        self._chunks.clear()
        self.is_over = True
        if self.outcome is None:
            self.outcome = Failure(error, self.peer[0])


def _connect(connection: socket.socket, path: str) -> None:
    if len(os.fsencode(path)) <= MAX_SOCKET_PATH_BYTES:
        connection.connect(path)
        return
    # The same file by a shorter name: folders of containers, seen from outside, are deep.
    folder, name = os.path.split(path)
    descriptor = files.look(folder, follow=True)
    try:
        connection.connect(f"{files.path_of(descriptor)}/{name}")
    finally:
        os.close(descriptor)


def _refusal(error: OSError) -> WorkerUnreachable:
    if error.errno == errno.ECONNREFUSED:
        return WorkerDead("nobody listens on its socket any more")
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return WorkerDead("its socket has vanished")
    if error.errno in (errno.EACCES, errno.EPERM):
        return PermissionDenied("its socket may not be opened: try as the user that runs the worker, or as root")
    if error.errno == errno.EPROTOTYPE:
        return BadReply("its socket is not a stream socket, so it is no tracebacker's")
    return BadReply(f"connecting failed: {error.strerror or error}")
