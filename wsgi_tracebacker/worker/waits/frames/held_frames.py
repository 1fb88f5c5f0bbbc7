"""Takes hold of the frames of some threads for a moment, to evaluate expressions in them.

All frames are of one instant. The threads go on meanwhile, so what was read of a frame counts only if the frame is
still at the same instruction afterwards.
"""

from __future__ import annotations

import functools
import sys
from itertools import chain, islice, repeat, takewhile
from operator import attrgetter, methodcaller, truth
from typing import TYPE_CHECKING, NamedTuple

from wsgi_tracebacker.worker.threads import collector
from wsgi_tracebacker.worker.waits.frames import values

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from types import CodeType, FrameType

    from wsgi_tracebacker.worker.waits.frames.expressions import Expression

#: The most frames of one thread that are held, from the innermost one on.
_MAX_HELD = 200


class HeldFrame(NamedTuple):
    """A frame with its place at the instant when all were taken."""

    frame: FrameType
    code: CodeType
    lasti: int

    def evaluate(self, expression: Expression) -> object:
        """The value of an expression; values.MISSING also if the thread has gone on since."""
        value = values.evaluate(expression, self.frame)
        return value if self.frame.f_lasti == self.lasti else values.MISSING


def hold(idents: Collection[int], greenlets: Mapping[int, object] | None = None) -> dict[int, list[HeldFrame]]:
    """The frames of these threads by ident, innermost first. Drop them as soon as can be: they keep variables alive.

    :param greenlets: suspended ones, by any number that is no ident; their frames are under the same number.
    """
    # One call of C code, for the reasons that stacks.walk.walk() gives. As plain loops:
    #
    #     frames = sys._current_frames()
    #     for frame in [frames[ident] for ident in idents] + [greenlet.gr_frame for greenlet in suspended]:
    #         chain = [frame]
    #         while chain[-1].f_back is not None and len(chain) < _MAX_HELD:
    #             chain.append(chain[-1].f_back)
    #         places.append([(frame.f_code, frame.f_lasti) for frame in chain])
    #     frames.clear()
    suspended = greenlets or {}
    wanted = list(idents)
    frames: dict[int, FrameType] = {}
    chains: list[list[FrameType]] = []
    places: list[list[tuple[CodeType, int]]] = []
    innermost = chain(map(frames.get, wanted), map(_frame_of, list(suspended.values())))
    steps = chain(
        map(frames.update, islice(iter(sys._current_frames, None), 1)),
        map(chains.extend, (map(list, map(filter, repeat(None), zip(innermost))),)),
        map(list.extend, chains, map(takewhile, repeat(truth), map(islice, map(map, repeat(_back), chains), _LIMITS))),
        map(places.append, map(list, map(map, repeat(_place), chains))),
        map(_call, (frames.clear,)),
    )
    collector.hold(functools.partial(list, steps))
    return {
        key: [HeldFrame(frame, *place) for frame, place in zip(frames_of, places_of, strict=True)]
        for key, frames_of, places_of in zip([*wanted, *suspended], chains, places, strict=True)
        if frames_of
    }


_LIMITS = repeat(_MAX_HELD - 1)
_back = attrgetter("f_back")
_place = attrgetter("f_code", "f_lasti")
_frame_of = attrgetter("gr_frame")
_call = methodcaller("__call__")
