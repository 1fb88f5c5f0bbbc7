"""Walks all stacks at one instant: live frames become ``(code, lasti)`` pairs.

Touches nothing on a frame but ``f_code``, ``f_lasti`` and ``f_back``: anything else can run code, pin locals, or crash
a sampler of CPython 3.11. Refuses to know what a place in the code looks like, and which request a stack belongs to.
"""

from __future__ import annotations

import functools
import gc
import sys
from itertools import chain, islice, repeat, takewhile
from operator import attrgetter, methodcaller, truth
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable
    from types import CodeType, FrameType

    from wsgi_tracebacker.worker.tracking.core import Core

#: A stack as it is walked: innermost first, an instruction's byte offset beside its code object.
RawStack = list[tuple["CodeType", int]]

#: Frames of one stack that are walked, at 0.1 to 0.2 µs each, with the GIL kept. The outermost ones beyond it are not
#: seen.
_MAX_WALKED = 100_000

#: Up to 3.11 a collection begins with an allocation, wherever that is. In sys._current_frames(), which holds the
#: runtime's lock, one whose destructor wants that lock waits for ever (python/cpython#106883). For what it does in a
#: walk, see walk().
_HOLD_COLLECTOR = sys.implementation.name == "cpython" and sys.version_info < (3, 12)


class Walked(NamedTuple):
    """The stacks of threads, and of greenlets where those serve, at one instant."""

    #: By thread ident, innermost frame first.
    threads: dict[int, RawStack]
    #: By id() of the core: where its greenlet stands, and whether it runs. Cores of ordinary threads are not here.
    greenlets: dict[int, tuple[RawStack, str]] = {}  # noqa: RUF012
    #: By thread ident: where the hub of it stands; nothing if it runs.
    hubs: dict[int, RawStack] = {}  # noqa: RUF012

    def stack_of(self, core: Core) -> RawStack:
        """The stack of the thread or greenlet that works on a core's request."""
        own = self.greenlets.get(id(core))
        return self.threads.get(core.serving_ident(), []) if own is None else own[0]

    def state_of(self, core: Core) -> str | None:
        """What a core's greenlet is doing; None for a thread."""
        own = self.greenlets.get(id(core))
        return None if own is None else own[1]


def walk(
    skipped_idents: Collection[int], only: Collection[int] | None = None, greenlets: Iterable[object] = ()
) -> tuple[dict[int, RawStack], list[RawStack], list[bool]]:
    """The stacks of all threads or only of some, those of some greenlets, and which of these live, all at one instant.

    By thread ident, and in the order of the greenlets; innermost frame first.
    """
    # What the iterators below do, as plain loops:
    #
    #     frames = sys._current_frames()
    #     for ident in skipped_idents:
    #         frames.pop(ident, None)
    #     idents = list(frames) if only is None else [ident for ident in only if ident not in skipped_idents]
    #     innermost = [frames.get(ident) for ident in idents] + [greenlet.gr_frame for greenlet in suspended]
    #     for frame in innermost:
    #         chain = []
    #         while frame is not None and len(chain) < _MAX_WALKED:
    #             chain.append(frame)
    #             frame = frame.f_back
    #         stacks.append([(frame.f_code, frame.f_lasti) for frame in chain])
    #     lives = [bool(greenlet) for greenlet in suspended]
    #
    # But from the first frame to the last one that is let go again, no line of Python may run: in a loop over f_back
    # the GIL can change hands, or a collection begin, whose destructors give it up. The other thread then returns from
    # the frames that are being walked. Their stack is half of one instant and half of another, and on CPython 3.11,
    # where f_back allocates and a collection begins with an allocation, the next frame is read from memory that is
    # gone. On 3.12 and 3.13 a part of the chain of frames is in the C stack, which a greenlet that is suspended takes
    # away. No destructor of the application runs here either: no frame ends while it is held.
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
