"""Makes and writes the table of requests in flight: one row for each core, in the layout of ``table_rows``.

Its file is allocated in full (writing to a sparse file is SIGBUS when memory runs out), never truncated while another
process may have it mapped, and never synced.
"""

from __future__ import annotations

import mmap
import os
from typing import TYPE_CHECKING

from wsgi_tracebacker.linux import files
from wsgi_tracebacker.linux.descriptor import OwnDescriptor
from wsgi_tracebacker.wire.black_box import table_header, table_rows
from wsgi_tracebacker.worker.blackbox import box_files

if TYPE_CHECKING:
    from wsgi_tracebacker.wire.black_box.table_header import Header

#: A row's memory, its offset there, and its head.
Row = tuple["mmap.mmap | memoryview[int]", int, "memoryview[float]"]

#: Maps that must never be freed: a map closes its duplicate of the descriptor then, and if the application closed all
#: descriptors, that number may be a file of its own.
_kept: list[mmap.mmap] = []


def scratch_row() -> Row:
    """A row in private memory, which no other process sees."""
    # A view: packing into a bytearray itself takes 60 ns more.
    buffer = memoryview(bytearray(table_rows.ROW_BYTES))
    return buffer, 0, buffer[:8].cast("d")


class Table:
    """The table of one worker."""

    def __init__(self, path: str, header: Header) -> None:
        """Make its file, in place of a predecessor's. Raises OSError."""
        self.path = path
        self.restarts = header.counted.restarts
        #: Kept, because servers that start a thread for each request use the same few numbers again and again.
        self._rows: dict[int, Row] = {}
        self._descriptor = OwnDescriptor(box_files.make(path, os.O_RDWR))
        descriptor = self._descriptor.number
        try:
            # PyPy returns the error's number instead of raising it.
            error: int | None = os.posix_fallocate(descriptor, 0, table_rows.FILE_BYTES)  # type: ignore[func-returns-value]
            if error:
                raise OSError(error, os.strerror(error))
            self._memory = mmap.mmap(descriptor, table_rows.FILE_BYTES)
            content = table_header.encode_header(header)
            self._memory[: len(content)] = content
        except (OSError, ValueError):
            os.unlink(path)
            self._descriptor.close()
            raise

    def row(self, core: int, ident: int, native_id: int | None) -> Row | None:
        """The row of a core, after its thread's ids were written to it; None if the table has no such row."""
        if core >= table_rows.ROWS:
            return None
        row = self._rows.get(core)
        if row is None:
            offset = table_rows.row_offset(core)
            row = self._rows[core] = self._memory, offset, memoryview(self._memory)[offset : offset + 8].cast("d")
        table_rows.OWNER.pack_into(self._memory, row[1] + table_rows.OWNER_OFFSET, ident, native_id or 0, core)
        return row

    def describe(
        self,
        core: int,
        token: float,
        remote_address: str | None,
        request_id: str | None,
        resident_bytes: int | None = None,
    ) -> None:
        """Add details to the row of a request that lasts long. ``resident_bytes``: None for what is there already."""
        if core < table_rows.ROWS:
            offset = table_rows.row_offset(core) + table_rows.DETAIL_OFFSET
            if resident_bytes is None:
                detail_of, _, _, known = table_rows.DETAIL.unpack_from(self._memory, offset)
                resident_bytes = known if detail_of == token else 0
            content = table_rows.detail_bytes(token, remote_address, request_id, resident_bytes)
            self._memory[offset : offset + len(content)] = content

    def count(self, counter: str) -> None:
        """Add 1 to a counter of Counted. Only the watchdog's thread may: of two threads, one could undo the other's."""
        self._add(table_header.counter_offset(counter))

    def count_kind(self, action: str, verdict: str) -> None:
        """Add 1 to the overdue requests with this action and verdict; again only for the watchdog's thread."""
        self._add(table_header.kind_offset(action, verdict))

    def _add(self, offset: int) -> None:
        (value,) = table_header.COUNTER.unpack_from(self._memory, offset)
        table_header.COUNTER.pack_into(self._memory, offset, value + 1)

    def beat(self, now: float) -> None:
        """Write that Python runs at this monotonic time."""
        table_header.BEAT.pack_into(self._memory, table_header.BEAT_OFFSET, now)

    def set_resident(self, resident_bytes: int) -> None:
        """Write the resident size of this process."""
        table_header.RESIDENT.pack_into(self._memory, table_header.RESIDENT_OFFSET, resident_bytes)

    def set_unrecorded(self, cores: int) -> None:
        """Write how many cores have no row."""
        table_header.NUMBER.pack_into(self._memory, table_header.UNRECORDED_OFFSET, cores)

    def set_listener(self, native_id: int) -> None:
        """Write which thread answers the socket."""
        table_header.NUMBER.pack_into(self._memory, table_header.LISTENER_OFFSET, native_id)

    def set_own_thread(self, place: int, ident: int, native_id: int) -> None:
        """Write a thread of ours to a place in the header; zeros for none."""
        table_header.THREAD.pack_into(self._memory, table_header.thread_offset(place), ident, native_id)

    def go_on_from(self, old: Table) -> None:
        """Copy the content of this worker's former table, whose file was deleted."""
        self.restarts = old.restarts
        self._memory[table_header.COUNTED_OFFSET :] = old._memory[table_header.COUNTED_OFFSET :]

    def is_there(self) -> bool:
        """Whether the path still leads to this table."""
        return files.inode_at(self.path) == self._descriptor.inode

    @property
    def inode(self) -> files.Inode | None:
        """Which file it is."""
        return self._descriptor.inode

    def mark_closed(self) -> None:
        """Write that its worker ended in order: whoever finds it reports no death."""
        table_header.NUMBER.pack_into(self._memory, table_header.CLOSED_OFFSET, 1)

    def close(self, *, remove: bool) -> None:
        """Close the file; ``remove`` it when the worker ends in order.

        The memory stays mapped until no core has a row in it.
        """
        if self._descriptor.number < 0:
            return
        if remove:
            self.mark_closed()
            files.unlink_if(self.path, self._descriptor.inode)
        if not self._descriptor.is_ours():
            _kept.append(self._memory)
        self._descriptor.close()
