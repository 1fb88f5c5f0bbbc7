"""A folder for the sockets of what is measured, and nothing left of it afterwards."""

from __future__ import annotations

import contextlib
import tempfile
from typing import TYPE_CHECKING

from wsgi_tracebacker.reader.dead import postmortems

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def scratch_folder() -> Iterator[str]:
    """A short path; the base of the sockets is ``tb`` in it. Workers that are killed leave their black boxes."""
    with tempfile.TemporaryDirectory(prefix="tb-bench-") as folder:
        try:
            yield folder
        finally:
            postmortems.clear(f"{folder}/tb")
