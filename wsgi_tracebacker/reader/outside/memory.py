"""Reads the memory of another process. It is not stopped, and does not notice.

Through ``/proc/PID/mem`` a piece at a time: the kernel checks at open() whether this user may trace the process, and
not again at a read. Many pieces are read by process_vm_readv(2) in one call, the second some 0.1 microseconds after the
first instead of one; where that is refused, piece by piece too.
"""

from __future__ import annotations

import ctypes
import os
from itertools import accumulate

from wsgi_tracebacker.errors import MemoryUnreadable
from wsgi_tracebacker.linux import proc
from wsgi_tracebacker.reader.outside import refusal

#: How many pieces process_vm_readv() takes.
_IOV_MAX = 1024

#: pread() takes an offset of 63 bits; no address of a process has more.
_MAX_ADDRESS = 1 << 63


class Memory:
    """The memory of one process, open until close()."""

    __slots__ = ("_descriptor", "pid", "root")

    def __init__(self, pid: int, root: str = proc.ROOT) -> None:
        """Raises MemoryUnreadable if the kernel refuses it."""
        self.pid = pid
        self.root = root
        try:
            self._descriptor = os.open(f"{root}/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise MemoryUnreadable("its process has ended") from None
        except OSError:
            why = refusal.reason(pid, root)
            raise MemoryUnreadable(f"the kernel does not let this user read its memory: {why}") from None

    def read(self, address: int, size: int) -> bytes:
        """Bytes at an address; fewer, or none, where less is mapped or the process has ended."""
        if not 0 < address < _MAX_ADDRESS:
            return b""
        try:
            return os.pread(self._descriptor, size, address)
        except OSError:
            return b""

    def word(self, address: int, size: int = 8) -> int:
        """An unsigned number at an address; 0 where nothing is mapped."""
        return int.from_bytes(self.read(address, size), "little")

    def close(self) -> None:
        """Close the file; safe to call twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class _Iovec(ctypes.Structure):
    _fields_ = (("iov_base", ctypes.c_void_p), ("iov_len", ctypes.c_size_t))


class Pieces:
    """Pieces of memory that are read again and again, at once and in this order."""

    __slots__ = ("_buffer", "_ends", "_from", "_memory", "_pieces", "_starts", "_to")

    def __init__(self, memory: Memory, pieces: list[tuple[int, int]]) -> None:
        """``pieces``: address and size of each."""
        self._memory = memory
        self._pieces = pieces
        self._ends = list(accumulate(size for _, size in pieces))
        self._starts = [0, *self._ends[:-1]]
        self._buffer = ctypes.create_string_buffer(max(1, self._ends[-1] if pieces else 0))
        self._to = _Iovec(ctypes.addressof(self._buffer), self._ends[-1] if pieces else 0)
        self._from = (_Iovec * len(pieces))(*(_Iovec(*piece) for piece in pieces)) if len(pieces) <= _IOV_MAX else None

    def take(self) -> list[bytes]:
        """The content of each; shorter, or empty, where less is mapped."""
        if self._from is not None:
            size = _process_vm_readv(self._memory.pid, ctypes.byref(self._to), 1, self._from, len(self._from), 0)
            if size == self._to.iov_len:
                pieces = zip(self._starts, self._ends, strict=True)
                return [self._buffer[start:end] for start, end in pieces]  # type: ignore[misc]  # bytes, of characters
        return [self._memory.read(address, size) for address, size in self._pieces]


_process_vm_readv = ctypes.CDLL(None).process_vm_readv
_process_vm_readv.restype = ctypes.c_ssize_t
_process_vm_readv.argtypes = (
    ctypes.c_int,
    ctypes.c_void_p,
    ctypes.c_ulong,
    ctypes.c_void_p,
    ctypes.c_ulong,
    ctypes.c_ulong,
)
