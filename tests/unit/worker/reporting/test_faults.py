"""A fault of ours is logged once for each place."""

from __future__ import annotations

import logging
import traceback
from typing import TYPE_CHECKING

import pytest

from tests.support.logs import messages
from wsgi_tracebacker.worker.reporting import faults

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    faults.forget()
    yield
    faults.forget()


def fail() -> None:
    secret = "of a request"
    raise ZeroDivisionError(f"the fault {len(secret)}")


def catch() -> None:
    try:
        fail()
    except ZeroDivisionError:
        faults.caught("in a test")


def test_it_is_logged_once_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    """Its traceback is logged as text: a record must not keep a frame, which has the locals of a request."""
    catch()
    catch()
    [message] = messages(caplog)
    begin = "a fault of wsgi_tracebacker, in a test; requests are served on\nTraceback (most recent call last):\n"
    assert message.startswith(begin)
    assert message.endswith("ZeroDivisionError: the fault 12")
    [record] = caplog.records
    assert (record.levelno, record.exc_info) == (logging.ERROR, None)
    assert faults.count() == 2


def test_its_traceback_may_not_be_had(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Without a free descriptor Python cannot import the traceback module (CPython 3.15): the fault is still logged."""

    def refuse(*_: object) -> str:
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patched:
        patched.setattr(traceback, "format_exc", refuse)
        catch()
    [message] = messages(caplog)
    assert message == "a fault of wsgi_tracebacker, in a test; requests are served on\nZeroDivisionError: the fault 12"


def test_what_a_handler_keeps_has_no_frames_of_a_request(caplog: pytest.LogCaptureFixture) -> None:
    """An exception in a warning is logged as text: its traceback would keep the locals of a request."""
    for _ in range(2):
        faults.warn_once("a test", "no socket (%s), %d tries", OSError(28, "No space left on device"), 3)
    assert messages(caplog) == ["no socket ([Errno 28] No space left on device), 3 tries"]
    [record] = caplog.records
    assert record.args == ("[Errno 28] No space left on device", 3)
