"""Serves the worker's socket: accepts, checks the peer, sends the answer. One thread, one poll loop.

``answer(path)`` makes the answers; each connection is a Client.

The thread is a real OS thread also under gevent and eventlet, and a daemon, so it never delays the end of the process.
It does not survive a fork: the child starts a new one. A client that sends nothing, sends slowly or never reads loses
its own connection and disturbs no other client; no lock is held while something is sent, and no reply waits for
another one. The thread ends only through ``stop()``, or with the process.

Beside busy threads each release of the GIL costs this thread up to the interpreter's switch interval (5 ms), and costs
them two switches. Each system call but getsockopt() releases the GIL. So there are as few as possible, and the interval
is lowered while a client is served, see switch_interval. A long reply is sent in pieces, as the client receives them:
between them the interval stays lowered for a moment.
"""

from __future__ import annotations

import _socket
import _thread
import errno
import select
from typing import TYPE_CHECKING

from wsgi_tracebacker.linux.clock import monotonic
from wsgi_tracebacker.wire import http10
from wsgi_tracebacker.worker.listening.client import SILENCE, Client
from wsgi_tracebacker.worker.listening.switch_interval import SwitchInterval
from wsgi_tracebacker.worker.reporting import faults
from wsgi_tracebacker.worker.threads.waker import Waker

if TYPE_CHECKING:
    from collections.abc import Callable

    from wsgi_tracebacker.linux.descriptor import OwnDescriptor
    from wsgi_tracebacker.worker.threads.primitives import Primitives

#: Clients served at once. When one more comes, the one that has been connected longest loses its connection.
MAX_CLIENTS = 64

#: How often the listener's owner checks that its paths are still there: "within a minute", with room to spare.
TICK_SECONDS = 25.0

#: After accept() failed because descriptors or memory ran out: it would fail again at once.
_ACCEPT_PAUSE_SECONDS = 0.1
#: After a fault of ours, which would most likely happen again at once.
_FAULT_PAUSE_SECONDS = 1.0


class Listener:
    """Serves the socket of one worker on a thread of its own."""

    def __init__(
        self,
        *,
        primitives: Primitives,
        answer: Callable[[str], bytes | None],
        silent_path: str,
        record: Callable[[str, _socket.socket], http10.Refusal | None],
        is_permitted: Callable[[_socket.socket], bool],
        on_tick: Callable[[], OwnDescriptor | None],
        on_start: Callable[[int], None] | None = None,
        tick_seconds: float = TICK_SECONDS,
    ) -> None:
        """Prepare; nothing runs before start().

        :param answer: returns the whole response to ``GET path``, None for an unknown path.
        :param record: begins to record for ``GET /record`` with this query, and has the connection from then on; else
            the reason.
        :param silent_path: the path whose answer, without its head, a client gets that sends nothing.
        :param on_start: called with the native id of the thread, on it, when it runs.
        :param on_tick: called every ``tick_seconds``, returns the socket to listen on from then on, if there is one.
        """
        self.accepted = 0
        self.refused = 0
        self.dropped = 0
        self._switch_interval = SwitchInterval()
        self._primitives = primitives
        self._listening: OwnDescriptor | None = None
        self._answer = answer
        self._record = record
        self._silent_path = silent_path
        self._is_permitted = is_permitted
        self._on_tick = on_tick
        self._on_start = on_start
        #: The thread's, once it runs.
        self.native_id: int | None = None
        self._tick_seconds = tick_seconds
        self._clients: dict[int, Client] = {}
        self._accepts_from = 0.0
        #: The last poll object, and its descriptors: the next poll nearly always has the same.
        self._poll = primitives.poll()
        self._watched: list[tuple[int, int]] = []
        self._stopping = False
        #: Held until serve() is called.
        self._begin_lock = primitives.allocate_lock()
        #: Held until the thread has ended.
        self._end_lock = primitives.allocate_lock()
        self._waker = Waker()

    def start(self) -> None:
        """Start the thread, which waits for serve(). Raises RuntimeError when the system gives none."""
        self._begin_lock.acquire()
        self._end_lock.acquire()
        try:
            self._primitives.start_new_thread(self._run, ())
        except BaseException:
            self._end_lock.release()
            raise

    def serve(self, listening: OwnDescriptor | None) -> None:
        """Begin to accept on this socket; with None, on the one that the next tick returns."""
        self._listening = listening
        self._begin_lock.release()

    def stop(self, timeout_seconds: float) -> bool:
        """End the thread and drop its clients; whether it ended in time."""
        self._stopping = True
        self._waker.wake()
        ended = self._end_lock.acquire(timeout=timeout_seconds)
        if ended:
            self._end_lock.release()
        return ended

    def forget(self) -> None:
        """Close the descriptors and nothing else: a forked child has no thread, and the clients are the parent's."""
        self._switch_interval.restore()
        for client in self._clients.values():
            client.socket.close()
        self._clients.clear()
        self._waker.close()

    def _run(self) -> None:
        self._begin_lock.acquire()
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
                    # Wait for nothing but stop(): the same fault would come again at once.
                    self._wait([(self._waker.descriptor, select.POLLIN)], _FAULT_PAUSE_SECONDS)
                finally:
                    now = monotonic()
                    if not any(client.is_urgent(now) for client in self._clients.values()):
                        self._switch_interval.restore()
        finally:
            self._drop_all()
            self._switch_interval.restore()
            self._waker.close()
            self._end_lock.release()

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
            wake_at = min(wake_at, client.wake_at(now))
            watched.append((descriptor, client.events))
        ready = self._wait(watched, max(0.0, wake_at - now))
        if not self._waker.is_ours() or (listening is not None and not listening.is_ours()):
            self._go_silent()
            return
        if not ready and not self._clients:
            return
        self._switch_interval.lower()
        for descriptor, _ in ready:
            if listening is not None and descriptor == listening.number:
                self._accept(listening)
            elif descriptor in self._clients:
                client = self._clients[descriptor]
                self._answer_client(client, client.advance())
        now = monotonic()
        for client in [client for client in self._clients.values() if now >= client.deadline]:
            self._answer_client(client, client.expire())

    def _go_silent(self) -> None:
        """End: the application has closed our descriptors, most likely all of them, those of our clients too."""
        for client in self._clients.values():
            self.dropped += 1
            client.socket.detach()
        self._clients.clear()
        self._stopping = True

    def _wait(self, watched: list[tuple[int, int]], seconds: float) -> list[tuple[int, int]]:
        if watched != self._watched:
            poll = self._primitives.poll()
            for descriptor, events in watched:
                poll.register(descriptor, events)
            self._poll, self._watched = poll, watched
        found: list[tuple[int, int]] = self._poll.poll(seconds * 1000)
        return found

    def _accept(self, listening: OwnDescriptor) -> None:
        """Accept one connection. If more wait, poll() returns at once; to find none, accept() would take as long."""
        try:
            # Not socket.accept(): under gevent it returns a patched socket, even from an original one.
            descriptor, _ = listening.socket._accept()  # type: ignore[union-attr]  # noqa: SLF001
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno not in (errno.ECONNABORTED, errno.EINTR):
                self._accepts_from = monotonic() + _ACCEPT_PAUSE_SECONDS
            return
        # With family, type and protocol, or Python asks the kernel for them.
        connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM, 0, descriptor)
        if connection.gettimeout() is not None:
            # An application has set a default time-out for all sockets: Python would wait for this one, whatever the
            # flags of a call. Without one MSG_DONTWAIT is enough, and needs no call of its own.
            connection.setblocking(False)
        if not self._is_permitted(connection):
            self.refused += 1
            connection.close()
            return
        self.accepted += 1
        if len(self._clients) >= MAX_CLIENTS:
            self._drop(min(self._clients.values(), key=lambda client: client.accepted_at))
        client = self._clients[descriptor] = Client(connection, descriptor, monotonic())
        # wsgi-tb and curl have sent their request by now: that saves a round of poll().
        self._answer_client(client, client.advance())

    def _answer_client(self, client: Client, question: http10.Question | http10.Refusal | None) -> None:
        """Answer a question, if there is one; end the connection, if it is over."""
        if isinstance(question, http10.Refusal):
            client.reply(http10.refusal_response(question), is_refusal=True)
        elif question is SILENCE:
            client.reply((self._answer(self._silent_path) or b"").partition(b"\r\n\r\n")[2], is_refusal=False)
        elif question is not None and question.path == "/record":
            # Not ours any more before its new owner may close it: the number may be another connection's then.
            del self._clients[client.descriptor]
            refusal = self._record(question.query, client.socket)
            if refusal is None:
                return
            self._clients[client.descriptor] = client
            client.reply(http10.refusal_response(refusal), is_refusal=False)
        elif question is not None:
            unknown = http10.Refusal(404, "there is /, /snapshot, /snapshot.txt, /worker and /record")
            client.reply(self._answer(question.path) or http10.refusal_response(unknown), is_refusal=False)
        if client.is_broken:
            self._drop(client)
        elif client.is_finished:
            self._close(client)

    def _drop(self, client: Client) -> None:
        self.dropped += 1
        self._close(client)

    def _drop_all(self) -> None:
        for client in list(self._clients.values()):
            self._drop(client)

    def _close(self, client: Client) -> None:
        self._clients.pop(client.descriptor, None)
        client.close()
