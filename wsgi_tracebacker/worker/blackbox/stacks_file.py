"""Keeps the last reports and stacks of one worker in a file that outlives it, up to a size.

A report is written here before it is logged, because logging may hang: an overdue request may hold the lock of the
handler that would log it. Nothing raises: if the file cannot be opened, nothing is kept.
"""

from __future__ import annotations

import os

from wsgi_tracebacker.linux import files
from wsgi_tracebacker.linux.descriptor import OwnDescriptor
from wsgi_tracebacker.worker.blackbox import box_files

#: Size of the file; a report with a deep stack has some 20 KiB. When it is full, the file is emptied.
MAX_STACKS_BYTES = 512 * 1024


class StacksFile:
    """The stacks file of one worker. It is made when it is first needed."""

    def __init__(self, path: str) -> None:
        """Nothing is opened yet."""
        self.path = path
        self._descriptor: OwnDescriptor | None = None
        self._refused = False

    def write(self, text: str) -> bool:
        """Add a report; whether it was written."""
        content = text.encode("utf-8", "backslashreplace")[:MAX_STACKS_BYTES]
        descriptor = self.descriptor()
        if descriptor is None or self._descriptor is None or not self._descriptor.is_ours():
            return False
        try:
            if os.fstat(descriptor).st_size + len(content) > MAX_STACKS_BYTES:
                os.ftruncate(descriptor, 0)
            os.write(descriptor, content)
        except OSError:
            return False
        return True

    def descriptor(self) -> int | None:
        """The open file, in append mode; None if it cannot be opened."""
        if self._descriptor is None and not self._refused:
            try:
                self._descriptor = OwnDescriptor(box_files.make(self.path, os.O_RDWR | os.O_APPEND))
            except OSError:
                self._refused = True
        return self._descriptor.number if self._descriptor is not None else None

    @property
    def inode(self) -> files.Inode | None:
        """Which file it is; None if it was not made."""
        return self._descriptor.inode if self._descriptor is not None else None

    def close(self, *, remove: bool) -> None:
        """Close the file; ``remove`` it when the worker ends in order."""
        if self._descriptor is None:
            return
        if remove:
            files.unlink_if(self.path, self._descriptor.inode)
        self._descriptor.close()
        self._descriptor = None
