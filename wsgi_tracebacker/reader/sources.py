"""Source lines for frames of another process.

Knows whose eyes to read with, and whose paths: only files that the worker itself may read, and reach from the root
folder, are shown, so that a worker cannot have root read a file to it by naming that as its source. Refuses everything
but regular files of a bounded size.
"""

from __future__ import annotations

import contextlib
import os
import stat
from typing import TYPE_CHECKING

from wsgi_tracebacker.linux import files
from wsgi_tracebacker.linux.files import read_at_most
from wsgi_tracebacker.linux.source import MAX_SOURCE_BYTES, SourceFile, decode_lines

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wsgi_tracebacker.model.snapshot import Frame, Stack
    from wsgi_tracebacker.reader.processes import Identity


#: What these name in the worker is something else in the reader.
_OF_WHOEVER_LOOKS = ("/proc/", "/dev/fd/", "/dev/std")


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
        if path.startswith(_OF_WHOEVER_LOOKS):
            return None
        try:
            with _acting_as(self._identity):
                descriptor = _open_source(path)
        except (OSError, ValueError):
            return None
        try:
            status = os.fstat(descriptor)
            return SourceFile(decode_lines(read_at_most(descriptor, MAX_SOURCE_BYTES)), status.st_mtime)
        except OSError:
            return None
        finally:
            os.close(descriptor)


def _open_source(path: str) -> int:
    """The descriptor of a source file. Raises OSError for what is none, and for what we may not reach or read."""
    # Through a link into /proc/self/fd or /proc/self/cwd a path leads past folders that may not be entered: with the
    # worker's rights, but to what root has open. So what is opened is found anew, by the real path that it has.
    named = files.look(path, follow=True)
    try:
        status = os.fstat(named)
        if not _is_source(status):
            raise FileNotFoundError(f"{path} is no source")
        reached = _walk_to(os.readlink(files.path_of(named)))
        try:
            if not os.path.samestat(os.fstat(reached), status):
                raise FileNotFoundError(f"{path} is somewhere else by now")
            return files.reopen(reached, os.O_RDONLY)
        finally:
            os.close(reached)
    finally:
        os.close(named)


def _walk_to(real_path: str) -> int:
    """A descriptor that stands for what is at a path, reached folder by folder. Raises OSError; links are not followed.

    Not in one call: that follows whatever link has been swapped for a folder meanwhile.
    """
    at = files.look("/")
    try:
        for name in real_path.split("/")[1:]:
            step = files.look(name, folder=at)
            os.close(at)
            at = step
    except BaseException:
        os.close(at)
        raise
    return at


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
