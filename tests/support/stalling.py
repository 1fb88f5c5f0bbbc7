"""A worker that stalls, as ``tests.programs.stalls`` tells it."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from typing import TYPE_CHECKING

from tests.support.programs import PROJECT

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def stalling(base: str, story: str, limit_seconds: float, margin_seconds: float) -> Iterator[subprocess.Popen[str]]:
    """Its story has begun; in the end it is killed, if it still lives."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.programs.stalls", base, str(limit_seconds), str(margin_seconds), story],
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.communicate()
