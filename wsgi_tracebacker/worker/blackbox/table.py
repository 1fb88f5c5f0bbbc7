"""The table of requests in flight, which the worker writes and whoever may read its file reads.

Knows how the file is made, and which row is which core's. Its layout is in ``wire.table_layout``.

It is allocated in full (a sparse file is SIGBUS when memory runs out), never truncated while somebody may have it
mapped, and never synced.
"""

from __future__ import annotations

import mmap
import os
from typing import TYPE_CHECKING

from wsgi_tracebacker.linux import files
from wsgi_tracebacker.linux.descriptor import OwnDescriptor
from wsgi_tracebacker.wire import table_layout as layout
from wsgi_tracebacker.worker.blackbox import box_files

if TYPE_CHECKING:
    from wsgi_tracebacker.wire.table_layout import Header

#: A row's memory, its offset there, and its head.
Row = tuple["mmap.mmap | memoryview[int]", int, "memoryview[float]"]

#: Maps that must not be let go of: each closes a duplicate of its file's descriptor then, whose number the application
#: has for something of its own where it closed all descriptors.
_kept: list[mmap.mmap] = []


def scratch_row() -> Row:
    """A row in memory of its own: nobody outside of the process sees it."""
    # A view: packing into a bytearray itself takes 60 ns more.
    buffer = memoryview(bytearray(layout.ROW_BYTES))
    return buffer, 0, buffer[:8].cast("d")


class Table:
    """The table of one worker."""

    def __init__(self, path: str, header: Header) -> None:
        """Make its file, in the place of a predecessor's. Raises OSError."""
        self.path = path
        #: Kept, because servers that start a thread for each request use the same few numbers again and again.
        self._rows: dict[int, Row] = {}
        self._descriptor = OwnDescriptor(box_files.make(path, os.O_RDWR))
        descriptor = self._descriptor.number
        try:
            # PyPy returns the error's number instead of raising it.
            error: int | None = os.posix_fallocate(descriptor, 0, layout.FILE_BYTES)  # type: ignore[func-returns-value]
            if error:
                raise OSError(error, os.strerror(error))
            self._memory = mmap.mmap(descriptor, layout.FILE_BYTES)
            content = layout.encode_header(header)
            self._memory[: len(content)] = content
        except (OSError, ValueError):
            os.unlink(path)
            self._descriptor.close()
            raise

    def row(self, core: int, ident: int, native_id: int | None) -> Row | None:
        """The row of a core, with the thread that it is for written to it; None beyond the end."""
        if core >= layout.ROWS:
            return None
        row = self._rows.get(core)
        if row is None:
            offset = layout.row_offset(core)
            row = self._rows[core] = self._memory, offset, memoryview(self._memory)[offset : offset + 8].cast("d")
        layout.OWNER.pack_into(self._memory, row[1] + layout.OWNER_OFFSET, ident, native_id or 0, core)
        return row

    def describe(self, core: int, token: float, remote_address: str | None, request_id: str | None) -> None:
        """Add to the row of a request that stays."""
        if core < layout.ROWS:
            offset = layout.row_offset(core) + layout.DETAIL_OFFSET
            content = layout.detail_bytes(token, remote_address, request_id)
            self._memory[offset : offset + len(content)] = content

    def count(self, counter: str) -> None:
        """Add 1 to a counter of ``layout.Counted``. Only the watchdog's thread may: a sum of two could get lost."""
        offset = layout.counter_offset(counter)
        layout.COUNTER.pack_into(self._memory, offset, layout.COUNTER.unpack_from(self._memory, offset)[0] + 1)

    def set_unrecorded(self, cores: int) -> None:
        """Write how many cores have no row."""
        layout.NUMBER.pack_into(self._memory, layout.UNRECORDED_OFFSET, cores)

    def set_listener(self, native_id: int) -> None:
        """Write which thread answers the socket."""
        layout.NUMBER.pack_into(self._memory, layout.LISTENER_OFFSET, native_id)

    def set_own_thread(self, place: int, ident: int, native_id: int) -> None:
        """Write which thread of ours has a place of the header; zeros for none."""
        layout.THREAD.pack_into(self._memory, layout.thread_offset(place), ident, native_id)

    def go_on_from(self, old: Table) -> None:
        """Take over what an earlier table of this same worker holds, whose file has vanished."""
        self._memory[layout.COUNTED_OFFSET :] = old._memory[layout.COUNTED_OFFSET :]

    def is_there(self) -> bool:
        """Whether the path still leads to this table."""
        return files.inode_at(self.path) == self._descriptor.inode

    def close(self, *, remove: bool) -> None:
        """Let go of the file; ``remove`` it when the worker ends in order.

        The memory stays mapped until the last core has let go of its row.
        """
        if self._descriptor.number < 0:
            return
        if remove:
            layout.NUMBER.pack_into(self._memory, layout.CLOSED_OFFSET, 1)
            files.unlink_if(self.path, self._descriptor.inode)
        if not self._descriptor.is_ours():
            _kept.append(self._memory)
        self._descriptor.close()
