from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsgi_tracebacker.errors import FormatError
from wsgi_tracebacker.wire.black_box import file_names, table_header, table_rows

HEADER = table_header.Header(
    pid=4711,
    number=3,
    uid=1000,
    listener=4712,
    start_ticks=2**40,
    pid_namespace=4026531836,
    started_at=1000.5,
    monotonic=50.25,
    unix=2000.75,
    unrecorded_cores=0,
    is_closed=False,
    boot_id="e890ee4d-2e34-4b35-818d-9ad3f633b640",
    server="gunicorn/27.0.1",
    application="größe:app",
    python="CPython 3.11.7",
    counted=table_header.Counted(1, 2, 3, 4, 2**40),
    own_threads=((2**47, 4712), (2**47 + 1, 4715)),
)


def table(*rows: bytes, header: table_header.Header = HEADER) -> bytes:
    """A whole table with these rows, the first for core 0."""
    content = bytearray(table_header.encode_header(header).ljust(table_rows.FILE_BYTES, b"\0"))
    for index, row in enumerate(rows):
        offset = table_rows.row_offset(index)
        content[offset : offset + len(row)] = row
    return bytes(content)


def row(
    started: float = 40.0, path: bytes = b"/x", *, tail: float | None = None, core: int = 0, detail: bytes = b""
) -> bytes:
    tail = started if tail is None else tail
    return (
        table_rows.FLIGHT.pack(started, b"GET", path, 7.0, tail) + table_rows.OWNER.pack(77, 4713 + core, core) + detail
    )


def test_a_header_comes_back_as_it_was() -> None:
    """Every field of it."""
    assert table_header.decode_header(table()) == HEADER


def test_what_is_in_flight_is_read() -> None:
    """Rows without a request are not there; remote address and id only if they are this request's."""
    ours = table_rows.detail_bytes(40.0, "127.0.0.1", "id")
    other = table_rows.detail_bytes(39.0, "10.0.0.1", "other")
    content = table(row(detail=ours), row(0.0, core=1), row(41.0, core=2, detail=other))
    rows, torn = table_rows.decode_rows(content, content)
    assert torn == 0
    assert rows == [
        table_rows.Row(0, 77, 4713, 40.0, "GET", "/x", "127.0.0.1", "id"),
        table_rows.Row(2, 77, 4715, 41.0, "GET", "/x", None, None),
    ]


def test_whose_cores_are_is_read_of_idle_ones_too() -> None:
    """Rows that were never used are nobody's, though they are core 0 by their bytes."""
    assert table_rows.decode_owners(table(row(), row(0.0, core=1))) == {0: (77, 4713), 1: (77, 4714)}


def test_what_was_counted_is_handed_on() -> None:
    """With the requests of all rows, in flight or not; what no counter counts to is cut off."""
    assert table_header.handed_on(table(row(), row(0.0, core=1))) == table_header.Counted(1, 2, 3, 5, 2**40 + 14)
    kinds = len(table_header.KINDS)
    most = HEADER._replace(counted=table_header.Counted._make((*[2**64 - 1] * 5, (2**64 - 1,) * kinds)))
    assert table_header.handed_on(table(header=most)) == table_header.Counted._make((*[2**53] * 5, (2**53,) * kinds))
    rows = [
        table_rows.FLIGHT.pack(0.0, b"", b"", count, 0.0) for count in (float("nan"), float("inf"), -1.0, 1e300, 2.0)
    ]
    assert table_rows.count_requests(table(*rows)) == 2


def test_rows_that_are_being_written_are_counted() -> None:
    """One whose ends differ, and one that changed between two reads, are torn."""
    half = table(row(tail=39.0))
    assert table_rows.decode_rows(half, half) == ([], 1)
    assert table_rows.decode_rows(table(row(path=b"/a")), table(row(path=b"/b"))) == ([], 1)


def test_the_last_start_is_that_of_any_request() -> None:
    """Also of one that was being noted; not of an idle row, and of none where there is none."""
    assert table_rows.decode_last_start(table(row(40.0), row(42.0, tail=39.0), row(0.0, tail=50.0))) == 42.0
    assert table_rows.decode_last_start(table(row(0.0), row(float("nan")), row(1e300))) is None


@pytest.mark.parametrize(
    ("field", "path"),
    [
        ("/größe".encode().decode("latin-1").encode(), "/größe"),
        ("/größe".encode().decode("latin-1").encode()[:5], "/gr\\xc3"),
        ("/€".encode(), "/€"),
        (b"", ""),
        (b"\xff\xfe", ""),
    ],
)
def test_a_path_is_read_as_people_write_it(field: bytes, path: str) -> None:
    """Out of PEP 3333's Latin-1, also where it was cut within a character, and as it is where it never was in it."""
    assert table_rows.decode_path(field) == path


def test_files_of_other_bases_have_other_names() -> None:
    """One name for each user, base, number and kind."""
    names = {
        file_names.file_name(base, number, uid, kind)
        for base in ("/tmp/a", "/tmp/b", "/tmp/\udce9")
        for number in (1, 11)
        for uid in (0, 1)
        for kind in (file_names.TABLE, file_names.STACKS, file_names.POSTMORTEM)
    }
    assert len(names) == 36
    assert all("/" not in name and len(name) < 255 for name in names)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"garbage" * 40_000,
        table()[: table_rows.HEADER_BYTES],
        table()[:-1],
        table() + b"\0",
        table()[:100],
        table().replace(table_header.MAGIC, b"WSGI-TB-blackbox"),
        table()[:20] + struct.pack("<I", table_rows.ROWS - 1) + table()[24:],
        table()[:20] + struct.pack("<I", table_rows.ROWS * 2) + table()[24:],
    ],
)
def test_what_is_no_whole_table_is_an_error(content: bytes) -> None:
    """Cut short, garbage, or laid out in another way."""
    with pytest.raises(FormatError, match="black box"):
        table_header.decode_header(content)


def test_another_version_is_named() -> None:
    """Both versions are, its and ours."""
    with pytest.raises(FormatError, match="of version 9, this program reads version 3"):
        table_header.decode_header(table()[:16] + struct.pack("<I", 9) + table()[20:])


@given(
    st.binary(max_size=table_rows.HEADER_BYTES),
    st.lists(st.binary(min_size=8, max_size=table_rows.ROW_BYTES), max_size=5),
)
def test_any_bytes_are_a_table_or_a_format_error(head: bytes, rows: list[bytes]) -> None:
    """Neither a header nor rows of any content raise anything else."""
    content = (head + table(*rows)[len(head) :]) if len(head) % 2 else table(*rows)[:16] + head
    with contextlib.suppress(FormatError):
        table_header.decode_header(content)
    found, torn = table_rows.decode_rows(content, content)
    assert len(found) + torn <= table_rows.ROWS
    assert all(isinstance(each.path, str) for each in found)
    table_rows.decode_owners(content)
