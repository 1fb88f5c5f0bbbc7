"""What an application may return, and what of it must reach the server as it is.

Knows which results servers look at closely. Refuses to wrap anything itself.
"""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING

from wsgi_tracebacker.worker.reporting import faults
from wsgi_tracebacker.worker.tracking.core import value_in

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment


def is_finished_body(result: object, environ: WSGIEnvironment) -> bool:
    """Whether the body exists already, or is the server's to send: then it is returned as it is.

    Servers look at its type: a list's length becomes the Content-Length, and what ``wsgi.file_wrapper`` made is sent
    by the kernel.
    """
    try:
        if result is None or isinstance(result, (list, tuple, bytes, str)):
            return True
        wrapper = value_in(environ, "wsgi.file_wrapper")
        if wrapper is None:
            return False
        return _is_made_by(wrapper, result)
    except Exception as error:
        if faults.is_of_signal_handler(error):
            raise
        faults.caught("when a response was looked at")
        return True


def depends_only_on_type(file_wrapper: object) -> bool:
    """Whether all responses of one type are whole or none is, with this file wrapper of the server's."""
    return file_wrapper is None or inspect.isclass(file_wrapper)


def _is_made_by(wrapper: object, result: object) -> bool:
    """Whether that is what the server's file wrapper made, as far as it can be told from outside."""
    while isinstance(wrapper, functools.partial):
        wrapper = wrapper.func
    if inspect.isclass(wrapper):
        return isinstance(result, wrapper)
    if hasattr(result, "read") and hasattr(result, "fileno"):
        # uWSGI's wrapper is a function that returns the file itself.
        return True
    # Another function: what it makes is of a class of the server's, and no application returns that otherwise.
    package = _package(wrapper)
    return package is not None and _package(type(result)) == package


def _package(found: object) -> str | None:
    module = getattr(found, "__module__", None)
    package = module.partition(".")[0] if type(module) is str else None
    # A program of one file is server and application, and what is built in is everybody's.
    return None if package in ("__main__", "builtins") else package
