"""Source lines for frames of another process.

Knows whose eyes to read with: only files that the worker itself may read are shown, so that a worker cannot have
root read a file to it by naming that as its source. Refuses everything but regular files of a bounded size.
"""

from __future__ import annotations

import contextlib
import os
import stat
from typing import TYPE_CHECKING

from wsgi_tracebacker.formats.source import MAX_SOURCE_BYTES, SourceFile, decode_lines
from wsgi_tracebacker.reader.files import read_at_most

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wsgi_tracebacker.model import Frame, Stack
    from wsgi_tracebacker.reader.process import Identity


class Sources:
    """The source files of one worker; each is read once."""

    def __init__(self, identity: Identity, cwd: str, process_started_at: float | None) -> None:
        """``cwd`` is the worker's, for files that were compiled with a relative name."""
        self._identity = identity
        self._cwd = cwd
        self._process_started_at = process_started_at
        self._files: dict[str, SourceFile | None] = {}

    def fill_in(self, stack: Stack) -> Stack:
        """The stack with the source of its frames."""
        return stack._replace(frames=tuple(self._frame(frame) for frame in stack.frames))

    def _frame(self, frame: Frame) -> Frame:
        if frame.filename not in self._files:
            self._files[frame.filename] = self._read(frame.filename)
        file = self._files[frame.filename]
        if file is None or frame.lineno is None:
            return frame
        return frame._replace(
            source=file.line(frame.lineno), source_changed=file.is_newer_than(self._process_started_at)
        )

    def _read(self, filename: str) -> SourceFile | None:
        if not filename or filename.startswith("<"):
            return None
        path = os.path.join(self._cwd or "/", filename)
        try:
            with _acting_as(self._identity):
                # Looked at before it is opened: opening a device or a pipe can already do something. O_NONBLOCK: it may
                # have become one since.
                if not _is_source(os.stat(path)):
                    return None
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        except (OSError, ValueError):
            return None
        try:
            status = os.fstat(descriptor)
            if not _is_source(status):
                return None
            return SourceFile(decode_lines(read_at_most(descriptor, MAX_SOURCE_BYTES)), status.st_mtime)
        except OSError:
            return None
        finally:
            os.close(descriptor)


def _is_source(status: os.stat_result) -> bool:
    # No size is what the kernel's own files in /proc have, which would speak of the reader and not of the worker.
    return stat.S_ISREG(status.st_mode) and 0 < status.st_size <= MAX_SOURCE_BYTES


@contextlib.contextmanager
def _acting_as(identity: Identity) -> Iterator[None]:
    """Have the rights of a worker for a moment, if we have others. Raises OSError if that cannot be."""
    uid, gid, groups = os.geteuid(), os.getegid(), os.getgroups()
    if uid == identity.uid:
        yield
        return
    # Only root comes here: nobody else could open the worker's files. The user last, and back first: it is what the
    # right to change the others hangs on.
    try:
        os.setgroups(identity.groups)
        os.setegid(identity.gid)
        os.seteuid(identity.uid)
        yield
    finally:
        os.seteuid(uid)
        os.setegid(gid)
        os.setgroups(groups)
