"""The servers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.servers.matrix import starting
from tests.servers.matrix.starting import (
    DAEMON,
    EMBEDDED,
    EVENT,
    GLOBAL,
    PREFORK,
    apache,
    command,
    gunicorn,
    gunicorn_eventlet,
    simple,
    uwsgi,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.servers.matrix.starting import Place, Started


@dataclass(frozen=True)
class Kind:
    """A server, started in one way."""

    name: str
    start: Callable[[Place], Started]
    #: Requests that it is asked to serve at the same time.
    at_a_time: int = 3
    workers: int = 1
    forks_for_each_request: bool = False
    has_greenlets: bool = False
    #: Ours are the server's own numbers: the first request may come to any of them.
    numbers_its_workers: bool = False


BIND = "127.0.0.1:{port}"
GTHREAD = ("--worker-class", "gthread", "--threads", "3")
GEVENT = ("--worker-class", "gevent")

KINDS = {
    kind.name: kind
    for kind in (
        Kind("gunicorn sync", gunicorn("--workers", "2"), at_a_time=2, workers=2),
        Kind("gunicorn sync --preload", gunicorn("--workers", "2", "--preload"), at_a_time=2, workers=2),
        Kind("gunicorn gthread", gunicorn(*GTHREAD)),
        Kind("gunicorn gthread --preload", gunicorn(*GTHREAD, "--preload")),
        Kind("gunicorn gevent", gunicorn(*GEVENT, module="gevent"), has_greenlets=True),
        Kind("gunicorn gevent --preload", gunicorn(*GEVENT, "--preload", module="gevent"), has_greenlets=True),
        Kind("gunicorn 25 eventlet", gunicorn_eventlet(), has_greenlets=True),
        Kind("gunicorn 25 eventlet --preload", gunicorn_eventlet("--preload"), has_greenlets=True),
        Kind("uWSGI --threads", uwsgi("--threads", "3")),
        Kind(
            "uWSGI without threads",
            uwsgi("--processes", "2", enable_threads=False),
            at_a_time=2,
            workers=2,
            numbers_its_workers=True,
        ),
        Kind("Apache mod_wsgi daemon", apache(EVENT, DAEMON)),
        Kind("Apache mod_wsgi daemon, %{GLOBAL}", apache(EVENT, DAEMON + GLOBAL)),
        # Apache kills it ten seconds after its end has begun.
        Kind("Apache mod_wsgi embedded, event", apache(EVENT, EMBEDDED)),
        Kind("Apache mod_wsgi embedded, prefork", apache(PREFORK, EMBEDDED), at_a_time=1),
        Kind("Apache mod_wsgi embedded, event, %{GLOBAL}", apache(EVENT, EMBEDDED + GLOBAL)),
        Kind("Apache mod_wsgi embedded, prefork, %{GLOBAL}", apache(PREFORK, EMBEDDED + GLOBAL), at_a_time=1),
        Kind(
            "granian --respawn-failed-workers",
            command(
                "granian",
                *("--interface", "wsgi", "--host", "127.0.0.1", "--port", "{port}", "--blocking-threads", "3"),
                *("--respawn-failed-workers", f"{starting.STORY}:application"),
            ),
        ),
        Kind(
            "granian",
            command(
                "granian",
                *("--interface", "wsgi", "--host", "127.0.0.1", "--port", "{port}", "--blocking-threads", "3"),
                f"{starting.STORY}:application",
            ),
        ),
        Kind(
            "uvicorn --workers, a2wsgi",
            command(
                "uvicorn",
                *("--host", "127.0.0.1", "--port", "{port}", "--workers", "2"),
                f"{starting.STORY}_asgi:application",
            ),
            # It leaves to chance which of its workers serves.
            at_a_time=1,
            workers=2,
        ),
        Kind(
            "uvicorn, a2wsgi",
            command("uvicorn", "--host", "127.0.0.1", "--port", "{port}", f"{starting.STORY}_asgi:application"),
        ),
        Kind(
            "waitress",
            command("waitress", "--listen", BIND, "--threads", "3", f"{starting.STORY}:application"),
        ),
        Kind("pserve", starting.pserve),
        Kind(
            "cheroot",
            command("cheroot", "--bind", BIND, "--threads", "3", f"{starting.STORY}:application"),
        ),
        Kind(
            "Twisted",
            command(
                "twisted",
                "web",
                "--listen",
                "tcp:{port}:interface=127.0.0.1",
                "--wsgi",
                f"{starting.STORY}.application",
            ),
        ),
        Kind("gevent.pywsgi", simple("gevent", "gevent"), has_greenlets=True),
        Kind("werkzeug threaded", simple("werkzeug")),
        Kind("werkzeug processes", simple("werkzeug-processes"), forks_for_each_request=True),
        Kind("wsgiref", simple("wsgiref"), at_a_time=1),
    )
}
