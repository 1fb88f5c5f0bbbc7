"""Adds up how long requests stood where, as a tree of calls, and says each second what is new: in bounded memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wsgi_tracebacker.wire import record_lines
from wsgi_tracebacker.wire.record_lines import NO_NODE, Added
from wsgi_tracebacker.worker.code_places import position

if TYPE_CHECKING:
    from types import CodeType

    from wsgi_tracebacker.worker.stacks.walk import RawStack

#: Calls that are told apart, each in its place in the tree; below them a stack is cut.
MAX_NODES = 20_000


class CallTree:
    """The tree of one recording. Used by one thread."""

    def __init__(self, max_nodes: int = MAX_NODES) -> None:
        self._max_nodes = max_nodes
        #: By parent, id() of the code and instruction; several instructions of a line are one node.
        self._nodes: dict[tuple[int, int, int], int] = {}
        self._lines: dict[tuple[int, int, int | None], int] = {}
        #: Kept, so that no other code gets their id().
        self._codes: dict[int, CodeType] = {}
        self._requests = 0
        # What is new since the last line. Encoded at once, and not all together: that would keep the GIL for long.
        self._new_nodes: list[str] = []
        self._new_requests: list[str] = []
        self._added: dict[tuple[int, bool, int, str], tuple[float, int]] = {}

    def node(self, stack: RawStack) -> tuple[int, bool]:
        """The node of a stack, innermost frame first, and whether calls below it are missing."""
        parent = NO_NODE
        for code, lasti in reversed(stack):
            found = self._nodes.get((parent, id(code), lasti)) or self._make(parent, code, lasti)
            if not found:
                return parent, True
            parent = found
        return parent, False

    def _make(self, parent: int, code: CodeType, lasti: int) -> int:
        lineno = position(code, lasti)[0]
        line = parent, id(code), lineno
        found = self._lines.get(line)
        if found is None:
            if len(self._lines) >= self._max_nodes:
                return NO_NODE
            self._codes[id(code)] = code
            found = self._lines[line] = len(self._lines) + 1
            function = getattr(code, "co_qualname", code.co_name)  # co_qualname: 3.11 and up
            self._new_nodes.append(record_lines.node(parent, code.co_filename, lineno, function))
        self._nodes[parent, id(code), lasti] = found
        return found

    def request(self, method: str, path: str) -> int:
        """The number of a request that was not seen before."""
        self._requests += 1
        self._new_requests.append(record_lines.request(method, path))
        return self._requests

    def add(self, place: tuple[int, bool], request: int, waits_for: str, seconds: float, samples: int = 1) -> None:
        """A request stood there for so long."""
        if seconds > 0.0:
            key = (*place, request, waits_for)
            before = self._added.get(key, (0.0, 0))
            self._added[key] = before[0] + seconds, before[1] + samples

    def line(self, seconds: float, cpu_seconds: float) -> bytes:
        """What is new since the last line; see ``record_lines.Line`` for both times."""
        times = (record_lines.added(Added(*key, *value)) for key, value in self._added.items())
        line = record_lines.stretch(self._new_nodes, self._new_requests, times, seconds, cpu_seconds)
        self._new_nodes, self._new_requests, self._added = [], [], {}
        return line
