"""One connection to the worker's socket: receives a question, sends the reply, and knows when its time is over.

The listener owns the loop and asks for the answer. Nothing here blocks or raises: ``is_broken`` and ``is_finished``
say that the connection is over.

=========  ============================================  ==================================================
state      until                                         deadline
=========  ============================================  ==================================================
silent     it sends something, or shuts its side         SILENCE_SECONDS; then it gets uWSGI's text
asking     its request is complete, or refused           CONNECTION_SECONDS after it was accepted
receiving  it has received the whole reply               the same
lingering  it closes                                     LINGER_SECONDS after the reply, or the same if sooner
=========  ============================================  ==================================================
"""

from __future__ import annotations

import _socket
import select

from wsgi_tracebacker.linux.clock import monotonic
from wsgi_tracebacker.wire import http10

#: A client that has sent nothing for so long gets uWSGI's text: ``uwsgi --connect-and-read``, socat and nc send
#: nothing at all. wsgi-tb and curl send at once.
SILENCE_SECONDS = 0.05
#: What a connection may take in all.
CONNECTION_SECONDS = 5.0
#: How long a client that was refused may go on sending before the connection is closed: closing at once would reset
#: the connection, and the client would see that and not our answer.
LINGER_SECONDS = 0.5
#: How long the rest of a reply is urgent, see ``is_urgent()``. A client that reads has a megabyte by then; one that
#: does not must not cost the application more than this. Measured beside two busy threads: a reply of two pieces takes
#: 19 ms if the switch interval is restored between them, 11 if it is not.
URGENT_SECONDS = 0.05

_RECEIVE_BYTES = 16 * 1024
#: For a longer reply the socket gets a larger buffer: each time that it is full, both sides have to wake up once more.
#: The kernel allows twice net.core.wmem_max, which is 416 kB by default; a socket has 208 kB of its own.
_LONG_REPLY_BYTES = 128 * 1024
_SEND_BUFFER_BYTES = 1024 * 1024

#: The question of a client that sends nothing.
SILENCE = http10.Question("")


class Client:
    """One connection that was accepted."""

    def __init__(self, socket: _socket.socket, descriptor: int, now: float) -> None:
        """It is silent so far."""
        self.socket = socket
        self.descriptor = descriptor
        self.accepted_at = now
        self.deadline = now + SILENCE_SECONDS
        self.received = b""
        #: The part of the reply that was not sent yet.
        self.outgoing: memoryview | None = None
        self.urgent_until = 0.0
        #: The reply is sent; what the client still sends is thrown away until it closes.
        self.lingers = False
        #: The connection failed, or took too long.
        self.is_broken = False
        #: The client got its whole reply.
        self.is_finished = False

    @property
    def is_silent(self) -> bool:
        """Whether it has sent nothing so far."""
        return not self.received and self.outgoing is None and not self.lingers

    @property
    def events(self) -> int:
        """What to poll for."""
        return select.POLLIN if self.outgoing is None else select.POLLOUT

    def is_urgent(self, now: float) -> bool:
        """Whether it is receiving its reply, so that the listener should soon get the GIL again."""
        return self.outgoing is not None and now < self.urgent_until

    def wake_at(self, now: float) -> float:
        """When to call expire(), or to see that it is not urgent any more."""
        return min(self.deadline, self.urgent_until) if self.is_urgent(now) else self.deadline

    def advance(self) -> http10.Question | http10.Refusal | None:
        """Receive or send what is possible; a question if it is complete now."""
        if self.outgoing is None:
            return self._receive()
        self._send()
        return None

    def expire(self) -> http10.Question | http10.Refusal | None:
        """End what has lasted until the deadline; a question if the client gets a reply for that."""
        if self.is_silent:
            # It may have sent something while other clients were served.
            question = self._receive()
            return SILENCE if question is None and not (self.received or self.is_broken) else question
        if self.lingers:
            self.is_finished = True
        else:
            self.is_broken = True
        return None

    def reply(self, response: bytes, *, is_refusal: bool) -> None:
        """Send a response, as much of it as possible now. After a refusal the client may still be sending."""
        if len(response) > _LONG_REPLY_BYTES:
            try:
                self.socket.setsockopt(_socket.SOL_SOCKET, _socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
            except OSError:
                # Sending fails too, then.
                pass
        if not is_refusal:
            self.received = b""
        self.outgoing = memoryview(response)
        self.deadline = self.accepted_at + CONNECTION_SECONDS
        self.urgent_until = monotonic() + URGENT_SECONDS
        self._send()

    def close(self) -> None:
        """End the connection, for a child that was forked meanwhile too."""
        try:
            # Such a child has it open: with close() alone, the client would wait for an end until the child ends.
            self.socket.shutdown(_socket.SHUT_RDWR)
        except OSError:
            pass
        self.socket.close()

    def _receive(self) -> http10.Question | http10.Refusal | None:
        try:
            received = self.socket.recv(_RECEIVE_BYTES, _socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None
        except OSError:
            self.is_broken = True
            return None
        if self.lingers:
            self.is_finished = not received
            return None
        if not received and self.is_silent:
            return SILENCE
        self.received += received
        self.deadline = self.accepted_at + CONNECTION_SECONDS
        return http10.parse(self.received, ended=not received)

    def _send(self) -> None:
        try:
            # MSG_NOSIGNAL: a server that embeds Python may leave SIGPIPE deadly.
            while self.outgoing:
                sent = self.socket.send(self.outgoing, _socket.MSG_NOSIGNAL | _socket.MSG_DONTWAIT)
                self.outgoing = self.outgoing[sent:]
        except BlockingIOError:
            return
        except OSError:
            self.is_broken = True
            return
        self.outgoing = None
        if not self.received:
            self.is_finished = True
            return
        self.received = b""
        self.lingers = True
        self.deadline = min(monotonic() + LINGER_SECONDS, self.accepted_at + CONNECTION_SECONDS)
        try:
            self.socket.shutdown(_socket.SHUT_WR)
        except OSError:
            self.is_finished = True
