"""Live frames become values: the walk, the source lines, and what a frame looks like in each format.

Knows frames, and touches nothing on one but ``f_code``, ``f_lasti`` and ``f_back``: anything else can run code, pin
locals, or crash a sampler of CPython 3.11. Refuses to know which request a stack belongs to.

The walk copies ``(code, lasti)`` pairs and nothing else while frames are held. Frames are dropped when it returns, on
the caller's thread, so callers hold no lock: a destructor of the application may run there. Only then are lines,
columns and source looked up, and kept: a code object's line never changes, so what a frame looks like is made once.
"""

from __future__ import annotations

import functools
import gc
import itertools
import operator
import os
import stat
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, cast

from wsgi_tracebacker import opening
from wsgi_tracebacker.formats import json as json_format
from wsgi_tracebacker.formats import uwsgi as uwsgi_format
from wsgi_tracebacker.formats.source import MAX_SOURCE_BYTES, SourceFile, decode_lines
from wsgi_tracebacker.model import Frame

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator
    from types import CodeType, FrameType

T = TypeVar("T")

#: A stack as it is walked: innermost first, an instruction's byte offset beside its code object.
RawStack = list[tuple["CodeType", int]]

#: Frames of one stack that are shown. CPython's own limit is 1,000; an application that raises it to a million must
#: not make a dump of a gigabyte. Above it the middle is left out: both ends of a runaway recursion matter.
MAX_FRAMES = 1_200
_OUTERMOST_KEPT = 200
#: Frames of one stack that are looked at, at 60 ns each: beyond it, the outermost ones stay unseen.
_MAX_WALKED = 100_000

#: Different places in the code that are remembered, at about 1 KB each. When full, all are forgotten at once: simpler
#: than an order of use, and an application has some hundred places where it ever waits.
MAX_CACHED_PLACES = 8_192

#: Up to 3.11, sys._current_frames() allocates while it holds the runtime's lock: a collection that starts there and
#: runs a destructor which wants that lock waits for ever (python/cpython#106883).
_HOLD_COLLECTOR = sys.implementation.name == "cpython" and sys.version_info < (3, 12)


@dataclass(frozen=True, slots=True)
class Place:
    """One place in the code, ready for every format."""

    code: CodeType  # held, so that its id() stays its own
    frame: Frame
    text: bytes
    json: str


def walk(skipped_idents: Collection[int], only: Collection[int] | None = None) -> dict[int, RawStack]:
    """The stacks of all threads at one instant, or only of some, by thread ident, innermost frame first."""
    return {
        ident: walk_from(innermost)
        for ident, innermost in _current_frames().items()
        if ident not in skipped_idents and (only is None or ident in only)
    }


def walk_from(innermost: FrameType) -> RawStack:
    """The stack that ends in this frame, innermost frame first."""
    stack: RawStack = []
    frame: FrameType | None = innermost
    while frame is not None:
        stack.append((frame.f_code, frame.f_lasti))
        frame = frame.f_back
        if len(stack) >= _MAX_WALKED:
            break
    return stack


def walk_at_once(
    idents: Iterable[int], greenlets: Iterable[object]
) -> tuple[list[RawStack], list[RawStack], list[bool]]:
    """The stacks of some threads, those of some greenlets, and which of these live, all of it at one instant.

    What walk() does is not enough where greenlets switch: it is Python code, so the GIL can change hands in the middle,
    and a stack may then be half of one greenlet and half of another. On CPython 3.12 and 3.13 it is worse: a part of
    the chain of frames is in the C stack, which a greenlet that is suspended takes away. Here only C code runs from
    the first stack to the last.
    """
    suspended = tuple(greenlets)
    steps = [
        *(map(operator.methodcaller("get", ident), itertools.islice(_frames_of_now(), 1)) for ident in idents),
    ]
    walks: list[Iterator[Any]] = [_walking(first) for first in steps]
    # Its first step is the greenlet itself, which has no place in a stack.
    walks += [_walking((greenlet, "gr_frame"), skipped=1) for greenlet in suspended]
    walks.append(map(operator.truth, suspended))
    found: list[Any]
    lives: list[bool]
    *found, lives = _with_collector_held(functools.partial(list, map(list, walks)))
    return found[: len(steps)], found[len(steps) :], lives


def _walking(first: Iterable[Any], *, skipped: int = 0) -> Iterator[tuple[CodeType, int]]:
    """What walk_from() gives, one by one, from an iterator without a line of Python."""
    frames = itertools.accumulate(itertools.chain(first, itertools.repeat("f_back", _MAX_WALKED - 1)), getattr)
    return map(_place, itertools.takewhile(_is_there, itertools.islice(frames, skipped, None)))


_call: Callable[[Callable[[], Any]], Any] = operator.methodcaller("__call__")
_place = operator.attrgetter("f_code", "f_lasti")
_is_there = functools.partial(operator.is_not, None)


def _frames_of_now() -> Iterator[dict[int, FrameType]]:
    """sys._current_frames() each time it is asked, and not before."""
    return iter(sys._current_frames, None)


def _current_frames() -> dict[int, FrameType]:
    return _with_collector_held(sys._current_frames)


def _with_collector_held(function: Callable[[], T]) -> T:
    """Call it while no collection can begin.

    Held off and let go again by C code alone: between two lines of ours another thread could look whether the collector
    is on, and would switch it off for good when it puts back what it found.
    """
    if not (_HOLD_COLLECTOR and gc.isenabled()):
        return function()
    try:
        # Not by way of a name: the frame of this call is among those that it gets, and would keep them all.
        return cast("T", list(map(_call, (gc.disable, function, gc.enable)))[1])
    except BaseException:
        gc.enable()
        raise


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
        if source_file is not None and lineno is not None:
            source = source_file.line(lineno)
            source_changed = source_file.is_newer_than(self._process_started_at)
        return Frame(
            filename=filename,
            lineno=lineno,
            function=getattr(code, "co_qualname", code.co_name),  # co_qualname: 3.11 and up
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
            for found in itertools.islice(code.co_positions(), lasti // 2, lasti // 2 + 1):
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
        try:
            # O_NONBLOCK: a code object can be compiled with any file name, that of a FIFO too.
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except (OSError, ValueError):
            continue
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_SOURCE_BYTES:
                continue
            with open(descriptor, "rb", closefd=False) as file:
                content = file.read(MAX_SOURCE_BYTES)
        except OSError:
            continue
        finally:
            opening.close(descriptor)
        return SourceFile(decode_lines(content), status.st_mtime)
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
