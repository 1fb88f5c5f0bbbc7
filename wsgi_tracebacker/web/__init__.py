"""What is served over HTTP from outside the workers: the live page, the probes, the metrics.

``application`` is the page as a WSGI application, to be mounted in one's own behind one's own login::

    from werkzeug.middleware.dispatcher import DispatcherMiddleware
    from wsgi_tracebacker.web import application

    app = DispatcherMiddleware(app, {"/workers": login_required(application("/run/shop/tb"))})

It needs werkzeug: ``pip install 'wsgi-tracebacker[web]'``. Whoever gets there sees the source, the paths and the
clients' addresses of every request in flight: docs/howto/web.md says what to guard. A worker does not import this.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication


def application(*bases: str, timeout_seconds: float = 1.0) -> WSGIApplication:
    """The page, the probes and the metrics, without a login of their own.

    :param bases: what ``wsgi-tb read`` takes: base paths, sockets, pids; none of them means every base that has a
        worker and that this process may read.
    :param timeout_seconds: how long each worker may take to answer.
    :raises LibraryMissing: werkzeug is not installed.
    """
    # Imported only here: `wsgi-tb metrics` is in this package too, and needs no werkzeug.
    from wsgi_tracebacker.reader import sources  # noqa: PLC0415
    from wsgi_tracebacker.web.site import Site  # noqa: PLC0415

    # The process is somebody else's: its user is not changed, not for a moment.
    sources.open_by(sources.open_as_ourselves)
    return Site(bases, timeout_seconds)
