"""What an enemy sends: documents that are ours but for some places, long inputs of few pieces, and what must hold.

``renders`` is what has to be possible with every snapshot that was accepted; ``within_bounds`` holds the work for an
input to its length, so that nobody who sends much can hang a reader or fill its memory.
"""

from __future__ import annotations

import copy
import gc
import json as standard_json
import sys
import time
import unicodedata
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st

from tests.support.interpreters import COUNTS_REFERENCES
from tests.unit.wire.strategies import texts
from wsgi_tracebacker.analysis.places import group, served_requests
from wsgi_tracebacker.text import snapshot as traceback
from wsgi_tracebacker.text.screens import reading
from wsgi_tracebacker.wire import uwsgi_text as uwsgi
from wsgi_tracebacker.wire.documents import snapshot_json as json

if sys.implementation.name == "cpython":
    import tracemalloc

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from wsgi_tracebacker.model.snapshot import Snapshot

#: Times and counts at which arithmetic or a clock ends.
_extremes = st.sampled_from(
    [0, -1, 2**31, 2**32, 2**53, 2**63 - 1, 2**63, 2**64 - 1, 2**64, 10**400, 1e15, -1e15, 1.7e308, -1.7e308, 5e-324]
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | _extremes | texts | st.just("\0"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def documents(genuine: Any) -> st.SearchStrategy[bytes]:
    """A JSON document that is this one but for a few of its places, whatever they are."""

    def forge(changes: list[tuple[tuple[str | int, ...], Any]]) -> bytes:
        document = copy.deepcopy(genuine)
        for path, value in changes:
            place = document
            try:
                for key in path[:-1]:
                    place = place[key]
                place[path[-1]] = value
            except (TypeError, KeyError, IndexError, AttributeError):
                continue  # an earlier change took that place away
        return standard_json.dumps(document).encode()

    return st.lists(st.tuples(st.sampled_from(list(_places(genuine))), json_values), max_size=4).map(forge)


def _places(document: Any, before: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    items = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    for key, value in items:
        yield (*before, key)
        yield from _places(value, (*before, key))


def long_inputs(*pieces: bytes, length: int = 100_000) -> st.SearchStrategy[bytes]:
    """A few pieces, and a few more repeated until the input is long: what makes slow work of a parser."""
    piece = st.sampled_from(pieces) | st.binary(max_size=3)
    short = st.lists(piece, max_size=3).map(b"".join)
    unit = st.builds(
        lambda begin, again, times: begin + b"".join(again) * times,
        *(short, st.lists(piece, min_size=1, max_size=3), st.sampled_from([1, 1, 100, 5000])),
    )
    repeated = unit.map(lambda unit: (unit * (length // (len(unit) or 1) + 1))[:length])
    return st.builds(lambda start, middle, end: start + middle + end, short, repeated, short)


def within_bounds(
    read: Callable[[bytes], object], content: bytes, *, microseconds_a_byte: float, bytes_a_byte: float
) -> None:
    """CPU time and memory of reading it are bounded by its length; time alone on PyPy, which counts no memory."""
    if not COUNTS_REFERENCES:
        # A collection of PyPy's goes through all that the test session has, which is a gigabyte.
        gc.disable()
    try:
        began = time.thread_time()
        read(content)
        seconds = time.thread_time() - began
    finally:
        gc.enable()
    assert seconds < 0.2 + microseconds_a_byte * len(content) / 1e6, f"{seconds:.2f} s for {len(content)} bytes"
    if sys.implementation.name != "cpython":
        return
    tracemalloc.start()
    try:
        read(content)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1_000_000 + bytes_a_byte * len(content), f"{peak} bytes for {len(content)}"


def is_fit(line: str) -> bool:
    """Whether a line may go to a terminal: nothing in it drives one, breaks it or turns its direction."""
    line.encode("utf-8")
    return not any(
        unicodedata.category(character) in ("Cc", "Zl", "Zp", "Cs")
        or 0x202A <= ord(character) <= 0x202E
        or 0x2066 <= ord(character) <= 0x2069
        for character in line
    )


def renders(snapshot: Snapshot) -> None:
    """Each way of showing a snapshot, nothing raw in any."""
    assert all(map(is_fit, traceback.lines(snapshot, all_threads=True)))
    groups = group(served_requests([snapshot]))
    for full in (False, True):
        options = reading.Options(full=full, all_threads=full, limit=0 if full else 10)
        assert all(map(is_fit, reading.lines([reading.Answered(snapshot)], groups, 0, options)))
    assert all(is_fit(line) for line in uwsgi.encode(snapshot.stacks).decode("utf-8").split("\n"))
    document = json.encode(snapshot)
    assert is_fit(document.decode("ascii").removesuffix("\n"))
    standard_json.loads(document, parse_constant=_not_json)


def _not_json(constant: str) -> object:
    raise AssertionError(f"{constant} is no JSON")
