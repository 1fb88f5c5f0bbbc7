"""The listener: every route, every kind of client, and what goes wrong around it."""

from __future__ import annotations

import _socket
import contextlib
import itertools
import os
import resource
import socket
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.support import clients
from tests.support.logs import messages
from tests.support.waiting import wait_until
from wsgi_tracebacker.linux.descriptor import OwnDescriptor
from wsgi_tracebacker.wire import http10
from wsgi_tracebacker.worker.listening import client as connection
from wsgi_tracebacker.worker.listening import listener
from wsgi_tracebacker.worker.reporting import faults
from wsgi_tracebacker.worker.threads import primitives

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

BODY = b"*** the text ***\n"
GET = b"GET / HTTP/1.0\r\n\r\n"


class Answers:
    """The answers of a worker, which a test can change."""

    def __init__(self) -> None:
        self.body = BODY
        self.permitted = True
        self.ticks = 0
        self.intervals: list[float] = []
        self.fault: Exception | None = None
        self.on_tick: Callable[[], OwnDescriptor | None] | None = None
        self.listening: OwnDescriptor | None = None

    def answer(self, path: str) -> bytes | None:
        self.intervals.append(sys.getswitchinterval())
        if self.fault is not None:
            raise self.fault
        return http10.response(200, http10.TEXT, self.body) if path in ("/", "/snapshot") else None

    def tick(self) -> OwnDescriptor | None:
        self.ticks += 1
        return self.on_tick() if self.on_tick is not None else self.listening


@pytest.fixture
def answers() -> Answers:
    return Answers()


@pytest.fixture
def path(short_path: Path) -> str:
    return str(short_path / "s")


@pytest.fixture
def running(answers: Answers, path: str) -> Iterator[listener.Listener]:
    """A listener at ``path``, ended after the test."""
    faults.forget()
    listening = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_NONBLOCK)
    listening.bind(path)
    listening.listen(128)
    answers.listening = own = OwnDescriptor(listening)
    made = listener.Listener(
        primitives=primitives.bind(),
        answer=answers.answer,
        record=lambda query, connection: None,
        silent_path="/",
        is_permitted=lambda _: answers.permitted,
        on_tick=answers.tick,
        tick_seconds=0.05,
    )
    made.start()
    made.serve(own)
    yield made
    assert made.stop(10)
    own.close()


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET /nothing HTTP/1.0\r\n\r\n", 404),
        (b"POST / HTTP/1.0\r\nContent-Length: 9\r\n\r\n123456789", 405),
        (b"GET / HTTP/1.0\r\nbad\r\n\r\n", 400),
        (b"HELLO\r\n", 400),
        (b"GET /" + b"x" * 3000, 414),
        (b"GET / HTTP/1.0\r\n" + b"A: b\r\n" * 5000, 431),
        (b"x" * 500_000, 414),
        (GET, 200),
        (GET + b"more", 200),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", 200),
    ],
    ids=lambda value: str(value)[:32] if isinstance(value, bytes) else None,
)
def test_a_client_reads_its_status_and_then_the_end(
    running: listener.Listener, path: str, sent: bytes, status: int
) -> None:
    """Whatever a client sends, also half a megabyte, the answer is short, reaches it, and ends by EOF."""
    with clients.connect(path) as client:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            client.sendall(sent)
        received = read(client)
    assert received.startswith(b"HTTP/1.0 %d " % status)
    assert len(received) < 400
    assert clients.request(path, "/").status == 200


def read(client: socket.socket) -> bytes:
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while part := client.recv(65536):
            received += part
    return received


_sent = st.lists(
    st.sampled_from(
        [
            *(b"GET ", b"/", b"/snapshot", b"/nothing", b" HTTP/1.0", b"\r\n", b"\n", b"Host: x", b":", b"POST / "),
            *(b"x" * http10.MAX_REQUEST_LINE_BYTES, b"a: b\r\n" * 1400, GET, b"\x16\x03\x01", b"\0", b"?", b"#", b"%"),
        ]
    )
    | st.binary(max_size=30),
    max_size=8,
).map(b"".join) | st.binary(max_size=300)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loaded machine may take a while between connecting and sending."""
    monkeypatch.setattr(connection, "SILENCE_SECONDS", 0.5)


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    max_examples=40 if settings().max_examples == 100 else settings().max_examples,
)
@given(sent=_sent, cuts=st.lists(st.integers(0, 3000), max_size=5), shuts=st.booleans(), leaves=st.booleans())
@example(sent=b"", cuts=[], shuts=False, leaves=False)
@example(sent=b"GET /", cuts=[2], shuts=False, leaves=True)
def test_any_client_is_answered_and_the_next_one_too(
    running: listener.Listener, path: str, patient: None, sent: bytes, cuts: list[int], shuts: bool, leaves: bool
) -> None:
    """Any bytes, in any pieces, get the answer to the whole, or the connection ends; there is no fault, no connection
    stays open, and the next client is answered.
    """
    bounds = sorted({0, len(sent), *(cut for cut in cuts if cut < len(sent))})
    expected = expectation(sent)
    # Who says half of something and waits is waited for; that is another test.
    waits = expected is None and not shuts
    with clients.connect(path) as client:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for start, end in itertools.pairwise(bounds):
                client.sendall(sent[start:end])
            if shuts or (waits and sent):
                client.shutdown(socket.SHUT_WR)
        if not leaves:
            received = read(client)
            if expected is None:
                expected = b"HTTP/1.0 400 " if sent else BODY
            # Closed while the client was still sending: the kernel may throw the answer away.
            assert received.startswith(expected) or (received == b"" and len(sent) > http10.MAX_REQUEST_LINE_BYTES)
    assert clients.request(path, "/").status == 200
    assert faults.count() == 0
    wait_until(lambda: not running._clients, "nobody stays")


def expectation(sent: bytes) -> bytes | None:
    """How the answer begins; None if the request is not complete."""
    decision = http10.parse(sent) if sent else None
    if decision is None:
        return None
    if isinstance(decision, http10.Refusal):
        return b"HTTP/1.0 %d " % decision.status
    return b"HTTP/1.0 %d " % (200 if decision.path in ("/", "/snapshot") else 404)


def test_a_silent_client_gets_the_text(running: listener.Listener, path: str) -> None:
    """A client that sends nothing, as ``uwsgi --connect-and-read``, gets the text without a head, and EOF."""
    assert clients.read_to_end(path) == BODY


def test_a_client_that_shuts_its_side_gets_the_text(
    running: listener.Listener, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``socat`` and ``nc`` with nothing to send are answered when they shut their side, not after SILENCE_SECONDS."""
    monkeypatch.setattr(connection, "SILENCE_SECONDS", 60.0)
    with clients.connect(path) as client:
        client.shutdown(socket.SHUT_WR)
        assert read(client) == BODY


def test_a_request_that_ends_half_way_is_refused(running: listener.Listener, path: str) -> None:
    """A client that shuts its side within its request gets status 400."""
    with clients.connect(path) as client:
        client.sendall(b"GET / HT")
        client.shutdown(socket.SHUT_WR)
        assert read(client).startswith(b"HTTP/1.0 400 ")


def test_a_trickler_is_dropped_after_its_time_in_all(
    running: listener.Listener, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A byte now and then gives a client no more time; others are answered meanwhile."""
    monkeypatch.setattr(connection, "CONNECTION_SECONDS", 0.3)
    began = time.monotonic()

    def trickle() -> bool:
        try:
            client.send(b"x")
        except (BrokenPipeError, ConnectionResetError):
            return True
        assert clients.request(path, "/").status == 200
        return False

    with clients.connect(path) as client:
        wait_until(trickle, "the trickler is cut off")
    assert time.monotonic() - began >= 0.3
    assert running.dropped == 1


def test_a_client_that_never_reads_disturbs_nobody(
    running: listener.Listener, answers: Answers, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """uWSGI hangs in write() then; here a reader that does not receive its megabytes only loses its connection."""
    monkeypatch.setattr(connection, "CONNECTION_SECONDS", 0.5)
    answers.body = b"x" * 4_000_000
    with clients.connect(path) as client:
        client.sendall(GET)
        for _ in range(10):
            assert len(clients.request(path, "/").body) == 4_000_000
        assert len(clients.read_to_end(path)) == 4_000_000
        wait_until(lambda: running.dropped == 1, "it lost its connection")
        assert 0 < len(read(client)) < 4_000_000


def test_a_slow_reader_gets_all_of_it(running: listener.Listener, answers: Answers, path: str) -> None:
    """A reply far beyond the socket's buffer arrives whole."""
    answers.body = os.urandom(8_000_000)
    assert clients.request(path, "/").body == answers.body
    assert clients.read_to_end(path) == answers.body


def test_seventy_clients_at_once_are_all_answered(running: listener.Listener, path: str) -> None:
    """More clients ask than are served at once: each one is answered."""
    with contextlib.ExitStack() as stack:
        many = []
        for _ in range(70):
            many.append(stack.enter_context(clients.connect(path)))
            many[-1].sendall(GET)
        assert all(read(client).endswith(BODY) for client in many)


def test_past_the_bound_the_longest_connected_goes(
    running: listener.Listener, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number of clients that stall is bounded: with one more, the first one loses its connection."""
    monkeypatch.setattr(listener, "MAX_CLIENTS", 4)
    with contextlib.ExitStack() as stack:
        many = []
        for number in range(6):
            client = stack.enter_context(clients.connect(path))
            client.sendall(b"G")
            many.append(client)
            wait_until(lambda number=number: running.accepted > number, "it was accepted")  # type: ignore[misc]
        wait_until(lambda: running.dropped == 2, "two had to go")
        assert [read(client) for client in many[:2]] == [b"", b""]
        for client in many[2:]:
            client.sendall(GET[1:])
            assert read(client).endswith(BODY)


def test_a_peer_that_may_not_read_gets_no_byte(running: listener.Listener, answers: Answers, path: str) -> None:
    """The connection of a peer that is not permitted is closed at once, and counted."""
    answers.permitted = False
    for sent in (b"", GET):
        with clients.connect(path) as client:
            with contextlib.suppress(BrokenPipeError):
                client.sendall(sent)
            assert read(client) == b""
    assert (running.refused, running.accepted, answers.intervals) == (2, 0, [])


def test_the_switch_interval_is_lowered_for_the_answer_and_put_back(
    running: listener.Listener, answers: Answers, path: str
) -> None:
    """While a client is served other threads release the GIL soon; afterwards the interval is as before."""
    before = sys.getswitchinterval()
    for _ in range(5):
        clients.request(path, "/")
    wait_until(lambda: sys.getswitchinterval() == before, "the interval is put back")
    assert max(answers.intervals) < 0.001 < before


@contextlib.contextmanager
def a_client_that_has_not_read(running: listener.Listener, answers: Answers, path: str) -> Iterator[socket.socket]:
    """It asked for a reply that its connection cannot hold; the rest is still to be sent."""
    answers.body = b"x" * 4_000_000
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(20)
        client.connect(path)
        client.sendall(GET)
        wait_until(lambda: any(one.outgoing is not None for one in list(running._clients.values())), "a rest waits")
        yield client


def test_the_switch_interval_stays_lowered_between_the_pieces_of_a_reply(
    running: listener.Listener, answers: Answers, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long reply goes out in pieces; between them other threads still release the GIL soon, but not afterwards."""
    monkeypatch.setattr(connection, "URGENT_SECONDS", 20.0)
    before = sys.getswitchinterval()
    with a_client_that_has_not_read(running, answers, path) as client:
        assert sys.getswitchinterval() < 0.001 < before
        assert read(client).endswith(answers.body)
    wait_until(lambda: sys.getswitchinterval() == before, "the interval is put back")


def test_a_client_that_does_not_read_keeps_the_switch_interval_lowered_for_a_moment_only(
    running: listener.Listener, answers: Answers, path: str
) -> None:
    """The interval is restored while the reply is not sent yet; the client gets all of it nevertheless."""
    before = sys.getswitchinterval()
    with a_client_that_has_not_read(running, answers, path) as client:
        wait_until(lambda: sys.getswitchinterval() == before, "the interval is put back")
        assert len(running._clients) == 1
        assert read(client).endswith(answers.body)


def test_a_fault_of_an_answer_is_logged_once_and_the_listener_lives(
    running: listener.Listener,
    answers: Answers,
    path: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two clients meet a fault of ours and lose their connections; it is logged once; the next one is answered."""
    monkeypatch.setattr(listener, "_FAULT_PAUSE_SECONDS", 0.01)
    faults.forget()
    answers.fault = ValueError("ours")
    for _ in range(2):
        assert clients.read_to_end(path, GET) == b""
    answers.fault = None
    assert clients.request(path, "/").status == 200
    assert (len(messages(caplog)), faults.count()) == (1, 2)
    faults.forget()


def test_no_descriptors_for_accept_pass(running: listener.Listener, path: str) -> None:
    """While there are no free descriptors, a client waits; it is answered as soon as there is one."""
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(20)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        client.connect(path)
        client.sendall(GET)
        wait_until(lambda: running._accepts_from > 0, "accept() was refused")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    with client:
        assert read(client).endswith(BODY)


@pytest.mark.parametrize("lost", ["the waker's", "the socket's"])
def test_a_listener_that_lost_a_descriptor_goes_silent(
    running: listener.Listener, answers: Answers, path: str, lost: str
) -> None:
    """An application closed it and has its own socket there: we accept none of its connections, and no thread spins."""
    assert answers.listening is not None
    clients.request(path, "/")
    number = running._waker.descriptor if lost == "the waker's" else answers.listening.number
    with socket.socket(socket.AF_UNIX) as theirs, socket.socket(socket.AF_UNIX) as caller:
        theirs.bind(f"{path}.theirs")
        theirs.listen()
        os.dup2(theirs.fileno(), number)
        wait_until(lambda: not os.path.exists(f"/proc/self/task/{running.native_id}"), "its thread has ended")
        caller.connect(f"{path}.theirs")
        running.stop(10)
        answers.listening.close()
        with theirs.accept()[0]:
            pass
    os.close(number)


def test_a_tick_that_fails_is_tried_again(
    running: listener.Listener, answers: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault while the paths are checked, which left a closed socket, does not end the ticks."""
    monkeypatch.setattr(listener, "_FAULT_PAUSE_SECONDS", 0.01)

    def fail() -> Any:
        assert answers.listening is not None
        answers.listening.close()
        raise ValueError("ours")

    answers.on_tick = fail
    wait_until(lambda: answers.ticks >= 4, "ticks go on")
    answers.on_tick = lambda: None
    faults.forget()
