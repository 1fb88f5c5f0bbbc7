"""A worker whose only request stalls it, for tests of what happens when Python cannot run.

Called as ``python -m tests.programs.stalls BASE LIMIT STORY``; says ``ready`` on stdout when the story begins.
"""

from __future__ import annotations

import os
import re
import sys
import threading
import time
from typing import TYPE_CHECKING

from wsgi_tracebacker import TracebackerMiddleware

if TYPE_CHECKING:
    from collections.abc import Iterable

    from _typeshed.wsgi import StartResponse, WSGIEnvironment

FOR_EVER = ("(a+)+$", "a" * 40 + "b")


def backtrack_for_ever() -> None:
    re.match(*FOR_EVER)


def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    path = environ["PATH_INFO"]
    if path == "/stall":
        backtrack_for_ever()
    elif path.startswith("/sleep/"):
        time.sleep(float(path.removeprefix("/sleep/")))
    elif path == "/fork":
        child = os.fork()
        if not child:
            sys.exit(0)
        os.waitpid(child, 0)
    start_response("200 OK", [])
    return [b"done"]


def say(word: str) -> None:
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


def main() -> None:
    base, limit, story = sys.argv[1:]
    wrapped = TracebackerMiddleware(application, socket=base, harakiri=float(limit), harakiri_action="kill")

    def request(path: str) -> None:
        list(wrapped({"REQUEST_METHOD": "GET", "SCRIPT_NAME": "", "PATH_INFO": path}, lambda *_: lambda _: None))

    if story == "stall":
        say("ready")
        request("/stall")
    elif story == "young":
        # An old request ends just in time, and the next one holds the GIL at once.
        request(f"/sleep/{float(limit) * 0.9}")
        say("ready")
        request("/stall")
    elif story == "stopped":
        thread = threading.Thread(target=request, args=(f"/sleep/{float(limit) / 2}",))
        thread.start()
        say("ready")
        thread.join()
        request("/quick")
        say("served on")
    elif story == "busy":
        say("ready")
        ends = time.monotonic() + 3 * float(limit)
        while time.monotonic() < ends:
            request("/quick")
        say("served on")
    elif story == "fork":
        say("ready")
        request("/fork")
        say("served on")


if __name__ == "__main__":
    main()
