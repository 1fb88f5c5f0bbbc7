"""Finds the interpreter in the memory of a process: its threads, and which of them holds the GIL."""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING, NamedTuple

from wsgi_tracebacker.errors import MemoryUnreadable
from wsgi_tracebacker.reader.outside import layouts, symbols
from wsgi_tracebacker.reader.outside.code_objects import CodeObjects
from wsgi_tracebacker.reader.outside.layouts import Layout, layout_of
from wsgi_tracebacker.reader.outside.memory import Memory

if TYPE_CHECKING:
    from wsgi_tracebacker.reader.outside.symbols import Library

#: The offsets are those of this machine; others keep some structures elsewhere.
_MACHINE = "x86_64"

#: The start of a thread state: the previous one, the next one, its interpreter.
_LINKS = struct.Struct("<QQQ")

#: More than any process has: a list that goes on is garbage, or was read while it changed.
_MAX_INTERPRETERS = 256
_MAX_THREADS = 4096
#: The first thread state of the list may be made or removed while it is checked.
_TRIES = 3


class ThreadState(NamedTuple):
    """A thread that runs Python."""

    #: Of its thread state.
    address: int
    ident: int
    #: 0 in CPython 3.10, which does not keep it.
    native_id: int


class Interpreter:
    """The main interpreter of one process. Close it when done."""

    def __init__(self, memory: Memory, runtime: int, code_type: int, layout: Layout) -> None:
        """``runtime``: the address of ``_PyRuntime``. Raises MemoryUnreadable if the layout is not the one there."""
        self.memory = memory
        self.layout = layout
        self.codes = CodeObjects(memory, layout, code_type)
        self._main = self._find_main(runtime)
        self.gil = runtime + layout.gil if layout.gil_is_in_runtime else memory.word(self._main + layout.gil)
        for _ in range(_TRIES):
            head = memory.word(self._main + layout.interpreter_threads)
            links = self._links(head)
            if links is not None and links[0] == 0 and links[2] == self._main:
                return
        raise MemoryUnreadable("its interpreter is not laid out as its version's is: a build with other options")

    def close(self) -> None:
        """Close its memory; safe to call twice."""
        self.memory.close()

    def threads(self) -> list[ThreadState]:
        """The threads, the newest first; those that come or go while the list is read may be missing."""
        memory, layout = self.memory, self.layout
        found: list[ThreadState] = []
        address = memory.word(self._main + layout.interpreter_threads)
        while address and len(found) < _MAX_THREADS:
            links = self._links(address)
            if links is None or links[2] != self._main:
                break
            native_id = memory.word(address + layout.thread_native_id) if layout.thread_native_id else 0
            found.append(ThreadState(address, memory.word(address + layout.thread_ident), native_id))
            address = links[1]
        return found

    def gil_holder(self) -> int:
        """The address of the thread state that holds the GIL; 0 if none does, or if that changed meanwhile."""
        first = self.memory.read(self.gil + layouts.GIL_HOLDER, 12)
        if len(first) < 12 or int.from_bytes(first[8:12], "little") != 1:
            return 0
        return int.from_bytes(first[:8], "little") if first == self.memory.read(self.gil + 8, 12) else 0

    def _links(self, address: int) -> tuple[int, int, int] | None:
        raw = self.memory.read(address, _LINKS.size)
        return _LINKS.unpack(raw) if len(raw) == _LINKS.size else None

    def _find_main(self, runtime: int) -> int:
        memory, layout = self.memory, self.layout
        address = memory.word(runtime + layout.interpreters)
        for _ in range(_MAX_INTERPRETERS):
            following = memory.word(address + layout.interpreter_next)
            if not following:
                break
            address = following
        if not address or memory.word(address + layout.interpreter_id) != 0:
            raise MemoryUnreadable("its main interpreter cannot be found")
        return address


def attach(pid: int) -> Interpreter:
    """Find the interpreter of a process. Raises MemoryUnreadable, with the reason."""
    if os.uname().machine != _MACHINE:
        raise MemoryUnreadable(f"memory is read on {_MACHINE} only so far, and this is {os.uname().machine}")
    memory = Memory(pid)
    try:
        for library in symbols.libraries(memory):
            runtime, code_type = library.address(b"_PyRuntime"), library.address(b"PyCode_Type")
            if runtime and code_type:
                described = memory.read(runtime, layouts.DESCRIBED_BYTES)
                return Interpreter(memory, runtime, code_type, layout_of(_minor(library), described))
        raise MemoryUnreadable("no CPython was found in its memory")
    except BaseException:
        memory.close()
        raise


def _minor(library: Library) -> int:
    """The minor version of CPython 3; 0 if it is older than any that is known."""
    at = library.address(b"Py_Version")
    if at:
        return library.memory.word(at) >> 16 & 0xFF
    return 10 if library.address(b"PyIter_Send") else 0
