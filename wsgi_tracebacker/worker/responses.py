"""What an application may return, and what of it must reach the server as it is.

Knows which results servers look at closely. Refuses to wrap anything itself.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

from wsgi_tracebacker.worker import faults

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment


def is_whole(result: object, environ: WSGIEnvironment) -> bool:
    """Whether the body exists already, or is the server's to send: then it is returned as it is.

    Servers look at its type: a list's length becomes the Content-Length, and what ``wsgi.file_wrapper`` made is sent
    by the kernel.
    """
    try:
        if result is None or isinstance(result, (list, tuple, bytes, str)):
            return True
        wrapper = environ.get("wsgi.file_wrapper")
        if wrapper is None:
            return False
        if inspect.isclass(wrapper):
            return isinstance(result, wrapper)
        # uWSGI's wrapper is a function that returns the file itself.
        return hasattr(result, "read") and hasattr(result, "fileno")
    except Exception:
        faults.caught("when a response was looked at")
        return True
