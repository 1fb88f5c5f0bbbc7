"""A fault of ours is said, and what says it is allowed to fail."""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING

import pytest

from wsgi_tracebacker.worker import faults

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    faults.forget()
    yield
    faults.forget()


def fail() -> None:
    raise ZeroDivisionError("the fault")


def refuse(*_: object) -> str:
    raise OSError(24, "Too many open files")


def test_what_says_it_may_fail(capfd: pytest.CaptureFixture[str]) -> None:
    """Then it is on stderr."""
    try:
        fail()
    except ZeroDivisionError:
        faults.caught("in a test", refuse)
    assert "a fault of wsgi_tracebacker, in a test; requests are served on\nTraceback" in capfd.readouterr().err
    assert faults.count() == 1


def test_its_traceback_may_not_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a descriptor Python cannot import what it formats with (CPython 3.15): the fault itself is said."""
    monkeypatch.setattr(traceback, "format_exc", refuse)
    said: list[str] = []
    try:
        fail()
    except ZeroDivisionError:
        faults.caught("in a test", said.append)
    assert said == ["a fault of wsgi_tracebacker, in a test; requests are served on\nZeroDivisionError: the fault"]
