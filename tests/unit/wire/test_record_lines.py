"""The lines of a recording from inside: what is written is read, and anything else is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsgi_tracebacker.errors import FormatError
from wsgi_tracebacker.model.snapshot import Frame
from wsgi_tracebacker.wire import record_lines
from wsgi_tracebacker.wire.record_lines import Added, Line

times = st.integers(0, 10**9).map(lambda microseconds: microseconds / 1e6)
counts = st.integers(0, 2**31)
frames = st.tuples(st.text(), st.none() | counts, st.text()).map(lambda values: Frame(*values))
lines = st.builds(
    Line,
    pid=st.none(),
    end=st.none(),
    nodes=st.lists(st.tuples(counts, frames), max_size=4).map(tuple),
    requests=st.lists(st.tuples(st.text(), st.text()), max_size=4).map(tuple),
    added=st.lists(st.builds(Added, counts, st.booleans(), counts, st.text(), times, counts), max_size=4).map(tuple),
    seconds=times,
    cpu_seconds=times,
)


@given(lines)
def test_a_line_is_read_as_it_was_written(line: Line) -> None:
    """Whatever the names, on one line."""
    encoded = record_lines.stretch(
        [record_lines.node(parent, *frame[:3]) for parent, frame in line.nodes],
        [record_lines.request(*each) for each in line.requests],
        [record_lines.added(each) for each in line.added],
        line.seconds,
        line.cpu_seconds,
    )
    assert encoded.find(b"\n") == len(encoded) - 1
    assert record_lines.parse(encoded) == line


def test_the_first_and_the_last_line() -> None:
    """Who is recorded, and why it ended."""
    assert record_lines.parse(record_lines.head(1, 4711, 20, 10)) == Line(pid=4711)
    assert record_lines.parse(record_lines.end("its time is over")) == Line(end="its time is over")


STRETCH: dict[str, Any] = {"nodes": [], "requests": [], "added": [], "seconds": 1, "cpu_seconds": 0}


@pytest.mark.parametrize(
    "document",
    [
        None, [], {}, {"schema": 2, "pid": 1}, {"schema": 1}, {**STRETCH, "seconds": -1},
        {**STRETCH, "cpu_seconds": float("nan")}, {**STRETCH, "nodes": [[0, "f"]]}, {**STRETCH, "added": [[1]]},
        {**STRETCH, "requests": ["GET"]},
    ],
)  # fmt: skip
def test_what_is_no_line_is_refused(document: Any) -> None:
    """Another version, and what lacks a part or has times that no clock shows."""
    with pytest.raises(FormatError):
        record_lines.parse(json.dumps(document).encode())


@given(st.binary() | st.recursive(st.none() | st.floats() | st.text(), st.lists).map(lambda v: json.dumps(v).encode()))
def test_garbage_is_refused(content: bytes) -> None:
    """Whatever arrives, there is no other error."""
    with pytest.raises(FormatError):
        record_lines.parse(content)
