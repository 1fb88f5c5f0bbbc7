"""One worker without a server, and what may become of it and of its black box: ``black_box_stories.py BASE STORY``.

Says ``ready`` on stdout when its story can be looked at, and ``served on`` when it came through it, which it goes on
to do when it is sent a line.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING

from wsgi_tracebacker import TracebackerMiddleware
from wsgi_tracebacker.linux import proc
from wsgi_tracebacker.wire.black_box import file_names, table_header, table_rows
from wsgi_tracebacker.worker import agent
from wsgi_tracebacker.worker.blackbox import box_files
from wsgi_tracebacker.worker.options import settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from _typeshed.wsgi import StartResponse, WSGIEnvironment

#: More than there are rows in the table.
CROWD = table_rows.ROWS + 6
#: Threads that write into their rows while there is no shared memory left.
CORES_WHEN_FULL = 64
#: More address space than the process has when it begins to be hungry.
SPARE_BYTES = 64 * 1024 * 1024
DUMP_SIGNAL = settings.OPTIONS["dump_signal"].default or 0


class Worker:
    """The wrapped application: what a path does is given by the story."""

    def __init__(self, base: str, **options: object) -> None:
        self.base = base
        self.acts: dict[str, Callable[[], object]] = {}
        self._wrapped = TracebackerMiddleware(self._application, socket=base, **options)  # type: ignore[arg-type]

    def _application(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        act = self.acts.get(environ["PATH_INFO"])
        if act is not None:
            act()
        start_response("200 OK", [])
        return [b"done"]

    def request(self, path: str) -> None:
        environ = {"REQUEST_METHOD": "GET", "SCRIPT_NAME": "", "PATH_INFO": path}
        assert list(self._wrapped(environ, lambda *_: lambda _: None)) == [b"done"]

    def crowd(self, count: int, act: Callable[[], object]) -> list[threading.Thread]:
        """So many requests in flight, each on a thread of its own; all of them are when this returns."""
        there = threading.Barrier(count + 1)

        def stay() -> None:
            there.wait()
            act()

        for number in range(count):
            self.acts[f"/crowd/{number}"] = stay
        threads = [
            threading.Thread(target=self.request, args=(f"/crowd/{number}",), daemon=True) for number in range(count)
        ]
        for thread in threads:
            thread.start()
        there.wait()
        return threads


def say(word: str) -> None:
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


def say_ready() -> None:
    """And wait until somebody has looked: whoever reads a line may swallow the next one with it."""
    say("ready")
    sys.stdin.readline()


def stay_until_killed() -> None:
    """What comes next is the test's: it kills this process."""
    say("ready")
    time.sleep(3600)


def out_of_memory(base: str) -> None:
    """A request that takes all memory the process may have, until something below Python aborts; one waits beside."""
    worker = Worker(base)

    def swallow_all() -> None:
        say("ready")
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        pages = int(open("/proc/self/statm", encoding="ascii").read().split()[0])  # noqa: SIM115
        limit = pages * resource.getpagesize() + SPARE_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        swallowed = []
        try:
            while True:
                swallowed.append(bytearray(1024 * 1024))
        except MemoryError:
            # What a C library does whose malloc() failed.
            os.abort()

    worker.crowd(1, threading.Event().wait)
    worker.acts["/hungry"] = swallow_all
    worker.request("/hungry")


def growing(base: str) -> None:
    """A slow request loads much, and once that was measured its worker is killed."""
    worker = Worker(base, slow=0.1, harakiri=60)
    table = box_files.path_of(base, 1, file_names.TABLE)

    def content() -> bytes:
        time.sleep(0.02)
        return box_files.read(table)[0] or b""

    def grow() -> None:
        say("ready")
        while not (before := table_rows.decode_rows(found := content(), found)[0][0].resident_bytes):
            pass
        loaded = b"x" * SPARE_BYTES
        while table_header.decode_header(content()).resident_bytes < before + len(loaded) // 2:
            pass
        os.kill(os.getpid(), signal.SIGKILL)

    worker.acts["/grows"] = grow
    worker.request("/grows")


def crowded(base: str) -> None:
    """More requests in flight than the table has rows."""
    worker = Worker(base)
    worker.crowd(CROWD, threading.Event().wait)
    stay_until_killed()


def after_a_crowd(base: str) -> None:
    """One request in flight, when a crowd and its threads have gone."""
    worker = Worker(base)
    for thread in worker.crowd(CROWD, lambda: None):
        thread.join()
    own = agent.running()
    while own is not None and own.cores.all():
        # Between two looks: a core is free when its thread is gone, a moment after join().
        time.sleep(0.001)
    worker.crowd(1, threading.Event().wait)
    stay_until_killed()


def full_memory(base: str) -> None:
    """Shared memory is full from the beginning, or becomes so: the rows are written to all the same."""
    worker = Worker(base)
    worker.request("/first")
    with open(os.path.join(box_files.SHARED_MEMORY, "everything"), "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass
    say_ready()
    for thread in worker.crowd(CORES_WHEN_FULL, lambda: None):
        thread.join()
    say("served on")


def succeed(base: str) -> None:
    """Serve, in the place of whatever was there before."""
    worker = Worker(base)
    worker.request("/first")
    say_ready()
    worker.request("/second")
    say("served on")


def fork(base: str) -> None:
    """Fork within requests: a child that exits there, and one that goes on and serves as a worker of its own."""
    worker = Worker(base, harakiri=30.0, harakiri_action="kill")
    own = os.getpid()
    told: list[bytes] = []

    def table() -> bytes:
        with open(box_files.path_of(base, 1, file_names.TABLE), "rb") as file:
            content = bytearray(file.read())
        # The parent's threads go on, and say so.
        table_header.BEAT.pack_into(content, table_header.BEAT_OFFSET, 0.0)
        table_header.RESIDENT.pack_into(content, table_header.RESIDENT_OFFSET, 0)
        return bytes(content)

    def end_in_child() -> None:
        if not os.fork():
            sys.exit(7)
        assert os.waitstatus_to_exitcode(os.wait()[1]) == 7

    def split() -> None:
        core = agent.serving_core()
        if core is not None:
            # Its end is reported, in the child too, where the timers of the kernel are not.
            core.reports_end = True
        told.append(table())
        assert proc.is_caught(DUMP_SIGNAL)
        if os.fork():
            code = os.waitstatus_to_exitcode(os.wait()[1])
            assert code == 0, code
            assert table() == told[0]
        else:
            # Its handler would write into the parent's file.
            assert not proc.is_caught(DUMP_SIGNAL)

    worker.acts = {"/exit": end_in_child, "/split": split}
    say_ready()
    worker.request("/exit")
    worker.request("/split")
    if os.getpid() != own:
        assert table() == told[0]
        worker.request("/child")
        assert table() == told[0]
        assert os.path.exists(box_files.path_of(base, 2, file_names.TABLE))
        sys.exit(0)
    rows, torn = table_rows.decode_rows(table(), table())
    assert (rows, torn) == ([], 0)
    say("served on")


def without_signal(base: str) -> None:
    """A request in flight in a worker that nobody can ask for its stacks."""
    worker = Worker(base, dump_signal=None)
    worker.crowd(1, threading.Event().wait)
    stay_until_killed()


def lose_card(base: str) -> None:
    """A request in flight, while somebody removes the worker's card and its socket."""
    # So that it looks at its paths soon.
    vars(agent).update(TICK_SECONDS=1.0)
    worker = Worker(base)
    worker.crowd(1, threading.Event().wait)
    stay_until_killed()


STORIES = {
    "out-of-memory": out_of_memory,
    "growing": growing,
    "crowded": crowded,
    "after-a-crowd": after_a_crowd,
    "full-memory": full_memory,
    "succeed": succeed,
    "fork": fork,
    "lose-card": lose_card,
    "without-signal": without_signal,
}


if __name__ == "__main__":
    STORIES[sys.argv[2]](sys.argv[1])
