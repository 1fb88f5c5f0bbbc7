"""What a thread of ours waits on, and others wake it with: an eventfd, which never blocks.

Knows how one is had where Python does not name it (PyPy has no ``os.eventfd``), and that an application may close all
descriptors and open its own, which get our numbers: then nothing may be written to them, read from them or closed.
Refuses to wait.
"""

from __future__ import annotations

import os
import sys
from time import monotonic

_NEVER = float("inf")

_ONE = (1).to_bytes(8, sys.byteorder)


def create() -> int:
    """A new one, silent, not inherited by programs that are started."""
    if hasattr(os, "eventfd"):
        return os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    return _from_libc()


def _from_libc() -> int:
    import ctypes  # noqa: PLC0415  (megabytes, and only PyPy needs it)

    # <sys/eventfd.h>: both flags are those of open().
    descriptor: int = ctypes.CDLL(None, use_errno=True).eventfd(0, os.O_CLOEXEC | os.O_NONBLOCK)
    if descriptor < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return descriptor


# Not os.read() and os.write() where it can be helped: eventlet replaces them with ones that wait in the hub, and the
# hub itself, whom such a descriptor calls, is not to wait.
def ring(descriptor: int) -> None:
    if hasattr(os, "eventfd_write"):
        os.eventfd_write(descriptor, 1)
    else:
        os.write(descriptor, _ONE)


def silence(descriptor: int) -> None:
    if hasattr(os, "eventfd_read"):
        os.eventfd_read(descriptor)
    else:
        os.read(descriptor, len(_ONE))


class Waker:
    """An eventfd that is looked at before it is used."""

    __slots__ = ("_inode", "_rung_at", "descriptor")

    def __init__(self) -> None:
        """Raises OSError when there is no descriptor."""
        #: For poll(); -1 when it was closed.
        self.descriptor = -1
        self._inode: tuple[int, int] | None = None
        #: Monotonic time of the first call to wake() that is not yet heard.
        self._rung_at = _NEVER
        self.renew()

    def renew(self) -> None:
        """Let go of the descriptor, whosever it is by now, and make another one. Raises OSError."""
        self.descriptor = create()
        self._inode = inode_of(self.descriptor)

    def is_ours(self) -> bool:
        """Whether nobody has closed it, and put something else there."""
        # All eventfds have the same inode: one of the application's own in its place is woken for nothing.
        return self.descriptor >= 0 and inode_of(self.descriptor) == self._inode

    def wake(self) -> None:
        """Wake the thread up; does nothing if it cannot be."""
        if self.is_ours():
            # The thread cannot say itself when it was woken: it may have waited for the GIL since.
            if self._rung_at == _NEVER:
                self._rung_at = monotonic()
            try:
                ring(self.descriptor)
            except OSError:
                pass

    def clear(self) -> float:
        """After it woke the thread up; what is no more ours is replaced, or poll() would come back at once for ever.

        The monotonic time at which it was woken; infinite if that is not known.
        """
        if self.is_ours():
            try:
                silence(self.descriptor)
            except BlockingIOError:
                pass
        else:
            self.renew()
        # Not before: a time that is noted in between would stay behind with nothing to hear, for a later waking.
        rung_at, self._rung_at = self._rung_at, _NEVER
        return rung_at

    def close(self) -> None:
        """Let go of it; may be said twice."""
        if self.is_ours():
            os.close(self.descriptor)
        self.descriptor = -1


def inode_of(descriptor: int) -> tuple[int, int] | None:
    """What a descriptor is open on; None if it is not open."""
    try:
        status = os.fstat(descriptor)
    except OSError:
        return None
    return status.st_dev, status.st_ino
