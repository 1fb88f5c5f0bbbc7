"""What a snapshot takes to say what 64 requests wait for, and to read the statements of 64.

Each stands 30 calls deep and waits for a socket, in a function that is known. Reading statements holds the GIL from
its first frame to its last, so the whole time of it counts.
"""

from __future__ import annotations

import contextlib
import functools
import socket
import sys
import threading
import time

from bench import pauses
from bench.lock_waits import DEPTH, deep, wait_until_they_wait
from bench.samples import Row, in_turns, row
from wsgi_tracebacker.model.code_ownership import CodeOwnership
from wsgi_tracebacker.model.waits import Holder
from wsgi_tracebacker.worker.stacks import walk
from wsgi_tracebacker.worker.waits.calls import Calls, Subject
from wsgi_tracebacker.worker.waits.frames import frame_texts
from wsgi_tracebacker.worker.waits.frames.expressions import Expressions, path_of
from wsgi_tracebacker.worker.waits.look import Look
from wsgi_tracebacker.worker.waits.sources import MAX_REQUESTS

TOPIC = pauses.TOPIC
CASE = f"what {MAX_REQUESTS} requests wait for"
TIME, STATEMENTS = "time to find it", f"time to read {MAX_REQUESTS} statements"

ROUNDS, QUICK_ROUNDS = 200, 20
_KNOWN = ("bench/known_waits.py:ask database statement=statement",)
_STATEMENT = "SELECT total, state, owner FROM orders WHERE id = 4711 AND state = 'open' ORDER BY total"
#: What the listener sets while it takes a dump.
_SWITCH_INTERVAL_SECONDS = 50e-6


def ask(connection: socket.socket, statement: str) -> bytes:  # noqa: ARG001  (it is read from the frame)
    """Wait for an answer that comes when the other end is closed. The statement is looked for here."""
    return connection.recv(1)


def measure(quick: bool) -> list[Row]:
    pairs = [socket.socketpair() for _ in range(MAX_REQUESTS)]
    threads = [
        threading.Thread(target=deep, args=(DEPTH, functools.partial(ask, ours, _STATEMENT))) for ours, _ in pairs
    ]
    for thread in threads:
        thread.start()
    wait_until_they_wait(threads)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH_INTERVAL_SECONDS)
    try:
        return _rows(threads, QUICK_ROUNDS if quick else ROUNDS)
    finally:
        sys.setswitchinterval(interval)
        for _, theirs in pairs:
            theirs.close()
        for thread in threads:
            thread.join()
        for ours, _ in pairs:
            ours.close()


def _rows(threads: list[threading.Thread], rounds: int) -> list[Row]:
    calls = Calls(Expressions(None), CodeOwnership())
    stacks = walk.walk(())[0]
    subjects = [
        Subject(thread.ident or 0, thread.native_id, None, stacks[thread.ident or 0], known_frames=_KNOWN)
        for thread in threads
    ]
    path = (path_of("statement"),)
    wanted = [
        frame_texts.Wanted(subject.ident, None, 0, subject.stack[0][0], subject.stack[0][1], path)
        for subject in subjects
    ]

    def find() -> float:
        started = time.perf_counter()
        with contextlib.closing(Look(stacks)) as look:
            found = calls.find(look, subjects, {}, lambda _: Holder("", "", 0.0))
            found = [each for each, subject in zip(found, subjects, strict=True) if look.has_stayed(subject.ident)]
        took = time.perf_counter() - started
        assert all(each is not None and each.statement for each in found)
        return took * 1e3

    def read() -> float:
        started = time.perf_counter()
        found = frame_texts.read(wanted)
        took = time.perf_counter() - started
        assert found == [(_STATEMENT,)] * MAX_REQUESTS
        return took * 1e3

    taken = in_turns({TIME: find, STATEMENTS: read}, rounds)
    return [row(TOPIC, CASE, name, "ms", values, None) for name, values in taken.items()]
