"""Memory that is not what it should be: a recorder that reads it neither hangs nor crashes nor shows a stack."""

from __future__ import annotations

import contextlib
import os
import random
import struct
import sys
import threading
from typing import TYPE_CHECKING, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.pythons import needs_known_memory
from wsgi_tracebacker.errors import MemoryUnreadable
from wsgi_tracebacker.model.recording import CUT, EXACT, TORN
from wsgi_tracebacker.reader.outside import layouts, symbols
from wsgi_tracebacker.reader.outside.code_objects import CodeObjects
from wsgi_tracebacker.reader.outside.interpreter import Interpreter, attach
from wsgi_tracebacker.reader.outside.layouts import layout_of
from wsgi_tracebacker.reader.outside.unwind import Paths, ThreadStack

if TYPE_CHECKING:
    from wsgi_tracebacker.reader.outside.layouts import Layout
    from wsgi_tracebacker.reader.outside.memory import Memory

BASE, SIZE = 0x10000, 1 << 16


class FakeMemory:
    """Bytes at BASE, and nothing elsewhere. No process has its pid."""

    pid = -1
    root = "/nowhere"

    def __init__(self, content: bytes) -> None:
        self.content = content

    def read(self, address: int, size: int) -> bytes:
        start = address - BASE
        return self.content[start : start + size] if 0 <= start < len(self.content) else b""

    def word(self, address: int, size: int = 8) -> int:
        return int.from_bytes(self.read(address, size), "little")

    def close(self) -> None:
        pass


def pointers_all_over(seed: int) -> bytes:
    """Words most of which point into the memory itself, so that lists and chains go on for long, or in circles."""
    rng = random.Random(seed)
    words = [
        BASE + 8 * rng.randrange(SIZE // 8) if rng.random() < 0.8 else rng.choice((0, 1, rng.getrandbits(64)))
        for _ in range(SIZE // 8)
    ]
    return struct.pack(f"<{len(words)}Q", *words)


def described(minor: int, seed: int) -> bytes:
    """A table of offsets that begins as it should."""
    rng = random.Random(seed)
    head = struct.pack("<8sQQ", b"xdebugpy", 0x30000F0 | minor << 16, 0)
    offsets = [rng.randrange(0, 512) for _ in range(layouts.DESCRIBED_BYTES // 8)]
    return (head + struct.pack(f"<{len(offsets)}Q", *offsets))[: layouts.DESCRIBED_BYTES]


def layout(minor: int, seed: int) -> Layout:
    found = layout_of(minor, described(minor, seed))
    # A frame whose code and caller are the same word cannot be told from the others of its kind.
    return layout_of(12, b"") if minor > 12 and not _is_possible(found) else found


def _is_possible(found: Layout) -> bool:
    first, second = sorted((found.frame_code, found.frame_previous))
    return first + 8 <= second <= found.frame_instruction - 8 and found.frame_instruction + 8 <= found.frame_owner


@given(st.integers(10, 15), st.integers(0, 2**32))
def test_pointers_that_lead_anywhere_show_no_stack(minor: int, seed: int) -> None:
    """Either the interpreter is refused, or each look at its threads is torn."""
    memory = cast("Memory", FakeMemory(pointers_all_over(seed)))
    with contextlib.suppress(MemoryUnreadable):
        interpreter = Interpreter(memory, BASE, BASE + 64, layout(minor, seed))
        assert interpreter.gil_holder() >= 0
        for thread in interpreter.threads()[:5]:
            assert ThreadStack(interpreter, thread.address, Paths()).look().frames == ()


@given(st.integers(10, 15), st.integers(0, 2**32))
def test_a_thread_state_of_garbage_is_torn(minor: int, seed: int) -> None:
    """Also if its thread has ended since: what is there now belongs to something else."""
    memory = cast("Memory", FakeMemory(pointers_all_over(seed)))
    interpreter = Interpreter.__new__(Interpreter)
    interpreter.memory, interpreter.layout = memory, layout(minor, seed)
    # No address has this type: every code object is refused.
    interpreter.codes = CodeObjects(memory, interpreter.layout, 3)
    assert ThreadStack(interpreter, BASE + seed % SIZE // 8 * 8, Paths()).look().frames == ()


class ChangedMemory(FakeMemory):
    """The memory of this process, but some reads have other bytes in some places."""

    def __init__(self, real: Memory, changes: dict[int, tuple[int, bytes]]) -> None:
        """``changes``: by the number of a read, a place in it and what is there instead."""
        super().__init__(b"")
        self.real = real
        self.changes = changes
        self.reads = 0

    def read(self, address: int, size: int) -> bytes:
        content = self.real.read(address, size)
        self.reads += 1
        offset, instead = self.changes.get(self.reads, (0, b""))
        at = offset % max(1, len(content))
        return (content[:at] + instead + content[at + len(instead) :])[: len(content)]


@needs_known_memory
@pytest.mark.skipif(sys.implementation.name != "cpython", reason="only CPython's memory is known")
@given(
    st.dictionaries(
        st.integers(1, 120),
        st.tuples(st.integers(0, 512), st.binary(min_size=1, max_size=64)),
        min_size=1,
        max_size=12,
    )
)
def test_memory_that_is_nearly_right_never_hangs_nor_crashes(changes: dict[int, tuple[int, bytes]]) -> None:
    """A real thread, some bytes of which are others in some reads: what is shown has passed each check."""
    is_over = threading.Event()
    waiting = threading.Thread(target=is_over.wait)
    waiting.start()
    real = attach(os.getpid())
    try:
        library = next(each for each in symbols.libraries(real.memory) if each.address(b"_PyRuntime"))
        runtime, code_type = library.address(b"_PyRuntime"), library.address(b"PyCode_Type")
        memory = ChangedMemory(real.memory, changes)
        with contextlib.suppress(MemoryUnreadable):
            interpreter = Interpreter(cast("Memory", memory), runtime, code_type, real.layout)
            for thread in [each for each in interpreter.threads() if each.ident == waiting.ident]:
                stack = ThreadStack(interpreter, thread.address, Paths())
                for look in (stack.look(), stack.look()):
                    assert look.outcome in (EXACT, CUT, TORN)
                    assert look.outcome != TORN or look.frames == ()
                    for frame in look.frames:
                        assert 0 < len(frame.filename) <= 4096
                        assert 0 < len(frame.function) <= 4096
    finally:
        real.close()
        is_over.set()
        waiting.join()


@given(st.binary(max_size=4096), st.binary(min_size=1, max_size=20))
def test_files_that_are_no_programs_have_no_symbols(content: bytes, name: bytes) -> None:
    """An ELF header with garbage behind it, and tables of symbols of garbage."""
    memory = cast("Memory", FakeMemory(b"\x7fELF\x02\x01" + content))
    library = symbols.load(memory, BASE)
    if library is not None:
        library.address(name)
    garbage = cast("Memory", FakeMemory(content * 8))
    assert symbols.Library(garbage, 0, BASE, BASE + 64, BASE + 128).address(name) >= 0


@given(st.binary(max_size=layouts.DESCRIBED_BYTES))
def test_a_table_of_offsets_that_is_garbage_is_refused(table: bytes) -> None:
    """It has to begin as the version's does."""
    for minor in (13, 14, 15):
        with pytest.raises(MemoryUnreadable):
            layout_of(minor, table.ljust(layouts.DESCRIBED_BYTES, b"\0"))


@pytest.mark.parametrize("minor", [0, 9, 16, 255])
def test_an_unknown_version_is_refused_by_name(minor: int) -> None:
    """Nobody guesses where another version keeps things."""
    with pytest.raises(MemoryUnreadable, match=rf"CPython 3\.{minor}"):
        layout_of(minor, described(15, 1))


def test_a_free_threaded_build_is_refused_by_name() -> None:
    """Its interpreter says so itself."""
    table = struct.pack("<8sQQ", b"xdebugpy", 0x30E00F0, 1).ljust(layouts.DESCRIBED_BYTES, b"\0")
    with pytest.raises(MemoryUnreadable, match="free-threaded"):
        layout_of(14, table)
