"""Reads code objects in the memory of a worker: file, qualified name, and the line of an instruction.

Nothing else of them is read: no constants, and no locals or values of any frame.
"""

from __future__ import annotations

import codecs
import time
from typing import TYPE_CHECKING, NamedTuple

from wsgi_tracebacker.model.snapshot import Frame
from wsgi_tracebacker.reader.outside import layouts
from wsgi_tracebacker.reader.outside.line_table import line_at

if TYPE_CHECKING:
    from wsgi_tracebacker.reader.outside.layouts import Layout
    from wsgi_tracebacker.reader.outside.memory import Memory

#: Paths and names are far shorter, and so is the line table of all but a generated function.
_MAX_CHARACTERS = 4096
_MAX_TABLE_BYTES = 1 << 20

#: How much of a string is read at once: nearly all fit.
_TEXT_BYTES = 256

#: For so long an address is believed to be the same code object: others may be made there after exec() or reload().
_BELIEVED_SECONDS = 1.0

#: Code objects and instructions that are remembered. Large applications run some ten thousand.
_MAX_KNOWN = 100_000


#: By the bytes that a character takes. Looked up at once: a reader that gave up root may not open Python's files later.
_DECODERS = {1: codecs.getdecoder("latin-1"), 2: codecs.getdecoder("utf-16-le"), 4: codecs.getdecoder("utf-32-le")}


class _Code(NamedTuple):
    filename: str
    name: str
    first_line: int
    line_table: bytes
    #: The first instruction of its own, in units of two bytes; 0 in 3.10.
    first_traceable: int
    #: The addresses of name, file and line table: another code object has others.
    pointers: tuple[int, int, int]


class CodeObjects:
    """The code objects of one process."""

    def __init__(self, memory: Memory, layout: Layout, code_type: int) -> None:
        """``code_type``: the address of ``PyCode_Type``, which every code object points to."""
        self._memory = memory
        self._layout = layout
        self._code_type = code_type
        self._codes: dict[int, _Code] = {}
        self._checked_at: dict[int, float] = {}
        self._frames: dict[tuple[int, int], Frame] = {}
        #: Up to what comes last of it.
        self._size = (
            max(layout.code_filename, layout.code_name, layout.code_line_table, layout.code_first_traceable) + 8
        )

    def is_code(self, address: int) -> bool:
        """Whether there is a code object at this address, all of which can be read."""
        if address in self._codes and time.monotonic() < self._checked_at[address] + _BELIEVED_SECONDS:
            return True
        return self._load(address)

    def frame(self, address: int, instruction: int) -> Frame:
        """The frame of a code object for which ``is_code`` was true.

        :param instruction: as the frame has it: an address, in 3.10 a number.
        """
        frame = self._frames.get((address, instruction))
        if frame is None:
            code = self._codes[address]
            line = line_at(code.line_table, code.first_line, self._unit(address, instruction), self._layout.minor)
            frame = self._frames[address, instruction] = Frame(code.filename, line, code.name)
        return frame

    def has_begun(self, address: int, instruction: int) -> bool:
        """Whether a frame has executed an instruction of its own; Python hides those that have not."""
        return self._unit(address, instruction) >= self._codes[address].first_traceable

    def _unit(self, address: int, instruction: int) -> int:
        if self._layout.minor == 10:
            return instruction
        return (instruction - address - self._layout.code_bytecode) // 2

    def _load(self, address: int) -> bool:
        raw = self._memory.read(address, self._size)
        if len(raw) < self._size or _word(raw, layouts.OBJECT_TYPE) != self._code_type:
            self._forget(address)
            return False
        layout = self._layout
        pointers = _word(raw, layout.code_filename), _word(raw, layout.code_name), _word(raw, layout.code_line_table)
        known = self._codes.get(address)
        if known is None or known.pointers != pointers:
            self._forget(address)
            filename, name, table = self._text(pointers[0]), self._text(pointers[1]), self._bytes(pointers[2])
            if filename is None or name is None or table is None:
                return False
            if len(self._codes) + len(self._frames) > _MAX_KNOWN:
                self._codes.clear()
                self._frames.clear()
            first_line = _number(raw, layout.code_first_line)
            first_traceable = _number(raw, layout.code_first_traceable) if layout.code_first_traceable else 0
            self._codes[address] = _Code(filename, name, first_line, table, first_traceable, pointers)
        self._checked_at[address] = time.monotonic()
        return True

    def _forget(self, address: int) -> None:
        if self._codes.pop(address, None) is not None:
            for key in [key for key in self._frames if key[0] == address]:
                del self._frames[key]

    def _text(self, address: int) -> str | None:
        """A string of an address; None if there is none that a code object could have."""
        raw = self._memory.read(address, _TEXT_BYTES)
        if len(raw) < self._layout.text_other:
            return None
        length, state = _word(raw, layouts.TEXT_LENGTH), raw[layouts.TEXT_STATE]
        # Two bits of interning, three of the kind (bytes a character), then compact and ASCII.
        kind, is_compact, is_ascii = state >> 2 & 7, state >> 5 & 1, state >> 6 & 1
        if not is_compact or kind not in (1, 2, 4) or not 0 < length <= _MAX_CHARACTERS:
            return None
        start = self._layout.text_ascii if is_ascii else self._layout.text_other
        content = raw[start : start + length * kind]
        if len(content) < length * kind:
            content = self._memory.read(address + start, length * kind)
        if len(content) < length * kind:
            return None
        return _DECODERS[kind](content, "replace")[0]

    def _bytes(self, address: int) -> bytes | None:
        size = self._memory.word(address + layouts.BYTES_SIZE)
        if size > _MAX_TABLE_BYTES:
            return None
        content = self._memory.read(address + layouts.BYTES_DATA, size) if size else b""
        return content if len(content) == size else None


def _number(raw: bytes, offset: int) -> int:
    return int.from_bytes(raw[offset : offset + 4], "little", signed=True)


def _word(raw: bytes, offset: int) -> int:
    return int.from_bytes(raw[offset : offset + 8], "little")
