"""Another user of the machine: becomes that user for good, then does what it is told: ``stranger.py UID WHAT ...``.

Everything is imported before, with the rights of root: the user need not be able to read this project.

``try PATH ...``
    Opens, links to and connects to each of these, and says as JSON what came of it.
``run BASE``
    Is an honest worker of that base, and stalls in a file that it may not read, named on stdin; says ``ready``.
``flood SOCKET ...``
    Listens on each of these, and sends whoever comes bytes without an end; says ``ready`` when it listens on all.
``answer SOCKET ...``
    Listens on each of these, and says ``ready``; then reads a JSON object from stdin, the reply of each socket.
``act``
    Only acts as the user, with root in reserve, and waits; catches the signal of dumps and says ``caught`` for each.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import signal
import socket
import sys
import threading
import time
from typing import TYPE_CHECKING

from wsgi_tracebacker import TracebackerMiddleware
from wsgi_tracebacker.worker.options import settings

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

DUMP_SIGNAL = settings.OPTIONS["dump_signal"].default or 0


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def become(uid: int) -> None:
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    # Who has changed its user is nobody's to look at otherwise; an honest worker is started as its user.
    ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)


def try_path(path: str) -> dict[str, str]:
    found = {}
    for name, flags in (("read", os.O_RDONLY), ("write", os.O_WRONLY), ("both", os.O_RDWR)):
        try:
            descriptor = os.open(path, flags | os.O_NONBLOCK)
            found[name] = f"got {os.read(descriptor, 100)!r}" if name == "read" else "opened"
            os.close(descriptor)
        except OSError as error:
            found[name] = type(error).__name__
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(5)
        try:
            client.connect(path)
            with contextlib.suppress(OSError):
                client.sendall(b"GET /snapshot HTTP/1.0\r\n\r\n")
            found["connect"] = f"got {client.recv(100)!r}"
        except OSError as error:
            found["connect"] = type(error).__name__
    for name in ("unlink", "rename"):
        try:
            if name == "unlink":
                os.unlink(path)
            else:
                os.rename(path, f"{path}.moved")
            found[name] = "done"
        except OSError as error:
            found[name] = type(error).__name__
    return found


def stall_in(filename: str) -> None:
    # A blank line first: line 2 of the file is where it stands.
    source = "\nhold('(a+)+$', 'a' * 40 + 'b')\n"
    exec(compile(source, filename, "exec"), {"hold": re.match})


def flood(paths: list[str]) -> None:
    listening = []
    for path in paths:
        listening.append(socket.socket(socket.AF_UNIX))
        listening[-1].bind(path)
        listening[-1].listen()
    say("ready")

    def serve(one: socket.socket) -> None:
        while True:
            connection, _ = one.accept()
            with connection, contextlib.suppress(OSError):
                while True:
                    connection.sendall(b"x" * (1 << 20))

    for one in listening:
        threading.Thread(target=serve, args=(one,), daemon=True).start()
    # Until whoever started it is gone.
    sys.stdin.read()


def answer(paths: list[str]) -> None:
    listening = {path: socket.socket(socket.AF_UNIX) for path in paths}
    for path, one in listening.items():
        one.bind(path)
        one.listen()
    say("ready")
    replies = json.loads(sys.stdin.readline())

    def serve(path: str) -> None:
        while True:
            connection, _ = listening[path].accept()
            with connection, contextlib.suppress(OSError):
                connection.recv(1000)
                connection.sendall(replies[path].encode())

    for path in paths:
        threading.Thread(target=serve, args=(path,), daemon=True).start()
    # Until whoever started it is gone.
    sys.stdin.read()


def main() -> None:
    uid, what, *arguments = sys.argv[1:]
    if what == "act":
        signal.signal(DUMP_SIGNAL, lambda *_: say("caught"))
        os.setresuid(0, int(uid), 0)
        say("ready")
        while True:
            time.sleep(3600)
    filename = sys.stdin.readline().strip() if what == "run" else ""
    become(int(uid))
    os.chdir("/")
    if what == "try":
        say(json.dumps({path: try_path(path) for path in arguments}))
        return
    if what in ("answer", "flood"):
        (answer if what == "answer" else flood)(arguments)
        return

    def application(environ: WSGIEnvironment, _: StartResponse) -> list[bytes]:
        if environ["PATH_INFO"] == "/stall":
            # The listener gets its turn before there is none.
            time.sleep(0.2)
            say("ready")
            stall_in(filename)
        return []

    wrapped = TracebackerMiddleware(application, socket=arguments[0])
    for path in ("/first", "/stall"):
        environ = {"REQUEST_METHOD": "GET", "SCRIPT_NAME": "", "PATH_INFO": path}
        list(wrapped(environ, lambda *_: lambda _: None))


if __name__ == "__main__":
    main()
