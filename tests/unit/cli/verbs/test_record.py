"""What ``wsgi-tb record`` shows while it records."""

from __future__ import annotations

import pytest

from wsgi_tracebacker.cli.verbs.record import _bar


@pytest.mark.parametrize(
    ("columns", "bar"), [(100, "#####..............."), (80, "###............"), (64, ""), (40, "")]
)
def test_the_bar_takes_the_room_that_the_facts_leave(columns: int, bar: str) -> None:
    """It never fills the line, and the facts are cut where they would."""
    facts = "150.0 of 600 s  12034 requests  9604 samples  0.0% thrown away"
    shown = _bar(0.25, facts, columns)
    assert shown == f"{bar}  {facts}"[: columns - 1]
