r"""What may never reach a log line or a terminal raw, and what stands there instead.

Knows which characters can break a record, drive a terminal or turn the reading order of a line around, and writes
them as Python would in a string literal (``\n``, ``\x1b``, ``\u202e``). Refuses to know where the text comes from
and where it goes: thread names, paths and source lines are all somebody else's text. A backslash that is already
there stays as it is, so escaped text cannot be turned back for certain; it is for reading.
"""

from __future__ import annotations

import re

#: C0 and DEL and C1 (terminal control, among them ESC and the one-byte CSI), the line and paragraph separators
#: (``str.splitlines`` breaks there), the marks that turn the direction of text (CVE-2021-42574), the invisible tag
#: characters, the byte order mark, and lone surrogates (file names that are not UTF-8; they cannot be encoded).
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u206f\ufeff\U000e0000-\U000e007f\ud800-\udfff]"
)

_SHORT = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}


def _escape(match: re.Match[str]) -> str:
    character = match.group()
    short = _SHORT.get(character)
    if short is not None:
        return short
    code = ord(character)
    if code <= 0xFF:
        return f"\\x{code:02x}"
    if code <= 0xFFFF:
        return f"\\u{code:04x}"
    return f"\\U{code:08x}"


def printable(text: str) -> str:
    """The text with every unsafe character written as a backslash escape; always encodable as UTF-8."""
    # Nearly all text here is plain ASCII, and str's own scan is five times faster than the expression's.
    if text.isascii() and text.isprintable():
        return text
    return _UNSAFE.sub(_escape, text)
