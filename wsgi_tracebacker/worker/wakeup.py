"""A descriptor that wakes a thread of ours that polls: an eventfd, which never blocks.

Knows how one is had where Python does not name it: PyPy has no ``os.eventfd``. Refuses to hold it: who made it closes
it. It is rung by ``ring()`` and made silent again by ``silence()``; both raise OSError as the system call does.
"""

from __future__ import annotations

import os
import sys

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


def ring(descriptor: int) -> None:
    os.write(descriptor, _ONE)


def silence(descriptor: int) -> None:
    os.read(descriptor, len(_ONE))
