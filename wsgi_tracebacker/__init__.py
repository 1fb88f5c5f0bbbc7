"""What are my WSGI workers doing right now, and which request is each one stuck on?

>>> application = TracebackerMiddleware(application, socket="/tmp/tbsocket")  # doctest: +SKIP

Then, in a terminal: ``wsgi-tb read /tmp/tbsocket``.
"""

from wsgi_tracebacker._version import __version__
from wsgi_tracebacker.errors import ConfigurationError, TracebackerError
from wsgi_tracebacker.middleware import TracebackerMiddleware
from wsgi_tracebacker.worker.agent import stop

__all__ = ["ConfigurationError", "TracebackerError", "TracebackerMiddleware", "__version__", "stop"]
