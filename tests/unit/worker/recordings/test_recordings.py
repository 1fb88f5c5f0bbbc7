"""What may be asked of a recording."""

from __future__ import annotations

import pytest

from wsgi_tracebacker.wire import http10
from wsgi_tracebacker.worker.recordings.recordings import parse_query


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", {"seconds": 10.0, "rate": 20.0}),
        ("seconds=600&rate=100", {"seconds": 600.0, "rate": 100.0}),
        ("rate=1&&seconds=.5", {"seconds": 0.5, "rate": 1.0}),
    ],
)
def test_seconds_and_rate(query: str, expected: dict[str, float]) -> None:
    """Each has a default, and may be a fraction."""
    assert parse_query(query) == expected


@pytest.mark.parametrize(
    "query",
    [
        "seconds=601", "seconds=0", "seconds=-1", "seconds=nan", "seconds=inf", "seconds=", "seconds", "rate=0.5",
        "rate=101", "rate=x", "second=5", "seconds=1&rate=2&x=", "%00",
    ],
)  # fmt: skip
def test_anything_else_is_refused(query: str) -> None:
    """With one line that says what there is."""
    refusal = parse_query(query)
    assert isinstance(refusal, http10.Refusal)
    assert (refusal.status, "\n" in refusal.explanation) == (400, False)
    assert "seconds" in refusal.explanation or "rate" in refusal.explanation
