"""Files that another user named, opened so that they can do no harm.

Knows how a reader that may do more than the worker (root) is led astray: by symbolic links, by devices and pipes, by
files of others, by files without end. Refuses all of these.
"""

from __future__ import annotations

import os
import stat

_READ_FLAGS = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


def open_file_of(path: str, owner: int, *, writable: bool = False) -> int:
    """The descriptor of a regular file that belongs to ``owner`` and has one name. Raises OSError for any other."""
    # Looked at before it is opened: opening a device or a pipe can already do something.
    _check(os.lstat(path), path, owner)
    descriptor = os.open(path, (os.O_RDWR if writable else os.O_RDONLY) | _READ_FLAGS)
    try:
        _check(os.fstat(descriptor), path, owner)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _check(status: os.stat_result, path: str, owner: int) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise FileNotFoundError(f"{path} is no regular file")
    if status.st_uid != owner:
        raise PermissionError(f"{path} belongs to uid {status.st_uid}, not to {owner}")
    if status.st_nlink != 1:
        raise PermissionError(f"{path} has {status.st_nlink} names")


def read_at_most(descriptor: int, limit: int, offset: int = 0) -> bytes:
    """What a file holds from an offset on, up to a limit. Raises OSError."""
    chunks = []
    while limit > 0 and (chunk := os.pread(descriptor, limit, offset)):
        chunks.append(chunk)
        offset += len(chunk)
        limit -= len(chunk)
    return b"".join(chunks)
