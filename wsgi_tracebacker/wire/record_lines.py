"""What ``GET /record`` answers, a line of JSON a second: the calls, requests and times that are new since the last one.

The first line says who records whom, the last one is ``{"end": REASON}``. Calls are a tree, so that a stack is one
number: that of its innermost call. Whoever decodes holds everything against what it may be: it is another process's.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from wsgi_tracebacker.errors import FormatError
from wsgi_tracebacker.model.snapshot import Frame

if TYPE_CHECKING:
    from collections.abc import Iterable

#: Rises when a key changes its meaning.
RECORD_SCHEMA = 1

#: The tree's root, and the request that a time belongs to if that is not known.
NO_NODE = NO_REQUEST = 0


class Added(NamedTuple):
    """Time that requests spent in one place since the last line."""

    #: Of its innermost call; NO_NODE if the place is not known.
    node: int
    #: Whether calls below that one are missing.
    is_cut: bool
    request: int
    waits_for: str
    seconds: float
    samples: int


class Line(NamedTuple):
    """One line. The head has only ``pid``, the last line only ``end``."""

    pid: int | None = None
    end: str | None = None
    #: Parent and call of each new node; the first one of all is number 1.
    nodes: tuple[tuple[int, Frame], ...] = ()
    #: Method and path of each new request; the first one of all is number 1.
    requests: tuple[tuple[str, str], ...] = ()
    added: tuple[Added, ...] = ()
    #: From the last look before the first one of this line to its last one: a request in flight all the time has these.
    seconds: float = 0.0
    #: Of the threads that serve requests, by the kernel's clock.
    cpu_seconds: float = 0.0


def head(number: int | None, pid: int, rate: float, seconds: float) -> bytes:
    """The first line."""
    return _line({"schema": RECORD_SCHEMA, "number": number, "pid": pid, "rate": rate, "seconds": seconds})


def node(parent: int, filename: str, lineno: int | None, function: str) -> str:
    """A new call, for ``stretch``."""
    return json.dumps([parent, filename, lineno, function])


def request(method: str, path: str) -> str:
    """A new request, for ``stretch``."""
    return json.dumps([method, path])


def added(each: Added) -> str:
    """A time, for ``stretch``."""
    return json.dumps([*each[:4], round(each.seconds, 6), each.samples])


def stretch(
    nodes: Iterable[str], requests: Iterable[str], times: Iterable[str], seconds: float, cpu_seconds: float
) -> bytes:
    """A line between the first and the last. Made of parts, so that other threads can run between them."""
    lists = (("nodes", nodes), ("requests", requests), ("added", times))
    parts = ", ".join(f'"{name}": [{", ".join(each)}]' for name, each in lists)
    text = f'{{{parts}, "seconds": {round(seconds, 6)}, "cpu_seconds": {round(cpu_seconds, 6)}}}\n'
    return text.encode("ascii")


def end(reason: str) -> bytes:
    """The last line."""
    return _line({"end": reason})


def _line(document: dict[str, Any]) -> bytes:
    return json.dumps(document).encode("ascii") + b"\n"


def parse(content: bytes) -> Line:
    """Read a line. Raises FormatError."""
    try:
        document = json.loads(content)
        if "schema" in document:
            if document["schema"] != RECORD_SCHEMA:
                raise FormatError(f"its recording is of version {document['schema']!r}, not {RECORD_SCHEMA}")
            return Line(pid=int(document["pid"]))
        if "end" in document:
            return Line(end=str(document["end"]))
        return Line(
            nodes=tuple(_node(*each) for each in document["nodes"]),
            requests=tuple((str(method), str(path)) for method, path in document["requests"]),
            added=tuple(_added(*each) for each in document["added"]),
            seconds=_seconds(document["seconds"]),
            cpu_seconds=_seconds(document["cpu_seconds"]),
        )
    except FormatError:
        raise
    except (ValueError, KeyError, TypeError, RecursionError, OverflowError) as error:
        raise FormatError("its recording cannot be read") from error


def _node(parent: Any, filename: Any, lineno: Any, function: Any) -> tuple[int, Frame]:
    return int(parent), Frame(str(filename), None if lineno is None else int(lineno), str(function))


def _added(innermost: Any, is_cut: Any, whose: Any, waits_for: Any, seconds: Any, samples: Any) -> Added:
    return Added(int(innermost), bool(is_cut), int(whose), str(waits_for), _seconds(seconds), max(0, int(samples)))


def _seconds(value: Any) -> float:
    seconds = float(value)
    # More than any clock shows, or nan.
    if not 0 <= seconds < 1e9:
        raise FormatError("its recording has times that no clock shows")
    return seconds
