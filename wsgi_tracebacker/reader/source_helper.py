"""Opens the source files of workers with their rights, in a process of its own.

To read a file as the worker's user, root takes on that user for a moment, and the C library does so for all
threads of the process. A program that serves a page in other threads meanwhile must not: it has this helper, which
opens the file and sends its descriptor.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
from typing import TYPE_CHECKING, NoReturn

from wsgi_tracebacker.reader.finding.processes import Identity

if TYPE_CHECKING:
    from collections.abc import Callable

#: Of a question: a path, which may be as long as the kernel takes, with an escape for each byte, and some groups.
_MAX_QUESTION_BYTES = 256 * 1024


class SourceHelper:
    """The helper process. Start it before there are threads, and close it in the end; it ends with us in any case."""

    def __init__(self, open_as: Callable[[str, Identity], int]) -> None:
        """``open_as``: what opens a file as somebody, in the helper."""
        self._lock = threading.Lock()
        self._socket, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._pid = os.fork()
        if self._pid == 0:
            self._socket.close()
            _serve(there, open_as)
        there.close()

    def open(self, path: str, identity: Identity) -> int:
        """The descriptor of a file. Raises OSError if it cannot be opened."""
        question = json.dumps([path, *identity]).encode("ascii")
        with self._lock:
            self._socket.send(question)
            _, descriptors, _, _ = socket.recv_fds(self._socket, 1, 1, socket.MSG_CMSG_CLOEXEC)
        if not descriptors:
            raise FileNotFoundError(f"{path} is no source that this user may read")
        return descriptors[0]

    def close(self) -> None:
        self._socket.close()
        os.waitpid(self._pid, 0)


def _serve(connection: socket.socket, open_as: Callable[[str, Identity], int]) -> NoReturn:
    try:
        # Whoever interrupts the command ends us by the end of the connection.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        while question := connection.recv(_MAX_QUESTION_BYTES):
            path, uid, gid, groups = json.loads(question)
            try:
                descriptor = open_as(path, Identity(uid, gid, tuple(groups)))
            except (OSError, ValueError):
                connection.send(b"0")
                continue
            socket.send_fds(connection, [b"1"], [descriptor])
            os.close(descriptor)
    finally:
        # Nothing of the parent's is flushed, and none of its functions for the end of the process run.
        os._exit(0)
