"""Reads texts from variables of frames of other threads, at one instant, without running anybody's code.

Only an exact ``str``, ``bytes`` or ``int`` comes out. No frame is kept, and only the frames that are asked for are
held, for the microseconds that reading them takes. Measured on CPython 3.10 to 3.15: reading ``f_locals`` of a frame
that runs is safe. It is never cleared: beside a trace function this would delete the function's variables.
"""

from __future__ import annotations

import functools
import sys
from itertools import chain, compress, islice, repeat, takewhile
from operator import attrgetter, eq, getitem, is_, itemgetter, methodcaller, truth
from typing import TYPE_CHECKING, Any, NamedTuple

from wsgi_tracebacker.worker.threads import collector
from wsgi_tracebacker.worker.waits.frames import values

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from types import CodeType, FrameType

    from wsgi_tracebacker.worker.waits.frames.expressions import Expression

#: On PyPy, reading another thread's variables is neither cheap nor known to be safe.
IS_SUPPORTED = sys.implementation.name == "cpython"

#: What comes out of a frame.
Text = str | bytes | int


class Wanted(NamedTuple):
    """Variables of one frame."""

    ident: int
    #: The greenlet that is suspended there; None for the frames of the thread.
    greenlet: object | None
    #: How many calls are inside this frame's.
    depth: int
    code: CodeType
    lasti: int
    expressions: tuple[Expression, ...]
    #: What makes a text of the first one's value, which may be any object; None: it must be a text itself.
    describe: Callable[[Any], str | None] | None = None


def read(wanted: Sequence[Wanted]) -> list[tuple[Text | None, ...] | None]:
    """The texts of each frame; None where the frame is not, or no longer, at its place."""
    if not IS_SUPPORTED or not wanted:
        return [None] * len(wanted)
    held = _hold(wanted)
    found: list[tuple[Text | None, ...] | None] = []
    try:
        for each, frames in zip(wanted, held, strict=True):
            texts = None
            if frames:
                texts = _texts(each, frames[0])
                if frames[0].f_lasti != each.lasti:
                    # The thread has gone on.
                    texts = None
            frames.clear()
            found.append(texts)
    finally:
        for frames in held:
            frames.clear()
    return found


def _texts(wanted: Wanted, frame: FrameType) -> tuple[Text | None, ...]:
    found = [values.evaluate(expression, frame) for expression in wanted.expressions]
    if found and wanted.describe is not None:
        found[0] = wanted.describe(found[0])
    return tuple(map(plain, found))


def plain(value: Any) -> Text | None:
    """The value if it is exactly a text, bytes or a whole number."""
    return value if type(value) is str or type(value) is bytes or type(value) is int else None


def _hold(wanted: Sequence[Wanted]) -> list[list[FrameType]]:
    """The frame of each, in a list of its own; an empty list where it is not at its place."""
    # One call of C code, for the reasons that stacks.walk.walk() gives. As plain loops:
    #
    #     frames = sys._current_frames()
    #     for each in wanted:
    #         frame = frames.get(each.ident) if each.greenlet is None else each.greenlet.gr_frame
    #         for _ in range(each.depth):
    #             frame = frame.f_back
    #         if (frame.f_code, frame.f_lasti) == (each.code, each.lasti):
    #             found.append([frame])
    #     frames.clear()
    frames: dict[int, FrameType] = {}
    chains: list[list[FrameType]] = []
    targets: list[list[FrameType]] = []
    of_code: list[list[FrameType]] = []
    found: list[list[FrameType]] = []
    # Those of threads first, as they are in innermost.
    order = [number for number, each in enumerate(wanted) if each.greenlet is None]
    threads = len(order)
    if threads < len(wanted):
        order += [number for number, each in enumerate(wanted) if each.greenlet is not None]
        wanted = [wanted[number] for number in order]
    all_idents, all_greenlets, depths, codes, offsets, _, _ = zip(*wanted, strict=True)
    idents, suspended = all_idents[:threads], all_greenlets[threads:]
    innermost: Iterable[FrameType | None] = chain(map(frames.get, idents), map(_frame_of, suspended))
    steps = chain(
        map(frames.update, islice(iter(sys._current_frames, None), 1)),
        # A list for each innermost frame, empty if there is none; each then grows by the caller of its last frame.
        map(chains.extend, (map(list, map(filter, repeat(None), zip(innermost))),)),
        map(list.extend, chains, map(takewhile, repeat(truth), map(islice, map(map, repeat(_back), chains), depths))),
        map(targets.extend, (map(_slice_of, chains, [slice(depth, depth + 1) for depth in depths]),)),
        map(of_code.extend, (_where(targets, _code, codes),)),
        map(found.extend, (_where(of_code, _offset, offsets),)),
        map(list.clear, chains),
        map(list.clear, targets),
        map(list.clear, of_code),
        map(_call, (frames.clear,)),
    )
    collector.hold(functools.partial(list, steps))
    if not suspended:
        return found
    return [frames_of for _, frames_of in sorted(zip(order, found, strict=True), key=_number)]


def _where(
    frames: Sequence[list[FrameType]], attribute: Callable[[FrameType], Any], wanted: Sequence[object]
) -> Iterable[list[FrameType]]:
    """Of each list the frames whose attribute is this object. Offsets are compared by value."""
    found = map(map, repeat(attribute), frames)
    compare = repeat(is_ if attribute is _code else eq)
    return map(list, map(compress, frames, map(map, compare, found, zip(wanted))))


_back = attrgetter("f_back")
_code = attrgetter("f_code")
_offset = attrgetter("f_lasti")
_frame_of = attrgetter("gr_frame")
_number = itemgetter(0)
_slice_of: Callable[[Any, Any], Any] = getitem
_call: Callable[[Callable[[], Any]], Any] = methodcaller("__call__")
