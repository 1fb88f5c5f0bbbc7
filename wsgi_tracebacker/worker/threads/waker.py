"""Wakes a thread of ours that sleeps in poll(), through a pair of sockets of which neither end ever blocks.

Not ``os.pipe()`` or ``os.eventfd()``: eventlet replaces ``os.read()`` and ``os.write()`` with ones that wait in its
hub, and PyPy has no ``os.eventfd()``.
"""

from __future__ import annotations

import _socket
import math
import select
from typing import Any

from wsgi_tracebacker.linux.descriptor import OwnDescriptor

_FLAGS = _socket.MSG_DONTWAIT | _socket.MSG_NOSIGNAL
#: Far more bytes than can be waiting: one for each wake().
_RECEIVE_BYTES = 4096
#: poll() takes milliseconds that fit into 31 bits.
_MAX_SECONDS = 86_400.0


class Waker:
    """Wakes one thread. If its descriptors were closed, wake() has no effect: the thread sleeps as long as planned."""

    __slots__ = ("_far", "_near")

    def __init__(self) -> None:
        """Raises OSError when there is no descriptor."""
        ends = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
        for end in ends:
            # An application may have set a default time-out for all sockets.
            end.setblocking(False)
        self._near, self._far = map(OwnDescriptor, ends)

    @property
    def descriptor(self) -> int:
        """The descriptor to poll; -1 once it is closed."""
        return self._near.number

    def is_ours(self) -> bool:
        """Whether both descriptors are still ours."""
        return self._near.is_ours() and self._far.is_ours()

    def wake(self) -> None:
        """Wake the thread, if that is still possible."""
        far = self._far
        if far.socket is not None and far.is_ours():
            try:
                far.socket.send(b"\0", _FLAGS)
            except OSError:
                pass

    def wait(self, poll: Any, seconds: float) -> bool:
        """Sleep until wake() is called, or for so many seconds (a day at most, or infinite); whether wake() was called.

        :param poll: a new ``select.poll()``, the original one.
        """
        if self.is_ours():
            poll.register(self.descriptor, select.POLLIN)
        is_woken = bool(poll.poll(min(seconds, _MAX_SECONDS) * 1000 if seconds != math.inf else None))
        if is_woken:
            self.clear()
        return is_woken

    def clear(self) -> None:
        """Forget every wake() until now: the thread can sleep until the next one."""
        near = self._near
        if near.socket is not None and near.is_ours():
            try:
                near.socket.recv(_RECEIVE_BYTES, _FLAGS)
            except OSError:
                pass

    def close(self) -> None:
        """Close both descriptors; may be called twice."""
        self._near.close()
        self._far.close()
