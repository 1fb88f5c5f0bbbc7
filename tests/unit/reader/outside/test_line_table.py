"""Line tables, held against what the interpreter itself says of each instruction."""

from __future__ import annotations

import sys
import textwrap
import types
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.interpreters import needs_outside_help
from wsgi_tracebacker.reader.outside.line_table import line_at

if TYPE_CHECKING:
    from collections.abc import Iterator


def codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from codes(constant)


SOURCES = {
    "a module": Path(textwrap.__file__).read_text(encoding="utf-8"),
    "large steps": "def f():\n" + "\n" * 1400 + "    a()\n" + "\n" * 70 + "    b()\n",
    "steps back": "f(\n1,\n2,\n*[g(\n3)\nfor x in\ny],\n)\n" * 40,
    "long": "x = [" + "1 + y,\n" * 400 + "2]\n",
    "try": "try:\n    a()\nexcept B:\n    c()\nfinally:\n    d()\n",
}


@needs_outside_help
@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES.keys())
def test_each_instruction_has_the_line_that_python_says(source: str) -> None:
    """Every unit of every code object of a program."""
    for code in codes(compile(source, "<test>", "exec")):
        for start, end, line in code.co_lines():
            for unit in range(start // 2, end // 2):
                found = line_at(code.co_linetable, code.co_firstlineno, unit, sys.version_info.minor)
                assert found == line, (code.co_name, unit)


@given(st.binary(max_size=200), st.integers(-(2**31), 2**31), st.integers(-(2**62), 2**62), st.integers(10, 15))
def test_garbage_has_a_line_or_none(table: bytes, first_line: int, unit: int, minor: int) -> None:
    """No table and no instruction, however wrong, is an error."""
    found = line_at(table, first_line, unit, minor)
    assert found is None or isinstance(found, int)
