"""Turns places in the code into frames with their source lines, ready for each format, and caches them.

A place is a code object and an instruction in it. Its frame never changes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from wsgi_tracebacker.model.snapshot import Frame
from wsgi_tracebacker.wire import uwsgi_text
from wsgi_tracebacker.wire.documents import snapshot_json
from wsgi_tracebacker.worker.code_places import position, read_source

if TYPE_CHECKING:
    from types import CodeType

    from wsgi_tracebacker.linux.source import SourceFile
    from wsgi_tracebacker.worker.stacks.walk import RawStack

#: The most frames of one stack that are shown. CPython's recursion limit is 1,000; if an application raises it to a
#: million, a dump must not take a gigabyte. Of a longer stack the middle is left out: both ends of a runaway recursion
#: matter.
MAX_FRAMES = 1_200
_OUTERMOST_KEPT = 200

#: The size of the cache, at about 1 KB a place. A full cache is emptied: that is simpler than an order of use, and an
#: application waits in some hundred places.
MAX_CACHED_PLACES = 8_192


@dataclass(frozen=True, slots=True)
class Place:
    """One place in the code, ready for every format."""

    code: CodeType  # kept alive, so that no other code object gets its id()
    frame: Frame
    text: bytes
    json: str


class Places:
    """The cache of places. Two threads may make the same place at the same time; that does no harm."""

    def __init__(self, process_started_at: float | None) -> None:
        """``process_started_at``: Unix seconds; a source file newer than that is marked as changed."""
        self._process_started_at = process_started_at
        self._places: dict[tuple[int, int], Place] = {}

    def resolve(self, stack: RawStack, files: dict[str, SourceFile | None]) -> tuple[list[Place], int]:
        """Return the places of a stack, outermost first, and how many were left out of its middle.

        ``files``: the source files that this snapshot has read so far; each is read once for it.
        """
        omitted = max(0, len(stack) - MAX_FRAMES)
        if omitted:
            stack = stack[: MAX_FRAMES - _OUTERMOST_KEPT] + stack[-_OUTERMOST_KEPT:]
        known, make = self._places.get, self._make
        return [known((id(code), lasti)) or make(code, lasti, files) for code, lasti in reversed(stack)], omitted

    def place(self, code: CodeType, lasti: int, files: dict[str, SourceFile | None]) -> Place:
        """Return one place of a stack."""
        return self._places.get((id(code), lasti)) or self._make(code, lasti, files)

    def _make(self, code: CodeType, lasti: int, files: dict[str, SourceFile | None]) -> Place:
        frame = self._frame(code, lasti, files)
        place = Place(code, frame, uwsgi_text.frame_text(frame).encode("utf-8"), snapshot_json.frame_json(frame))
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
