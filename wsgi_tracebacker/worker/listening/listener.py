"""Accept, check the peer, answer: one thread, one poll loop, as few system calls as can be.

Knows connections and their time limits. Refuses to know what an answer says: it asks ``answer(path)`` for it.

Guarantees of the thread: it is a real OS thread also under gevent and eventlet; it is a daemon, so it never holds up
the end of the process; it does not survive a fork (whoever owns it starts a new one in the child); a client that
stalls, trickles or never reads costs its own connection and nobody else anything; no lock is held while something is
sent, and no reply waits for another one. It ends only through ``stop()``, or with the process.

Beside busy threads each release of the GIL costs this thread up to the interpreter's switch interval (5 ms), and them
two switches; each system call is one, but for getsockopt(), which Python makes without letting go. So there are as few
as can be, and the interval is lowered while a client is served, and always put back. A long reply is served in
pieces, as the client takes them: it stays lowered between them, for a moment. See switch_interval.
"""

from __future__ import annotations

import _socket
import _thread
import errno
import select
from time import monotonic
from typing import TYPE_CHECKING

from wsgi_tracebacker.wire import http10 as http
from wsgi_tracebacker.worker.listening.switch_interval import SwitchInterval
from wsgi_tracebacker.worker.reporting import faults
from wsgi_tracebacker.worker.threads.waker import Waker

if TYPE_CHECKING:
    from collections.abc import Callable

    from wsgi_tracebacker.linux.descriptor import OwnDescriptor
    from wsgi_tracebacker.worker.threads.primitives import Primitives

#: A client that has sent nothing for so long wants uWSGI's text: ``uwsgi --connect-and-read``, socat and nc say
#: nothing at all. Ours and curl send at once.
SILENCE_SECONDS = 0.05
#: What a connection has in all, whatever it does.
CONNECTION_SECONDS = 5.0
#: How long one that is closed with an error may go on sending before it is cut off: closing at once would reset the
#: connection, and the client would see that and not our answer.
_LINGER_SECONDS = 0.5

#: Clients served at once. When one more comes, the one that has been there longest loses its connection.
MAX_CLIENTS = 64

#: How often the owner is asked whether its paths are still there: "within a minute", with room to spare.
TICK_SECONDS = 25.0

_RECEIVE_BYTES = 16 * 1024
#: A reply longer than this asks for a larger buffer: each time that it is full, both sides have to wake up once more.
#: The kernel allows twice net.core.wmem_max, which is 416 kB by default; a socket has 208 kB of its own.
_LONG_REPLY_BYTES = 128 * 1024
_SEND_BUFFER_BYTES = 1024 * 1024
#: After an accept() that failed for want of descriptors or memory, which does not pass by asking at once again.
_ACCEPT_PAUSE_SECONDS = 0.1
#: After a fault of ours, which would most likely happen again at once.
_FAULT_PAUSE_SECONDS = 1.0

#: How long it stays lowered for a client that has not taken all of its reply. One that reads has a megabyte by then;
#: one that does not shall not cost the application more than this. Measured beside two busy threads: a reply of two
#: pieces takes 19 ms if it is put back between them, 11 if it is not.
_HURRY_SECONDS = 0.05


class _Client:
    __slots__ = ("accepted_at", "deadline", "hurry_until", "lingers", "outgoing", "received", "socket")

    def __init__(self, socket: _socket.socket, now: float) -> None:
        self.socket = socket
        self.accepted_at = now
        self.deadline = now + SILENCE_SECONDS
        self.received = b""
        self.outgoing: memoryview | None = None
        #: Until then the rest of the reply is worth a lowered switch interval.
        self.hurry_until = 0.0
        #: The answer is out; what the client still sends is thrown away until it closes.
        self.lingers = False

    @property
    def is_silent(self) -> bool:
        return not self.received and self.outgoing is None


class Listener:
    """Serves the socket of one worker on a thread of its own."""

    def __init__(
        self,
        *,
        primitives: Primitives,
        answer: Callable[[str], bytes | None],
        silent_path: str,
        is_permitted: Callable[[_socket.socket], bool],
        on_tick: Callable[[], OwnDescriptor | None],
        on_start: Callable[[int], None] | None = None,
        tick_seconds: float = TICK_SECONDS,
    ) -> None:
        """Prepare; nothing runs before start().

        :param answer: gives the whole response to ``GET path``, None for a path there is not.
        :param silent_path: what a client that says nothing is given; the response's head is cut off for it.
        :param on_start: called with the native id of the thread, on it, when it runs.
        :param on_tick: called every ``tick_seconds``, gives the socket to listen on from then on, if there is one.
        """
        self.accepted = 0
        self.refused = 0
        self.dropped = 0
        self._switch_interval = SwitchInterval()
        self._primitives = primitives
        self._listening: OwnDescriptor | None = None
        self._answer = answer
        self._silent_path = silent_path
        self._is_permitted = is_permitted
        self._on_tick = on_tick
        self._on_start = on_start
        #: Of the thread, once it runs.
        self.native_id: int | None = None
        self._tick_seconds = tick_seconds
        self._clients: dict[int, _Client] = {}
        self._accepts_from = 0.0
        #: The last question, as it came and what it says: whoever asks often asks for the same.
        self._asked: tuple[bytes, http.Question | None] = (b"", None)
        #: What the last poll() waited for: nearly always the next one waits for the same.
        self._poll = primitives.poll()
        self._watched: list[tuple[int, int]] = []
        self._stopping = False
        #: Held until the thread has something to serve, and until it has ended.
        self._begins = primitives.allocate_lock()
        self._ended = primitives.allocate_lock()
        self._waker = Waker()

    def start(self) -> None:
        """Start the thread, which waits for serve(). Raises RuntimeError when the system gives none."""
        self._begins.acquire()
        self._ended.acquire()
        try:
            self._primitives.start_new_thread(self._run, ())
        except BaseException:
            self._ended.release()
            raise

    def serve(self, listening: OwnDescriptor | None) -> None:
        """Begin to accept on this socket; None: ask for one at the next tick."""
        self._listening = listening
        self._begins.release()

    def stop(self, timeout_seconds: float) -> bool:
        """End the thread and drop its clients; whether it ended in time."""
        self._stopping = True
        self._waker.wake()
        ended = self._ended.acquire(timeout=timeout_seconds)
        if ended:
            self._ended.release()
        return ended

    def forget(self) -> None:
        """Close the descriptors and nothing else: a forked child has no thread, and its clients are not its own."""
        self._switch_interval.restore()
        for client in self._clients.values():
            client.socket.close()
        self._clients.clear()
        self._waker.close()

    def _run(self) -> None:
        self._begins.acquire()
        self.native_id = _thread.get_native_id()
        if self._on_start is not None:
            self._on_start(self.native_id)
        try:
            next_tick = monotonic() + self._tick_seconds
            while not self._stopping:
                try:
                    self._serve_once(next_tick)
                    if monotonic() >= next_tick and not self._stopping:
                        next_tick = monotonic() + self._tick_seconds
                        self._listening = self._on_tick()
                except Exception:
                    faults.caught("in the listener")
                    self._drop_all()
                    self._switch_interval.restore()
                    if self._listening is not None and self._listening.number < 0:
                        self._listening = None
                    # Not a loop that spins on the same fault.
                    self._pause()
                finally:
                    if not self._hurries(monotonic()):
                        self._switch_interval.restore()
        finally:
            self._drop_all()
            self._switch_interval.restore()
            self._waker.close()
            self._ended.release()

    def _hurries(self, now: float) -> bool:
        """Whether a client is taking its reply, so that we want the GIL again at once."""
        return any(client.outgoing is not None and now < client.hurry_until for client in self._clients.values())

    def _serve_once(self, next_tick: float) -> None:
        now = monotonic()
        watched = [(self._waker.descriptor, select.POLLIN)]
        wake_at = next_tick
        listening = self._listening
        if listening is not None:
            if now >= self._accepts_from:
                watched.append((listening.number, select.POLLIN))
            else:
                wake_at = min(wake_at, self._accepts_from)
        for descriptor, client in self._clients.items():
            wake_at = min(wake_at, client.deadline)
            if client.outgoing is not None and now < client.hurry_until:
                wake_at = min(wake_at, client.hurry_until)
            watched.append((descriptor, select.POLLIN if client.outgoing is None else select.POLLOUT))
        ready = self._wait(watched, max(0.0, wake_at - now))
        if not self._waker.is_ours() or (listening is not None and not listening.is_ours()):
            self._go_silent()
            return
        if not ready and not self._clients:
            return
        self._switch_interval.lower()
        for descriptor, event in ready:
            if listening is not None and descriptor == listening.number:
                self._accept(listening)
            elif descriptor in self._clients:
                self._advance(self._clients[descriptor], event)
        self._enforce_deadlines()

    def _go_silent(self) -> None:
        """End: the application has closed our descriptors, most likely all of them, those of our clients too."""
        for client in self._clients.values():
            self.dropped += 1
            client.socket.detach()
        self._clients.clear()
        self._stopping = True

    def _pause(self) -> None:
        """A second in which only stop() is listened to."""
        self._wait([(self._waker.descriptor, select.POLLIN)], _FAULT_PAUSE_SECONDS)

    def _wait(self, watched: list[tuple[int, int]], seconds: float) -> list[tuple[int, int]]:
        if watched != self._watched:
            poll = self._primitives.poll()
            for descriptor, events in watched:
                poll.register(descriptor, events)
            self._poll, self._watched = poll, watched
        found: list[tuple[int, int]] = self._poll.poll(seconds * 1000)
        return found

    def _accept(self, listening: OwnDescriptor) -> None:
        # One; if there are more, poll() says so at once, and to be told that there are none takes as long.
        try:
            # Not socket.accept(): under gevent it hands back a patched socket, even from an original one.
            descriptor, _ = listening.socket._accept()  # type: ignore[union-attr]  # noqa: SLF001
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno not in (errno.ECONNABORTED, errno.EINTR):
                self._accepts_from = monotonic() + _ACCEPT_PAUSE_SECONDS
            return
        now = monotonic()
        # With these, or Python asks the kernel for its type and protocol.
        connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM, 0, descriptor)
        if connection.gettimeout() is not None:
            # An application has set a default for all sockets; Python would wait so long on this one, whatever the
            # flags of a call. Else MSG_DONTWAIT does it, without a call of its own.
            connection.setblocking(False)
        if not self._is_permitted(connection):
            self.refused += 1
            connection.close()
            return
        self.accepted += 1
        if len(self._clients) >= MAX_CLIENTS:
            self._drop(min(self._clients.values(), key=lambda client: client.accepted_at))
        client = _Client(connection, now)
        self._clients[descriptor] = client
        # Ours and curl have sent their question by now: that saves a round of poll().
        self._receive(client)

    def _advance(self, client: _Client, event: int) -> None:
        if event & select.POLLNVAL:
            self._drop(client)
        elif client.outgoing is not None:
            self._send(client)
        else:
            self._receive(client)

    def _receive(self, client: _Client) -> None:
        try:
            received = client.socket.recv(_RECEIVE_BYTES, _socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            self._drop(client)
            return
        if client.lingers:
            if not received:
                self._close(client)
            return
        if not received and client.is_silent:
            self._answer_silence(client)
            return
        client.received += received
        client.deadline = client.accepted_at + CONNECTION_SECONDS
        question = (
            self._asked[1] if client.received == self._asked[0] else http.parse(client.received, ended=not received)
        )
        if question is None:
            return
        if isinstance(question, http.Refusal):
            self._reply(client, http.refusal_response(question))
        else:
            self._asked = (client.received, question)
            response = self._answer(question.path)
            if response is None:
                refusal = http.Refusal(404, "there is /, /snapshot, /snapshot.txt and /worker")
                response = http.refusal_response(refusal)
            client.received = b""
            self._reply(client, response)

    def _answer_silence(self, client: _Client) -> None:
        response = self._answer(self._silent_path)
        if response is None:
            self._drop(client)
        else:
            self._reply(client, response.partition(b"\r\n\r\n")[2])

    def _reply(self, client: _Client, response: bytes) -> None:
        if len(response) > _LONG_REPLY_BYTES:
            try:
                client.socket.setsockopt(_socket.SOL_SOCKET, _socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
            except OSError:
                # Whatever is wrong with it, sending finds it too.
                pass
        client.outgoing = memoryview(response)
        client.deadline = client.accepted_at + CONNECTION_SECONDS
        client.hurry_until = monotonic() + _HURRY_SECONDS
        self._send(client)

    def _send(self, client: _Client) -> None:
        outgoing = client.outgoing
        try:
            # MSG_NOSIGNAL: a server that embeds Python may leave SIGPIPE deadly.
            flags = _socket.MSG_NOSIGNAL | _socket.MSG_DONTWAIT
            while outgoing:
                outgoing = outgoing[client.socket.send(outgoing, flags) :]
        except BlockingIOError:
            client.outgoing = outgoing
            return
        except OSError:
            self._drop(client)
            return
        client.outgoing = None
        if client.received:
            # Refused half-way through what it sends: see _LINGER_SECONDS.
            client.received = b""
            client.lingers = True
            client.deadline = min(monotonic() + _LINGER_SECONDS, client.accepted_at + CONNECTION_SECONDS)
            try:
                client.socket.shutdown(_socket.SHUT_WR)
            except OSError:
                self._close(client)
        else:
            self._close(client)

    def _enforce_deadlines(self) -> None:
        now = monotonic()
        for client in list(self._clients.values()):
            if now < client.deadline:
                continue
            if client.is_silent and not client.lingers:
                # It may have spoken while other clients were served.
                self._receive(client)
                if client.socket.fileno() in self._clients and not client.received and client.outgoing is None:
                    self._answer_silence(client)
            elif client.lingers:
                self._close(client)
            else:
                self._drop(client)

    def _drop(self, client: _Client) -> None:
        self.dropped += 1
        self._close(client)

    def _drop_all(self) -> None:
        for client in list(self._clients.values()):
            self._drop(client)

    def _close(self, client: _Client) -> None:
        self._clients.pop(client.socket.fileno(), None)
        try:
            # A child that was forked meanwhile has this connection open too: without this, the client would wait for
            # an end that only comes when that child ends.
            client.socket.shutdown(_socket.SHUT_RDWR)
        except OSError:
            pass
        client.socket.close()
