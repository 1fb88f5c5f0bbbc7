"""Files that another user named, opened so that they can do no harm.

Knows how a reader that may do more than the worker (root) is led astray: by symbolic links, by devices and pipes, by
files of others, by files without end, and by what was one thing a moment ago. Refuses all of these.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from wsgi_tracebacker import opening

if TYPE_CHECKING:
    from collections.abc import Callable

#: Its owner can have a lease on a regular file, for which an open would wait.
_FLAGS = os.O_NONBLOCK | os.O_NOCTTY


def open_file_of(path: str, owner: int, *, writable: bool = False) -> int:
    """The descriptor of a regular file that belongs to ``owner`` and has one name. Raises OSError for any other."""

    def may_be_opened(status: os.stat_result) -> None:
        if status.st_uid != owner:
            raise PermissionError(f"{path} belongs to uid {status.st_uid}, not to {owner}")
        if status.st_nlink != 1:
            raise PermissionError(f"{path} has {status.st_nlink} names")

    return open_regular(path, may_be_opened, writable=writable)


def open_regular(path: str, may_be_opened: Callable[[os.stat_result], None], *, writable: bool = False) -> int:
    """The descriptor of a regular file that passes a check; nothing else is opened. Raises OSError, as the check does.

    What is checked is what is opened: a user who named the path can swap any folder on it for a link at any moment.
    """
    looked_at = opening.look(path)
    try:
        status = os.fstat(looked_at)
        if not stat.S_ISREG(status.st_mode):
            raise FileNotFoundError(f"{path} is no regular file")
        may_be_opened(status)
        return opening.reopen(looked_at, (os.O_RDWR if writable else os.O_RDONLY) | _FLAGS)
    finally:
        os.close(looked_at)


def read_at_most(descriptor: int, limit: int, offset: int = 0) -> bytes:
    """What a file holds from an offset on, up to a limit. Raises OSError."""
    chunks = []
    while limit > 0 and (chunk := os.pread(descriptor, limit, offset)):
        chunks.append(chunk)
        offset += len(chunk)
        limit -= len(chunk)
    return b"".join(chunks)
