"""The files of the black box: where they are, how they are made, replaced, read and removed.

Knows that what stands at their paths may be anybody's: only a regular file of this user with one name is read,
replaced or removed. Refuses to know what is in them.

The files are in ``/dev/shm``: a write there never waits for a disk, which shared maps of files on one do, for
hundreds of milliseconds.
"""

from __future__ import annotations

import os
import stat

from wsgi_tracebacker.linux import files
from wsgi_tracebacker.wire import table_layout as layout

SHARED_MEMORY = layout.SHARED_MEMORY

_OWNER_ONLY = 0o600

#: No file of ours is larger: a table, or a stacks file that is full.
_MAX_BYTES = 2 * 1024 * 1024


def path_of(base: str, number: int, kind: str) -> str:
    """Where a file of worker ``number`` is."""
    if os.path.isdir(SHARED_MEMORY) and os.access(SHARED_MEMORY, os.W_OK):
        return os.path.join(SHARED_MEMORY, layout.file_name(base, number, os.geteuid(), kind))
    return layout.beside_socket(base, number, kind)


def make(path: str, flags: int) -> int:
    """Open a new file in the place of a predecessor's, for the owner only. Raises OSError.

    Always a new file: whoever still reads the old one goes on reading that.
    """
    _remove_ours(path)
    descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, _OWNER_ONLY)
    try:
        # A umask can take the owner's own rights too.
        os.fchmod(descriptor, _OWNER_ONLY)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def write(path: str, content: bytes) -> bool:
    """Replace a small file; whether that was possible."""
    try:
        descriptor = make(path, os.O_WRONLY)
        try:
            is_whole = os.write(descriptor, content) == len(content)
        finally:
            # An error of the write may be reported only here.
            os.close(descriptor)
    except OSError:
        is_whole = False
    if not is_whole:
        # Memory ran out, half-way or before: a reader would call half of it damaged.
        remove(path)
    return is_whole


def read(path: str) -> tuple[bytes | None, float | None]:
    """The content of a file of ours, and the Unix time at which it was last written; None and None if there is none."""
    try:
        return files.read_file_of(path, os.geteuid(), _MAX_BYTES)
    except OSError:
        return None, None


def remove(path: str) -> None:
    """Remove a file of ours; what is not ours stays."""
    try:
        _remove_ours(path)
    except OSError:
        pass


def remove_if(path: str, inode: tuple[int, int] | None) -> None:
    """Remove a file if it is still the one that was opened."""
    if inode is not None and inode_at(path) == inode:
        try:
            os.unlink(path)
        except OSError:
            pass


def inode_at(path: str) -> tuple[int, int] | None:
    """What stands at a path, without following a link; None if nothing does."""
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _is_ours(status: os.stat_result) -> bool:
    return stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid() and status.st_nlink == 1


def _remove_ours(path: str) -> None:
    """Make room; raises FileExistsError if what stands there is somebody else's."""
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return
    if not _is_ours(status):
        raise FileExistsError(f"{path} is not a file of ours")
    os.unlink(path)
