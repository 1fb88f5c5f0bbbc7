"""Whose black box it is, from its first bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.wire.black_box.test_table_rows import HEADER, table
from wsgi_tracebacker.wire.black_box import table_head, table_header
from wsgi_tracebacker.wire.black_box.table_head import Head


def test_the_head_of_a_table() -> None:
    """It says the same as the whole header; a base need not be UTF-8."""
    base = "/srv/gr\udcf6\udcdfe/tb"
    content = table(header=HEADER._replace(base=base))
    assert table_head.decode(content[: table_head.HEAD_BYTES]) == Head(HEADER.pid, HEADER.number, HEADER.uid, base)
    assert table_header.decode_header(content).base == base


@pytest.mark.parametrize("base", [None, "relative/tb", "/a/../b"])
def test_a_base_that_is_none(base: str | None) -> None:
    """Only an absolute path that does not go up can lead to workers."""
    assert table_head.decode(table(header=HEADER._replace(base=base))) is None


def test_another_version() -> None:
    """It may be laid out in another way."""
    content = bytearray(table(header=HEADER._replace(base="/tmp/tb")))
    content[16] += 1
    assert table_head.decode(bytes(content)) is None


@given(st.binary(max_size=table_head.HEAD_BYTES + 1) | st.binary(max_size=900).map(table_head.MAGIC.__add__))
def test_any_bytes(content: bytes) -> None:
    """Whatever they are, the result is a head or none."""
    found = table_head.decode(content)
    assert found is None or found.base.startswith("/")


def test_the_beat() -> None:
    """A worker lived at its last beat, and before the first one when it made its table."""
    assert table_header.last_alive_at(HEADER) == HEADER.unix
    beaten = table_header.decode_header(table(header=HEADER._replace(beat=HEADER.monotonic + 5)))
    assert table_header.last_alive_at(beaten) == HEADER.unix + 5


def test_signs_of_life() -> None:
    """A beat, and a request that began or ended, are signs; what a reader does not write changes nothing."""
    from tests.unit.wire.black_box.test_table_rows import row

    idle, busy = table(), table(row())
    beaten = table(header=HEADER._replace(beat=1.0))
    signs = [table_header.signs_of_life(each) for each in (idle, busy, beaten)]
    assert len(set(signs)) == 3
    named = table(header=HEADER._replace(listener=99))
    assert table_header.signs_of_life(named) == signs[0]
