"""A descriptor of ours in somebody else's process: is its number still ours?

An application may close descriptors that it did not open, often all of them at once, and the next files that it opens
get our numbers. So whoever keeps a descriptor asks before each use. If the answer is no, that part goes silent: nothing
that the application opened is closed, written to, read from or locked.

The answer is about the moment of the question. Nobody can prevent that another thread closes the descriptor right
after it.
"""

from __future__ import annotations

import _socket
import os

#: From <asm-generic/socket.h>, since Linux 4.12: a number that no other socket of this boot has.
_SO_COOKIE = 57


class OwnDescriptor:
    """A descriptor, and what it was open on when it was opened."""

    __slots__ = ("_identity", "number", "socket")

    def __init__(self, opened: int | _socket.socket) -> None:
        """Take charge of an open descriptor, or of a socket."""
        self.socket = None if isinstance(opened, int) else opened
        #: -1 when it was closed.
        self.number = opened if isinstance(opened, int) else opened.fileno()
        self._identity = self._look()

    @property
    def inode(self) -> tuple[int, int] | None:
        """Device and inode of the file that was opened; None for a socket."""
        return self._identity if isinstance(self._identity, tuple) else None

    def is_ours(self) -> bool:
        """Whether nobody has closed it, and put something else there."""
        return self.number >= 0 and self._identity is not None and self._look() == self._identity

    def close(self) -> None:
        """Close it if it is still ours; safe to call twice."""
        if not self.is_ours():
            if self.socket is not None:
                # Its object would close the number when it goes.
                self.socket.detach()
        elif self.socket is not None:
            self.socket.close()
        else:
            os.close(self.number)
        self.number = -1

    def _look(self) -> tuple[int, int] | bytes | None:
        if self.socket is not None:
            try:
                # Python does not let go of the GIL for this call, as it does for fstat(): beside busy threads that
                # would cost up to 5 ms.
                return self.socket.getsockopt(_socket.SOL_SOCKET, _SO_COOKIE, 8)
            except OSError:
                # An older kernel, or no socket.
                pass
        return inode_of(self.number)


def inode_of(descriptor: int) -> tuple[int, int] | None:
    """Device and inode of what a descriptor is open on; None if it is not open."""
    try:
        status = os.fstat(descriptor)
    except OSError:
        return None
    return status.st_dev, status.st_ino
