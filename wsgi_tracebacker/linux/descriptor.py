"""Tells whether a descriptor that we opened in somebody else's process is still ours.

An application may close descriptors that it did not open, often all of them at once, and the next files that it opens
get our numbers. So every part that keeps a descriptor asks before each use. If the descriptor is no longer ours, that
part goes silent: it closes, writes, reads and locks nothing that the application opened.

The answer holds for the moment of the question. Another thread may close the descriptor right after it; nothing can
prevent that.
"""

from __future__ import annotations

import _socket
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wsgi_tracebacker.linux.files import Inode

#: From <asm-generic/socket.h>, since Linux 4.12: a number that no other socket of this boot has.
_SO_COOKIE = 57


class OwnDescriptor:
    """A descriptor, and the file or socket that it was opened on."""

    __slots__ = ("_identity", "number", "socket")

    def __init__(self, opened: int | _socket.socket) -> None:
        """Own an open descriptor, or a socket."""
        self.socket = None if isinstance(opened, int) else opened
        #: -1 once it is closed.
        self.number = opened if isinstance(opened, int) else opened.fileno()
        self._identity = self._identify()

    @property
    def inode(self) -> Inode | None:
        """Device and inode of the file that was opened; None for a socket."""
        return self._identity if isinstance(self._identity, tuple) else None

    def is_ours(self) -> bool:
        """Whether it is open, and on what it was opened on."""
        return self.number >= 0 and self._identity is not None and self._identify() == self._identity

    def close(self) -> None:
        """Close it if it is still ours; safe to call twice."""
        if not self.is_ours():
            if self.socket is not None:
                # The socket object would close the number when it is freed.
                self.socket.detach()
        elif self.socket is not None:
            self.socket.close()
        else:
            os.close(self.number)
        self.number = -1

    def _identify(self) -> Inode | bytes | None:
        """The cookie of a socket, the inode of a file; None if the number is not open."""
        if self.socket is not None:
            try:
                # Python keeps the GIL during this call, but not during fstat(): beside busy threads that would cost up
                # to 5 ms.
                return self.socket.getsockopt(_socket.SOL_SOCKET, _SO_COOKIE, 8)
            except OSError:
                # An older kernel, or no socket.
                pass
        try:
            status = os.fstat(self.number)
        except OSError:
            return None
        return status.st_dev, status.st_ino
