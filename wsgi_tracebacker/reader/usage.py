"""What the processes of workers use: resident memory now, and CPU over a moment."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from wsgi_tracebacker.reader.finding.processes import Processes

#: The moment over which CPU is measured: long enough to tell a busy process from an idle one, too short to be noticed.
LOOK_SECONDS = 0.1


class Usage(NamedTuple):
    """What one process uses. None: not known."""

    memory_bytes: int | None
    #: CPU seconds per second: 1.0 is one CPU, with several threads it may be more.
    cpu_share: float | None


def measure(
    pids: Collection[int],
    processes: Processes,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> dict[int, Usage]:
    """Measure these processes, all over the same moment."""
    if not pids:
        return {}
    before = {pid: (clock(), processes.cpu_seconds(pid)) for pid in pids}
    sleep(LOOK_SECONDS)
    found = {}
    for pid, (started, used_before) in before.items():
        now, used = clock(), processes.cpu_seconds(pid)
        share = None
        if used is not None and used_before is not None and now > started:
            share = max(0.0, used - used_before) / (now - started)
        found[pid] = Usage(processes.resident_bytes(pid), share)
    return found
