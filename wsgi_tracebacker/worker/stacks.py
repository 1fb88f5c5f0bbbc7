"""Live frames become values: the walk, the source lines, and what a frame looks like in each format.

Knows frames, and touches nothing on one but ``f_code``, ``f_lasti`` and ``f_back``: anything else can run code, pin
locals, or crash a sampler of CPython 3.11. Refuses to know which request a stack belongs to.

The walk copies ``(code, lasti)`` pairs and nothing else while frames are held, and lets go of them before any other
thread runs. Only then are lines, columns and source looked up, and kept: a code object's line never changes, so what a
frame looks like is made once.
"""

from __future__ import annotations

import functools
import gc
import os
import stat
import sys
from dataclasses import dataclass
from itertools import chain, islice, repeat, takewhile
from operator import attrgetter, methodcaller, truth
from typing import TYPE_CHECKING, Any

from wsgi_tracebacker.formats import json as json_format
from wsgi_tracebacker.formats import uwsgi as uwsgi_format
from wsgi_tracebacker.formats.source import MAX_SOURCE_BYTES, SourceFile, decode_lines
from wsgi_tracebacker.linux.files import close
from wsgi_tracebacker.model import Frame

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable
    from types import CodeType, FrameType

#: A stack as it is walked: innermost first, an instruction's byte offset beside its code object.
RawStack = list[tuple["CodeType", int]]

#: Frames of one stack that are shown. CPython's own limit is 1,000; an application that raises it to a million must
#: not make a dump of a gigabyte. Above it the middle is left out: both ends of a runaway recursion matter.
MAX_FRAMES = 1_200
_OUTERMOST_KEPT = 200
#: Frames of one stack that are looked at, at 0.1 to 0.2 µs each, with the GIL kept: beyond it, the outermost ones stay
#: unseen.
_MAX_WALKED = 100_000

#: Different places in the code that are remembered, at about 1 KB each. When full, all are forgotten at once: simpler
#: than an order of use, and an application has some hundred places where it ever waits.
MAX_CACHED_PLACES = 8_192

#: Up to 3.11 a collection begins with an allocation, wherever that is. In sys._current_frames(), which holds the
#: runtime's lock, one whose destructor wants that lock waits for ever (python/cpython#106883). For what it does in a
#: walk, see walk().
_HOLD_COLLECTOR = sys.implementation.name == "cpython" and sys.version_info < (3, 12)


@dataclass(frozen=True, slots=True)
class Place:
    """One place in the code, ready for every format."""

    code: CodeType  # held, so that its id() stays its own
    frame: Frame
    text: bytes
    json: str


def walk(
    skipped_idents: Collection[int], only: Collection[int] | None = None, greenlets: Iterable[object] = ()
) -> tuple[dict[int, RawStack], list[RawStack], list[bool]]:
    """The stacks of all threads or only of some, those of some greenlets, and which of these live, all at one instant.

    By thread ident, and in the order of the greenlets; innermost frame first.

    From the first frame to the last one that is let go again, no line of Python is run: in a loop over ``f_back`` the
    GIL can change hands, or a collection begin, whose destructors give it up. The other thread then returns from the
    frames that are being looked at. Their stack is half of one instant and half of another, and on CPython 3.11, where
    ``f_back`` allocates and a collection begins with an allocation, the next one is read from memory that is gone. On
    3.12 and 3.13 a part of the chain of frames is in the C stack, which a greenlet that is suspended takes away.

    No destructor of the application runs here either: no frame ends while it is held.
    """
    suspended = tuple(greenlets)
    frames: dict[int, FrameType] = {}
    idents = [] if only is None else [ident for ident in only if ident not in skipped_idents]
    chains: list[list[FrameType]] = []
    stacks: list[RawStack] = []
    lives: list[bool] = []
    innermost = chain(map(frames.get, idents), map(_frame_of, suspended))
    steps = chain(
        map(frames.update, islice(iter(sys._current_frames, None), 1)),
        map(frames.pop, skipped_idents, repeat(None)),
        map(idents.extend, (frames,) if only is None else ()),
        # A list for each, empty where there is no frame, which then grows by the caller of what it holds last.
        map(chains.extend, (map(list, map(filter, repeat(None), zip(innermost))),)),
        map(list.extend, chains, map(takewhile, repeat(truth), map(islice, map(map, repeat(_back), chains), _LIMITS))),
        map(stacks.append, map(list, map(map, repeat(_place), chains))),
        map(lives.extend, (map(truth, suspended),)),
        map(list.clear, chains),
        map(_call, (frames.clear,)),
    )
    _with_collector_held(functools.partial(list, steps))
    threads = {ident: stack for ident, stack in zip(idents, stacks, strict=False) if stack}
    return threads, stacks[len(idents) :], lives


_LIMITS = repeat(_MAX_WALKED - 1)
_back = attrgetter("f_back")
_place = attrgetter("f_code", "f_lasti")
_frame_of = attrgetter("gr_frame")
_call: Callable[[Callable[[], Any]], Any] = methodcaller("__call__")


def _with_collector_held(function: Callable[[], object]) -> None:
    """Call it while no collection can begin.

    Held off and let go again by C code alone: between two lines of ours another thread could look whether the collector
    is on, and would switch it off for good when it puts back what it found.
    """
    if not (_HOLD_COLLECTOR and gc.isenabled()):
        function()
        return
    try:
        list(map(_call, (gc.disable, function, gc.enable)))
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
            close(descriptor)
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
