"""From an instruction to its line: the line tables of code objects, as CPython writes them.

3.10: Objects/lnotab_notes.txt, 3.11 and up: Objects/locations.md (InternalDocs/code_objects.md since 3.13).
"""

from __future__ import annotations

#: Steps are counted in instruction units of two bytes.
_NO_LINE_3_10 = -128


def line_at(table: bytes, first_line: int, unit: int, minor: int) -> int | None:
    """The line of an instruction, counted in units from the start of the bytecode; None if it has none.

    A table that is cut short, or is garbage, ends where it cannot be read on.
    """
    return _line_3_10(table, first_line, 2 * unit) if minor == 10 else _line(table, first_line, unit)


def _line_3_10(table: bytes, line: int, offset: int) -> int | None:
    """Pairs of bytes: how many bytes of bytecode, and the step to their line."""
    end = 0
    for index in range(0, len(table) - 1, 2):
        step = int.from_bytes(table[index + 1 : index + 2], "little", signed=True)
        has_line = step != _NO_LINE_3_10
        if has_line:
            line += step
        end += table[index]
        if offset < end:
            return line if has_line else None
    return None


def _line(table: bytes, line: int, unit: int) -> int | None:
    """Entries that begin with a byte from 128 on: how many units, and how the step to their line is written."""
    end = index = 0
    while index < len(table):
        kind = table[index] >> 3 & 15
        end += (table[index] & 7) + 1
        index += 1
        if 10 <= kind <= 12:
            line += kind - 10
        elif kind in (13, 14):
            line += _signed_number(table, index)
        if unit < end:
            return None if kind == 15 else line
        # The rest of the entry, columns for instance.
        while index < len(table) and table[index] < 128:
            index += 1
    return None


def _signed_number(table: bytes, index: int) -> int:
    """A number in pieces of six bits, the lowest first; the lowest bit is the sign."""
    value = shift = 0
    for byte in table[index : index + 6]:
        value |= (byte & 63) << shift
        shift += 6
        if not byte & 64:
            break
    return -(value >> 1) if value & 1 else value >> 1
