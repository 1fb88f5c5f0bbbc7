"""For verbs that last: root's source files of other users' workers are opened by a process beside this one."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def open_sources_beside() -> Iterator[None]:
    """Have a helper until the end, if this is root: nobody else may read what only other users can."""
    if os.geteuid() != 0:
        yield
        return
    from wsgi_tracebacker.reader import sources
    from wsgi_tracebacker.reader.source_helper import SourceHelper

    helper = SourceHelper(sources.open_here)
    sources.open_by(helper.open)
    try:
        yield
    finally:
        sources.open_by(sources.open_here)
        helper.close()
