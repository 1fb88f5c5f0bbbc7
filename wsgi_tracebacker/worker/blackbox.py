"""What outlives the worker: its last reports, in a file in shared memory.

Knows where the file is, who may read it and how large it may grow. Refuses to raise: if it cannot be had there is
none, and the application is served.

A report is written here before it is logged, because logging may hang: an overdue request may hold the lock of the
very handler that the report would go to. ``/dev/shm``, because a write there never waits for a disk.
"""

from __future__ import annotations

import hashlib
import os
import stat

#: Reports that are kept; a report of a deep stack has some 20 KiB. When full, the file starts anew.
MAX_BYTES = 512 * 1024

_SHARED_MEMORY = "/dev/shm"  # noqa: S108  (0600, no symlinks followed, the owner checked)
_OWNER_ONLY = 0o600


def stacks_path(base: str, number: int) -> str:
    """Where the last reports of worker ``number`` are: one path a slot, so that a successor finds and reuses it."""
    if not os.path.isdir(_SHARED_MEMORY):
        return f"{base}{number}.stacks"
    # The base's path would not fit as a name; 64 bits of it are enough for one user's services.
    name = hashlib.blake2b(os.fsencode(base), digest_size=8).hexdigest()
    return f"{_SHARED_MEMORY}/wsgi_tracebacker.{os.geteuid()}.{name}.{number}.stacks"


class StacksFile:
    """The last reports of one worker. Opened at the first one: most workers never have any."""

    def __init__(self, path: str) -> None:
        """Nothing is opened yet."""
        self.path = path
        self._descriptor: int | None = None
        self._refused = False
        self._size = 0

    def write(self, text: str) -> bool:
        """Add a report; whether it was written."""
        content = text.encode("utf-8", "backslashreplace")[:MAX_BYTES]
        try:
            descriptor = self._open()
            if descriptor is None:
                return False
            if self._size + len(content) > MAX_BYTES:
                os.ftruncate(descriptor, 0)
                self._size = 0
            self._size += os.pwrite(descriptor, content, self._size)
        except OSError:
            return False
        return True

    def _open(self) -> int | None:
        if self._descriptor is None and not self._refused:
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
            try:
                descriptor = os.open(self.path, flags, _OWNER_ONLY)
            except OSError:
                self._refused = True
                return None
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_nlink != 1:
                os.close(descriptor)
                self._refused = True
                return None
            os.fchmod(descriptor, _OWNER_ONLY)
            os.ftruncate(descriptor, 0)
            self._descriptor = descriptor
        return self._descriptor

    def close(self, *, remove: bool) -> None:
        """Let go of the file; ``remove`` it when the worker ends in order."""
        if self._descriptor is None:
            return
        try:
            ours = os.fstat(self._descriptor)
            there = os.lstat(self.path)
            if remove and (ours.st_dev, ours.st_ino) == (there.st_dev, there.st_ino):
                os.unlink(self.path)
        except OSError:
            pass
        try:
            os.close(self._descriptor)
        except OSError:
            pass
        self._descriptor = None
