"""Wraps the application that ``WSGI_TB_APP`` names, for a server that takes ``module:name``.

::

    WSGI_TB_APP=mysite.wsgi:application waitress-serve wsgi_tracebacker.servers.auto:application

Likewise with granian, uWSGI, cheroot, or in a file for mod_wsgi. All options come from their ``WSGI_TB_*`` variables.

``WSGI_TB_APP`` is ``module:name``, ``module`` (then the name is ``application``), ``module:object.attribute`` or a
factory, ``module:create_app()``. Nothing is opened or started before the first request, so a server may import this
before it forks its workers.

mod_wsgi may load several scripts into one interpreter, each of which sets the variable and then imports ``application``
from here. Each gets its own.
"""

from __future__ import annotations

import os
import sys
from types import ModuleType
from typing import TYPE_CHECKING

from wsgi_tracebacker.errors import ConfigurationError
from wsgi_tracebacker.servers.application import find_application, wrapped
from wsgi_tracebacker.worker.options.settings import APPLICATION_VARIABLE

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

#: The environment variable with the name of the application.
VARIABLE = APPLICATION_VARIABLE

_found: dict[str, WSGIApplication] = {}


def _named_now() -> WSGIApplication:
    """The wrapped application that the variable names now; if it is unset by now, the first one that it named."""
    target = os.environ.get(VARIABLE, "").strip() or next(iter(_found), "")
    if not target:
        raise ConfigurationError(
            f"{VARIABLE} is not set: say which application to serve, as in {VARIABLE}=mysite.wsgi:application"
        )
    if target not in _found:
        # It was named, and is called so: an object, as Flask's, has no name of its own.
        name = os.environ.get("WSGI_TB_APPLICATION") or target
        _found[target] = wrapped(find_application(target, VARIABLE), application=name)
    return _found[target]


class _Module(ModuleType):
    # A property comes before the module's own dictionary. With a module-level __getattr__ the name could not be in that
    # dictionary, and uWSGI reads it from there.
    @property
    def application(self) -> WSGIApplication:
        return _named_now()


#: The wrapped application.
application = _named_now()

sys.modules[__name__].__class__ = _Module
