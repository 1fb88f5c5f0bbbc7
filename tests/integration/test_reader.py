"""The reader against real sockets."""

from __future__ import annotations

import contextlib
import functools
import os
import socket
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.test_worker_socket import held, waits
from tests.support.listeners import answering, http, listener, silent, talking
from tests.support.strangers import BYSTANDER, STRANGER, needs_root
from wsgi_tracebacker.errors import BadReply, NoWorkersFound, PermissionDenied, WorkerDead, WorkerTimedOut
from wsgi_tracebacker.model.card import Card
from wsgi_tracebacker.model.snapshot import Frame, Snapshot, Stack, Worker
from wsgi_tracebacker.reader.asking import client
from wsgi_tracebacker.reader.asking.reply import Reply
from wsgi_tracebacker.reader.finding import discovery
from wsgi_tracebacker.reader.survey import survey
from wsgi_tracebacker.reader.unanswered.examine import Findings
from wsgi_tracebacker.wire import uwsgi_text as uwsgi
from wsgi_tracebacker.wire.documents import card_json as cards

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

SNAPSHOT = Snapshot(Worker(number=1, pid=os.getpid()), 5.0, (Stack("WSGIWorker1Core0", core=0),))
UWSGI_TEXT = uwsgi.UWSGI_HEADER + (
    uwsgi.block(uwsgi.line_start("uWSGIWorker1Core0"), [uwsgi.frame_text(Frame("a.py", 1, "f", "x")).encode()] * 5000)
)


@pytest.fixture
def done() -> Iterator[threading.Event]:
    """Set at the end of the test: what listeners wait for that never answer."""
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture
def listeners() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


def own_card(base: str, number: int) -> Card:
    """A card that truly names this process."""
    stat = Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return Card(
        number=number,
        base=base,
        pid=os.getpid(),
        start_ticks=int(stat[19]),
        boot_id=Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip(),
        pid_namespace=os.stat("/proc/self/ns/pid").st_ino,
        uid=os.geteuid(),
        server="test",
        application="app",
        cwd="/",
        started_at=0.0,
    )


def write_card(base: str, card: Card) -> None:
    Path(cards.card_path(base, card.number)).write_bytes(cards.encode(card))


def ask(path: str, seconds: float) -> Reply:
    """The reply of the worker behind one socket; raises the error if there is none."""
    (outcome,) = client.ask_all([(path, seconds)])
    if isinstance(outcome, client.Failure):
        raise outcome.error
    return outcome


def dead_socket(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(path)


def test_a_worker_is_asked_over_http(base: str) -> None:
    """The request is HTTP for /snapshot, and the reply comes whole with the peer's credentials."""
    seen: list[bytes] = []

    def answer(connection: socket.socket) -> None:
        seen.append(connection.recv(65536))
        connection.sendall(http(SNAPSHOT))

    with listener(base, answer):
        reply = ask(base, 5)
    assert reply == (http(SNAPSHOT), os.getpid(), os.geteuid())
    assert seen == [b"GET /snapshot HTTP/1.0\r\nHost: worker\r\n\r\n"]


def test_who_asks_late_asks_again(base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A loaded machine may stop this process between connect and request: then a worker sends the text for silence."""
    sleeps = [0.5, 0.2]
    connect = client.connect

    def slowly(connection: socket.socket, path: str) -> None:
        connect(connection, path)
        if sleeps:
            time.sleep(sleeps.pop())

    monkeypatch.setattr(client, "connect", slowly)
    with held(base, waits):
        [answer] = survey([base]).answers
        assert answer.snapshot is not None
        assert [each.request.path for each in answer.snapshot.stacks if each.request] == ["/held/0"]
    assert not sleeps


def test_a_reset_after_the_text_is_its_end(base: str) -> None:
    """uWSGI closes with our request unread; what it sent before, more than a buffer holds, is all there."""
    with listener(base, talking(UWSGI_TEXT)):
        assert ask(base, 5).content == UWSGI_TEXT


def test_many_workers_are_asked_at_once(base: str, done: threading.Event, listeners: contextlib.ExitStack) -> None:
    """The outcomes come in the order of the questions, and all together take as long as the slowest."""
    for number in range(1, 41):
        answer = silent(done) if number % 10 == 0 else answering(http(SNAPSHOT))
        listeners.enter_context(listener(f"{base}{number}", answer))
    listeners.callback(done.set)
    started = time.monotonic()
    outcomes = client.ask_all([(f"{base}{number}", 2.0) for number in range(1, 41)])
    assert time.monotonic() - started < 7.0
    late = [number for number, outcome in enumerate(outcomes, 1) if isinstance(outcome, client.Failure)]
    assert late == [10, 20, 30, 40]


def test_silent_sockets_keep_only_their_own_users_waiting(
    base: str, done: threading.Event, listeners: contextlib.ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many one user binds before the others': the others are asked beside them, the reader's own user first."""
    monkeypatch.setattr(client, "_MAX_OPEN", 4)
    own = os.geteuid()
    silent_one, honest_one = own + 1, own + 2
    asked: list[int] = []

    def last(connection: socket.socket, number: int) -> None:
        asked.append(number)
        answering(http(SNAPSHOT))(connection)
        if len(asked) == 12:
            done.set()

    # Until all the others have been answered.
    for number in range(1, 9):
        listeners.enter_context(listener(f"{base}{number}", silent(done)))
    for number in range(9, 21):
        listeners.enter_context(listener(f"{base}{number}", functools.partial(last, number=number)))
    listeners.callback(done.set)
    owners = [silent_one] * 8 + [honest_one] * 6 + [own] * 6
    outcomes = client.ask_all([(f"{base}{number}", 5.0) for number in range(1, 21)], owners=owners)
    for outcome in outcomes[:8]:
        assert isinstance(outcome, client.Failure)
        # None was waited for in vain.
        assert isinstance(outcome.error, BadReply)
    assert all(isinstance(outcome, Reply) for outcome in outcomes[8:])
    # When the first of the others was asked, no more than three of these were still waited for.
    assert set(asked[:3]) <= set(range(15, 21))


def test_a_late_answer_replaces_the_findings(base: str, done: threading.Event) -> None:
    """A worker that was given up may still answer while another one is awaited."""
    given_up = threading.Event()

    def examine(waited_seconds: float) -> Generator[float, int, Findings]:
        assert waited_seconds >= client.EXAMINE_AFTER_SECONDS
        given_up.set()
        yield 0.0
        return Findings("busy", None, ())

    def late(connection: socket.socket) -> None:
        given_up.wait()
        # The silent one is asked for long enough, whenever this thread has its turn.
        answering(http(SNAPSHOT))(connection)

    with listener(f"{base}1", late), listener(f"{base}2", silent(done)):
        first, second = client.ask_all([(f"{base}1", 5), (f"{base}2", 1.5)], [examine, None])
        done.set()
    assert isinstance(first, Reply)
    assert isinstance(second, client.Failure)


def test_the_findings_stay_if_no_answer_comes(base: str, done: threading.Event) -> None:
    """Also if the connection closes without a byte."""
    given_up = threading.Event()

    def examine(_: float) -> Generator[float, int, Findings]:
        yield 0.0
        given_up.set()
        return Findings("busy", None, ("a note",))

    def close(_: socket.socket) -> None:
        given_up.wait()

    with listener(f"{base}1", close), listener(f"{base}2", silent(done)):
        first, _ = client.ask_all([(f"{base}1", 5), (f"{base}2", 0.6)], [examine, None])
        done.set()
    assert isinstance(first, client.Failure)
    assert first.findings == ("busy", None, ("a note",))


def test_a_worker_that_was_given_up_is_not_read_without_limit(
    base: str, done: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit for all replies of one user also counts bytes that come after the examination."""
    monkeypatch.setattr(client, "MAX_USER_BYTES", 1 << 20)
    given_up = threading.Event()
    sent = [0, 0]

    def examine(_: float) -> Generator[float, int, Findings]:
        yield 0.0
        given_up.set()
        return Findings("busy", None, ("a note",))

    def flood(number: int, connection: socket.socket) -> None:
        given_up.wait()
        # Ends when nobody listens any more.
        while sent[number] < 32 << 20:
            sent[number] += connection.send(b"x" * (1 << 16))

    with contextlib.ExitStack() as stack:
        for number in (0, 1):
            stack.enter_context(listener(f"{base}{number}", functools.partial(flood, number)))
        stack.enter_context(listener(f"{base}2", silent(done)))
        questions = [(f"{base}{number}", 1.5) for number in range(3)]
        *flooding, _ = client.ask_all(questions, [examine, examine, None])
        done.set()
    for outcome in flooding:
        assert isinstance(outcome, client.Failure)
        assert outcome.findings == ("busy", None, ("a note",))
    # And what lay in the buffers of the sockets.
    assert sum(sent) < 4 << 20


def test_the_time_limit_is_for_the_whole_reply(base: str, done: threading.Event) -> None:
    """A worker that sends a byte now and then does not hold the reader for ever."""

    def trickle(connection: socket.socket) -> None:
        while not done.wait(0.05):
            connection.sendall(b"H")

    with listener(base, trickle), pytest.raises(WorkerTimedOut, match="began to answer"):
        ask(base, 0.4)


def test_a_full_backlog_is_waited_for(base: str, done: threading.Event) -> None:
    """A worker that accepts late is asked late, and one that never accepts is timed out."""
    with listener(base, silent(done), backlog=0), contextlib.ExitStack() as clients:
        clients.callback(done.set)
        while True:
            waiting = clients.enter_context(socket.socket(socket.AF_UNIX))
            waiting.setblocking(False)
            try:
                waiting.connect(base)
            except BlockingIOError:
                break
        with pytest.raises(WorkerTimedOut, match=r"did not answer within 0\.2 s"):
            ask(base, 0.2)


def test_a_flood_is_cut_off(base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replies have a bound on their size."""
    monkeypatch.setattr(client, "MAX_REPLY_BYTES", 1 << 20)
    with listener(base, talking(b"x" * (3 << 20))), pytest.raises(BadReply, match="larger than 1 MiB"):
        ask(base, 5)


def test_nobody_behind_a_socket_is_dead(base: str) -> None:
    """A refused connection and a socket that vanished are both a worker that is gone."""
    dead_socket(base)
    with pytest.raises(WorkerDead, match="nobody listens"):
        ask(base, 5)
    os.unlink(base)
    with pytest.raises(WorkerDead, match="vanished"):
        ask(base, 5)


def test_a_datagram_socket_is_no_tracebackers(base: str) -> None:
    """It is a bad reply, not a crash."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bound:
        bound.bind(base)
        with pytest.raises(BadReply, match="stream"):
            ask(base, 5)


def test_an_empty_reply_is_a_refusal_unless_we_are_its_user(base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Our listener closes on strangers without a byte; on its owner only by a fault."""
    with listener(base, lambda _: None):
        with pytest.raises(BadReply, match="without a byte"):
            ask(base, 5)
        owner = os.geteuid()
        monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
        with pytest.raises(PermissionDenied, match=f"uid {owner}"):
            ask(base, 5)


def test_a_long_path_can_be_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths longer than a socket's address are reached through their folder."""
    folder = tmp_path / ("x" * 100)
    folder.mkdir()
    monkeypatch.chdir(folder)
    with listener("s1", answering(http(SNAPSHOT))):
        assert ask(str(folder / "s1"), 5).content == http(SNAPSHOT)


def test_the_silent_sockets_of_one_user_cost_few_rounds(
    base: str, listeners: contextlib.ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of any number of silent sockets of another user few are asked, and one line says how many are not; workers of
    one user that answer are all shown, as many as there can be.
    """
    needs_root()
    monkeypatch.setattr(client, "_MAX_OPEN", 2)
    monkeypatch.setattr(discovery, "MAX_USER_WORKERS", 8)
    for number in range(1, 31):
        bound = listeners.enter_context(socket.socket(socket.AF_UNIX))
        bound.bind(f"{base}{number}")
        bound.listen()
        os.chown(f"{base}{number}", STRANGER, STRANGER)
    for number in range(31, 39):
        listeners.enter_context(listener(f"{base}{number}", answering(http(SNAPSHOT))))
        os.chown(f"{base}{number}", BYSTANDER, BYSTANDER)
    found = survey([base], 0.2)
    assert [answer.state for answer in found.answers] == ["busy"] * 8 + ["alive"] * 8
    (line,) = found.missing
    assert line == f"22 workers of uid {STRANGER} are left out: of another user no more than 8 are read"


def test_a_survey_has_every_worker_in_order(base: str, done: threading.Event, listeners: contextlib.ExitStack) -> None:
    """Alive, busy, dead by its socket, dead by its card: each with its number, state and reason."""
    listeners.enter_context(listener(f"{base}1", answering(http(SNAPSHOT))))
    listeners.enter_context(listener(f"{base}2", silent(done)))
    listeners.callback(done.set)
    write_card(base, own_card(base, 2))
    dead_socket(f"{base}3")
    write_card(base, own_card(base, 4)._replace(start_ticks=1))
    listeners.enter_context(listener(f"{base}10", talking(uwsgi.UWSGI_HEADER)))
    found = survey([base], 0.3)
    assert [(a.number, a.state, a.error.reason if a.error else None) for a in found.answers] == [
        (1, "alive", None),
        (2, "busy", "timed out"),
        (3, "dead", "dead"),
        (4, "dead", "dead"),
        (10, "alive", None),
    ]
    assert found.answers[1].pid == os.getpid()
    idle = found.answers[4].snapshot
    assert idle is not None
    assert (idle.worker.number, idle.worker.pid, idle.worker.server) == (10, os.getpid(), "uWSGI")
    assert idle.worker.started_at is not None
    assert idle.worker.started_at == pytest.approx(time.time(), abs=3600)


def test_a_process_that_ended_is_dead_though_its_socket_is_held(
    base: str, done: threading.Event, listeners: contextlib.ExitStack
) -> None:
    """A child that inherited the socket keeps it open and answers nobody: the card tells the two apart."""
    listeners.enter_context(listener(f"{base}1", silent(done)))
    listeners.callback(done.set)
    write_card(base, own_card(base, 1)._replace(start_ticks=1))
    (answer,) = survey([base], 0.2).answers
    assert (answer.state, answer.error.reason if answer.error else None) == ("dead", "dead")


@pytest.mark.parametrize(
    ("whose", "state"),
    [
        ({}, "alive"),
        ({"start_ticks": 1}, "dead"),
        ({"pid_namespace": 1}, "unknown"),
        ({"pid_namespace": 1, "boot_id": "another"}, "dead"),
    ],
)
def test_a_socket_that_is_gone_is_no_death(whose: dict[str, Any], state: str, base: str) -> None:
    """Its process is asked about, and where that cannot be seen, it is said so with where to try."""
    write_card(base, own_card(base, 1)._replace(**whose))
    (answer,) = survey([base], 0.2).answers
    assert answer.state == state
    assert ("run wsgi-tb inside its container" in str(answer.error)) == (state == "unknown")


def test_only_the_numbers_asked_for_are_asked(base: str, listeners: contextlib.ExitStack) -> None:
    """The others are not even connected to, and a number that is not there is named."""
    listeners.enter_context(listener(f"{base}1", answering(http(SNAPSHOT))))
    dead_socket(f"{base}2")
    found = survey([base], 5, numbers=[1, 7])
    assert [answer.number for answer in found.answers] == [1]
    assert found.missing == ("no worker 7: there is 1, 2",)


def test_a_worker_that_is_named_twice_is_asked_once(base: str, listeners: contextlib.ExitStack) -> None:
    """By its base, its socket and another way to write its path."""
    listeners.enter_context(listener(f"{base}1", answering(http(SNAPSHOT))))
    folder, name = os.path.split(base)
    assert len(survey([base, f"{base}1", f"{folder}/./{name}"], 5).answers) == 1


def test_no_worker_at_all_is_an_error_that_helps(base: str) -> None:
    """It names the base, the paths that were tried, and what could be meant."""
    with pytest.raises(NoWorkersFound, match=rf"{base}1, {base}2 \.\.\."):
        survey([base], 5)
    with pytest.raises(NoWorkersFound, match="It is a folder: name the base path inside it"):
        survey([os.path.dirname(base)], 5)
    with pytest.raises(NoWorkersFound, match="cannot be listed: No such file or directory"):
        survey([f"{base}/missing/tb"], 5)


def test_a_worker_that_starts_again_just_now_is_asked_again(base: str, listeners: contextlib.ExitStack) -> None:
    """Its socket refuses and its process lives: it has bound and is about to listen."""
    listening = listeners.enter_context(socket.socket(socket.AF_UNIX))
    listening.bind(f"{base}1")
    write_card(base, own_card(base, 1))

    def replace_it(seconds: float) -> None:
        # What happens while the reader waits for its second look.
        os.unlink(f"{base}1")
        listeners.enter_context(listener(f"{base}1", answering(http(SNAPSHOT))))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "sleep", replace_it)
        (answer,) = survey([base], 5).answers
    assert answer.state == "alive"


def test_a_worker_that_ends_in_good_order_is_not_missed(base: str, listeners: contextlib.ExitStack) -> None:
    """Its socket vanishes between listing and connecting, and there is nothing to report."""
    listeners.enter_context(listener(f"{base}1", answering(http(SNAPSHOT))))
    dead_socket(f"{base}2")
    write_card(base, own_card(base, 2))

    def end_it(seconds: float) -> None:
        os.unlink(f"{base}2")
        os.unlink(f"{base}2.worker")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "sleep", end_it)
        assert [answer.number for answer in survey([base], 5).answers] == [1]


def test_a_socket_that_was_removed_under_a_running_worker_is_no_death(base: str) -> None:
    """The card's process lives: it is said to be so, and that its socket comes back."""
    write_card(base, own_card(base, 1))
    (answer,) = survey([base], 5).answers
    assert answer.state == "alive"
    assert "makes it anew" in str(answer.error)


def test_a_socket_of_another_user_is_no_permission(base: str) -> None:
    """Where the file modes keep the reader out it says so, and whom to ask as."""
    needs_root()
    with listener(base, answering(http(SNAPSHOT))):
        os.seteuid(65534)
        try:
            with pytest.raises(PermissionDenied, match="as the user that runs the worker, or as root"):
                ask(base, 5)
        finally:
            os.seteuid(0)
