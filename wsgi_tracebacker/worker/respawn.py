"""Which servers start a new worker when one is killed.

Knows what was measured on each. Refuses to guess: of a server that is not here nothing is said.
"""

from __future__ import annotations

import os
import sys

#: The start of ``SERVER_SOFTWARE``, or what we call who has none, and why killing a process of that server ends the
#: service.
_NOTHING_RESPAWNS = {
    "waitress": "waitress has only this one: the whole service ends",
    "Cheroot": "cheroot has only this one: the whole service ends",
    "CherryPy": "CherryPy has only this one: the whole service ends",
    "Werkzeug": "werkzeug's server has only this one: the whole service ends",
    "WSGIServer": "wsgiref's server has only this one: the whole service ends",
    "gevent": "gevent's server has only this one: the whole service ends",
    "hypercorn": "hypercorn ends when one of its workers dies",
    "eventlet": "eventlet's server has only this one: the whole service ends",
    "TwistedWeb": "Twisted has only this one: the whole service ends",
    "granian": "granian starts a new worker only with --respawn-failed-workers",
    "uvicorn": "uvicorn runs without --workers and has only this one: the whole service ends",
}

#: What is loaded where a server without a ``SERVER_SOFTWARE`` runs, and what it is called above.
_UNNAMED = {"twisted.web.wsgi": "TwistedWeb", "hypercorn": "hypercorn", "eventlet.wsgi": "eventlet"}


def why_nothing_respawns(server_software: str | None, *, is_multiprocess: bool = False) -> str | None:
    """Why a killed process is not replaced, for people; None where it is, or where nothing is known.

    :param is_multiprocess: what the server says in ``wsgi.multiprocess``.
    """
    uwsgi = sys.modules.get("uwsgi")
    if uwsgi is not None:
        try:
            if not uwsgi.masterpid():
                return "uWSGI runs without --master, so nothing starts a new worker"
        except Exception:
            return None
        return None
    name = (server_software or _unnamed_server() or "").lower()
    if "gunicorn/" in name:
        # Its gevent_pywsgi is "gevent/26.9.0 gunicorn/27.0.1".
        return None
    for start, reason in _NOTHING_RESPAWNS.items():
        if name.startswith(start.lower()):
            return None if _is_replaced(start, is_multiprocess=is_multiprocess) else reason
    return None


def _unnamed_server() -> str | None:
    """Which of the servers that do not say their name this is; of uvicorn's, the one without workers of its own."""
    if "gunicorn" in sys.modules:
        # Its workers may be uvicorn's, and it starts new ones.
        return None
    for module, name in _UNNAMED.items():
        if module in sys.modules:
            return name
    # With --workers (and with --reload) it starts them through multiprocessing.
    multiprocessing = sys.modules.get("multiprocessing.process")
    if "uvicorn" in sys.modules and (multiprocessing is None or multiprocessing.parent_process() is None):
        return "uvicorn"
    return None


def _is_replaced(server: str, *, is_multiprocess: bool) -> bool:
    """Whether the server runs in the one way in which it survives."""
    if server == "Werkzeug":
        # With processes=N it forks one for each request, and nothing is lost but that.
        return is_multiprocess
    if server == "granian":
        # Its workers are started by multiprocessing, which hands the arguments on.
        variable = os.environ.get("GRANIAN_RESPAWN_FAILED_WORKERS", "").lower()
        return "--respawn-failed-workers" in sys.argv or variable in ("1", "true", "t", "yes", "y", "on")
    return False
