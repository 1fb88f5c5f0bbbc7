from __future__ import annotations

import encodings
import pkgutil

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.unit.wire.hostile import long_inputs, within_bounds
from wsgi_tracebacker.linux.source import SourceFile, decode_lines

_encodings = sorted(module.name for module in pkgutil.iter_modules(encodings.__path__))


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        (b"one\r\ntwo\rthree\x0cfour", ["one", "two", "three\x0cfour"]),
        ("# coding: latin-1\nä".encode("latin-1"), ["# coding: latin-1", "ä"]),
        ("\n# -*- coding: cp1252 -*-\n€".encode("cp1252"), ["", "# -*- coding: cp1252 -*-", "€"]),
        ("\n\n# coding: latin-1\nä".encode(), ["", "", "# coding: latin-1", "ä"]),
        (b"\xef\xbb\xbfone", ["one"]),
        (b"# coding: no such\nx\xff", ["# coding: no such", "x\ufffd"]),
        (b"# coding: zlib\nx", ["# coding: zlib", "x"]),
        (b"# coding: Punycode\nx-abc", ["# coding: Punycode", "x-abc"]),
    ],
)
def test_lines_are_those_of_pythons_tokenizer(content: bytes, lines: list[str]) -> None:
    """In the encoding that one of the first two lines names, if it exists and is for text."""
    assert decode_lines(content) == lines


@given(st.sampled_from(_encodings), st.binary())
@example("unicode_escape", b"\\ ")
def test_any_bytes_are_lines(encoding: str, content: bytes) -> None:
    """In any encoding that they name."""
    lines = decode_lines(b"# coding: " + encoding.encode() + b"\n" + content)
    assert all(isinstance(line, str) for line in lines)
    file = SourceFile(lines, 0.0)
    assert file.line(len(lines) + 1) is None
    assert file.line(len(lines)) is not None


_pieces = (b"a", b"-", b"zz9a", b"xn--", b".", b"\\u1234", b"+AAA", b"\x1b$B", b"\r", b"\n", b"\xff")


@settings(max_examples=min(100, settings().max_examples))
@given(st.sampled_from(_encodings), long_inputs(*_pieces))
@example("punycode", b"a" * 200_000 + b"-" + b"a" * 200_000)
@example("idna", b"a" * 400_000)
def test_a_long_file_costs_no_more_than_its_length(encoding: str, content: bytes) -> None:
    """In any encoding that it names: neither time nor memory grow faster than its size."""
    content = b"# coding: " + encoding.encode() + b"\n" + content
    within_bounds(decode_lines, content, microseconds_a_byte=1.5, bytes_a_byte=100)
