from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.wire.hostile import documents, is_fit
from tests.unit.wire.strategies import texts
from tests.unit.wire.test_table_layout import HEADER, row, table
from wsgi_tracebacker.errors import FormatError
from wsgi_tracebacker.model.report import LostRequest, Postmortem
from wsgi_tracebacker.wire import postmortem_json as postmortem
from wsgi_tracebacker.wire import table_layout as blackbox
from wsgi_tracebacker.wire.escape import printable

_optional = st.none() | texts
_times = st.floats(min_value=-1e12, max_value=1e12, allow_nan=False)
_counts = st.integers(0, 2**32)
postmortems = st.builds(
    Postmortem,
    number=_counts,
    base=texts,
    pid=_counts,
    server=_optional,
    application=_optional,
    started_at=_times,
    last_written_at=_times,
    found_at=_times,
    requests=st.lists(
        st.builds(
            LostRequest,
            core=_counts,
            native_id=_counts,
            method=texts,
            path=texts,
            started_at=_times,
            remote_address=_optional,
            request_id=_optional,
        ),
        max_size=3,
    ).map(tuple),
    unlisted_requests=_counts,
    torn_requests=_counts,
    unrecorded_cores=_counts,
    stacks=_optional,
    stacks_written_at=st.none() | _times,
)


def test_a_dead_workers_table_tells_what_it_served() -> None:
    """Its requests, the oldest first, at the times of the wall clock."""
    content = table(row(42.25, b"/young", core=0), row(41.25, b"/old", core=1))
    found = postmortem.of_table(content, "/tmp/tb", 3000.0, b"its stacks\xff")
    assert found is not None
    assert (found.number, found.pid, found.base, found.found_at) == (3, 4711, "/tmp/tb", 3000.0)
    # The header's clocks: 50.25 was 2000.75.
    assert [(each.path, each.started_at) for each in found.requests] == [("/old", 1991.75), ("/young", 1992.75)]
    assert found.last_written_at == 1992.75
    assert found.stacks == "its stacks\\xff"


def test_nothing_in_flight_is_no_postmortem() -> None:
    """Nor is an end in order, whatever the rows hold."""
    assert postmortem.of_table(table(row(0.0)), "/tmp/tb", 0.0, None) is None
    closed = replace(HEADER, is_closed=True, unrecorded_cores=1)
    assert postmortem.of_table(table(row(), header=closed), "/tmp/tb", 0.0, None) is None


def test_of_very_many_requests_the_oldest_are_told() -> None:
    """The others are counted, not lost in silence."""
    content = bytearray(table())
    for index in range(600):
        offset = blackbox.row_offset(index)
        whole = row(1000.0 - index, core=index)
        content[offset : offset + len(whole)] = whole
    found = postmortem.of_table(bytes(content), "/tmp/tb", 0.0, None)
    assert found is not None
    assert (len(found.requests), found.unlisted_requests) == (512, 88)
    assert (found.requests[0].core, found.requests[-1].core) == (599, 88)
    head, *_, last = postmortem.lines(found)
    assert "died with 600 requests in flight" in head
    assert last == "  88 requests more, begun later"


def test_a_request_that_was_being_noted_is_told() -> None:
    """Death came between two bytes of its row: what those say is not believed, but it is counted."""
    found = postmortem.of_table(table(row(42.0, tail=39.0)), "/tmp/tb", 0.0, None)
    assert found is not None
    assert (found.requests, found.torn_requests) == ((), 1)
    head, last = postmortem.lines(found)
    assert "died with 1 request in flight" in head
    assert last == "  1 request that was being noted: nothing else is known"
    assert found.last_written_at == HEADER.unix - HEADER.monotonic + 42.0


def test_what_cannot_even_be_counted_is_said() -> None:
    """Cores beyond the end of the table may have served something, which is no claim that they did."""
    header = replace(HEADER, unrecorded_cores=88)
    found = postmortem.of_table(table(row(0.0), header=header), "/tmp/tb", 0.0, None)
    assert found is not None
    head, last = postmortem.lines(found)
    assert "may have died with requests in flight; started 1970-01-01" in head
    assert "its last request began" not in head
    assert last == "  threads beyond its table: 88; what they served, if anything, is not known"
    found = postmortem.of_table(table(row(), header=header), "/tmp/tb", 0.0, None)
    assert found is not None
    assert "died with 1 request in flight" in next(iter(postmortem.lines(found)))


def test_it_reads_well() -> None:
    """Who died, what was in flight since when and for whom, and the last stacks; no control character."""
    detail = blackbox.detail_bytes(40.0, "127.0.0.1", "id\x1b[31m")
    found = postmortem.of_table(table(row(detail=detail)), "/tmp/tb", 0.0, b"one\ntwo\x1b\n")
    assert found is not None
    head, request, *stacks = postmortem.lines(found)
    assert head.startswith("worker 3, pid 4711, died with 1 request in flight; started 1970-01-01 ")
    assert request.startswith("  GET /x  (core 0, since 1970-01-01 ")
    assert request.endswith(", request id id\\x1b[31m, from 127.0.0.1)")
    assert stacks == ["its last report or stacks:", "  one", "  two\\x1b"]


@pytest.mark.parametrize(
    ("later_seconds", "is_older"), [(1.0, False), (0.0, False), (-0.004, False), (-0.1, True), (-3600.0, True)]
)
def test_stacks_of_a_stall_that_was_over_are_called_so(later_seconds: float, is_older: bool) -> None:
    """When they were written is said, and whether that was before the last request began, by more than a tick."""
    began = HEADER.unix - HEADER.monotonic + 42.0
    found = postmortem.of_table(table(row(42.0)), "/tmp/tb", 0.0, b"one\n", began + later_seconds)
    assert found is not None
    assert found.stacks_written_at == began + later_seconds
    _, _, heading, stack = postmortem.lines(found)
    assert heading.startswith("its last report or stacks, written 19")
    assert heading.endswith(", before its last request began:") == is_older
    assert stack == "  one"


def test_where_no_request_is_known_none_began_later() -> None:
    """The time that is known then is that of the table."""
    header = replace(HEADER, unrecorded_cores=88)
    found = postmortem.of_table(table(row(0.0), header=header), "/tmp/tb", 0.0, b"one\n", 1.0)
    assert found is not None
    assert "before" not in list(postmortem.lines(found))[-2]


@pytest.mark.parametrize("written_at", [None, 1e300, float("nan")])
def test_stacks_without_a_time_are_shown_without_one(written_at: float | None) -> None:
    """None is known, or one that no clock shows; and what was kept before there was that key is still read."""
    found = postmortem.of_table(table(row()), "/tmp/tb", 0.0, b"one\n", written_at)
    assert found is not None
    assert found.stacks_written_at is None
    document = postmortem.document(found)
    del document["stacks_written_at"]
    assert postmortem.decode(json.dumps(document).encode()) == found
    assert list(postmortem.lines(found))[-2] == "its last report or stacks:"


GENUINE: dict[str, Any] = {
    "postmortem": 2,
    "number": 3,
    "base": "/tmp/tb",
    "pid": 4711,
    "server": "gunicorn",
    "application": "a:b",
    "started_at": 1.0,
    "last_written_at": 2.0,
    "found_at": 3.0,
    "unlisted_requests": 0,
    "torn_requests": 0,
    "unrecorded_cores": 0,
    "stacks": "one\ntwo",
    "stacks_written_at": 2.5,
    "requests": [
        {
            "core": 0,
            "native_id": 7,
            "method": "GET",
            "path": "/",
            "started_at": 1.5,
            "remote_address": "192.0.2.1",
            "request_id": None,
        }
    ],
}


def can_be_shown(found: Postmortem) -> None:
    assert all(is_fit(line) for line in postmortem.lines(found))
    encoded = postmortem.encode(found)
    assert postmortem.decode(encoded) == found
    json.loads(encoded, parse_constant=pytest.fail)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"requests": GENUINE["requests"] * (postmortem.MAX_REQUESTS + 1)}, "more than 512 requests"),
        ({"more": [[]] * 10_000}, "more parts"),
        ({"more": {f"{number:x}": 1 for number in range(10_000)}}, "more parts"),
    ],
)
def test_more_than_a_table_holds_is_no_postmortem(changes: dict[str, Any], complaint: str) -> None:
    """No file of 2 MiB becomes sixty in memory, or twenty thousand lines; what a full table gives is read."""
    with pytest.raises(FormatError, match=complaint):
        postmortem.decode(json.dumps({**GENUINE, **changes}, separators=(",", ":")).encode())
    found = postmortem.decode(json.dumps(GENUINE).encode())
    can_be_shown(replace(found, requests=found.requests * postmortem.MAX_REQUESTS))


@given(postmortems)
def test_a_postmortem_comes_back_as_it_was(value: Postmortem) -> None:
    """decode(encode(x)) == x, in ASCII, on one line."""
    encoded = postmortem.encode(value)
    assert postmortem.decode(encoded) == value
    assert encoded.isascii()
    assert encoded.count(b"\n") == 1


@given(postmortems)
def test_lines_can_always_be_written(value: Postmortem) -> None:
    """Whatever stands in names and paths, a line is one line and can be encoded."""
    for line in postmortem.lines(value):
        line.encode("utf-8")
        assert line == printable(line)


@given(
    st.binary()
    | st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["postmortem", "requests", "number", "x"]), inner)
        ),
    ).map(lambda value: json.dumps(value).encode())
    | documents(GENUINE)
)
def test_any_bytes_are_a_postmortem_or_a_format_error(content: bytes) -> None:
    """Reading never raises anything else, and what is read can be shown, kept and printed as JSON."""
    with contextlib.suppress(FormatError):
        found = postmortem.decode(content)
        can_be_shown(found)


_numbers = st.floats() | st.sampled_from([0.0, 1.7e308, -1.7e308, 1e15, 5e-324])
_headers = st.builds(
    replace,
    st.just(HEADER),
    started_at=_numbers,
    monotonic=_numbers,
    unix=_numbers,
    unrecorded_cores=st.integers(0, 2**32 - 1),
    boot_id=texts,
    server=_optional,
    application=_optional,
)


@given(_headers, _numbers, texts, st.none() | st.binary(max_size=200), st.none() | _numbers)
def test_any_table_is_a_postmortem_or_a_format_error(
    header: blackbox.Header, started: float, path: str, stacks: bytes | None, written_at: float | None
) -> None:
    """Whatever times a dead worker's table has, and whatever stacks it left."""
    content = table(row(started, path.encode("utf-8", "surrogateescape")[:192]), header=header)
    with contextlib.suppress(FormatError):
        found = postmortem.of_table(content, "/tmp/tb", 3000.0, stacks, written_at)
        if found is not None:
            can_be_shown(found)


@pytest.mark.parametrize("change", [{"postmortem": 1}, {"requests": None}, {"pid": "x"}, {"requests": [{}]}])
def test_another_shape_is_an_error(change: dict[str, object]) -> None:
    """A version that is not known, keys that are missing or of the wrong type."""
    found = postmortem.of_table(table(row()), "/tmp/tb", 0.0, None)
    assert found is not None
    with pytest.raises(FormatError, match="no postmortem"):
        postmortem.decode(json.dumps({**postmortem.document(found), **change}).encode())
