"""Threads that wait for locks until a test lets them go."""

from __future__ import annotations

import contextlib
import functools
import sys
import threading
from typing import TYPE_CHECKING

from tests.support.waiting import wait_until
from wsgi_tracebacker.worker.stacks import walk
from wsgi_tracebacker.worker.waits.look import Look

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@contextlib.contextmanager
def running(*functions: Callable[[], object]) -> Iterator[list[int]]:
    """Run each function on a thread of its own, and wait until all of them wait; yields their idents."""
    threads = [threading.Thread(target=function, daemon=True) for function in functions]
    for thread in threads:
        thread.start()
    idents = [thread.ident or 0 for thread in threads]
    for ident in idents:
        wait_until(functools.partial(_stands_still, ident), "it waits")
    yield idents
    for thread in threads:
        thread.join(30)


def _stands_still(ident: int) -> bool:
    places = []
    for _ in range(3):
        frame = sys._current_frames().get(ident)
        places.append(None if frame is None else (frame.f_code, frame.f_lasti))
        threading.Event().wait(0.01)
    return None not in places and len(set(places)) == 1


def stacks() -> dict[int, walk.RawStack]:
    """The stacks of all threads, as a snapshot walks them."""
    return walk.walk(())[0]


def look() -> contextlib.closing[Look]:
    """A look at all threads, as a snapshot takes it."""
    return contextlib.closing(Look(stacks()))
