"""Workers in programs of their own, which begin a story and may never get to its end."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from typing import TYPE_CHECKING

from tests.support.programs import PROJECT

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


@contextlib.contextmanager
def telling(program: str, *arguments: str, before: Sequence[str] = ()) -> Iterator[subprocess.Popen[str]]:
    """A program of ``tests.programs`` once its story has begun; in the end it is killed, if it still lives.

    :param before: a command that runs another one.
    """
    command = [*before, sys.executable, "-m", f"tests.programs.{program}", *arguments]
    process = subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        # A stalled process hears no other signal.
        process.kill()
        process.communicate()


def stalling(
    base: str, story: str, *more: str, limit_seconds: float, margin_seconds: float
) -> contextlib.AbstractContextManager[subprocess.Popen[str]]:
    """A worker with action kill that stalls, as ``tests.programs.stalls`` tells it."""
    return telling("stalls", base, str(limit_seconds), str(margin_seconds), story, *more)
