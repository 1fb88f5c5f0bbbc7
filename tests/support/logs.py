"""What was logged, once the reporter's thread has logged it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from wsgi_tracebacker.worker.reporting import reporter

if TYPE_CHECKING:
    import pytest


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Warnings and worse of this test."""
    reporter.current().flush(10.0)
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
