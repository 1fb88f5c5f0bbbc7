"""Which results of an application must reach the server as they are, because servers examine them."""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING

from wsgi_tracebacker.worker.reporting import faults
from wsgi_tracebacker.worker.tracking.core import value_in

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment


def is_finished_body(result: object, environ: WSGIEnvironment) -> bool:
    """Whether the body exists already, or the server sends it by itself: then it is returned as it is.

    Servers check its type: they make a Content-Length of a list's length, and have the kernel send what
    ``wsgi.file_wrapper`` made.
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
        faults.caught("when the type of a response was checked")
        return True


def depends_only_on_type(file_wrapper: object) -> bool:
    """Whether, with this file wrapper of the server's, the type of a result alone decides if its body is finished."""
    return file_wrapper is None or inspect.isclass(file_wrapper)


def _is_made_by(wrapper: object, result: object) -> bool:
    """Whether the server's file wrapper made the result, as far as that can be seen from outside."""
    while isinstance(wrapper, functools.partial):
        wrapper = wrapper.func
    if inspect.isclass(wrapper):
        return isinstance(result, wrapper)
    if hasattr(result, "read") and hasattr(result, "fileno"):
        # uWSGI's wrapper is a function that returns the file itself.
        return True
    # Another function: it makes objects of a class of the server's, which no application returns otherwise.
    package = _package(wrapper)
    return package is not None and _package(type(result)) == package


def _package(found: object) -> str | None:
    module = getattr(found, "__module__", None)
    package = module.partition(".")[0] if type(module) is str else None
    # A program of one file may be server and application, and every package has results of built-in types.
    return None if package in ("__main__", "builtins") else package
