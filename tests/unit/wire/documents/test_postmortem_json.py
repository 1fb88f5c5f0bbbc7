from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.wire.black_box.test_table_rows import row, table
from tests.unit.wire.hostile import documents, is_fit
from tests.unit.wire.strategies import postmortems
from wsgi_tracebacker.errors import FormatError
from wsgi_tracebacker.text.postmortem import lines
from wsgi_tracebacker.wire.black_box import dead_table
from wsgi_tracebacker.wire.documents import postmortem_json as postmortem

if TYPE_CHECKING:
    from wsgi_tracebacker.model.report import Postmortem


@pytest.mark.parametrize("written_at", [None, 1e300, float("nan")])
def test_stacks_without_a_time_are_shown_without_one(written_at: float | None) -> None:
    """None is known, or one that no clock shows; and what was kept before there was that key is still read."""
    found = dead_table.read_postmortem(table(row()), "/tmp/tb", 0.0, b"one\n", written_at)
    assert found is not None
    assert found.stacks_written_at is None
    document = postmortem.document(found)
    del document["stacks_written_at"]
    assert postmortem.decode(json.dumps(document).encode()) == found
    assert list(lines(found))[-2] == "its last report or stacks:"


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
    assert all(is_fit(line) for line in lines(found))
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
    can_be_shown(found._replace(requests=found.requests * postmortem.MAX_REQUESTS))


@given(postmortems)
def test_a_postmortem_comes_back_as_it_was(value: Postmortem) -> None:
    """decode(encode(x)) == x, in ASCII, on one line."""
    encoded = postmortem.encode(value)
    assert postmortem.decode(encoded) == value
    assert encoded.isascii()
    assert encoded.count(b"\n") == 1


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


@pytest.mark.parametrize("change", [{"postmortem": 1}, {"requests": None}, {"pid": "x"}, {"requests": [{}]}])
def test_another_shape_is_an_error(change: dict[str, object]) -> None:
    """A version that is not known, keys that are missing or of the wrong type."""
    found = dead_table.read_postmortem(table(row()), "/tmp/tb", 0.0, None)
    assert found is not None
    with pytest.raises(FormatError, match="postmortem"):
        postmortem.decode(json.dumps({**postmortem.document(found), **change}).encode())
