"""What a place in the code looks like: its line, its source, and its text in each format.

A place is a code object and an instruction in it. What it looks like never changes, so it is made once and kept.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from wsgi_tracebacker.linux.source import open_and_read
from wsgi_tracebacker.model.snapshot import Frame
from wsgi_tracebacker.wire import snapshot_json as json_format
from wsgi_tracebacker.wire import uwsgi_text as uwsgi_format

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import CodeType

    from wsgi_tracebacker.linux.source import SourceFile
    from wsgi_tracebacker.worker.stacks.walk import RawStack

#: Frames of one stack that are shown. CPython's own limit is 1,000; an application that raises it to a million must
#: not make a dump of a gigabyte. Above it the middle is left out: both ends of a runaway recursion matter.
MAX_FRAMES = 1_200
_OUTERMOST_KEPT = 200

#: Different places in the code that are remembered, at about 1 KB each. When full, all are forgotten at once: simpler
#: than an order of use, and an application has some hundred places where it ever waits.
MAX_CACHED_PLACES = 8_192


@dataclass(frozen=True, slots=True)
class Place:
    """One place in the code, ready for every format."""

    code: CodeType  # held, so that its id() stays its own
    frame: Frame
    text: bytes
    json: str


class Places:
    """What each place in the code looks like, made once; twice, if two threads want it at the same time."""

    def __init__(self, process_started_at: float | None) -> None:
        """``process_started_at``: Unix seconds; a source file newer than that is marked as changed."""
        self._process_started_at = process_started_at
        self._places: dict[tuple[int, int], Place] = {}

    def resolve(self, stack: RawStack, files: dict[str, SourceFile | None]) -> tuple[list[Place], int]:
        """The places of a stack, outermost first, and how many were left out of its middle.

        ``files`` holds the source files that one snapshot has read so far: each is read at most once in it, and
        forgotten with it.
        """
        omitted = max(0, len(stack) - MAX_FRAMES)
        if omitted:
            stack = stack[: MAX_FRAMES - _OUTERMOST_KEPT] + stack[-_OUTERMOST_KEPT:]
        known, make = self._places.get, self._make
        return [known((id(code), lasti)) or make(code, lasti, files) for code, lasti in reversed(stack)], omitted

    def place(self, code: CodeType, lasti: int, files: dict[str, SourceFile | None]) -> Place:
        """One place of a stack."""
        return self._places.get((id(code), lasti)) or self._make(code, lasti, files)

    def _make(self, code: CodeType, lasti: int, files: dict[str, SourceFile | None]) -> Place:
        frame = self._frame(code, lasti, files)
        place = Place(code, frame, uwsgi_format.frame_text(frame).encode("utf-8"), json_format.frame_json(frame))
        if len(self._places) >= MAX_CACHED_PLACES:
            self._places.clear()
        self._places[(id(code), lasti)] = place
        return place

    def _frame(self, code: CodeType, lasti: int, files: dict[str, SourceFile | None]) -> Frame:
        filename = code.co_filename
        lineno, end_lineno, column, end_column = position(code, lasti)
        if filename not in files:
            files[filename] = read_source(filename)
        source_file = files[filename]
        source = None
        source_changed = False
        function = getattr(code, "co_qualname", code.co_name)  # co_qualname: 3.11 and up
        if source_file is not None and lineno is not None:
            source = source_file.line_of(filename, function, lineno)
            source_changed = source is not None and source_file.is_newer_than(self._process_started_at)
        return Frame(
            filename=filename,
            lineno=lineno,
            function=function,
            source=source,
            end_lineno=end_lineno,
            column=column,
            end_column=end_column,
            source_changed=source_changed,
        )


def position(code: CodeType, lasti: int) -> tuple[int | None, int | None, int | None, int | None]:
    """Line, end line, column and end column of the instruction at a byte offset."""
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
    """Read a source file, or None where there is none.

    Not ``linecache``: its checkcache() stats every file for every dump, and each stat gives up a contended GIL.
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
        # Compiled with a relative path (uWSGI does it) in a process that has changed its folder since.
        for folder in sys.path:
            if type(folder) is str:
                yield os.path.join(folder, filename)
