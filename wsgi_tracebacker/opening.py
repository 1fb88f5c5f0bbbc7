"""Opening what stands at a path, after a look at it that nothing can come between.

Knows that to open already is to do something: it wakes whoever waits at a pipe, and starts some devices. And that a
look at the path before (``lstat``) proves nothing: whoever may write to a folder on the way has put another thing
there by the time it is opened, and ``O_NOFOLLOW`` is about the last part of a path only. So a descriptor is had of
what is there, without opening it, and what is opened then is what that descriptor stands for.

Knows, too, that a descriptor which was opened in an application's process may be closed by that application.

Refuses to judge: what may be opened is for whoever looks.
"""

from __future__ import annotations

import errno
import os

#: PyPy does not name it; the number is the same on every architecture that Debian has, from <asm-generic/fcntl.h>.
O_PATH = getattr(os, "O_PATH", 0o10000000)


def look(path: str, *, follow: bool = False, folder: int | None = None) -> int:
    """A descriptor that stands for what is at a path, and opens nothing. Raises OSError.

    A link stands for itself, or with ``follow`` for what it leads to. ``folder`` is what a relative path starts from.
    """
    return os.open(path, O_PATH | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW), dir_fd=folder)


def reopen(looked_at: int, flags: int) -> int:
    """Open what a descriptor stands for, whatever is at its path by now. Raises OSError."""
    try:
        # No O_NOFOLLOW: this is a link of the kernel's own, straight to the file.
        return os.open(path_of(looked_at), flags | os.O_CLOEXEC)
    except FileNotFoundError:
        # Not the file: one that was removed meanwhile is opened all the same.
        raise OSError(errno.ENOTSUP, "/proc is not mounted") from None


def path_of(looked_at: int) -> str:
    """A path that leads to what a descriptor stands for, for calls that do not take such a descriptor."""
    return f"/proc/self/fd/{looked_at}"


def close(descriptor: int) -> None:
    """Close what was only read, if it is still there: an application that closes all descriptors may have done so."""
    try:
        os.close(descriptor)
    except OSError:
        pass
