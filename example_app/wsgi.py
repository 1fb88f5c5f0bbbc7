"""The example as it would run in production: all pages, wrapped.

    gunicorn --worker-class gthread --threads 4 example_app.wsgi:application

The sockets are at ``/tmp/tbsocket1``, ``/tmp/tbsocket2``, …, one for each worker; the environment variable
``WSGI_TB_SOCKET`` gives another base.
"""

from __future__ import annotations

from example_app import pages
from wsgi_tracebacker import TracebackerMiddleware

application = TracebackerMiddleware(pages.application)
