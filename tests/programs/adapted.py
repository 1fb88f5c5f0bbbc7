"""A page that streams, behind servers that are no WSGI servers: ``python -m tests.programs.adapted KIND``.

``asgiref`` and ``a2wsgi``: adapters to ASGI, under uvicorn. ``tornado``: its own, which calls next() on any thread of a
pool. Around the middleware is another one, a generator that reads its body by a bare ``for``.
"""

from __future__ import annotations

import asyncio
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from wsgi_tracebacker import TracebackerMiddleware

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from _typeshed.wsgi import StartResponse, WSGIEnvironment


def exported_rows() -> Iterator[bytes]:
    yield b"first\n"
    time.sleep(60)
    yield b"last\n"


def page(_environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return exported_rows()


wrapped = TracebackerMiddleware(page)


def marked(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    for row in wrapped(environ, start_response):
        yield b"> " + row


async def _serve_tornado(listening: socket.socket) -> None:
    from tornado.httpserver import HTTPServer
    from tornado.wsgi import WSGIContainer

    HTTPServer(WSGIContainer(marked, ThreadPoolExecutor(3, "pool"))).add_socket(listening)
    await asyncio.Event().wait()


def main(kind: str) -> None:
    listening = socket.create_server(("127.0.0.1", 0))
    listening.setblocking(False)
    sys.stdout.write(f"listens on {listening.getsockname()[1]}\n")
    sys.stdout.flush()
    if kind == "tornado":
        asyncio.run(_serve_tornado(listening))
        return
    import uvicorn

    application: Any
    if kind == "asgiref":
        from asgiref.wsgi import WsgiToAsgi

        application = WsgiToAsgi(marked)  # type: ignore[no-untyped-call]
    else:
        from a2wsgi import WSGIMiddleware

        application = WSGIMiddleware(marked)  # type: ignore[arg-type]
    uvicorn.Server(uvicorn.Config(application, log_level="warning")).run(sockets=[listening])


if __name__ == "__main__":
    main(sys.argv[1])
