"""One answer for everybody who asks within a second."""

from __future__ import annotations

import itertools

import pytest

from wsgi_tracebacker.web.shared import Shared


def test_an_answer_is_shared_for_a_second() -> None:
    """From the moment when it was there: who waited for it does not have it made anew."""
    times = iter([0.0, 0.5, 0.99, 1.0, 1.5])
    counter = itertools.count()
    shared = Shared(lambda: next(counter), clock=lambda: next(times))
    assert [shared.get() for _ in range(3)] == [0, 0, 0]
    assert shared.get() == 1


def test_a_failure_is_not_shared() -> None:
    """Who asks next tries again."""
    numbers = itertools.count()

    def make() -> int:
        if next(numbers) == 0:
            raise ValueError("no")
        return 7

    shared = Shared(make)
    with pytest.raises(ValueError, match="no"):
        shared.get()
    assert shared.get() == 7
