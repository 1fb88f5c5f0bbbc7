"""What was logged, once the reporter's thread has logged it."""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING

from wsgi_tracebacker.worker.reporting import reporter

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Warnings and worse of this test."""
    reporter.current().flush(10.0)
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def records(log: Path) -> list[str]:
    """The records of our loggers in a file, whole.

    With those in the logs beside it that the reporter wrote to stderr itself: on a busy machine a log handler may take
    so long that it passes for one that hangs.
    """
    others = (path for path in log.parent.glob("*.log") if path != log)
    return [
        *(_records(log) if log.exists() else ()),
        *(each for path in others for each in _records(path) if " (logging hangs): " in each.partition("\n")[0]),
    ]


def _records(path: Path) -> list[str]:
    return re.split(
        r"^(?=[A-Z]+ wsgi_tracebacker)", path.read_text(encoding="utf-8", errors="replace"), flags=re.MULTILINE
    )[1:]
