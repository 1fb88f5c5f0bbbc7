"""Stacks are walked a thousand times while their threads return, with garbage whose destructor waits.

A destructor that waits gives up the GIL; where the collector begins with an allocation (up to CPython 3.11) it may be
in the middle of a walk that has made an object.
"""

from __future__ import annotations

import gc
import threading
import time

from wsgi_tracebacker.worker.stacks import walk

WALKS = 1_000
DEPTH = 400


class Garbage:
    """What only the collector can find."""

    def __init__(self) -> None:
        self._itself = self

    def __del__(self) -> None:
        # As the close of a connection does: it gives up the GIL for longer than the others stay in their frames.
        time.sleep(0.0005)


def descend(calls: int) -> None:
    if calls:
        descend(calls - 1)
    else:
        # Gives the walk its chance to find the whole chain; then all of it returns.
        time.sleep(0.0002)


def main() -> None:
    is_over = threading.Event()

    def run() -> None:
        while not is_over.is_set():
            descend(DEPTH)
            # Leaves the GIL to the walk.
            time.sleep(0.001)

    gc.set_threshold(100)
    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    deepest = 0
    for _ in range(WALKS):
        Garbage()
        deepest = max(deepest, *map(len, walk.walk(())[0].values()))
    is_over.set()
    for thread in threads:
        thread.join()
    assert gc.isenabled()
    assert deepest > DEPTH


if __name__ == "__main__":
    main()
