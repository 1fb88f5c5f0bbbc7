"""The rows of a recorded stack, as every format has them: the route, the calls, and what was waited for."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from wsgi_tracebacker.model.recording import ON_CPU, PLACE_UNKNOWN

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wsgi_tracebacker.model.recording import RecordedStack, Recording
    from wsgi_tracebacker.model.snapshot import Frame

#: What a stack may begin with, before its route.
GROUPINGS = ("route", "worker", "wait")

#: The row that stands for the innermost calls of a cut stack.
CUT_ROW = "(more calls)"


class Row(NamedTuple):
    """One row of a flame graph."""

    name: str
    #: None for a row that is no call.
    frame: Frame | None = None


def rows(stack: RecordedStack, by: str = "route") -> list[Row]:
    """Outermost first: ``METHOD route``, the calls, then what was waited for."""
    first = {"worker": [Row(worker(stack))], "wait": [Row(stack.waits_for)]}.get(by, [])
    calls = [Row(frame.function, frame) for frame in stack.frames]
    cut = [Row(CUT_ROW)] if stack.is_cut else []
    return [*first, Row(stack.route), *calls, *cut, Row(stack.waits_for)]


def worker(stack: RecordedStack) -> str:
    """``web1 worker 2 (pid 4711)``."""
    name = f"worker {stack.worker} (pid {stack.pid})"
    return name if stack.host is None else f"{stack.host} {name}"


def place(frame: Frame) -> str:
    """``shop/pay.py:53``."""
    return frame.filename if frame.lineno is None else f"{frame.filename}:{frame.lineno}"


def only_cpu(recording: Recording) -> Recording:
    """The stacks of threads that were on a CPU."""
    return recording._replace(
        stacks=tuple(stack for stack in recording.stacks if stack.waits_for in (ON_CPU, PLACE_UNKNOWN))
    )


def by_route(recording: Recording) -> Iterator[tuple[str, list[RecordedStack]]]:
    """The stacks of each route, the heaviest first."""
    found: dict[str, list[RecordedStack]] = {}
    for stack in recording.stacks:
        found.setdefault(stack.route, []).append(stack)
    yield from sorted(found.items(), key=lambda item: -sum(stack.seconds for stack in item[1]))
