"""Finds the stacks of greenlets that serve requests.

Many requests share a thread there: one of their greenlets runs, the others are suspended. The heap is never searched
for greenlets: each core refers to the one that serves its request.

Measured on greenlet 3.5:

- ``sys._current_frames()`` has the stack of the running greenlet for the thread of a hub.
- ``gr_frame`` of a suspended greenlet is its innermost frame, also if another thread reads it. It is None if the
  greenlet runs or has ended. ``bool(greenlet)`` is false if it has ended.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from wsgi_tracebacker.worker.stacks import walk

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from wsgi_tracebacker.worker.stacks.hubs import Hub
    from wsgi_tracebacker.worker.tracking.core import Core

#: The state of a core's greenlet.
RUNNING, SUSPENDED = "running", "suspended"


def walk_with(
    cores: Iterable[Core],
    skipped_idents: Collection[int],
    only: Collection[int] | None = None,
    hubs: Iterable[Hub] = (),
    serving: Iterable[Core] | None = None,
) -> walk.Walked:
    """Walk the stacks of all threads (or only of some), and of the greenlets of these cores and hubs.

    Of all threads also if a body of these cores is a generator, which any thread may run.

    :param serving: all cores that serve a request, if ``cores`` are only some of them.
    """
    hubs, cores = list(hubs), list(cores)
    frame_ids = walk.body_frame_ids(cores)
    served = [(core, core.greenlet()) for core in cores if core.greenlet is not None]
    there = [(core, greenlet) for core, greenlet in served if greenlet is not None]
    threads, of_greenlets, live, readers = walk.walk(
        skipped_idents,
        only if not frame_ids else None,
        [*(greenlet for _, greenlet in there), *(hub.greenlet for hub in hubs)],
        frame_ids,
    )
    seen: dict[int, tuple[walk.RawStack, str]] = {id(core): ([], SUSPENDED) for core, _ in served}
    for (core, _), stack, lives in zip(there, of_greenlets, live, strict=False):
        runs = lives and not stack
        seen[id(core)] = (threads.get(core.ident, []), RUNNING) if runs else (stack, SUSPENDED)
    of_hubs = of_greenlets[len(there) :]
    stacks_of_hubs = {hub.ident: stack for hub, stack in zip(hubs, of_hubs, strict=True)}
    return walk.Walked(threads, seen, stacks_of_hubs, readers, walk.callers(cores if serving is None else serving))
