"""What ``tests.stress.soak`` serves: a page of every kind that an application can be.

``/KIND/NUMBER/ID`` answers by KIND and NUMBER alone, so that the same request to the bare application has the same
answer, byte for byte. ID makes each request one of its own: where ``SOAK_JOURNAL`` names a folder, each process writes
there when it had its first one, which requests began in it and which ended, one write a line, so that after a SIGKILL
nothing of it is missing.
The function ``page_KIND`` stands on the stack of a request to ``/KIND``, and on nobody else's.
"""

from __future__ import annotations

import io
import os
import sys
import threading
import time
from typing import TYPE_CHECKING

from wsgi_tracebacker import TracebackerMiddleware

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

#: A chunk of a body that takes several packets.
CHUNK = bytes(range(256)) * 8


class SoakError(Exception):
    """What pages raise; nothing else may be in the log."""


def begin(start_response: StartResponse, status: str = "200 OK", *headers: tuple[str, str]) -> Callable[..., object]:
    return start_response(status, [("Content-Type", "text/plain"), ("X-Kind", status), *headers])


def page_quick(environ: WSGIEnvironment, start_response: StartResponse, number: int) -> Iterable[bytes]:
    begin(start_response, "200 OK", ("Content-Length", str(len(CHUNK) * number)))
    return [CHUNK] * number


def page_echo(environ: WSGIEnvironment, start_response: StartResponse, number: int) -> Iterable[bytes]:
    body = environ["wsgi.input"].read()
    begin(start_response)
    return (body[::-1],)


def page_slow(environ: WSGIEnvironment, start_response: StartResponse, number: int) -> Iterable[bytes]:
    time.sleep(number / 1000)
    begin(start_response)
    return [b"at last"]


def page_stream(environ: WSGIEnvironment, start_response: StartResponse, number: int) -> Iterator[bytes]:
    begin(start_response)
    for part in range(number):
        time.sleep(0.004)
        yield b"part %d\n" % part


class Counted:
    """An iterable that is no generator, has a length and closes something."""

    def __init__(self, number: int, *, fails: bool) -> None:
        self._parts = iter([CHUNK[part:] for part in range(number)])
        self._number = number
        self._fails = fails

    def __iter__(self) -> Counted:
        return self

    def __len__(self) -> int:
        return self._number

    def __next__(self) -> bytes:
        return next(self._parts)

    def close(self) -> None:
        if self._fails:
            raise SoakError("in close")


def page_counted(environ: WSGIEnvironment, start_response: StartResponse, number: int) -> Iterable[bytes]:
    begin(start_response)
    return Counted(number, fails=False)


def page_closing(environ: WSGIEnvironment, start_response: StartResponse, number: int) -> Iterable[bytes]:
    begin(start_response)
    return Counted(number, fails=True)


def page_write(environ: WSGIEnvironment, start_response: StartResponse, number: int) -> Iterable[bytes]:
    write = begin(start_response)
    for part in range(number):
        write(b"written %d\n" % part)
    return [b"and returned"]


def page_file(environ: WSGIEnvironment, start_response: StartResponse, number: int) -> Iterable[bytes]:
    begin(start_response, "200 OK", ("Content-Length", str(os.path.getsize(__file__))))
    wrapped: Iterable[bytes] = environ["wsgi.file_wrapper"](open(__file__, "rb"), number)  # noqa: SIM115
    return wrapped


def page_error(environ: WSGIEnvironment, start_response: StartResponse, number: int) -> Iterable[bytes]:
    raise SoakError(f"number {number}")


def page_late(environ: WSGIEnvironment, start_response: StartResponse, number: int) -> Iterator[bytes]:
    begin(start_response)
    for part in range(number):
        yield b"part %d\n" % part
    raise SoakError("in mid body")


def page_handled(environ: WSGIEnvironment, start_response: StartResponse, number: int) -> Iterable[bytes]:
    begin(start_response)
    try:
        raise SoakError("handled")
    except SoakError:
        start_response(f"{number} Mended", [("Content-Type", "text/plain")], sys.exc_info())
    return [b"mended"]


def page_burn(environ: WSGIEnvironment, start_response: StartResponse, number: int) -> Iterable[bytes]:
    ends_at = time.thread_time() + number / 1000
    while time.thread_time() < ends_at:
        sum(range(500))
    begin(start_response)
    return [b"burnt"]


def page_deep(environ: WSGIEnvironment, start_response: StartResponse, number: int) -> Iterable[bytes]:
    if number > 0:
        return page_deep(environ, start_response, number - 1)
    time.sleep(0.03)
    begin(start_response)
    return [b"deep"]


def page_nested(environ: WSGIEnvironment, start_response: StartResponse, number: int) -> Iterable[bytes]:
    """WSGI calls within the request, one of them left unclosed."""
    inner = {**environ, "REQUEST_METHOD": "POST", "PATH_INFO": f"/echo/{number}/0", "wsgi.input": io.BytesIO(b"inner")}
    body = b"".join(environ["soak.application"](inner, lambda *_: lambda _: None))
    stream = environ["soak.application"]({**environ, "PATH_INFO": "/stream/3/0"}, lambda *_: lambda _: None)
    next(iter(stream))
    begin(start_response)
    return [body]


def page_threads(environ: WSGIEnvironment, start_response: StartResponse, number: int) -> Iterable[bytes]:
    """Threads of the application's own, which come and go with the request."""
    threads = [threading.Thread(target=time.sleep, args=(0.005,), name=f"of {number}") for _ in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    begin(start_response)
    return [b"joined"]


def page_status(environ: WSGIEnvironment, start_response: StartResponse, number: int) -> Iterable[bytes]:
    begin(start_response, f"{number} As Asked")
    return [] if number == 204 else [b"as asked"]


PAGES: dict[str, Callable[..., Iterable[bytes]]] = {
    name.removeprefix("page_"): page for name, page in globals().items() if name.startswith("page_")
}


class _Journal:
    """One file for each process, of lines that begin with B or E."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._of: tuple[int, int] | None = None
        self._lock = threading.Lock()

    def note(self, what: bytes, identity: str) -> None:
        pid = os.getpid()
        if self._of is None or self._of[0] != pid:
            with self._lock:
                if self._of is None or self._of[0] != pid:
                    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
                    descriptor = os.open(os.path.join(self._folder, str(pid)), flags, 0o600)
                    os.write(descriptor, b"F %f\n" % time.monotonic())
                    self._of = pid, descriptor
        os.write(self._of[1], b"%s %s\n" % (what, identity.encode()))


class _Noted:
    """A body whose end is noted."""

    def __init__(self, body: Iterable[bytes], end: Callable[[], None]) -> None:
        self._body = body
        self._end = end

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._body)

    def close(self) -> None:
        try:
            if hasattr(self._body, "close"):
                self._body.close()
        finally:
            self._end()


_folder = os.environ.get("SOAK_JOURNAL")
_journal = _Journal(_folder) if _folder else None


def bare(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """The application, unwrapped."""
    environ.setdefault("soak.application", bare)
    _, kind, number, identity = environ["PATH_INFO"].split("/", 3)
    page = PAGES[kind]
    if _journal is None:
        return page(environ, start_response, int(number))
    _journal.note(b"B", identity)
    try:
        body = page(environ, start_response, int(number))
    except BaseException:
        _journal.note(b"E", identity)
        raise
    if isinstance(body, list | tuple) or kind == "file":
        _journal.note(b"E", identity)
        return body
    return _Noted(body, lambda: _journal.note(b"E", identity))


def _calling_itself(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    environ["soak.application"] = application
    return bare(environ, start_response)


application: WSGIApplication = TracebackerMiddleware(_calling_itself)
