"""Reads the source lines for frames of another process, with the rights of that process.

Only files that the worker itself may read, and may reach from the root folder, are shown: otherwise a worker could have
root read any file, by naming it as its source. Only regular files of a bounded size are opened.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from wsgi_tracebacker.linux import files
from wsgi_tracebacker.linux.source import is_source, read_and_close

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from wsgi_tracebacker.linux.source import SourceFile
    from wsgi_tracebacker.model.snapshot import Frame, Stack
    from wsgi_tracebacker.reader.finding.processes import Identity


#: Paths that mean another file in every process.
_OWN_TO_EACH_PROCESS = ("/proc/", "/dev/fd/", "/dev/std")


class Sources:
    """The source files of one worker; each is read once."""

    def __init__(self, identity: Identity, cwd: str, process_started_at: float | None) -> None:
        """``cwd`` is the worker's: relative file names start there."""
        self._identity = identity
        self._cwd = cwd
        self._process_started_at = process_started_at
        self._files: dict[str, SourceFile | None] = {}

    def fill_in(self, stack: Stack) -> Stack:
        """Return the stack with the source lines of its frames."""
        return stack._replace(frames=tuple(self._frame(frame) for frame in stack.frames))

    def _frame(self, frame: Frame) -> Frame:
        if frame.filename not in self._files:
            self._files[frame.filename] = self._read(frame.filename)
        file = self._files[frame.filename]
        if file is None or frame.lineno is None:
            return frame
        source = file.line_of(frame.filename, frame.function, frame.lineno)
        if source is None:
            return frame
        return frame._replace(source=source, source_changed=file.is_newer_than(self._process_started_at))

    def _read(self, filename: str) -> SourceFile | None:
        if not filename or filename.startswith("<"):
            return None
        path = os.path.join(self._cwd or "/", filename)
        if path.startswith(_OWN_TO_EACH_PROCESS):
            return None
        try:
            descriptor = _open_as(path, self._identity)
        except (OSError, ValueError):
            return None
        return read_and_close(descriptor)


def open_here(path: str, identity: Identity) -> int:
    """Open a source file with the rights of a worker, which this whole process has for a moment. Raises OSError."""
    with _acting_as(identity):
        return _open_source(path)


def open_as_ourselves(path: str, identity: Identity) -> int:
    """The same only for a worker of the own user. Raises OSError for any other."""
    if identity.uid != os.geteuid():
        raise PermissionError(f"{path} is read by {identity.uid} only")
    return open_here(path, identity)


#: How source files are opened in this process.
_open_as: Callable[[str, Identity], int] = open_here


def open_by(open_as: Callable[[str, Identity], int]) -> None:
    """Open source files in another way from now on: a process that has threads must not change its user."""
    global _open_as
    _open_as = open_as


def _open_source(path: str) -> int:
    """Open a source file. Raises OSError if it is no source file, or if we may not reach or read it."""
    # A link into /proc/self/fd or /proc/self/cwd leads past folders that may not be entered, to files that root has
    # open, even with the worker's rights. So the file is searched again, by its real path, and has to be the same.
    named = files.refer(path, follow=True)
    try:
        status = os.fstat(named)
        # No size is what the kernel's own files in /proc have: they would show the reader and not the worker.
        if not (is_source(status) and status.st_size):
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
    """Return a descriptor that stands for the file at a path, reached folder by folder. Raises OSError.

    One call for the whole path would follow a link that was swapped for a folder meanwhile.
    """
    at = files.refer("/")
    try:
        for name in real_path.split("/")[1:]:
            step = files.refer(name, folder=at)
            os.close(at)
            at = step
    except BaseException:
        os.close(at)
        raise
    return at


@contextlib.contextmanager
def _acting_as(identity: Identity) -> Iterator[None]:
    """Have the rights of a worker for a moment. Raises OSError if we may not change to them."""
    uid, gid, groups = os.geteuid(), os.getegid(), os.getgroups()
    if uid == identity.uid:
        yield
        return
    # Only root gets here: nobody else could open the worker's files. The user is changed last, and changed back first:
    # only root may change the groups.
    try:
        os.setgroups(identity.groups)
        os.setegid(identity.gid)
        os.seteuid(identity.uid)
        yield
    finally:
        os.seteuid(uid)
        os.setegid(gid)
        os.setgroups(groups)
