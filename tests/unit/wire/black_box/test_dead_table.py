"""A postmortem made of the table that a dead worker left."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.wire.black_box.test_table_rows import HEADER, row, table
from tests.unit.wire.documents.test_postmortem_json import can_be_shown
from tests.unit.wire.strategies import optional_texts, texts
from wsgi_tracebacker.errors import FormatError
from wsgi_tracebacker.text.postmortem import lines
from wsgi_tracebacker.wire.black_box import dead_table, table_header, table_rows


def test_a_dead_workers_table_tells_what_it_served() -> None:
    """Its requests, the oldest first, at the times of the wall clock."""
    content = table(row(42.25, b"/young", core=0), row(41.25, b"/old", core=1))
    found = dead_table.read_postmortem(content, "/tmp/tb", 3000.0, b"its stacks\xff")
    assert found is not None
    assert (found.number, found.pid, found.base, found.found_at) == (3, 4711, "/tmp/tb", 3000.0)
    # The header's clocks: 50.25 was 2000.75.
    assert [(each.path, each.started_at) for each in found.requests] == [("/old", 1991.75), ("/young", 1992.75)]
    assert found.last_written_at == 1992.75
    assert found.stacks == "its stacks\\xff"


def test_nothing_in_flight_is_no_postmortem() -> None:
    """Nor is an end in order, whatever the rows hold."""
    assert dead_table.read_postmortem(table(row(0.0)), "/tmp/tb", 0.0, None) is None
    closed = HEADER._replace(is_closed=True, unrecorded_cores=1)
    assert dead_table.read_postmortem(table(row(), header=closed), "/tmp/tb", 0.0, None) is None


def dump_of(*idents: int) -> bytes:
    """What faulthandler writes."""
    threads = (
        f'Thread {ident:#018x} (most recent call first):\n  File "a.py", line {ident} in f\n' for ident in idents
    )
    return "\n".join(threads).encode()


def owned(ident: int, started: float, core: int) -> bytes:
    return row(started, core=core).replace(
        table_rows.OWNER.pack(77, 4713 + core, core), table_rows.OWNER.pack(ident, 1, core)
    )


@pytest.mark.parametrize("report", ["", "harakiri: a report\n" * 10_000], ids=["", "behind long reports"])
def test_the_threads_that_served_come_first(report: str) -> None:
    """The thread of a request in flight, then those that are nobody's; idle ones and our own are left out."""
    header = HEADER._replace(own_threads=((5, 50),))
    content = table(owned(1, 0.0, 0), owned(3, 40.0, 1), owned(4, 39.0, 2), header=header)
    dump = report.encode() + dump_of(5, 4, 1, 2, 3)
    found = dead_table.read_postmortem(content, "/tmp/tb", 3000.0, dump)
    assert found is not None
    assert found.stacks is not None
    assert found.stacks == (report + dump_of(4, 3, 2).decode())[-dead_table.MAX_STACKS_CHARACTERS :]
    old = dead_table.read_postmortem(content, "/tmp/tb", 3000.0, dump, found.last_written_at - 1)
    assert old is not None
    assert old.stacks == dump.decode()[-dead_table.MAX_STACKS_CHARACTERS :]


def test_of_very_many_requests_the_oldest_are_told() -> None:
    """The others are counted, not lost in silence."""
    content = bytearray(table())
    for index in range(600):
        offset = table_rows.row_offset(index)
        whole = row(1000.0 - index, core=index)
        content[offset : offset + len(whole)] = whole
    found = dead_table.read_postmortem(bytes(content), "/tmp/tb", 0.0, None)
    assert found is not None
    assert (len(found.requests), found.unlisted_requests) == (512, 88)
    assert (found.requests[0].core, found.requests[-1].core) == (599, 88)
    head, *_, last = lines(found)
    assert "died with 600 requests in flight" in head
    assert last == "  88 requests more, begun later"


def test_a_request_that_was_being_noted_is_told() -> None:
    """Death came between two bytes of its row: what those say is not believed, but it is counted."""
    found = dead_table.read_postmortem(table(row(42.0, tail=39.0)), "/tmp/tb", 0.0, None)
    assert found is not None
    assert (found.requests, found.torn_requests) == ((), 1)
    head, last = lines(found)
    assert "died with 1 request in flight" in head
    assert last == "  1 request that was being noted: nothing else is known"
    assert found.last_written_at == HEADER.unix - HEADER.monotonic + 42.0


def test_what_cannot_even_be_counted_is_said() -> None:
    """Cores beyond the end of the table may have served something, which is no claim that they did."""
    header = HEADER._replace(unrecorded_cores=88)
    found = dead_table.read_postmortem(table(row(0.0), header=header), "/tmp/tb", 0.0, None)
    assert found is not None
    head, last = lines(found)
    assert "may have died with requests in flight; started 1970-01-01" in head
    assert "its last request began" not in head
    assert last == "  threads beyond its table: 88; what they served, if anything, is not known"
    found = dead_table.read_postmortem(table(row(), header=header), "/tmp/tb", 0.0, None)
    assert found is not None
    assert "died with 1 request in flight" in next(iter(lines(found)))


_numbers = st.floats() | st.sampled_from([0.0, 1.7e308, -1.7e308, 1e15, 5e-324])


_headers = st.builds(
    HEADER._replace,
    started_at=_numbers,
    monotonic=_numbers,
    unix=_numbers,
    unrecorded_cores=st.integers(0, 2**32 - 1),
    boot_id=texts,
    server=optional_texts,
    application=optional_texts,
)


@given(_headers, _numbers, texts, st.none() | st.binary(max_size=200), st.none() | _numbers)
def test_any_table_is_a_postmortem_or_a_format_error(
    header: table_header.Header, started: float, path: str, stacks: bytes | None, written_at: float | None
) -> None:
    """Whatever times a dead worker's table has, and whatever stacks it left."""
    content = table(row(started, path.encode("utf-8", "surrogateescape")[:192]), header=header)
    with contextlib.suppress(FormatError):
        found = dead_table.read_postmortem(content, "/tmp/tb", 3000.0, stacks, written_at)
        if found is not None:
            can_be_shown(found)
