"""Requests note what they really wait for, and what snapshots say of them is compared: is anything wrong ever said?

``python -m tests.stress.waits --looks 100000``

Threads serve requests that compute, and wait for each other and for others: for locks, which they take in every way
that there is, for pools, queues, events, results, sockets, HTTP, files, and time. Before each of these a request stores
what it is about to do, and what it has, in one step. Whoever looks reads that of all threads, asks the worker for a
snapshot as any reader does, and reads it again. Where it is the same object, the request did that all the time, so the
sentence on it must be one that is true then. Computing requests wait for nothing, even where they stand still because
another thread has the GIL. Nobody waits for a lock that nobody else has, and who is said to be inside it has it.

Ends by itself; prints how many looks there were, what was said how often, and each contradiction. The exit code is 1 if
there was one, or if most of the time nothing was said.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import fcntl
import json
import logging
import os
import queue
import random
import re
import socket
import sys
import tempfile
import threading
import time
import urllib.request
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

import sqlalchemy

from tests.support import clients
from wsgi_tracebacker import TracebackerMiddleware, note, stop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from _typeshed.wsgi import StartResponse, WSGIEnvironment

THREADS = 12
#: A look takes some milliseconds. Waits that are shorter begin and end meanwhile, longer ones are compared.
SHORT_SECONDS, LONG_SECONDS = 0.003, 0.2
#: A request lasts so long: those younger than half a second are not asked about.
REQUEST_SECONDS = 3.0
#: At so many looks each kind of waiting was seen, at least once.
ENOUGH = 10_000
#: So many contradictions are printed.
SHOWN = 20


class Truth(NamedTuple):
    """What a request does from now on."""

    #: Its name in WAITS; empty: it computes.
    wait: str
    #: The lock that it is about to take, and the locks that it has.
    wants: str | None = None
    has: tuple[str, ...] = ()


COMPUTES = Truth("")


class Shop:
    """What the requests wait for."""

    def __init__(self, folder: str, port: int) -> None:
        self.ledger = threading.Lock()
        self.stock = threading.Lock()
        self.cart = threading.RLock()
        self.mail = threading.Condition()
        self.seats = threading.Semaphore(1)
        self.jobs: queue.Queue[object] = queue.Queue()
        self.fast_jobs: queue.SimpleQueue[object] = queue.SimpleQueue()
        self.rung = threading.Event()
        self.executor = ThreadPoolExecutor(2, thread_name_prefix="cook")
        self.engine = sqlalchemy.create_engine(
            "sqlite://",
            poolclass=sqlalchemy.QueuePool,
            pool_size=1,
            max_overflow=0,
            connect_args={"check_same_thread": False},
        )
        self.file = os.path.join(folder, "import.lock")
        self.port = port


class Desk:
    """One serving thread: what it does, and for how long it has to."""

    def __init__(self, number: int, shop: Shop, seed: int) -> None:
        self.number = number
        self.shop = shop
        self.dice = random.Random(seed)
        #: Nobody else wants these, and they have been there for ever.
        self.own_lock = threading.Lock()
        self.own_jobs: queue.Queue[Future[None]] = queue.Queue()
        self.happened = threading.Event()
        self.happened.set()
        self.done: Future[None] = Future()
        self.done.set_result(None)
        #: Replaced as a whole at each step: so the same object is the same state.
        self.truth = COMPUTES

    def is_about_to(self, wait: str, wants: str | None = None, has: tuple[str, ...] = ()) -> None:
        note(wait)
        self.truth = Truth(wait, wants, has)

    def computes(self, has: tuple[str, ...] = ()) -> None:
        self.truth = Truth("", None, has)
        # Now and then long enough that others lose the GIL to it.
        end = time.monotonic() + self.dice.uniform(0, 0.02 if self.dice.random() < 0.1 else 0.0005)
        while time.monotonic() < end:
            sum(range(200))

    def seconds(self) -> float:
        return self.dice.uniform(0, self.dice.choice((SHORT_SECONDS, LONG_SECONDS)))

    # --- what it may wait for: each stores what it does, and then does it

    def lock_with(self) -> None:
        self.is_about_to("lock", "self.shop.ledger")
        with self.shop.ledger:
            self._inside("self.shop.ledger")

    def lock_acquire(self) -> None:
        self.is_about_to("lock", "self.shop.stock")
        self.shop.stock.acquire()
        self._inside("self.shop.stock")
        self.shop.stock.release()

    def lock_acquire_timeout(self) -> None:
        self.is_about_to("lock", "self.shop.stock")
        if self.shop.stock.acquire(timeout=5):
            self._inside("self.shop.stock")
            self.shop.stock.release()

    def lock_again(self) -> None:
        self.is_about_to("lock", "self.shop.cart")
        with self.shop.cart:
            with self.shop.cart:
                self._inside("self.shop.cart")
            self._inside("self.shop.cart")
        self.truth = COMPUTES

    def _inside(self, lock: str) -> None:
        if self.dice.random() < 0.5:
            self.computes(has=(lock,))
        else:
            self.is_about_to("sleep", has=(lock,))
            time.sleep(self.seconds() / 3)
        self.truth = Truth("leaves", None, (lock,))

    def sleep(self) -> None:
        self.is_about_to("sleep")
        time.sleep(self.seconds())

    def event(self) -> None:
        self.is_about_to("event")
        self.shop.rung.wait(self.seconds() + 1)

    def condition(self) -> None:
        self.truth = Truth("enters")
        with self.shop.mail:
            self.is_about_to("condition")
            self.shop.mail.wait(self.seconds() + 1)
            self.truth = Truth("leaves")

    def semaphore(self) -> None:
        self.is_about_to("semaphore")
        self.shop.seats.acquire()
        self.truth = Truth("leaves")
        time.sleep(self.seconds() / 4)
        self.shop.seats.release()

    def job(self) -> None:
        self.is_about_to("queue")
        self.shop.jobs.get()

    def fast_job(self) -> None:
        self.is_about_to("simple queue")
        self.shop.fast_jobs.get()

    def result(self) -> None:
        seconds = self.seconds()
        # It may start a thread, and wait for that.
        self.truth = Truth("starts")
        future = self.shop.executor.submit(time.sleep, seconds)
        self.is_about_to("result")
        future.result()

    def join(self) -> None:
        self.truth = Truth("starts")
        thread = threading.Thread(target=time.sleep, args=(self.seconds(),), name="indexer")
        thread.start()
        self.is_about_to("join")
        thread.join()

    def answer(self) -> None:
        self.truth = Truth("connects")
        with socket.create_connection(("127.0.0.1", self.shop.port)) as connection:
            self.is_about_to("socket")
            connection.recv(1)
            self.truth = Truth("leaves")

    def page(self) -> None:
        self.is_about_to("http")
        with urllib.request.urlopen(f"http://127.0.0.1:{self.shop.port}/rates?secret", timeout=30) as answer:
            self.truth = Truth("leaves")
            answer.read()

    def pool(self) -> None:
        self.is_about_to("pool")
        with self.shop.engine.connect():
            self.truth = Truth("leaves")
            time.sleep(self.seconds())
            self.truth = Truth("leaves")

    def file_lock(self) -> None:
        with open(self.shop.file, "w") as opened:
            self.is_about_to("file lock")
            fcntl.flock(opened, fcntl.LOCK_EX)
            self.truth = Truth("leaves")
            time.sleep(self.seconds() / 4)
        self.truth = Truth("leaves")

    def at_once(self) -> None:
        """Nothing of this waits, but for the GIL."""
        self.is_about_to("at once")
        end = time.monotonic() + LONG_SECONDS
        while time.monotonic() < end:
            self.own_lock.acquire()
            self.own_lock.release()
            self.own_lock.acquire(timeout=5)
            self.own_lock.release()
            with self.own_lock:
                self.own_jobs.put(self.done)
            self.own_jobs.get().result()
            self.happened.wait(5)

    def serve(self, _: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        end = time.monotonic() + REQUEST_SECONDS
        while time.monotonic() < end:
            self.computes()
            self.dice.choice(STEPS)(self)
        self.truth = COMPUTES
        start_response("200 OK", [])
        return [b""]


STEPS: tuple[Callable[[Desk], None], ...] = (
    *(Desk.lock_with, Desk.lock_acquire, Desk.lock_acquire_timeout, Desk.lock_again, Desk.sleep, Desk.event),
    *(Desk.condition, Desk.semaphore, Desk.job, Desk.fast_job, Desk.result, Desk.join, Desk.answer, Desk.page),
    *(Desk.pool, Desk.file_lock, Desk.at_once, Desk.at_once),
)

NOTHING = r"(?!)"
#: What may be said while a request does this; all of the sentence. In between two steps, "leaves" and the like, it may
#: wait for a moment for what is not worth a name, and is not compared.
WAITS = {
    "lock": r"waits for lock self\.shop\.\w+ \(waits\.py:\d+\)(; inside it: .*)?",
    "sleep": r"sleeps \(called at waits\.py:\d+\)",
    "event": r"waits for Event\.wait \(called at waits\.py:\d+\)",
    "condition": r"waits for (Condition\.wait \(called at waits\.py:\d+\)|lock self\.shop\.mail .*)",
    "semaphore": r"waits for Semaphore\.acquire \(called at waits\.py:\d+\)",
    "queue": r"waits for queue\.get \(called at waits\.py:\d+\)",
    "simple queue": r"waits for SimpleQueue\.get \(called at waits\.py:\d+\)",
    "result": r"waits for Future\.result \(called at waits\.py:\d+\)|works on another thread: cook_\d",
    "join": r'waits for thread "indexer" to end \(called at waits\.py:\d+\)',
    "socket": r"waits for 127\.0\.0\.1:{port} \(our port \d+\)",
    "http": r"(waits for|connects to|sends to) (GET )?(http://)?127\.0\.0\.1:{port}.*",
    "pool": r"waits for a connection of QueuePool(: all 1 are out|: 0 of 1 are out)?",
    "file lock": r"waits for the lock of .*/import\.lock(; .* has it)?",
    "at once": NOTHING,
    "": NOTHING,
}
_HOLDER = re.compile(r"GET /(\d+), ")


class Found:
    """What was compared so far."""

    def __init__(self, desks: list[Desk], port: int) -> None:
        self.desks = desks
        self.patterns = {name: re.compile(text.replace("{port}", str(port))) for name, text in WAITS.items()}
        self.looks = 0
        self.silent = 0
        self.named: collections.Counter[str] = collections.Counter()
        self.wrong: list[str] = []

    def look(self, ask: Callable[[], dict[str, Any]]) -> None:
        before = [desk.truth for desk in self.desks]
        snapshot = ask()
        after = [desk.truth for desk in self.desks]
        steady = {number: was for number, (was, now) in enumerate(zip(before, after, strict=True)) if was is now}
        for thread in snapshot["threads"]:
            request = thread["request"]
            number = int(request["path"][1:]) if request is not None else -1
            if number not in steady or request["age_seconds"] < 0.5 or steady[number].wait not in WAITS:
                continue
            self.looks += 1
            if request["waits_for"] is None:
                self.silent += 1
                continue
            self._compare(number, steady, request["waits_for"]["sentence"])

    def _compare(self, number: int, steady: dict[int, Truth], sentence: str) -> None:
        truth = steady[number]
        self.named[truth.wait] += 1
        if not self.patterns[truth.wait].fullmatch(sentence):
            self.wrong.append(f"it {truth} and is said to: {sentence}")
        elif truth.wants is not None and truth.wants not in sentence:
            self.wrong.append(f"it wants {truth.wants} and is said to: {sentence}")
        elif truth.wants is not None:
            others = [steady.get(other) for other in range(len(self.desks)) if other != number]
            if None not in others and not any(other and _may_have(other, truth.wants) for other in others):
                self.wrong.append(f"nobody else has {truth.wants}, and it is said to: {sentence}")
            for holder in map(int, _HOLDER.findall(sentence)):
                if holder in steady and not _may_have(steady[holder], truth.wants):
                    self.wrong.append(f"request {holder} {steady[holder]}, and it is said: {sentence}")


def _may_have(truth: Truth, lock: str) -> bool:
    """Whether it has the lock, or has perhaps just got it."""
    return lock in truth.has or truth.wants == lock


@contextlib.contextmanager
def slow_server() -> Iterator[int]:
    """Answers each connection after a while, whatever it says; its port."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:

        def answer(connection: socket.socket) -> None:
            with connection, contextlib.suppress(OSError):
                time.sleep(random.uniform(0, LONG_SECONDS))
                connection.sendall(b"HTTP/1.0 200 OK\r\n\r\nrates")
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(4096):
                    pass

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    threading.Thread(target=answer, args=(server.accept()[0],), daemon=True).start()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


def ring(shop: Shop, is_over: threading.Event) -> None:
    """Gives the requests what they wait for, at random times."""
    dice = random.Random(7)
    gifts = (
        lambda: _ring(shop.rung),
        lambda: _notify(shop.mail),
        lambda: _put(shop.jobs),
        lambda: _put(shop.fast_jobs),
    )
    while not is_over.is_set():
        time.sleep(dice.uniform(0, LONG_SECONDS / 10))
        dice.choice(gifts)()


def _ring(event: threading.Event) -> None:
    event.set()
    event.clear()


def _put(jobs: queue.Queue[object] | queue.SimpleQueue[object]) -> None:
    if jobs.qsize() < THREADS:
        jobs.put(object())


def _notify(condition: threading.Condition) -> None:
    with condition:
        condition.notify()


def compare(looks: int, seconds: float, seed: int) -> Found:
    """Look until there were so many looks and so many seconds are over."""
    with tempfile.TemporaryDirectory(prefix="tb-waits-") as folder, slow_server() as port:
        shop, is_over = Shop(folder, port), threading.Event()
        desks = [Desk(number, shop, seed + number) for number in range(THREADS)]
        base = os.path.join(folder, "tb")
        wrapped = [TracebackerMiddleware(desk.serve, base, slow=0.3, harakiri=0) for desk in desks]

        def serve(number: int) -> None:
            while not is_over.is_set():
                environ = {"REQUEST_METHOD": "GET", "PATH_INFO": f"/{number}", "SCRIPT_NAME": ""}
                for _ in wrapped[number](environ, lambda *_: lambda _: None):
                    pass

        threads = [threading.Thread(target=serve, args=(number,)) for number in range(THREADS)]
        ringing = threading.Event()
        ringer = threading.Thread(target=ring, args=(shop, ringing))
        for thread in (*threads, ringer):
            thread.start()
        found = Found(desks, port)
        end = time.monotonic() + seconds
        while not os.path.exists(f"{base}1"):
            time.sleep(0.01)
        while (found.looks < looks or time.monotonic() < end) and len(found.wrong) < SHOWN:
            found.look(lambda: json.loads(clients.request(f"{base}1", "/snapshot").body))
        is_over.set()
        for thread in threads:
            thread.join()
        ringing.set()
        ringer.join()
        shop.executor.shutdown()
        shop.engine.dispose()
        stop()
    return found


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--looks", type=int, default=100_000, help="at requests whose state was the same all the time")
    parser.add_argument("--seconds", type=float, default=0.0, help="look for as long at least")
    parser.add_argument("--seed", type=int, default=None)
    options = parser.parse_args()
    # Each request is slow, and would be logged.
    logging.getLogger("wsgi_tracebacker").addHandler(logging.FileHandler(os.devnull))
    logging.getLogger("wsgi_tracebacker").propagate = False
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1 << 30)
    started = time.monotonic()
    found = compare(options.looks, options.seconds, seed)
    say(f"{found.looks} looks in {time.monotonic() - started:.0f} s, seed {seed}: {len(found.wrong)} contradictions")
    say(f"  nothing was said at {found.silent}")
    for name, times in sorted(found.named.items()):
        say(f"  {name or 'computes':<14} {times}")
    for line in found.wrong[:SHOWN]:
        say(f"wrong: {line}")
    unnamed = [name for name, text in WAITS.items() if text != NOTHING and not found.named[name]]
    if unnamed:
        say(f"never named: {', '.join(unnamed)}")
    # Else nothing wrong was said because nothing was said.
    is_dumb = found.named.total() < found.looks / 2 or (unnamed and found.looks >= ENOUGH)
    return 1 if found.wrong or is_dumb else 0


if __name__ == "__main__":
    sys.exit(main())
