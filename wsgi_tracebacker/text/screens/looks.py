"""Says what several looks at a request show: whether it is stuck, or moves."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wsgi_tracebacker.model.groups import Looks

#: A thread that uses less of a CPU than this waits; as in the verdict of a report.
_IDLE_SHARE = 0.02


def word(looks: Looks) -> str:
    """``stuck``, ``moves``, ``busy`` (at one place, with CPU), ``same place`` (CPU unknown) or ``new``."""
    if looks.seen < 2:
        return "new"
    if looks.same < looks.of:
        return "moves"
    if looks.cpu_seconds is None or not looks.seconds:
        return "same place"
    return "stuck" if looks.cpu_seconds < _IDLE_SHARE * looks.seconds else "busy"


def verdict(looks: Looks) -> str:
    """``stuck: the same place in 3 of 3 looks, no CPU``."""
    found = word(looks)
    if found == "new":
        return f"new: in flight at 1 of {looks.of} looks"
    if looks.cpu_seconds is None:
        cpu = "CPU not known"
    elif found == "stuck":
        cpu = "no CPU"
    else:
        cpu = f"{looks.cpu_seconds:.2f} s of CPU"
    return f"{found}: the same place in {looks.same} of {looks.of} looks, {cpu}"
