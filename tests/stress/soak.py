"""Real gunicorn under every load and every reader at once, for as long as asked; ``make soak`` runs it for a minute.

``python -m tests.stress.soak --seconds 60``

Four servers serve the pages of ``tests.programs.soaked``: *steady*, wrapped, whose workers live to the end and are
measured; *moving*, wrapped, whose workers are killed, recycled and reloaded all the time; *raising*, wrapped with
harakiri_action=raise and a limit that no page overruns; and *bare*, the same pages unwrapped. Whatever a wrapped server
answers has to be what the bare one answered to the same request, byte for byte (but for the date); what steady's
workers gain in memory is held against what bare's gain under the same load.

A worker of moving is stopped before it is killed. What it holds then is written down: its clients' connections, from
the kernel, and the requests in flight, from the application's journal. Exactly those may be lost, every one of them has
to be, and the black box of the dead has to name them.

And what is wrapped has to do something: requests are seen in flight in each kind of output, overdue ones are reported,
readers that stay are dropped, and all files are their owner's alone.

Ends by itself; prints a table; the exit code is 1 if anything was wrong. ``--seed`` gives the same dice again.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import functools
import itertools
import json
import os
import random
import re
import select
import signal
import socket
import stat
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tests.programs.soaked import CHUNK, PAGES
from tests.servers import asking
from tests.support import black_boxes, clients
from tests.support.programs import PROJECT, default_signals
from tests.support.servers import Gunicorn, processes
from tests.support.waiting import wait_until
from wsgi_tracebacker.errors import FormatError
from wsgi_tracebacker.wire import uwsgi_text as uwsgi_format
from wsgi_tracebacker.wire.black_box import table_rows
from wsgi_tracebacker.wire.documents import card_json as card_format
from wsgi_tracebacker.wire.documents import snapshot_json as json_format

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from wsgi_tracebacker.model.snapshot import Snapshot

#: Of each worker of steady and bare.
THREADS = 8
#: Listener, watchdog, and two of the reporter while it logs.
OUR_THREADS = 4
STEADY_CLIENTS = 8
BARE_CLIENTS = 4
MOVING_CLIENTS = 6
RAISING_CLIENTS = 3
#: A request that hangs is one that is wrong.
PATIENCE_SECONDS = 30.0
#: Steady's workers begin to be measured when they have their threads, their caches and their arenas.
WARM_UP_SHARE = 0.3
#: How many times all load stops for a moment, so that what is left can be counted exactly.
ROUNDS = 9
#: What a worker may gain beyond the bare one, warm-up aside: seen are 20 in a minute, and 540 in the first ten seconds,
#: in which caches fill. A hundred bytes kept of each request are 700 in a minute.
SPARE_KIB = 768
#: In less than a minute what fills once is not full when the warm-up is over. Up to 3,900 were seen in a quarter of a
#: minute on a busy machine. All of it is 5,000: from 21,500, when a worker has served its first requests, to 26,500.
MEASURABLE_SECONDS = 60.0
SHORT_SPARE_KIB = 5 * 1024
#: A reader that never reads sits so long, and has to be dropped by then. A connection lives for 5 seconds; the others
#: are for a machine that is busy.
SITS_SECONDS = 10.0
#: So many have to have been seen, at least, before it is wrong that none of them showed anything.
MANY = 3
#: Within so many seconds both sides of every connection are closed.
CLOSING_SECONDS = 1.0
DYING_SECONDS = 5.0
#: A worker that has served for as long has its table.
STARTING_SECONDS = 1.0
SECRET = "secret-token"
#: What is reported as overdue by steady and moving; raising has nothing overdue.
LIMIT_SECONDS = 0.4
RAISING_LIMIT_SECONDS = 30
#: Longer than the limit.
OVERDUE = "/slow/450"
#: What a serving thread is called in every text.
SERVING = b"WSGIWorker"
#: How a reader may call the operator's command.
COMMANDS = (("read",), ("read", "--format", "json"), ("list",), ("postmortem",))
#: Stands for the weight of a kind that is asked on a connection which goes on after it.
KEPT = -1
#: After these a connection may go on; others break it, or end only with it.
GO_ON = ("/quick", "/slow")


class Kind(NamedTuple):
    """A request of the deck: what it asks for, and how often."""

    weight: int
    path: str
    method: str = "GET"
    body: bytes = b""


DECK = [
    *(Kind(6, f"/quick/{number}") for number in (0, 1, 2, 40)),
    *(Kind(2, "/echo/0", "POST", CHUNK * number) for number in (0, 1, 100)),
    *(Kind(2, f"/slow/{number}") for number in (5, 50, 200)),
    Kind(1, OVERDUE),
    *(Kind(2, f"/stream/{number}") for number in (0, 1, 30)),
    *(Kind(2, f"/counted/{number}") for number in (0, 1, 5)),
    Kind(1, "/closing/2"),
    *(Kind(2, f"/write/{number}") for number in (0, 3)),
    Kind(2, "/file/512"),
    Kind(2, "/error/1"),
    Kind(1, "/late/0"),
    Kind(1, "/late/4"),
    Kind(2, "/handled/507"),
    *(Kind(2, f"/burn/{number}") for number in (3, 20)),
    *(Kind(1, f"/deep/{number}") for number in (5, 80, 300)),
    Kind(2, "/nested/1"),
    Kind(2, "/threads/3"),
    *(Kind(1, f"/status/{number}") for number in (204, 304, 404, 503)),
    Kind(1, "/quick/1", "HEAD"),
]


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


class Gate:
    """Lets the load through, or holds it between two rounds."""

    def __init__(self) -> None:
        self._open = threading.Event()
        self._open.set()
        self._lock = threading.Lock()
        self._inside = 0
        self.over = False

    @contextlib.contextmanager
    def through(self) -> Iterator[bool]:
        """Wait until the gate is open; False when all is over."""
        while True:
            self._open.wait()
            with self._lock:
                if self._open.is_set():
                    self._inside += 1
                    break
        try:
            yield not self.over
        finally:
            with self._lock:
                self._inside -= 1

    @property
    def is_open(self) -> bool:
        return self._open.is_set() and not self.over

    def close(self) -> None:
        """Hold everybody; returns when nobody is on the way."""
        with self._lock:
            self._open.clear()
        wait_until(lambda: self._inside == 0, "all clients and readers are back", 2 * PATIENCE_SECONDS)

    def open(self) -> None:
        self._open.set()

    def end(self) -> None:
        self.over = True
        self.open()


@dataclass
class Tally:
    """What has happened so far; everybody adds to it."""

    counts: collections.Counter[str] = field(default_factory=collections.Counter)
    wrong: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, what: str, number: int = 1) -> None:
        with self.lock:
            self.counts[what] += number

    def blame(self, text: str) -> None:
        with self.lock:
            self.wrong.append(text)


# --- clients


def sent(kind: Kind, identity: str, *, keep: bool = False) -> bytes:
    head = (
        f"{kind.method} {kind.path}/{identity}?token={SECRET} HTTP/1.1\r\nHost: soak\r\nX-Request-ID: {identity}\r\n"
        f"Connection: {'keep-alive' if keep else 'close'}\r\n"
    )
    if kind.method == "POST":
        head += f"Content-Length: {len(kind.body)}\r\n"
    return f"{head}\r\n".encode() + kind.body


def without_date(received: bytes) -> bytes:
    return re.sub(rb"\r\nDate: [^\r]*", b"", received)


@dataclass(frozen=True)
class Lost:
    """A request that was not answered as the bare server does."""

    identity: str
    kind: Kind
    port: int
    since: float
    until: float
    received: bytes


class Client:
    """Asks one server, one request after the other, and compares."""

    _identities = itertools.count(1)

    def __init__(self, server: Gunicorn, name: str, answers: dict[Kind, bytes], tally: Tally, gate: Gate) -> None:
        self.server = server
        self.name = name
        self.answers = answers
        self.tally = tally
        self.gate = gate
        self.lost: list[Lost] = []
        #: Identities of requests whose clients left, by plan.
        self.left: set[str] = set()

    def run(self, dice: random.Random) -> None:
        while True:
            with self.gate.through() as goes_on:
                if not goes_on:
                    return
                what = dice.random()
                if what < 0.05:
                    self.leave(dice)
                elif what < 0.1 and self.name != "moving":
                    self.ask(dice, dice.choices(DECK, [kind.weight for kind in DECK], k=3))
                else:
                    self.ask(dice, dice.choices(DECK, [kind.weight for kind in DECK]))

    def ask(self, dice: random.Random, kinds: list[Kind]) -> None:
        """One request, or several down one connection."""
        identity = str(next(self._identities))
        if len(kinds) > 1:
            # What breaks a connection, or reads to its end, can only be the last.
            kinds = [kind for kind in kinds[:-1] if kind.path.startswith(GO_ON)] + kinds[-1:]
        received, port, since = b"", 0, time.monotonic()
        try:
            with clients.connect(self.server.address, PATIENCE_SECONDS) as connection:
                port = connection.getsockname()[1]
                for place, kind in enumerate(kinds, 1):
                    connection.sendall(sent(kind, identity, keep=place < len(kinds)))
                while part := connection.recv(1 << 16):
                    received += part
                    if dice.random() < 0.01:
                        time.sleep(0.05)
        except TimeoutError:
            self.tally.blame(f"{self.name} did not answer {kinds} in {PATIENCE_SECONDS:g} s")
        except ConnectionError:
            pass
        self.tally.count(f"{self.name}: requests", len(kinds))
        expected = b"".join(self.answers[kind._replace(weight=KEPT)] for kind in kinds[:-1]) + self.answers[kinds[-1]]
        if without_date(received) == expected:
            self.tally.count(f"{self.name}: answered as bare", len(kinds))
            self.tally.count(f"{self.name}: of these beyond the limit", sum(kind.path == OVERDUE for kind in kinds))
        else:
            self.lost.append(Lost(identity, kinds[-1], port, since, time.monotonic(), received))

    def leave(self, dice: random.Random) -> None:
        """Go away: before the request is whole, while it runs, or in the middle of the answer, in order or rudely."""
        identity = str(next(self._identities))
        self.left.add(identity)
        kind = dice.choice([kind for kind in DECK if kind.path.startswith(("/slow", "/stream", "/quick", "/write"))])
        self.tally.count(f"{self.name}: clients that left")
        with contextlib.suppress(ConnectionError), clients.connect(self.server.address, PATIENCE_SECONDS) as connection:
            content = sent(kind, identity)
            connection.sendall(content[: dice.choice([10, len(content), len(content)])])
            time.sleep(dice.choice([0.0, 0.01, 0.03]))
            if dice.random() < 0.5:
                connection.settimeout(0.01)
                with contextlib.suppress(TimeoutError):
                    connection.recv(dice.choice([1, 1000]))
            if dice.random() < 0.5:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")


def bare_answers(server: Gunicorn) -> dict[Kind, bytes]:
    """What the unwrapped application answers; under the weight KEPT what it does on a connection that is kept."""
    found = {kind: without_date(all_of(server, sent(kind, "0"))) for kind in DECK}
    last = DECK[0]
    for kind in DECK:
        if kind.path.startswith(GO_ON):
            both = without_date(all_of(server, sent(kind, "0", keep=True) + sent(last, "0")))
            found[kind._replace(weight=KEPT)] = both.removesuffix(found[last])
    return found


def held_back_answers(answers: dict[Kind, bytes]) -> dict[Kind, bytes]:
    """The same with ``raise``. To the headers of a first start_response() gunicorn adds those of a second one with
    exc_info; there it is told of the second only.
    """
    first = b"Content-Type: text/plain\r\nX-Kind: 200 OK\r\n"
    return {
        kind: answer.replace(first, b"", 1) if kind.path.startswith("/handled") else answer
        for kind, answer in answers.items()
    }


def all_of(server: Gunicorn, content: bytes) -> bytes:
    with clients.connect(server.address, PATIENCE_SECONDS) as connection:
        connection.sendall(content)
        received = b""
        with contextlib.suppress(ConnectionError):
            while part := connection.recv(1 << 16):
                received += part
        return received


# --- readers


class Readers:
    """Everybody who reads the sockets of a base, well or badly."""

    def __init__(self, base: str, name: str, tally: Tally, gate: Gate) -> None:
        self.base = base
        self.name = name
        self.tally = tally
        self.gate = gate
        #: Errors that a reader may meet where workers die and go.
        self.may_miss = (OSError,) if name == "moving" else ()
        #: In turn, so that none is left out in a short run.
        self._commands = itertools.cycle(COMMANDS)

    def run(self, act: Callable[[random.Random], None], pause_seconds: float, dice: random.Random) -> None:
        while True:
            with self.gate.through() as goes_on:
                if not goes_on:
                    return
                try:
                    act(dice)
                except self.may_miss:
                    self.tally.count(f"{self.name}: readers that met nobody")
                except Exception as error:
                    self.tally.blame(f"{self.name}: {act.__name__}: {type(error).__name__}: {error}")
            time.sleep(pause_seconds * dice.random() * 2)

    def _socket(self, dice: random.Random) -> tuple[int, str]:
        numbers = asking.numbers(self.base)
        if not numbers:
            raise FileNotFoundError("nobody is there")
        number = dice.choice(numbers)
        return number, f"{self.base}{number}"

    def _count(self, what: str, content: bytes) -> None:
        self.tally.count(f"{self.name}: {what}")
        if SECRET.encode() in content:
            self.tally.blame(f"{self.name}: a query string is in {what}")

    def _fetch(self, dice: random.Random, content: bytes, *, shuts: bool = False) -> tuple[int, bytes]:
        """What one worker sends, whole; ConnectionError if it died meanwhile."""
        number, path = self._socket(dice)
        received = b""
        with clients.connect(path) as connection:
            peer = int.from_bytes(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)[:4], sys.byteorder)
            # On a busy machine its question may come so late that it was taken for a silent client, and answered.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connection.sendall(content)
                if shuts:
                    connection.shutdown(socket.SHUT_WR)
            with contextlib.suppress(ConnectionResetError):
                while part := connection.recv(1 << 16):
                    received += part
        if content and received.startswith(uwsgi_format.HEADER):
            self.tally.count(f"{self.name}: readers that asked too late")
            content = b""
        head, _, body = received.partition(b"\r\n\r\n")
        if content:
            length = re.search(rb"\r\nContent-Length: (\d+)", head)
            is_whole = length is not None and int(length[1]) == len(body)
        else:
            # Each thread's block ends with an empty line.
            is_whole, body = received.endswith(b"\n\n"), received
        if not is_whole:
            # Killed: its connections are closed a moment before it is gone.
            with contextlib.suppress(AssertionError):
                wait_until(lambda: peer not in processes(), "it is gone", DYING_SECONDS)
                raise ConnectionError("it died before its answer was out")
            raise AssertionError(f"worker {number}, alive, sent only {received[-300:]!r}")
        if content and not head.startswith(b"HTTP/1.0 200 "):
            raise AssertionError(f"worker {number} answered {received[:300]!r}")
        return number, body

    def json(self, dice: random.Random) -> None:
        number, body = self._fetch(dice, b"GET /snapshot HTTP/1.0\r\n\r\n")
        if body.startswith(uwsgi_format.HEADER):
            self._check_text("dumps of those who asked too late", body)
            return
        self._count("JSON dumps", body)
        self._check(number, json_format.decode(body))

    def _check(self, number: int, snapshot: Snapshot) -> None:
        """No thread is blamed for what another one, or an earlier request of its own, does."""
        if snapshot.worker.number != number:
            self.tally.blame(f"{self.name}: worker {snapshot.worker.number} answered as {number}")
        for stack in snapshot.stacks:
            if stack.request is None:
                continue
            kind = stack.request.path.split("/")[1]
            pages = [frame.function for frame in stack.frames if frame.function.startswith("page_")]
            if pages and pages[0] != f"page_{kind}":
                self.tally.blame(f"{self.name}: {stack.request.path} is said to be in {pages}")
            self.tally.count(f"{self.name}: requests seen in flight", 1)

    def text(self, dice: random.Random) -> None:
        path = dice.choice([b"/", b"/snapshot.txt"])
        self._check_text("text dumps", self._fetch(dice, b"GET %s HTTP/1.0\r\n\r\n" % path)[1])

    def _check_text(self, what: str, content: bytes) -> None:
        self._count(what, content)
        self.tally.count(f"{self.name}: {what} that showed serving threads", int(b"thread_id = " + SERVING in content))
        if uwsgi_format.encode(uwsgi_format.parse(content)).count(b"\n") != content.count(b"\n"):
            self.tally.blame(f"{self.name}: not every line of a text dump is a frame")

    def silent(self, dice: random.Random) -> None:
        """As uWSGI's own client: it says nothing, or shuts its side."""
        self._check_text("dumps of silent clients", self._fetch(dice, b"", shuts=dice.random() < 0.3)[1])

    def never(self, dice: random.Random) -> None:
        """Ask, and never read: the worker drops it after its time."""
        self._sit(dice, b"GET /snapshot HTTP/1.0\r\n\r\n")

    def unfinished(self, dice: random.Random) -> None:
        """Begin to ask, and go no further: the worker drops it after its time."""
        self._sit(dice, b"GET /snap")

    def _sit(self, dice: random.Random, content: bytes) -> None:
        number, path = self._socket(dice)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError), clients.connect(path) as connection:
            connection.sendall(content)
            until = time.monotonic() + SITS_SECONDS
            while self.gate.is_open and time.monotonic() < until:
                time.sleep(0.1)
            if self.gate.is_open:
                self.tally.count(f"{self.name}: readers that sat until they had to be dropped")
                if not _is_dropped(connection):
                    self.tally.blame(f"{self.name}: worker {number} has not dropped who sent {content!r} and sat there")
        self.tally.count(f"{self.name}: readers that never read")

    def garbage(self, dice: random.Random) -> None:
        _, path = self._socket(dice)
        with clients.connect(path) as connection, contextlib.suppress(BrokenPipeError, ConnectionResetError):
            content = dice.choice(
                [
                    dice.randbytes(dice.randrange(1, 5000)),
                    b"\r\n" * 3000,
                    b"GET " + b"/" * 40_000,
                    b"POST /snapshot HTTP/1.0\r\n\r\n",
                    b"GET /nothing HTTP/1.0\r\n\r\n",
                    b"GET /snapshot HTTP/9.9\r\nX: " + b"y" * 20_000,
                    b"\x16\x03\x01\x02\x00\x01\x00",
                ]
            )
            for start in range(0, len(content), 7000):
                connection.sendall(content[start : start + 7000])
            connection.shutdown(socket.SHUT_WR)
            received = b""
            while part := connection.recv(1 << 16):
                received += part
            # Line ends alone are silence for all we know; anything else is refused.
            if received and not re.match(rb"HTTP/1\.0 4\d\d ", received):
                self.tally.blame(f"{self.name}: {content[:30]!r} was answered {received[:60]!r}")
        self.tally.count(f"{self.name}: readers that sent garbage")

    def half(self, dice: random.Random) -> None:
        _, path = self._socket(dice)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError), clients.connect(path) as connection:
            connection.sendall(b"GET /snapshot HTTP/1.0\r\n\r\n"[: dice.choice([3, 30])])
            if dice.random() < 0.5:
                connection.settimeout(0.02)
                with contextlib.suppress(TimeoutError):
                    connection.recv(100)
        self.tally.count(f"{self.name}: readers that left half-way")

    def command(self, _: random.Random) -> None:
        """The operator's own command, as a process."""
        arguments = next(self._commands)
        command = [sys.executable, "-m", "wsgi_tracebacker", *arguments, self.base]
        done = subprocess.run(command, cwd=PROJECT, capture_output=True, check=False, timeout=PATIENCE_SECONDS)
        self._count("wsgi-tb", done.stdout + done.stderr)
        if arguments == ("read",):
            self.tally.count(f"{self.name}: wsgi-tb read")
            shown = int(re.search(rb"worker \d+ core \d+", done.stdout) is not None)
            self.tally.count(f"{self.name}: wsgi-tb read that showed serving threads", shown)
        # Where workers die, one may have just done so; where they live, none may be missed.
        if done.returncode not in ((0, 1, 3) if self.name == "moving" else (0,)) or b"Traceback (most" in done.stderr:
            self.tally.blame(f"{self.name}: wsgi-tb {arguments} ended with {done.returncode}: {done.stderr[-600:]!r}")
        if "json" in arguments and done.returncode == 0:
            json.loads(done.stdout)


def _is_dropped(connection: socket.socket) -> bool:
    """Whether the other side has closed, also if what it sent before has not been read."""
    poll = select.poll()
    poll.register(connection, 0)
    return bool(poll.poll(0))


# --- workers that come and go


@dataclass(frozen=True)
class Death:
    """What a worker held when it was killed: everything in it stood still."""

    pid: int
    at: float
    ports: frozenset[int]
    #: Identities of requests, by the journal and by the table of its black box.
    in_flight: frozenset[str]
    #: None: it had no table yet.
    in_table: frozenset[str] | None
    #: Since when it had been serving, by time.monotonic(); None if nothing had begun in it.
    serving_since: float | None


class Reaper:
    """Kills workers, and reloads them."""

    def __init__(self, server: Gunicorn, base: str, journal: Path, tally: Tally) -> None:
        self.server = server
        self.base = base
        self.journal = journal
        self.tally = tally
        self.deaths: list[Death] = []

    def kill(self, dice: random.Random) -> None:
        workers = self.server.workers()
        if not workers:
            return
        pid = dice.choice(workers)
        try:
            os.kill(pid, signal.SIGSTOP)
            wait_until(lambda: _state(pid) in ("T", "Z", ""), "the worker is stopped")
            if _state(pid) == "T":
                table = self._table(pid)
                open_requests = frozenset(self.open_requests(pid))
                death = Death(pid, time.monotonic(), _ports(pid), open_requests, table, self.serving_since(pid))
                os.kill(pid, signal.SIGKILL)
                self.deaths.append(death)
                self.tally.count("moving: workers killed")
        except ProcessLookupError:
            pass

    def reload(self) -> None:
        os.kill(self.server.pid, signal.SIGHUP)
        self.tally.count("moving: reloads")

    def open_requests(self, pid: int) -> set[str]:
        """What began in a process and did not end."""
        found: set[str] = set()
        with contextlib.suppress(FileNotFoundError):
            for line in (self.journal / str(pid)).read_text(encoding="ascii").splitlines():
                what, _, identity = line.partition(" ")
                # Calls within a request have no identity of their own.
                if identity != "0":
                    (found.add if what == "B" else found.discard)(identity)
        return found

    def serving_since(self, pid: int) -> float | None:
        """When its first request began, by time.monotonic()."""
        with contextlib.suppress(FileNotFoundError):
            if match := re.match(r"F ([0-9.]+)\n", (self.journal / str(pid)).read_text(encoding="ascii")):
                return float(match[1])
        return None

    def began(self) -> dict[str, list[int]]:
        """The processes in which each request began."""
        found: dict[str, list[int]] = collections.defaultdict(list)
        for path in self.journal.iterdir():
            for line in path.read_text(encoding="ascii").splitlines():
                if line.startswith("B ") and line != "B 0":
                    found[line[2:]].append(int(path.name))
        return found

    def _table(self, pid: int) -> frozenset[str] | None:
        for number in asking.numbers(self.base):
            # A card may be half-written, or just gone.
            with contextlib.suppress(OSError, FormatError):
                card = card_format.decode(Path(f"{self.base}{number}.worker").read_bytes())
                if card.pid == pid and card.black_box is not None:
                    content = Path(card.black_box).read_bytes()
                    rows, torn = table_rows.decode_rows(content, content)
                    if torn:
                        self.tally.count("moving: rows caught half-written")
                    return frozenset(row.path.rpartition("/")[2] for row in rows)
        return None


def _state(pid: int) -> str:
    """T only if all threads are stopped."""
    try:
        states = {
            Path(f"/proc/{pid}/task/{task}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
            for task in os.listdir(f"/proc/{pid}/task")
        }
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return states.pop() if len(states) == 1 else "mixed"


def _ports(pid: int) -> frozenset[int]:
    """The ports of the clients that a process is connected with, as the kernel says."""
    sockets = set()
    for number in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            match = re.fullmatch(r"socket:\[(\d+)\]", os.readlink(f"/proc/{pid}/fd/{number}"))
            if match:
                sockets.add(match[1])
    found = set()
    for line in Path(f"/proc/{pid}/net/tcp").read_text(encoding="ascii").splitlines()[1:]:
        fields = line.split()
        if fields[9] in sockets and not fields[2].endswith(":0000"):
            found.add(int(fields[2].rpartition(":")[2], 16))
    return frozenset(found)


# --- growth


@dataclass(frozen=True)
class Holding:
    """What a process holds while nobody asks it anything."""

    descriptors: int
    threads: int
    #: Anonymous memory that is resident.
    kib: int


def holding(pid: int) -> Holding:
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    kib = re.search(r"^RssAnon:\s+(\d+) kB", status, re.MULTILINE)
    assert kib is not None
    return Holding(len(os.listdir(f"/proc/{pid}/fd")), len(os.listdir(f"/proc/{pid}/task")), int(kib[1]))


def slope(values: list[int]) -> float:
    """The straight line through values at equal distances: its rise over all of them (Theil and Sen, so that one
    value that is off does not count).
    """
    pairs = [
        (second - first) / (later - earlier)
        for (earlier, first), (later, second) in itertools.combinations(enumerate(values), 2)
    ]
    return statistics.median(pairs) * (len(values) - 1) if pairs else 0.0


def endings_of_tracebacks(log: str) -> Iterator[str]:
    """The line that each traceback of a log ends with: the first one that is not indented."""
    inside = False
    for line in log.splitlines():
        if line == "Traceback (most recent call last):":
            inside = True
        elif inside and line and not line.startswith(" "):
            inside = False
            yield line


class Soak:
    """One run."""

    def __init__(self, folder: str, seconds: float, seed: int) -> None:
        self.seconds = seconds
        self.dice = random.Random(seed)
        self.folder = Path(folder)
        self.steady_base, self.moving_base, self.raising_base = (f"{folder}/{letter}" for letter in "smr")
        self.tally = Tally()
        self.gate = Gate()
        #: Of those who sit for longer than a round: never closed before the end.
        self.sitters_gate = Gate()
        self.holdings: dict[int, list[Holding]] = collections.defaultdict(list)
        self.files: list[int] = []
        #: Files that others than their owner may open.
        self.open_to_others: dict[Path, int] = {}

    def run(self) -> list[str]:
        journal = self.folder / "journal"
        journal.mkdir()
        with contextlib.ExitStack() as stack:

            def start(name: str, application: str, *arguments: str, **env: str) -> Gunicorn:
                return stack.enter_context(
                    Gunicorn(
                        f"tests.programs.soaked:{application}",
                        *("--worker-class", "gthread", "--graceful-timeout", "30", "--timeout", "60"),
                        *arguments,
                        log=self.folder / f"{name}.log",
                        env=env,
                    )
                )

            watched = {"WSGI_TB_SLOW": "0.15", "WSGI_TB_HARAKIRI": str(LIMIT_SECONDS)}
            self.bare = start("bare", "bare", "--workers", "1", "--threads", str(THREADS))
            self.steady = start(
                *("steady", "application", "--workers", "2", "--threads", str(THREADS)),
                WSGI_TB_SOCKET=self.steady_base,
                **watched,
            )
            self.moving = start(
                *("moving", "application", "--workers", "3", "--threads", "4"),
                *("--max-requests", "150", "--max-requests-jitter", "100"),
                WSGI_TB_SOCKET=self.moving_base,
                SOAK_JOURNAL=str(journal),
                **watched,
            )
            self.raising = start(
                *("raising", "application", "--workers", "1", "--threads", str(THREADS)),
                WSGI_TB_SOCKET=self.raising_base,
                WSGI_TB_HARAKIRI=str(RAISING_LIMIT_SECONDS),
                WSGI_TB_HARAKIRI_ACTION="raise",
            )
            answers = bare_answers(self.bare)
            self.clients = [
                Client(server, name, expected, self.tally, self.gate)
                for server, name, expected, count in (
                    (self.steady, "steady", answers, STEADY_CLIENTS),
                    (self.bare, "bare", answers, BARE_CLIENTS),
                    (self.moving, "moving", answers, MOVING_CLIENTS),
                    (self.raising, "raising", held_back_answers(answers), RAISING_CLIENTS),
                )
                for _ in range(count)
            ]
            self.reaper = Reaper(self.moving, self.moving_base, journal, self.tally)
            self._soak()
            self._settle()
            for server in (self.moving, self.steady, self.raising, self.bare):
                server.end_signal = signal.SIGTERM
                server.stop()
            self._check_lost()
            self._check_postmortems()
            self._check_growth()
            self._check_logs()
            self._check_shown()
            self._check_files()
        return self.tally.wrong

    def _soak(self) -> None:
        for server, base, count in (
            (self.steady, self.steady_base, 2),
            (self.moving, self.moving_base, 1),
            (self.raising, self.raising_base, 1),
        ):
            # In one burst, so that each worker gets some of it.
            wait_until(functools.partial(self._serve, server, base, count), "workers serve")
        began = time.monotonic()
        threads = [
            threading.Thread(target=client.run, args=(random.Random(self.dice.getrandbits(32)),), daemon=True)
            for client in self.clients
        ]
        for base, name in ((self.steady_base, "steady"), (self.moving_base, "moving")):
            readers = Readers(base, name, self.tally, self.gate)
            for act, pause in (
                (readers.json, 0.02),
                (readers.text, 0.05),
                (readers.silent, 0.05),
                *[(readers.never, 0.1)] * 3,
                (readers.unfinished, 0.1),
                (readers.garbage, 0.1),
                (readers.half, 0.05),
                (readers.command, 0.4),
            ):
                threads.append(self._reading(readers, act, pause))
        # They would be dropped with moving's workers, and counted among what steady's hold.
        sitters = Readers(self.raising_base, "raising", self.tally, self.sitters_gate)
        threads += [self._reading(sitters, act, 0.1) for act in (sitters.never, sitters.unfinished)]
        readers = Readers(self.raising_base, "raising", self.tally, self.gate)
        threads += [self._reading(readers, act, 0.2) for act in (readers.json, readers.text)]
        for thread in threads:
            thread.start()
        try:
            for number in range(1, ROUNDS + 1):
                ends_at = began + self.seconds * number / ROUNDS
                while time.monotonic() < ends_at:
                    time.sleep(min(0.4, max(0.0, ends_at - time.monotonic())))
                    what = self.dice.random()
                    if what < 0.4:
                        self.reaper.kill(self.dice)
                    elif what < 0.45:
                        self.reaper.reload()
                self.gate.close()
                self._measure()
                self.gate.open()
        finally:
            self.sitters_gate.end()
            self.gate.end()
        for thread in threads:
            thread.join(PATIENCE_SECONDS)
            if thread.is_alive():
                self.tally.blame("a client or reader has not come back")

    def _reading(self, readers: Readers, act: Callable[[random.Random], None], pause: float) -> threading.Thread:
        own_dice = random.Random(self.dice.getrandbits(32))
        return threading.Thread(target=readers.run, args=(act, pause, own_dice), daemon=True)

    def _serve(self, server: Gunicorn, base: str, count: int) -> bool:
        with contextlib.ExitStack() as burst:
            asked = [
                burst.enter_context(clients.in_flight(server.address, "/slow/50/0")) for _ in range(count * THREADS)
            ]
            for connection in asked:
                connection.getresponse().read()
        return len(asking.numbers(base)) >= count

    def _measure(self) -> None:
        """While nobody asks: what is left of all that."""
        for name, path in (
            ("worker 1 of steady", f"{self.steady_base}1"),
            ("worker 2 of steady", f"{self.steady_base}2"),
            ("the worker of raising", f"{self.raising_base}1"),
        ):
            wait_until(functools.partial(self._is_idle, path), f"{name} has nothing left to do")
        for server in (self.steady, self.bare):
            for pid in server.workers():
                found = holding(pid)
                least = min((each.descriptors for each in self.holdings[pid]), default=found.descriptors)
                until = time.monotonic() + CLOSING_SECONDS
                while found.descriptors > least and time.monotonic() < until:
                    # A connection that was just closed on our side.
                    time.sleep(0.02)
                    found = holding(pid)
                self.holdings[pid].append(found)
        self.files.append(len(list(self.folder.glob("s*"))) + len(black_boxes.files_of(self.steady_base)))
        self._look_at_modes()

    def _look_at_modes(self) -> None:
        """Cards, sockets and all in shared memory are their owner's alone."""
        for base in (self.steady_base, self.moving_base, self.raising_base):
            beside = [Path(f"{base}{name}") for name in asking.files(base) if name.removesuffix(".worker").isdigit()]
            for path in (*beside, *black_boxes.files_of(base)):
                # Those of moving come and go.
                with contextlib.suppress(FileNotFoundError):
                    mode = stat.S_IMODE(path.lstat().st_mode)
                    self.tally.count("modes looked at")
                    if mode != 0o600:
                        self.open_to_others[path] = mode

    def _is_idle(self, path: str) -> bool:
        worker, _ = json_format.decode_worker(clients.request(path, "/worker").body)
        return worker.requests_in_flight == 0

    def _settle(self) -> None:
        """Every worker is asked once more, with no load: no fault was caught, and it is what it was."""
        self.steady_workers = self.steady.workers()
        for base in (self.steady_base, self.moving_base, self.raising_base):
            for number in asking.numbers(base):
                try:
                    content = clients.request(f"{base}{number}", "/worker").body
                except OSError:
                    if base != self.moving_base:
                        self.tally.blame(f"{base}{number} does not answer at the end")
                    continue
                worker, counters = json_format.decode_worker(content)
                if counters.faults:
                    self.tally.blame(f"{base}{number}: {counters.faults} faults")
                self.tally.count("dumps of those that lived to the end", counters.snapshots)
                self.tally.count("readers dropped by those that lived to the end", counters.clients_dropped)
                if worker.requests_in_flight:
                    self.tally.blame(f"{base}{number}: {worker.requests_in_flight} requests in flight, and no client")

    # --- what was wrong

    def _check_lost(self) -> None:
        """What was not answered as by the bare server: by a kill, each by one that is known, and nothing else."""
        deaths = self.reaper.deaths
        began = self.reaper.began()
        dead = {death.pid: death for death in deaths}
        lost_identities = set()
        for client in self.clients:
            for lost in client.lost:
                lost_identities.add(lost.identity)
                of = [death for death in deaths if lost.port in death.ports and lost.since <= death.at <= lost.until]
                if client.name != "moving" or not of:
                    self.tally.blame(
                        f"{client.name}: {lost.kind.method} {lost.kind.path}/{lost.identity} had another answer than"
                        f" bare's: {lost.received[:300]!r}, expected {client.answers[lost.kind][:300]!r}"
                    )
                    continue
                in_processes = began.get(lost.identity, [])
                if in_processes and in_processes != [of[0].pid]:
                    self.tally.blame(f"request {lost.identity} was in {in_processes}, its connection in {of[0].pid}")
                where = "while it ran" if lost.identity in of[0].in_flight else "before it began"
                if in_processes and lost.identity not in of[0].in_flight:
                    where = "while its response was sent"
                self.tally.count(f"moving: taken down by a kill {where}")
        left = set().union(*(client.left for client in self.clients))
        for death in deaths:
            for identity in death.in_flight - lost_identities - left:
                self.tally.blame(f"request {identity} was in flight in {death.pid} when that was killed, and not lost")
        for identity, pids in began.items():
            if len(pids) > 1:
                self.tally.blame(f"request {identity} was served {len(pids)} times: {pids}")
        # Who was not killed has ended all that it began.
        for path in self.reaper.journal.iterdir():
            pid = int(path.name)
            if pid not in dead and (open_requests := self.reaper.open_requests(pid)):
                self.tally.blame(f"{pid} was not killed and left {sorted(open_requests)} unfinished")

    def _check_postmortems(self) -> None:
        """What was in flight in the killed is in their black boxes, and in the log or the grave."""
        log = self.moving.log_text()
        told: dict[int, set[str]] = {}
        pid = 0
        for line in log.splitlines():
            # Somewhere in the line: another process may have written half of one when this was written.
            if match := re.search(
                r"ERROR wsgi_tracebacker\.postmortem: postmortem: worker \d+, pid (\d+), died with", line
            ):
                pid = int(match[1])
                told[pid] = set()
            elif pid and (match := re.match(r"  [A-Z]+ /\S+/(\d+)  \(core", line)):
                told[pid].add(match[1])
            else:
                pid = 0
        command = [sys.executable, "-m", "wsgi_tracebacker", "postmortem", "--format", "json", self.moving_base]
        done = subprocess.run(command, cwd=PROJECT, capture_output=True, check=False, timeout=PATIENCE_SECONDS)
        for found in json.loads(done.stdout or b'{"postmortems": []}')["postmortems"]:
            told.setdefault(found["pid"], {request["path"].rpartition("/")[2] for request in found["requests"]})
        for death in self.reaper.deaths:
            if death.in_table is None:
                # A second thread's first request is not held up until the first one's has made the table.
                served = death.at - (death.at if death.serving_since is None else death.serving_since)
                if death.in_flight and served > STARTING_SECONDS:
                    self.tally.blame(
                        f"{death.pid} was killed in {len(death.in_flight)} requests after {served:.1f} s of serving,"
                        " and had no table"
                    )
                self.tally.count("moving: killed before they had a table")
                continue
            if not death.in_flight <= death.in_table:
                self.tally.blame(f"{death.pid}: in flight {death.in_flight}, its table had {death.in_table}")
            if death.in_table != told.get(death.pid, set()):
                mentioned = [line[:200] for line in log.splitlines() if re.search(rf"\b{death.pid}\b", line)]
                self.tally.blame(
                    f"{death.pid}: its table had {death.in_table}, told were {told.get(death.pid)};"
                    f" the log has {mentioned}"
                )
            self.tally.count("moving: requests named by black boxes of the killed", len(death.in_table))
            self.tally.count("moving: deaths told", int(death.pid in told))
        for pid in told.keys() - {death.pid for death in self.reaper.deaths}:
            self.tally.blame(f"{pid} is said to have died, and was not killed")

    def _check_growth(self) -> None:
        bare_kib = 0.0
        for pid, found in sorted(self.holdings.items(), key=lambda entry: entry[0] in self.steady_workers):
            warm = found[int(len(found) * WARM_UP_SHARE) :]
            is_bare = pid not in self.steady_workers
            name = "bare" if is_bare else "steady"
            if len(found) < ROUNDS:
                self.tally.blame(f"worker {pid} of {name} did not live to the end")
            grown = slope([each.kib for each in warm])
            say(
                f"  {name:6} pid {pid}: descriptors {[each.descriptors for each in found]},"
                f" threads {[each.threads for each in found]}, KiB {[each.kib for each in found]},"
                f" {grown:+.0f} KiB after warm-up"
            )
            if is_bare:
                bare_kib = grown
                continue
            descriptors = [each.descriptors for each in warm]
            if descriptors[-1] > descriptors[0] or slope(descriptors) > 0:
                self.tally.blame(f"worker {pid}: descriptors grow: {descriptors}")
            # A pool starts its threads as it needs them: more than all of them, and ours, there may never be.
            threads = [each.threads for each in warm]
            if max(threads) > 1 + THREADS + OUR_THREADS:
                self.tally.blame(f"worker {pid}: more threads than its pool and ours: {threads}")
            if grown - max(0.0, bare_kib) > (SPARE_KIB if self.seconds >= MEASURABLE_SECONDS else SHORT_SPARE_KIB):
                self.tally.blame(f"worker {pid}: {grown:.0f} KiB more after warm-up, the bare one {bare_kib:.0f} KiB")
        warm_files = self.files[int(len(self.files) * WARM_UP_SHARE) :]
        say(f"  steady files {self.files}")
        if warm_files[-1] > warm_files[0]:
            self.tally.blame(f"files of steady grow: {self.files}")

    def _check_logs(self) -> None:
        """Tracebacks are those of the pages; nothing of ours is said but what there was to say."""
        for server, name in ((self.steady, "steady"), (self.moving, "moving"), (self.raising, "raising")):
            log = server.log_text()
            if SECRET in re.sub(r"(?m)^\[.*Error handling request.*$", "", log):
                self.tally.blame(f"{name}: a query string is in the log")
            for ending in endings_of_tracebacks(log):
                if not ending.startswith("tests.programs.soaked.SoakError: "):
                    self.tally.blame(f"{name}: logged a traceback that ends with {ending}")
                self.tally.count(f"{name}: tracebacks of the application's own in the log")
            for line in re.findall(r"^(?:WARNING|ERROR|CRITICAL) wsgi_tracebacker.*$", log, re.MULTILINE):
                logger = line.split()[1].partition(":")[0]
                if logger in ("wsgi_tracebacker.harakiri", "wsgi_tracebacker.slow", "wsgi_tracebacker.postmortem"):
                    self.tally.count(f"{name}: logged by {logger}")
                else:
                    self.tally.blame(f"{name}: logged {line}")

    def _check_shown(self) -> None:
        """All this is of what does something: none of the outputs was without what it is for."""
        expected = [
            *((f"{name}: JSON dumps", f"{name}: requests seen in flight") for name in ("steady", "moving", "raising")),
            *(
                (f"{name}: {what}", f"{name}: {what} that showed serving threads")
                for name, outputs in (
                    ("steady", ("text dumps", "dumps of silent clients", "wsgi-tb read")),
                    ("moving", ("text dumps", "dumps of silent clients")),
                    ("raising", ("text dumps",)),
                )
                for what in outputs
            ),
            ("steady: of these beyond the limit", "steady: logged by wsgi_tracebacker.harakiri"),
        ]
        for what, shown in expected:
            if self.tally.counts[what] >= MANY and not self.tally.counts[shown]:
                self.tally.blame(f"{self.tally.counts[what]} {what}, and none {shown}")

    def _check_files(self) -> None:
        """All were their owner's alone. After an end in order nothing is left; of the killed, their black boxes."""
        for path, mode in sorted(self.open_to_others.items()):
            self.tally.blame(f"{path} had the mode {mode:o}")
        for base in (self.steady_base, self.raising_base):
            if left := [*self.folder.glob(f"{Path(base).name}[0-9]*"), *black_boxes.files_of(base)]:
                self.tally.blame(f"files of {base} are left: {left}")
        kinds = collections.Counter(path.suffix[1:] for path in black_boxes.files_of(self.moving_base))
        numbers = {path.name.split(".")[-2] for path in black_boxes.files_of(self.moving_base)}
        self.tally.count("moving: files left in shared memory", sum(kinds.values()))
        self.tally.count("moving: numbers taken at most", max(map(int, numbers), default=0))
        if any(count > len(numbers) for count in kinds.values()):
            self.tally.blame(f"files have piled up: {kinds} for {len(numbers)} numbers")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().getrandbits(32))
    options = parser.parse_args()
    default_signals()
    say(f"soak for {options.seconds:g} s, seed {options.seed}, {len(PAGES)} kinds of pages")
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="tb-soak-", dir="/tmp") as folder:
        soak = Soak(folder, options.seconds, options.seed)
        try:
            wrong = soak.run()
        finally:
            for base in (soak.steady_base, soak.moving_base, soak.raising_base):
                black_boxes.remove(base)
    for what, count in sorted(soak.tally.counts.items()):
        say(f"  {count:8} {what}")
    say(f"{time.monotonic() - began:.0f} s; {len(wrong)} wrong")
    for line in wrong[:30]:
        say(f"WRONG: {line}")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
