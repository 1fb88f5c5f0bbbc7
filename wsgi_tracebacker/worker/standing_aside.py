"""Where wsgi_tracebacker does nothing: the application is served as if it were not wrapped.

Knows the platforms on which a look at other threads' frames is not safe or not possible. Refuses to raise for them.
"""

from __future__ import annotations

import os
import sys

from wsgi_tracebacker.worker import faults
from wsgi_tracebacker.worker.settings import DISABLE_VARIABLE


def reason() -> str | None:
    """Why nothing is done here; None where everything is."""
    if os.environ.get(DISABLE_VARIABLE, "").strip().lower() not in ("", "0", "false", "no", "off"):
        return f"{DISABLE_VARIABLE} is set"
    if sys.platform != "linux":
        return f"it runs on Linux, not on {sys.platform}"
    # Walking the frames of running threads is use after free there (python/cpython#118680).
    if not getattr(sys, "_is_gil_enabled", lambda: True)():
        return "this interpreter runs without the GIL"
    return None


def say_so() -> None:
    """One line in the log."""
    faults.warn_once("aside", "wsgi_tracebacker does nothing in this process: %s", reason())
