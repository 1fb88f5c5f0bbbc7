"""Walks all stacks at one instant, and returns them as ``(code, lasti)`` pairs.

Of a frame it reads only ``f_code``, ``f_lasti`` and ``f_back``: anything else can run code, keep locals alive, or crash
a sampler of CPython 3.11.
"""

from __future__ import annotations

import functools
import sys
from itertools import chain, islice, repeat, takewhile
from operator import attrgetter, methodcaller, truth
from typing import TYPE_CHECKING, Any, NamedTuple

from wsgi_tracebacker.worker.threads import collector, interpreters
from wsgi_tracebacker.worker.threads.signal_handlers import IN_HANDLER, before_handler
from wsgi_tracebacker.worker.tracking.core import APP

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable
    from types import CodeType, FrameType

    from wsgi_tracebacker.worker.tracking.core import Core

#: The code of the middleware's call, which is in the stack of every request whose application runs.
SERVING_CODE: list[CodeType] = []

#: The ident of no thread.
NO_THREAD = 0

#: A stack, innermost frame first: code objects, each with the byte offset of the current instruction.
RawStack = list[tuple["CodeType", int]]

#: The most frames of one stack that are walked, at 0.1 to 0.2 µs each, with the GIL held. The outermost ones beyond it
#: are left out.
_MAX_WALKED = 100_000


class Walked(NamedTuple):
    """The stacks of threads, and of greenlets that serve requests, at one instant."""

    #: By thread ident, innermost frame first.
    threads: dict[int, RawStack]
    #: By id() of the core: the stack and the state of its greenlet. Cores of ordinary threads are not here.
    greenlets: dict[int, tuple[RawStack, str]] = {}  # noqa: RUF012
    #: By thread ident: the stack of its hub; empty if the hub runs.
    hubs: dict[int, RawStack] = {}  # noqa: RUF012
    #: By the id() of the frame of a body that is a generator: the ident of the thread that runs it.
    readers: dict[int, int] = {}  # noqa: RUF012
    #: By thread ident: the request whose application is called there.
    callers: dict[int, Core] = {}  # noqa: RUF012

    def stack_of(self, core: Core) -> RawStack:
        """Return the stack of the thread or greenlet that works on a core's request; empty if it is not known."""
        own = self.greenlets.get(id(core))
        if own is not None:
            return own[0]
        stack = self.threads.get(self.ident_of(core), [])
        return stack if not interpreters.ids_are_shared() or _is_proven(core, stack) else []

    def ident_of(self, core: Core) -> int:
        """Return the ident of the thread that works on a core's request: a body may be read by several in turn.

        NO_THREAD for an open body that nobody reads while its thread serves another request.
        """
        ident = core.serving_ident()
        if core.phase == APP or id(core) in self.greenlets:
            return ident
        frame_id = core.reading_frame_id() if self.readers else None
        if frame_id in self.readers:
            return self.readers[frame_id]
        serves_another = self.callers.get(ident, core) is not core or ident in self.readers.values()
        return NO_THREAD if serves_another else ident

    def state_of(self, core: Core) -> str | None:
        """Return the state of a core's greenlet; None for a thread."""
        own = self.greenlets.get(id(core))
        return None if own is None else own[1]

    def served_by_greenlets(self, cores: Iterable[Core]) -> dict[Core, tuple[RawStack, str]]:
        """Those of the cores that a greenlet serves, with its stack and state."""
        return {core: self.greenlets[id(core)] for core in cores if id(core) in self.greenlets}


def walk(
    skipped_idents: Collection[int],
    only: Collection[int] | None = None,
    greenlets: Iterable[object] = (),
    frame_ids: frozenset[int] = frozenset(),
) -> tuple[dict[int, RawStack], list[RawStack], list[bool], dict[int, int]]:
    """Return the stacks of all threads (or only of some) by ident, those of these greenlets, and which of these live.

    All at one instant; both lists are in the order of ``greenlets``. The last result is, for each of ``frame_ids`` that
    was met, the ident of its thread.
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
    #         met.append(frame_ids.intersection(id(frame) for frame in chain))
    #     lives = [bool(greenlet) for greenlet in suspended]
    #
    # No line of Python may run from the first frame until the last one is dropped. In a plain loop another thread could
    # get the GIL, or a collection start, whose destructors release it. The other thread then returns from the frames
    # that are being walked: their stack mixes two instants, and on CPython 3.11, where f_back allocates and an
    # allocation may start a collection, the next frame is read from freed memory. On 3.12 and 3.13 a part of the chain
    # of frames is in the C stack, which a greenlet that is suspended moves away. No destructor of the application runs
    # here either: no frame ends while it is held.
    suspended = tuple(greenlets)
    frames: dict[int, FrameType] = {}
    idents = [] if only is None else [ident for ident in only if ident not in skipped_idents]
    chains: list[list[FrameType]] = []
    stacks: list[RawStack] = []
    lives: list[bool] = []
    met: list[frozenset[int]] = []
    innermost = chain(map(frames.get, idents), map(_frame_of, suspended))
    steps = chain(
        map(frames.update, islice(iter(sys._current_frames, None), 1)),
        map(frames.pop, skipped_idents, repeat(None)),
        map(idents.extend, (frames,) if only is None else ()),
        # A list for each innermost frame, empty if there is none; each then grows by the caller of its last frame.
        map(chains.extend, (map(list, map(filter, repeat(None), zip(innermost))),)),
        map(list.extend, chains, map(takewhile, repeat(truth), map(islice, map(map, repeat(_back), chains), _LIMITS))),
        map(stacks.append, map(list, map(map, repeat(_place), chains))),
        map(met.append, map(frame_ids.intersection, map(map, repeat(id), chains if frame_ids else ()))),
        map(lives.extend, (map(truth, suspended),)),
        map(list.clear, chains),
        map(_call, (frames.clear,)),
    )
    collector.hold(functools.partial(list, steps))
    threads = {ident: stack for ident, stack in zip(idents, stacks, strict=False) if stack}
    threads.update((ident, before_handler(ident, threads[ident])) for ident in IN_HANDLER if ident in threads)
    readers = {frame_id: ident for ident, found in zip(idents, met, strict=False) for frame_id in found}
    return threads, stacks[len(idents) :], lives, readers


def body_frame_ids(cores: Iterable[Core]) -> frozenset[int]:
    """The id() of the frame of each body that is a generator and still runs; see Core.reading_frame_id()."""
    found = {core.reading_frame_id() for core in cores if core.phase != APP and core.started > 0.0}
    return frozenset(frame_id for frame_id in found if frame_id is not None)


def callers(cores: Iterable[Core]) -> dict[int, Core]:
    """The requests whose application's callable runs, by the ident of their thread."""
    return {core.ident: core for core in cores if core.phase == APP and core.started > 0.0}


def _is_proven(core: Core, stack: RawStack) -> bool:
    """Whether a stack is that of a core's request, where threads share ids: see interpreters.

    What serves a request in this interpreter has our call in its stack. Other interpreters have one that is equal, and
    not the same.
    """
    return (
        core.phase == APP and interpreters.is_first() and any(code is own for own in SERVING_CODE for code, _ in stack)
    )


_LIMITS = repeat(_MAX_WALKED - 1)
_back = attrgetter("f_back")
_place = attrgetter("f_code", "f_lasti")
_frame_of = attrgetter("gr_frame")
_call: Callable[[Callable[[], Any]], Any] = methodcaller("__call__")
