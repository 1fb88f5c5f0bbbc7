"""Where a place in the code is: the position of an instruction, and the source file of a code object."""

from __future__ import annotations

import os
import sys
from itertools import islice
from typing import TYPE_CHECKING

from wsgi_tracebacker.linux.source import open_and_read

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import CodeType

    from wsgi_tracebacker.linux.source import SourceFile


def position(code: CodeType, lasti: int) -> tuple[int | None, int | None, int | None, int | None]:
    """Return line, end line, column and end column of the instruction at a byte offset."""
    if sys.version_info >= (3, 11):
        if lasti >= 0:
            for found in islice(code.co_positions(), lasti // 2, lasti // 2 + 1):
                if found[0] is not None:
                    return found
        else:
            return code.co_firstlineno, None, None, None
    for start, end, lineno in code.co_lines():
        if start <= lasti < end:
            return lineno, None, None, None
    return code.co_firstlineno, None, None, None


def read_source(filename: str) -> SourceFile | None:
    """Read a source file; None if there is none.

    Not with ``linecache``: its checkcache() calls stat for every file of every dump, and each stat releases a contended
    GIL.
    """
    for path in _candidates(filename):
        found = open_and_read(path)
        if found is not None:
            return found
    return None


def _candidates(filename: str) -> Iterable[str]:
    if not filename or filename.startswith("<"):
        return
    yield filename
    if not os.path.isabs(filename):
        # Compiled with a relative path (as uWSGI does) in a process that has changed its folder since.
        for folder in sys.path:
            if type(folder) is str:
                yield os.path.join(folder, filename)
