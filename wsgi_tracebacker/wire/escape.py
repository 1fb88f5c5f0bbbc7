r"""Escapes the characters that must not reach a log or a terminal: in thread names, paths and source lines.

These can break a log record in two, control a terminal, or reverse the reading direction of a line. They are written
as in a Python string literal (``\n``, ``\x1b``, ``\u202e``). A backslash in the text stays as it is, so escaped text
is for reading and cannot be decoded again.
"""

from __future__ import annotations

import re
from functools import cache

#: C0 and DEL and C1 (terminal control, among them ESC and the one-byte CSI), the line and paragraph separators
#: (``str.splitlines`` breaks there), the marks that turn the direction of text (CVE-2021-42574), the invisible tag
#: characters, the byte order mark, and lone surrogates (file names that are not UTF-8; they cannot be encoded).
_RANGES = (
    *((0x00, 0x1F), (0x7F, 0x9F), (0x61C, 0x61C), (0x200E, 0x200F), (0x2028, 0x202E), (0x2066, 0x206F)),
    *((0xFEFF, 0xFEFF), (0xE0000, 0xE007F), (0xD800, 0xDFFF)),
)
_UNSAFE = re.compile(f"[{''.join(f'{chr(first)}-{chr(last)}' for first, last in _RANGES)}]")

_SHORT = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}


def _escape(code: int) -> str:
    short = _SHORT.get(chr(code))
    if short is not None:
        return short
    if code <= 0xFF:
        return f"\\x{code:02x}"
    if code <= 0xFFFF:
        return f"\\u{code:04x}"
    return f"\\U{code:08x}"


@cache
def _escapes() -> dict[int, str]:
    # Made when first needed: there are 2,000 of them, most of them surrogates.
    return {code: _escape(code) for first, last in _RANGES for code in range(first, last + 1)}


def printable(text: str) -> str:
    """The text with every unsafe character written as a backslash escape; always encodable as UTF-8."""
    # Nearly all text here is plain ASCII, and str's own scan is five times faster than the expression's.
    if (text.isascii() and text.isprintable()) or _UNSAFE.search(text) is None:
        return text
    # Not re.sub(): hostile text may consist of such characters only, and then that takes seven times as long.
    return text.translate(_escapes())
