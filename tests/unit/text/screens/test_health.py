"""The line of ``wsgi-tb check``."""

from __future__ import annotations

from wsgi_tracebacker.model.health import Failure, Totals
from wsgi_tracebacker.text.screens.health import line

ALL = Totals(4, 1, 2, 3, 1, 41.2, 30, 32, 12)
ONE = Totals(1, 0, 0, 0, 0, None, None, None, 1)


def test_a_healthy_line() -> None:
    """The totals, without what is not known or not there."""
    assert line(ALL, []) == (
        "ok: 4 of 8 workers answer, 1 work but are too busy to, 2 silent, 3 dead, 1 may not be asked, "
        "30 of 32 slots busy, 12 connections wait, oldest request 41.2 s"
    )
    assert line(ONE, []) == "ok: 1 of 1 worker answers, 1 connection waits"
    assert line(ONE._replace(other_uids=(33, 34)), []).endswith(", 1 connection waits, another user's: uid 33, 34")


def test_every_failure_has_its_words() -> None:
    """With its value and its limit, the totals after it."""
    failures = [
        Failure("none"),
        Failure("oldest", 41.2, 30.0),
        Failure("saturated", 0.94, 0.9),
        Failure("waiting", 12, 10),
        Failure("silent", 2, 0),
        Failure("dead", 3, 1),
    ]
    assert line(ONE, failures) == (
        "failed: no worker answers; oldest request 41.2 s, limit 30.0 s; 94% of the slots busy, limit 90%; "
        "connections waiting: 12, limit 10; workers silent: 2, allowed 0; workers dead: 3, allowed 1 "
        "(1 of 1 worker answers, 1 connection waits)"
    )


def test_a_limit_that_cannot_be_judged_is_named() -> None:
    """Nobody relies on a limit that can never be reached."""
    assert line(ONE, [], ["saturated"]).endswith("; slots are not known, so --saturated cannot fail")
