"""What outlives the worker: the table of its requests in flight, and its last reports and stacks.

Knows where these files are, who may read them and how large they may grow. Refuses to raise: what cannot be had there
is none of, and the application is served. The layout of the table is in ``formats.blackbox``.

The files are in ``/dev/shm``: a write there never waits for a disk, which shared maps of files on one do, for
hundreds of milliseconds. What is mapped is allocated in full (a sparse file is SIGBUS when memory runs out), never
truncated while somebody may have it mapped, and never synced.

A report is written to the stacks file before it is logged, because logging may hang: an overdue request may hold the
lock of the very handler that the report would go to.
"""

from __future__ import annotations

import mmap
import os
import stat
from typing import TYPE_CHECKING

from wsgi_tracebacker.formats import blackbox as layout
from wsgi_tracebacker.linux import files
from wsgi_tracebacker.linux.descriptor import inode_of

if TYPE_CHECKING:
    from wsgi_tracebacker.formats.blackbox import Header

#: Reports and stacks that are kept; those of a deep stack have some 20 KiB. When full, the file starts anew.
MAX_STACKS_BYTES = 512 * 1024

SHARED_MEMORY = layout.SHARED_MEMORY
_OWNER_ONLY = 0o600

#: A row's memory, its offset there, and its head.
Row = tuple["mmap.mmap | memoryview[int]", int, "memoryview[float]"]


#: Maps that must not be let go of: each closes a duplicate of its file's descriptor then, whose number the application
#: has for something of its own where it closed all descriptors.
_kept: list[mmap.mmap] = []


def path_of(base: str, number: int, kind: str) -> str:
    """Where a file of worker ``number`` is."""
    if os.path.isdir(SHARED_MEMORY) and os.access(SHARED_MEMORY, os.W_OK):
        return os.path.join(SHARED_MEMORY, layout.file_name(base, number, os.geteuid(), kind))
    return layout.beside_socket(base, number, kind)


def scratch_row() -> Row:
    """A row in memory of its own: nobody outside of the process sees it."""
    # A view: packing into a bytearray itself takes 60 ns more.
    buffer = memoryview(bytearray(layout.ROW_BYTES))
    return buffer, 0, buffer[:8].cast("d")


class Table:
    """The table of requests in flight, shared with whoever may read its file."""

    def __init__(self, path: str, descriptor: int, memory: mmap.mmap, inode: tuple[int, int]) -> None:
        """Not to be called directly: see create()."""
        self.path = path
        self._descriptor = descriptor
        self._memory = memory
        self._inode = inode
        #: A part of the table each: where its first row is. The header is in the first.
        self._parts = [(memory, layout.HEADER_BYTES)]

    def row(self, core: int) -> Row | None:
        """The row of a core; None beyond the end."""
        place = self._place(core)
        if place is None:
            return None
        memory, offset = place
        return memory, offset, memoryview(memory)[offset : offset + 8].cast("d")

    def own(self, core: int, ident: int, native_id: int | None) -> bool:
        """Say once which thread a row is for; whether there is one."""
        place = self._place(core)
        while place is None and self._grow():
            place = self._place(core)
        if place is None:
            return False
        memory, offset = place
        layout.OWNER.pack_into(memory, offset + layout.OWNER_OFFSET, ident, native_id or 0, core)
        return True

    def describe(self, core: int, token: float, remote_address: str | None, request_id: str | None) -> None:
        """Add to the row of a request that stays."""
        place = self._place(core)
        if place is not None:
            memory, offset = place
            offset += layout.DETAIL_OFFSET
            content = layout.detail_bytes(token, remote_address, request_id)
            memory[offset : offset + len(content)] = content

    def _place(self, core: int) -> tuple[mmap.mmap, int] | None:
        part, index = divmod(core, layout.ROWS)
        if part >= len(self._parts):
            return None
        memory, offset = self._parts[part]
        return memory, offset + index * layout.ROW_BYTES

    def _grow(self) -> bool:
        """Add rows; whether that was possible. Called under the lock of the cores.

        The file gets longer, and what is mapped of it stays where it is: cores go on writing to it.
        """
        begin = layout.row_offset(len(self._parts) * layout.ROWS)
        length = layout.ROWS * layout.ROW_BYTES
        # Only whole pages are mapped.
        surplus = begin % mmap.ALLOCATIONGRANULARITY
        if begin + length > layout.MAX_FILE_BYTES or inode_of(self._descriptor) != self._inode:
            return False
        try:
            _allocate(self._descriptor, begin, length)
            memory = mmap.mmap(self._descriptor, surplus + length, offset=begin - surplus)
        except (OSError, ValueError):
            return False
        self._parts.append((memory, surplus))
        layout.NUMBER.pack_into(self._memory, layout.ROWS_OFFSET, len(self._parts) * layout.ROWS)
        return True

    def set_unrecorded(self, cores: int) -> None:
        """Say how many cores have no row."""
        layout.NUMBER.pack_into(self._memory, layout.UNRECORDED_OFFSET, cores)

    def set_listener(self, native_id: int) -> None:
        """Say which thread answers the socket."""
        layout.NUMBER.pack_into(self._memory, layout.LISTENER_OFFSET, native_id)

    def is_there(self) -> bool:
        """Whether the path still leads to this table."""
        return path_inode(self.path) == self._inode

    def close(self, *, remove: bool) -> None:
        """Let go of the file; ``remove`` it when the worker ends in order."""
        if self._descriptor < 0:
            return
        if remove:
            layout.NUMBER.pack_into(self._memory, layout.CLOSED_OFFSET, 1)
            try:
                there = os.lstat(self.path)
                if (there.st_dev, there.st_ino) == self._inode:
                    os.unlink(self.path)
            except OSError:
                pass
        if inode_of(self._descriptor) == self._inode:
            os.close(self._descriptor)
        else:
            _kept.extend(memory for memory, _ in self._parts)
        self._descriptor = -1
        # The memory stays mapped until the last core has let go of its row.


def _allocate(descriptor: int, begin: int, length: int) -> None:
    """Have the room of a part of a file. Raises OSError."""
    # PyPy returns the error's number instead of raising it.
    error: int | None = os.posix_fallocate(descriptor, begin, length)  # type: ignore[func-returns-value]
    if error:
        raise OSError(error, os.strerror(error))


def create(path: str, header: Header) -> Table:
    """Make the table of a worker, in the place of its predecessor's. Raises OSError.

    Always a new file: whoever still reads the old one goes on reading that.
    """
    _remove_ours(path)
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, flags, _OWNER_ONLY)
    try:
        os.fchmod(descriptor, _OWNER_ONLY)
        _allocate(descriptor, 0, layout.FILE_BYTES)
        memory = mmap.mmap(descriptor, layout.FILE_BYTES)
        content = layout.encode_header(header)
        memory[: len(content)] = content
        status = os.fstat(descriptor)
    except (OSError, ValueError):
        os.unlink(path)
        os.close(descriptor)
        raise
    return Table(path, descriptor, memory, (status.st_dev, status.st_ino))


def read(path: str) -> bytes | None:
    """The content of a table or another file of a dead worker of ours, or None."""
    content, _ = read_dated(path)
    return content


def read_dated(path: str) -> tuple[bytes | None, float | None]:
    """What read() says of a file, and the Unix time at which it was last written, None if there is none."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None, None
    try:
        status = os.fstat(descriptor)
        if not _is_ours(status):
            return None, None
        # Larger than any file of ours: what is over that is not.
        return os.pread(descriptor, layout.MAX_FILE_BYTES + 1, 0), status.st_mtime
    except OSError:
        return None, None
    finally:
        files.close(descriptor)


def write_whole(path: str, content: bytes) -> bool:
    """Replace a small file at once; whether that was possible."""
    try:
        _remove_ours(path)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(path, flags, _OWNER_ONLY)
    except OSError:
        return False
    try:
        try:
            os.fchmod(descriptor, _OWNER_ONLY)
            is_whole = os.write(descriptor, content) == len(content)
        finally:
            # What cannot be written may be said only here.
            os.close(descriptor)
    except OSError:
        is_whole = False
    if not is_whole:
        # Memory ran out, half-way or before: whoever reads half of it would call it damaged, and nothing of it nobody.
        remove(path)
    return is_whole


def write_over(path: str, expected: bytes, beginning: bytes) -> None:
    """Change how a small file begins, if it holds what is expected."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return
    try:
        if _is_ours(os.fstat(descriptor)) and os.pread(descriptor, len(expected) + 1, 0) == expected:
            os.pwrite(descriptor, beginning, 0)
    except OSError:
        pass
    finally:
        files.close(descriptor)


def remove(path: str) -> None:
    """Take a file of a dead worker of ours away; what is not ours stays."""
    try:
        _remove_ours(path)
    except OSError:
        pass


def _is_ours(status: os.stat_result) -> bool:
    return stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid() and status.st_nlink == 1


def path_inode(path: str) -> tuple[int, int] | None:
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _remove_ours(path: str) -> None:
    """Make room; raises FileExistsError if what stands there is somebody else's."""
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return
    if not _is_ours(status):
        raise FileExistsError(f"{path} is not a file of ours")
    os.unlink(path)


class StacksFile:
    """The last reports and stacks of one worker. Opened when it is first needed."""

    def __init__(self, path: str) -> None:
        """Nothing is opened yet."""
        self.path = path
        self._descriptor: int | None = None
        self._inode: tuple[int, int] | None = None
        self._refused = False

    def write(self, text: str) -> bool:
        """Add a report; whether it was written."""
        content = text.encode("utf-8", "backslashreplace")[:MAX_STACKS_BYTES]
        descriptor = self.descriptor()
        if descriptor is None or not self._is_ours():
            return False
        try:
            if os.fstat(descriptor).st_size + len(content) > MAX_STACKS_BYTES:
                os.ftruncate(descriptor, 0)
            os.write(descriptor, content)
        except OSError:
            return False
        return True

    def descriptor(self) -> int | None:
        """The open file, which every write is appended to; None if it cannot be had."""
        if self._descriptor is None and not self._refused:
            try:
                _remove_ours(self.path)
                flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_APPEND
                self._descriptor = os.open(self.path, flags, _OWNER_ONLY)
                self._inode = inode_of(self._descriptor)
                os.fchmod(self._descriptor, _OWNER_ONLY)
            except OSError:
                self._refused = self._descriptor is None
        return self._descriptor

    def is_there(self) -> bool:
        """Whether the path still leads to the open file; True while there is none."""
        return self._descriptor is None or (self._is_ours() and path_inode(self.path) == self._inode)

    def _is_ours(self) -> bool:
        """Whether nobody has closed the descriptor, and opened something else that has its number now."""
        return self._descriptor is not None and inode_of(self._descriptor) == self._inode

    def close(self, *, remove: bool) -> None:
        """Let go of the file; ``remove`` it when the worker ends in order."""
        if self._descriptor is None:
            return
        if remove and self._inode is not None and path_inode(self.path) == self._inode:
            try:
                os.unlink(self.path)
            except OSError:
                pass
        if self._is_ours():
            os.close(self._descriptor)
        self._descriptor = None
