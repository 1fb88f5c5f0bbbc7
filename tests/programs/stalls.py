"""A worker whose requests keep the GIL, for tests of what happens when Python cannot run.

Called as ``python -m tests.programs.stalls BASE LIMIT MARGIN STORY [COUNT]``; prints ``ready`` when the story begins,
and ``served on`` when it has ended.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import sys
import threading
import time
from typing import TYPE_CHECKING

from wsgi_tracebacker import TracebackerMiddleware, set_harakiri
from wsgi_tracebacker.worker import agent

if TYPE_CHECKING:
    from collections.abc import Iterable

    from _typeshed.wsgi import StartResponse, WSGIEnvironment

FOR_EVER = ("(a+)+$", "a" * 40 + "b")

#: Longer than any limit and any test.
LONG_SECONDS = 60.0


def backtrack_for_ever() -> None:
    re.match(*FOR_EVER)


def hold_the_gil(seconds: float) -> None:
    # PyDLL calls with the GIL held, as a careless extension does. Not usleep(): the signal for the stacks would end it,
    # and the worker would not be killed.
    library, mutex = ctypes.PyDLL(None), ctypes.create_string_buffer(64)
    ends = time.time() + seconds
    library.pthread_mutex_lock(mutex)
    library.pthread_mutex_timedlock(mutex, (ctypes.c_long * 2)(int(ends), int(ends % 1 * 1_000_000_000)))


def use_a_cpu() -> None:
    """Use a CPU for ever without the GIL, because CPU time is no sign of a stall."""
    hashing = threading.Thread(target=hashlib.pbkdf2_hmac, args=("sha256", b"", b"", 2**31 - 1), daemon=True)
    hashing.start()
    time.sleep(0.1)


def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    path = environ["PATH_INFO"]
    if path == "/stall":
        backtrack_for_ever()
    elif path.startswith("/sleep/"):
        time.sleep(float(path.removeprefix("/sleep/")))
    elif path.startswith("/hold/"):
        hold_the_gil(float(path.removeprefix("/hold/")))
    elif path.startswith("/own/"):
        set_harakiri(float(path.split("/")[2]))
        hold_the_gil(float(path.split("/")[3]))
    elif path == "/stop":
        report("ready")
        time.sleep(LONG_SECONDS)
    elif path == "/fork":
        child = os.fork()
        if not child:
            sys.exit(0)
        os.waitpid(child, 0)
    start_response("200 OK", [])
    return [b"done"]


def timers_are_set() -> bool:
    """Whether the timers are set: until the watchdog has found that no request is in flight."""
    own = agent.running()
    return own is not None and own.deadlines.kill_timer is not None and own.deadlines.kill_timer.due != float("inf")


def report(word: str) -> None:
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


def limits_of(story: str, limit: float) -> float | dict[str, float] | None:
    if story == "unlimited":
        return {"/": limit, "/hold": 0}
    if story == "mixed":
        return {"/": limit, "/sleep": LONG_SECONDS}
    return None if story == "own" else limit


def main() -> None:  # noqa: C901, PLR0915  (one branch a story)
    base, limit_word, margin_word, story, *count = sys.argv[1:]
    limit, margin = float(limit_word), float(margin_word)
    # Later than any limit is enforced, on a loaded machine too.
    too_long = limit + margin + 2.0
    wrapped = TracebackerMiddleware(
        application,
        socket=base,
        harakiri=limits_of(story, limit),
        harakiri_action="kill",
        harakiri_margin=margin,
    )

    def request(path: str) -> None:
        list(wrapped({"REQUEST_METHOD": "GET", "SCRIPT_NAME": "", "PATH_INFO": path}, lambda *_: lambda _: None))

    def begin(path: str) -> threading.Thread:
        thread = threading.Thread(target=request, args=(path,), daemon=True)
        thread.start()
        return thread

    if story == "stall":
        report("ready")
        request("/stall")
    elif story == "deadlock":
        report("ready")
        request(f"/hold/{LONG_SECONDS}")
    elif story == "mixed":
        begin(f"/sleep/{LONG_SECONDS}")
        time.sleep(0.2)
        report("ready")
        request("/stall")
    elif story == "own":
        request("/quick")
        report("ready")
        request(f"/own/{limit}/{LONG_SECONDS}")
    elif story == "young":
        use_a_cpu()
        # It is in flight when the old one ends, which is in time on a loaded machine too.
        old = begin(f"/sleep/{limit * 0.5}")
        time.sleep(limit * 0.2)
        report("ready")

        def wait_and_hold(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
            old.join()
            return application(environ, start_response)

        wrapped = TracebackerMiddleware(wait_and_hold, base, harakiri=LONG_SECONDS, harakiri_action="kill")
        request(f"/hold/{too_long}")
        report("served on")
    elif story in ("idle", "unlimited", "own, long"):
        use_a_cpu()
        request("/quick")
        report("ready")
        # No other thread gets the GIL between the end of this request and the next call.
        request("/quick")
        if story == "idle":
            while timers_are_set():
                time.sleep(0.01)
            hold_the_gil(too_long)
        else:
            request(f"/hold/{too_long}" if story == "unlimited" else f"/own/{LONG_SECONDS}/{too_long}")
        report("served on")
    elif story == "stopped":
        request("/stop")
    elif story == "young calls":
        # Each begins at another moment between two checks of the watchdog.
        report("ready")
        for number in range(int(*count)):
            request(f"/hold/{margin * (1.1 + number % 7 / 10)}")
            time.sleep(margin * (number % 5) / 10)
        report("served on")
    elif story == "busy":
        report("ready")
        ends = time.monotonic() + 3 * limit
        while time.monotonic() < ends:
            request("/quick")
        report("served on")
    elif story == "fork":
        report("ready")
        request("/fork")
        report("served on")


if __name__ == "__main__":
    main()
