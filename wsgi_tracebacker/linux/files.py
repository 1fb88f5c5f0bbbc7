"""Opens files at paths that other users may control, so that nothing can happen by it.

Three things go wrong with a plain ``open()``:

- To open is already to do something: it wakes a process that waits at a pipe, and starts some devices.
- A look at the path before (``lstat``) proves nothing. A user who may write to a folder on the way can put another
  file there before it is opened, and ``O_NOFOLLOW`` is about the last part of a path only.
- A reader that runs as root follows links, and reads files, that the user who made them may not read.

So a file is first *looked at*: a descriptor stands for it without opening it (``O_PATH``). What is checked and then
opened is that descriptor and not the path.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

#: PyPy does not name it; the number is the same on every architecture that Debian has, from <asm-generic/fcntl.h>.
O_PATH = getattr(os, "O_PATH", 0o10000000)

#: The owner of a regular file can have a lease on it, for which a blocking open would wait.
_FLAGS = os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class NotOurs(PermissionError):
    """What is at a path is no regular file, or belongs to somebody else."""


def look(path: str, *, follow: bool = False, folder: int | None = None) -> int:
    """Return a descriptor that stands for what is at a path, and opens nothing. Raises OSError.

    A link stands for itself, or with ``follow`` for what it leads to. A relative path starts from ``folder``.
    """
    return os.open(path, O_PATH | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW), dir_fd=folder)


def reopen(looked_at: int, flags: int) -> int:
    """Open what a descriptor stands for, whatever is at its path by now. Raises OSError."""
    try:
        # No O_NOFOLLOW: this is a link of the kernel's own, straight to the file.
        return os.open(path_of(looked_at), flags | _FLAGS)
    except FileNotFoundError:
        # Not the file: one that was removed meanwhile is opened all the same.
        raise OSError(errno.ENOTSUP, "/proc is not mounted") from None


def path_of(looked_at: int) -> str:
    """Return a path to what a descriptor stands for, for calls that do not take such a descriptor."""
    return f"/proc/self/fd/{looked_at}"


def open_regular(path: str, check: Callable[[os.stat_result], None], flags: int = os.O_RDONLY) -> int:
    """Open a regular file that passes a check; open nothing else. Raises OSError, as the check does."""
    looked_at = look(path)
    try:
        status = os.fstat(looked_at)
        if not stat.S_ISREG(status.st_mode):
            raise NotOurs(f"{path} is no regular file")
        check(status)
        return reopen(looked_at, flags)
    finally:
        close(looked_at)


def open_file_of(path: str, owner: int, flags: int = os.O_RDONLY) -> int:
    """Open a regular file that belongs to the user ``owner`` and has one name. Raises OSError for any other."""

    def check(status: os.stat_result) -> None:
        if status.st_uid != owner:
            raise NotOurs(f"{path} belongs to uid {status.st_uid}, not to {owner}")
        if status.st_nlink != 1:
            raise NotOurs(f"{path} has {status.st_nlink} names")

    return open_regular(path, check, flags)


def read_file_of(path: str, owner: int, limit: int) -> tuple[bytes, float]:
    """Return the content of a user's file, at most ``limit`` bytes, and the Unix time of its last change.

    Raises OSError, as open_file_of() does.
    """
    descriptor = open_file_of(path, owner)
    try:
        return read_at_most(descriptor, limit), os.fstat(descriptor).st_mtime
    finally:
        close(descriptor)


def read_at_most(descriptor: int, limit: int, offset: int = 0) -> bytes:
    """Return what a file holds from an offset on, up to a limit. Raises OSError."""
    chunks = []
    while limit > 0 and (chunk := os.pread(descriptor, limit, offset)):
        chunks.append(chunk)
        offset += len(chunk)
        limit -= len(chunk)
    return b"".join(chunks)


def close(descriptor: int) -> None:
    """Close a file that was only read; an application that closes all descriptors may have done it already."""
    try:
        os.close(descriptor)
    except OSError:
        pass
