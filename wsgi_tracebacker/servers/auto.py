"""Wrap the application that ``WSGI_TB_APP`` names, for a server that takes ``module:name``.

::

    WSGI_TB_APP=mysite.wsgi:application waitress-serve wsgi_tracebacker.servers.auto:application

Likewise with granian, uWSGI, cheroot, or in a file for mod_wsgi. All options come from their ``WSGI_TB_*`` variables.

``WSGI_TB_APP`` is ``module:name``, ``module`` (then the name is ``application``), ``module:object.attribute`` or a
factory, ``module:create_app()``. Nothing is opened or started before a request comes, so a server may import this in
a process that it forks its workers from.
"""

from __future__ import annotations

import os

from wsgi_tracebacker.errors import ConfigurationError
from wsgi_tracebacker.servers.application import find_application, wrapped

#: What the application is read from.
VARIABLE = "WSGI_TB_APP"

_target = os.environ.get(VARIABLE, "").strip()
if not _target:
    raise ConfigurationError(
        f"{VARIABLE} is not set: say which application to serve, as in {VARIABLE}=mysite.wsgi:application"
    )

#: The wrapped application.
application = wrapped(find_application(_target, VARIABLE))
