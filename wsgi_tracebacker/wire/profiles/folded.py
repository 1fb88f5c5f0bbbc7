"""Folded stacks, as Brendan Gregg's flamegraph.pl reads them: a line a stack, its rows joined by semicolons."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wsgi_tracebacker.wire.escape import printable
from wsgi_tracebacker.wire.profiles.rows import place, rows

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wsgi_tracebacker.model.recording import Recording


def lines(recording: Recording, by: str = "route") -> Iterator[str]:
    """The stacks with their weights in whole milliseconds; what is less than half of one is left out."""
    weights: dict[str, float] = {}
    for stack in recording.stacks:
        names = (row.name if row.frame is None else f"{row.name} ({place(row.frame)})" for row in rows(stack, by))
        line = ";".join(printable(name.replace(";", ":")) for name in names)
        weights[line] = weights.get(line, 0.0) + stack.seconds
    for line, seconds in weights.items():
        if milliseconds := round(seconds * 1000):
            yield f"{line} {milliseconds}"
