"""Memory that is not what it should be: a recorder that reads it neither hangs nor crashes nor shows a stack."""

from __future__ import annotations

import contextlib
import random
import struct
from typing import TYPE_CHECKING, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsgi_tracebacker.errors import MemoryUnreadable
from wsgi_tracebacker.reader.outside import layouts, symbols
from wsgi_tracebacker.reader.outside.code_objects import CodeObjects
from wsgi_tracebacker.reader.outside.interpreter import Interpreter
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
