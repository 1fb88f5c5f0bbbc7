"""Servers that make a client wait: one that accepts and never answers, one that never accepts."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def never_answers() -> Iterator[int]:
    """Accepts every connection, reads nothing and says nothing; its port."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        accepted: list[socket.socket] = []

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    accepted.append(server.accept()[0])

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            # Wakes accept(), which close() would not.
            server.shutdown(socket.SHUT_RDWR)
            thread.join()
            for connection in accepted:
                connection.close()


@contextlib.contextmanager
def never_accepts() -> Iterator[int]:
    """Its queue of connections is full, so the kernel answers no more of them; its port."""
    with contextlib.ExitStack() as opened, socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        for _ in range(4):
            connection = opened.enter_context(socket.socket())
            connection.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                connection.connect(server.getsockname())
        yield server.getsockname()[1]
