"""Whether wsgi_tracebacker does nothing in this process, so that the application is served unwrapped.

That is so if it was switched off, and where other threads' frames cannot be read safely.
"""

from __future__ import annotations

import sys

from wsgi_tracebacker.worker.options.settings import DISABLE_VARIABLE, is_switched_off
from wsgi_tracebacker.worker.reporting import faults


def reason() -> str | None:
    """Why it does nothing; None where it works. Raises ConfigurationError for a variable that is neither yes nor no."""
    if is_switched_off():
        return f"{DISABLE_VARIABLE} is set"
    if sys.platform != "linux":
        return f"it runs on Linux, not on {sys.platform}"
    # Walking the frames of running threads is use after free there (python/cpython#118680).
    if not getattr(sys, "_is_gil_enabled", lambda: True)():
        return "this interpreter runs without the GIL"
    return None


def log_reason() -> None:
    """Log once why it does nothing."""
    faults.warn_once("disabled", "wsgi_tracebacker does nothing in this process: %s", reason())
