"""Reads memory of this process by address, as an argument of a system call has it.

Through ``/proc/self/mem``: an address that is not mapped any more is an error there, and not the end of the process.
"""

from __future__ import annotations

import os
from typing import NamedTuple


class OwnMemory:
    """The memory of this process, open until close(). Every read of what cannot be read is empty."""

    __slots__ = ("_descriptor",)

    def __init__(self) -> None:
        # Opened at the first read: most snapshots need none.
        self._descriptor: int | None = None

    def read(self, address: int, size: int) -> bytes:
        """Bytes at an address; fewer, or none, where less is mapped."""
        if self._descriptor is None:
            try:
                self._descriptor = os.open("/proc/self/mem", os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                self._descriptor = -1
        # pread() takes an offset of 63 bits; no address of a process has more.
        if self._descriptor < 0 or not 0 < address < 1 << 63:
            return b""
        try:
            return os.pread(self._descriptor, size, address)
        except OSError:
            return b""

    def close(self) -> None:
        """Close it; safe to call twice."""
        if self._descriptor is not None and self._descriptor >= 0:
            try:
                os.close(self._descriptor)
            except OSError:
                # The application has closed all descriptors of its process meanwhile.
                pass
        self._descriptor = None


class _Mapping(NamedTuple):
    """A line of ``/proc/self/maps``."""

    addresses: range
    #: Empty for memory that is in no file.
    path: bytes


def image_around(address: int) -> range:
    """Where the program or library that has this address is mapped, with its variables; empty if there is none."""
    try:
        with open("/proc/self/maps", "rb") as maps:
            mappings = [_mapping(line) for line in maps]
    except OSError:
        return range(0)
    path = next((each.path for each in mappings if address in each.addresses), b"")
    start = end = 0
    for each in mappings:
        # Variables that are zero at first are in no file; they come right behind it.
        if path and (each.path == path or (not each.path and each.addresses.start == end)):
            start, end = start or each.addresses.start, each.addresses.stop
    return range(start, end)


def _mapping(line: bytes) -> _Mapping:
    addresses, _, _, _, _, *path = line.split(None, 5)
    start, _, end = addresses.partition(b"-")
    return _Mapping(range(int(start, 16), int(end, 16)), path[0].strip() if path else b"")
