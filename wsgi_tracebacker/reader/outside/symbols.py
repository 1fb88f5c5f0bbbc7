"""Finds the interpreter's symbols in the memory of a process, without opening any of its files.

So it works for a program in a container, and for one whose files were replaced since it started. Only symbols for
dynamic linking are in memory: those that extension modules need, which ``strip`` keeps too.
"""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING, NamedTuple

from wsgi_tracebacker.linux import proc

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wsgi_tracebacker.reader.outside.memory import Memory

#: From <elf.h>. The header up to e_phnum: type, start of the program headers, their size and number.
_HEADER = struct.Struct("<16sH14xQ14xHH")
_ELF64_LITTLE = b"\x7fELF\x02\x01"
#: A program header: type, file offset, address.
_PROGRAM = struct.Struct("<I4xQQ")
_PT_LOAD, _PT_DYNAMIC = 1, 2
_DT_STRTAB, _DT_SYMTAB, _DT_GNU_HASH = 5, 6, 0x6FFFFEF5
#: A symbol: name, value.
_SYMBOL = struct.Struct("<I4xQ8x")
#: Number of buckets, first symbol with a hash, words of the Bloom filter.
_GNU_HASH = struct.Struct("<III4x")

#: More than any program has; garbage could name more.
_MAX_PROGRAM_HEADERS = 64
_MAX_DYNAMIC_BYTES = 4096
_MAX_CHAIN = 256


class Library(NamedTuple):
    """The dynamic symbols of one loaded program or library."""

    memory: Memory
    #: What is added to an address of the file to have that of the process.
    bias: int
    names: int
    symbols: int
    hashes: int

    def address(self, name: bytes) -> int:
        """Where a symbol is; 0 if there is none of that name."""
        buckets, first, bloom_words = _GNU_HASH.unpack(self.memory.read(self.hashes, _GNU_HASH.size).ljust(16, b"\0"))
        if not buckets:
            return 0
        wanted = _gnu_hash(name)
        table = self.hashes + _GNU_HASH.size + 8 * bloom_words
        index = self.memory.word(table + 4 * (wanted % buckets), 4)
        if index < first:
            return 0
        for number in range(index, index + _MAX_CHAIN):
            found = self.memory.word(table + 4 * (buckets + number - first), 4)
            if found | 1 == wanted | 1:
                raw = self.memory.read(self.symbols + _SYMBOL.size * number, _SYMBOL.size)
                if len(raw) == _SYMBOL.size:
                    at, value = _SYMBOL.unpack(raw)
                    if self.memory.read(self.names + at, len(name) + 1) == name + b"\0":
                        return int(value) + self.bias
            if found & 1:
                return 0
        return 0


def libraries(memory: Memory) -> Iterator[Library]:
    """What may hold the interpreter: libpython first, then the program, then what else has python in its path."""
    for start in _candidates(memory):
        library = load(memory, start)
        if library is not None:
            yield library


def _candidates(memory: Memory) -> list[int]:
    folder = f"{memory.root}/{memory.pid}"
    try:
        program = os.fsencode(os.readlink(f"{folder}/exe"))
    except OSError:
        program = b""
    ranked = []
    for path, start in proc.mapped_files(folder):
        if path.rpartition(b"/")[2].startswith(b"libpython"):
            rank = 0
        elif path == program:
            rank = 1
        elif b"python" in path and b".so" not in path:
            rank = 2
        else:
            continue
        ranked.append((rank, start))
    return [start for _, start in sorted(ranked)]


def load(memory: Memory, start: int) -> Library | None:
    """The symbols of the file that is loaded at an address; None if it is none, or has none."""
    raw = memory.read(start, _HEADER.size)
    if len(raw) < _HEADER.size or not raw.startswith(_ELF64_LITTLE):
        return None
    _, _, headers, header_size, count = _HEADER.unpack(raw)
    if header_size < _PROGRAM.size or count > _MAX_PROGRAM_HEADERS:
        return None
    bias = dynamic = None
    for number in range(count):
        raw = memory.read(start + headers + number * header_size, _PROGRAM.size)
        if len(raw) < _PROGRAM.size:
            return None
        kind, offset, address = _PROGRAM.unpack(raw)
        if kind == _PT_LOAD and offset == 0:
            bias = start - address
        elif kind == _PT_DYNAMIC:
            dynamic = address
    if bias is None or dynamic is None:
        return None
    content = memory.read(bias + dynamic, _MAX_DYNAMIC_BYTES)
    entries: dict[int, int] = {}
    for tag, value in struct.iter_unpack("<QQ", content[: len(content) // 16 * 16]):
        if tag == 0:
            break
        # glibc has put addresses of the process there; other loaders leave those of the file.
        entries.setdefault(tag, value if value >= bias else value + bias)
    try:
        return Library(memory, bias, entries[_DT_STRTAB], entries[_DT_SYMTAB], entries[_DT_GNU_HASH])
    except KeyError:
        return None


def _gnu_hash(name: bytes) -> int:
    value = 5381
    for byte in name:
        value = (value * 33 + byte) & 0xFFFFFFFF
    return value
