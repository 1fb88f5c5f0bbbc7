"""The files of the black box: where they are, and how they are replaced, read and removed.

Other users may put files at these paths: only a regular file of this user with one name is read, replaced or removed.

The files are in ``/dev/shm``: a write there never waits for a disk, which shared maps of files on one do, for
hundreds of milliseconds.
"""

from __future__ import annotations

import os

from wsgi_tracebacker.linux import files
from wsgi_tracebacker.wire.black_box import file_names

SHARED_MEMORY = file_names.SHARED_MEMORY

#: No file of ours is larger: a table, or a stacks file that is full.
_MAX_BYTES = 2 * 1024 * 1024


def path_of(base: str, number: int, kind: str) -> str:
    """Where a file of worker ``number`` is."""
    if os.path.isdir(SHARED_MEMORY) and os.access(SHARED_MEMORY, os.W_OK):
        return os.path.join(SHARED_MEMORY, file_names.file_name(base, number, os.geteuid(), kind))
    return file_names.beside_socket(base, number, kind)


def make(path: str, flags: int) -> int:
    """Open a new file in place of a predecessor's. Raises OSError.

    It never overwrites: a reader that has the old file open goes on reading that.
    """
    files.unlink_own(path)
    return files.create(path, flags)


def write(path: str, content: bytes) -> bool:
    """Replace a small file; whether that was possible."""
    try:
        descriptor = make(path, os.O_WRONLY)
        try:
            is_complete = os.write(descriptor, content) == len(content)
        finally:
            # The error of a write may be reported only here.
            os.close(descriptor)
    except OSError:
        is_complete = False
    if not is_complete:
        # There was no room for all of it; a reader would call the rest damaged.
        remove(path)
    return is_complete


def read(path: str) -> tuple[bytes | None, float | None]:
    """The content of a file of ours, and the Unix time at which it was last written; None and None if there is none."""
    try:
        return files.read_file_of(path, os.geteuid(), _MAX_BYTES)
    except OSError:
        return None, None


def remove(path: str) -> None:
    """Remove a file of ours; leave any other alone."""
    try:
        files.unlink_own(path)
    except OSError:
        pass
