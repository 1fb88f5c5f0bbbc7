"""Waiting for readiness, never for time."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

#: Seconds. Nothing waited for takes more than one on an idle machine; this is for a loaded one.
PATIENCE_SECONDS = 60.0
POLL_SECONDS = 0.01


def wait_until(
    condition: Callable[[], T], what: str | Callable[[], str], timeout_seconds: float = PATIENCE_SECONDS
) -> T:
    """The first true value that ``condition`` gives; AssertionError, saying what was waited for, if none comes."""
    deadline = time.monotonic() + timeout_seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout_seconds:g} s until {what if isinstance(what, str) else what()}")
        time.sleep(POLL_SECONDS)
    return value
