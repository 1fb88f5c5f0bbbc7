"""Opens, makes and removes files at paths that other users may control, without harm from what they put there.

Three things go wrong with a plain ``open()``:

- Opening has effects: it wakes a process that waits at a pipe, and starts some devices.
- ``lstat()`` before it proves nothing. A user who may write to a folder on the path can put another file there before
  it is opened, and ``O_NOFOLLOW`` is about the last part of a path only.
- A reader that runs as root follows links, and reads files, that the user who made them may not read.

So a file is first opened with ``O_PATH``: such a descriptor only *refers* to the file, and has no effect on it. That
descriptor, and not the path, is then checked and opened for reading or writing.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

#: Device and inode number: which file it is, whatever its path.
Inode = tuple[int, int]

#: PyPy does not name it; the number is the same on every architecture that Debian has, from <asm-generic/fcntl.h>.
O_PATH = getattr(os, "O_PATH", 0o10000000)

#: The root folder of another process, which may be another one than ours.
OTHER_ROOT = re.compile(r"/proc/[0-9]+/root(?=/)")

#: The owner of a regular file can have a lease on it, for which a blocking open would wait.
_FLAGS = os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC

#: The mode of every file and socket that a worker makes.
OWNER_ONLY = 0o600


class NotOurs(PermissionError):
    """The file at a path is not a regular one, belongs to somebody else, or has a second name."""


# --- files of others


def refer(path: str, *, follow: bool = False, folder: int | None = None) -> int:
    """Return a descriptor that refers to the file at a path, without opening it. Raises OSError.

    For a link, that is the link itself, or with ``follow`` its target. A relative path starts from ``folder``.
    In the root folder of another process no link on the path is followed: its target would be in our own root folder.
    """
    other_root = OTHER_ROOT.match(path)
    if other_root is not None and not follow:
        return _walk(other_root[0], path[other_root.end() :])
    return os.open(path, O_PATH | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW), dir_fd=folder)


def _walk(root: str, path: str) -> int:
    """Return a descriptor that refers to the file at a path below a folder, without following a link."""
    at = os.open(root, O_PATH | os.O_CLOEXEC)
    try:
        for name in filter(None, path.split("/")):
            if name == "..":
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
            step = os.open(name, O_PATH | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=at)
            os.close(at)
            at = step
    except BaseException:
        os.close(at)
        raise
    return at


def reopen(reference: int, flags: int) -> int:
    """Open the file that a descriptor refers to, whatever is at its path by now. Raises OSError."""
    try:
        # No O_NOFOLLOW: this is a link of the kernel's own, straight to the file.
        return os.open(path_of(reference), flags | _FLAGS)
    except FileNotFoundError:
        # A file that was removed meanwhile can still be opened, so the missing one is /proc.
        raise OSError(errno.ENOTSUP, "/proc is not mounted") from None


def path_of(reference: int) -> str:
    """Return a path to the file that a descriptor refers to, for calls that do not accept such a descriptor."""
    return f"/proc/self/fd/{reference}"


def open_regular(path: str, check: Callable[[os.stat_result], None], flags: int = os.O_RDONLY) -> int:
    """Open a regular file that passes a check; open nothing else. Raises OSError, as the check does."""
    reference = refer(path)
    try:
        status = os.fstat(reference)
        _check_regular(path, status)
        check(status)
        return reopen(reference, flags)
    finally:
        close(reference)


def open_file_of(path: str, owner: int, flags: int = os.O_RDONLY) -> int:
    """Open a regular file that belongs to the user ``owner`` and has one name. Raises OSError for any other."""
    return open_regular(path, lambda status: _check_owner(path, status, owner), flags)


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
    """Return the content of a file from an offset on, up to a limit. Raises OSError."""
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


def _check_regular(path: str, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise NotOurs(f"{path} is no regular file")


def _check_owner(path: str, status: os.stat_result, owner: int) -> None:
    if status.st_uid != owner:
        raise NotOurs(f"{path} belongs to uid {status.st_uid}, not to {owner}")
    if status.st_nlink != 1:
        raise NotOurs(f"{path} has {status.st_nlink} names")


# --- files of our own


def create(path: str, flags: int) -> int:
    """Make and open a new file that only its owner may read and write. Raises OSError, also if the path exists."""
    descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, OWNER_ONLY)
    try:
        # A umask can remove the owner's own rights too: a successor could not open the file.
        os.fchmod(descriptor, OWNER_ONLY)
    except OSError:
        close(descriptor)
        raise
    return descriptor


def inode_at(path: str) -> Inode | None:
    """Which file is at a path, without following a link; None if there is none."""
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def unlink_own(path: str) -> None:
    """Remove a regular file of this user that has no other name, if there is one. Raises NotOurs for any other file."""
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return
    _check_regular(path, status)
    _check_owner(path, status, os.geteuid())
    os.unlink(path)


def unlink_if(path: str, inode: Inode | None) -> None:
    """Remove the file at a path if it is still the one with this inode."""
    if inode is not None and inode_at(path) == inode:
        try:
            os.unlink(path)
        except OSError:
            pass
