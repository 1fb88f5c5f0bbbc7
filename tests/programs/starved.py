"""A worker for which the system has nothing left for a while: ``python -m tests.programs.starved BASE STORY``.

Logs to stdout, and says there what each request was answered with, after how many seconds.

``later``
    It has no descriptor left when the first request becomes overdue, and has some again for the next.
``closed``
    All its descriptors are closed, and others are opened in their place, until there are no more; then they are closed.
``few N``
    Another one was killed within a request. This one has N descriptors left at its first request, and all later.
``threads``
    One thread is to be had at its first request, and many later. Its user is one that has no other process.
"""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING

from tests.support.strangers import STRANGER
from tests.support.waiting import wait_until
from wsgi_tracebacker import TracebackerMiddleware, stop
from wsgi_tracebacker.worker import agent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

LIMIT_SECONDS = 0.3
#: How often the worker looks after what it lacks.
TICK_SECONDS = 0.2
#: The pauses that watchdog and reporter make after a fault are over by then, also on a machine with much to do.
LATER_SECONDS = 2.5
MANY = 64


def say(text: str) -> None:
    os.write(1, f"{text}\n".encode())


def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Takes as many seconds as its path says, in pieces, so that it can be raised into."""
    ends = time.monotonic() + float(environ["PATH_INFO"].removeprefix("/"))
    while time.monotonic() < ends:
        time.sleep(0.01)
    start_response("200 OK", [])
    return [b"done"]


def ask(wrapped: WSGIApplication, path: str) -> None:
    answered: list[str] = []

    def start_response(status: str, *_: object) -> Callable[[bytes], object]:
        answered.append(status)
        return lambda _: None

    list(wrapped({"REQUEST_METHOD": "GET", "SCRIPT_NAME": "", "PATH_INFO": path}, start_response))
    say(f"answered {path} {answered[-1][:3]}")


@contextlib.contextmanager
def descriptors_left(count: int) -> Iterator[None]:
    """Within the block there are no more than that."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (MANY, before[1]))
    taken: list[int] = []
    try:
        while True:
            taken.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        pass
    for _ in range(count):
        os.close(taken.pop())
    try:
        yield
    finally:
        for descriptor in taken:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def is_watched() -> bool:
    # Where not even the listener could be had, the next request starts all of it again.
    found = agent.running()
    if found is None or found.listener is None:
        due = found.starts_again_at if found is not None else None
        return due is None or time.monotonic() >= due
    return found._watchdog is not None


def die_within_a_request(wrapped: WSGIApplication) -> None:
    child = os.fork()
    if not child:
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGKILL)).start()
        ask(wrapped, "/60")
    os.waitpid(child, 0)


def main() -> None:
    base, story, *arguments = sys.argv[1:]
    vars(agent)["TICK_SECONDS"] = TICK_SECONDS
    logging.basicConfig(stream=sys.stdout, level=logging.WARNING, format="%(levelname)s %(name)s %(message)s")
    action = "raise" if story == "later" else "log"
    wrapped = TracebackerMiddleware(application, base, harakiri=LIMIT_SECONDS, harakiri_action=action)
    if story == "later":
        ask(wrapped, "/0")
        with descriptors_left(0):
            ask(wrapped, "/5.1")
            ask(wrapped, "/5.2")
        ask(wrapped, "/5.3")
    elif story == "closed":
        # So that all threads that there can be run by then.
        ask(wrapped, "/0.9")
        os.closerange(3, MANY)
        with descriptors_left(0):
            ask(wrapped, "/0.8")
            time.sleep(LATER_SECONDS)
        time.sleep(LATER_SECONDS)
        ask(wrapped, "/0.7")
    elif story == "few":
        die_within_a_request(wrapped)
        with descriptors_left(int(arguments[0])):
            ask(wrapped, "/0")
        wait_until(is_watched, "it has a watchdog")
        ask(wrapped, "/0.6")
    elif story == "threads":
        os.setgroups([])
        os.setresgid(STRANGER, STRANGER, STRANGER)
        os.setresuid(STRANGER, STRANGER, STRANGER)
        resource.setrlimit(resource.RLIMIT_NPROC, (2, 100))
        ask(wrapped, "/0.9")
        resource.setrlimit(resource.RLIMIT_NPROC, (100, 100))
        wait_until(is_watched, "it has a watchdog")
        ask(wrapped, "/0.6")
    # What waits to be logged is.
    stop()
    say("ended")


if __name__ == "__main__":
    main()
