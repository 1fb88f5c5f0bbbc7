"""One statement that takes long is told from many that are all the same, by the calls that samples see."""

from __future__ import annotations

import pytest

from wsgi_tracebacker.worker.deadlines.recording.repeated_statement import RepeatedStatement
from wsgi_tracebacker.worker.waits.calls import Statement

ORDER, ITEM = "SELECT total FROM orders WHERE id = ?", "SELECT name FROM items WHERE id = ?"


def looks(*found: Statement | None) -> RepeatedStatement:
    made = RepeatedStatement()
    for each in found:
        made.look(each)
    return made


def calls(*ids: int, text: str = ORDER) -> list[Statement | None]:
    return [Statement(text, (each, 1)) for each in ids]


def test_new_calls_of_one_statement_are_counted() -> None:
    """The first look proves nothing, and neither does a look that sees the same call as the one before."""
    cause = looks(*calls(1, 2, 3, 3, 4, 5, 6)).cause()
    assert cause is not None
    assert (cause.kind, cause.statement, cause.new_calls, cause.looks) == ("repeated_statement", ORDER, 5, 7)
    assert cause.sentence.endswith("(a new call at 5 of 7 looks)")


@pytest.mark.parametrize(
    "found",
    [
        pytest.param([], id="no look"),
        pytest.param(calls(*[1] * 20), id="one call"),
        pytest.param(calls(1, 2, 3, 4), id="too few"),
        pytest.param([*calls(*range(7)), *calls(*[9] * 11)], id="it waits in one call now"),
        pytest.param([*calls(*range(7)), *[Statement("", ())] * 15], id="other work takes more time"),
        pytest.param([None] * 20, id="nothing is known"),
    ],
)
def test_nothing_is_said_of_other_requests(found: list[Statement | None]) -> None:
    """What is not proven, or is over, is no cause."""
    assert looks(*found).cause() is None


def test_a_call_that_could_not_be_read_for_a_moment_is_the_same_call() -> None:
    """While frames inside of it move, its statement cannot be read; where the request is elsewhere, it has ended."""
    same, elsewhere = calls(7), Statement("", ())
    assert looks(*[*same, None] * 8).cause() is None
    cause = looks(*[*same, elsewhere] * 8).cause()
    assert cause is not None
    assert (cause.new_calls, cause.looks) == (7, 16)


def test_the_most_frequent_of_several_statements_is_named() -> None:
    """A loop that asks for two things takes turns."""
    found = [look for number in range(20) for look in calls(number, number + 100)]
    found += [look for number in range(20, 30) for look in [*calls(number), *calls(number, text=ITEM)]]
    cause = looks(*found).cause()
    assert cause is not None
    assert cause.statement == ORDER
    assert cause.looks == 50
