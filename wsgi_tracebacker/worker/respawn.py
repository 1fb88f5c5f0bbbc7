"""Which servers start a new worker when one is killed.

Knows what was measured on each. Refuses to guess: of a server that is not here nothing is said.
"""

from __future__ import annotations

import sys

#: The start of ``SERVER_SOFTWARE``, and why killing a process of that server ends the service.
_NOTHING_RESPAWNS = {
    "waitress": "waitress has only this one: the whole service ends",
    "Cheroot": "cheroot has only this one: the whole service ends",
    "CherryPy": "CherryPy has only this one: the whole service ends",
    "Werkzeug": "werkzeug's server has only this one: the whole service ends",
    "WSGIServer": "wsgiref's server has only this one: the whole service ends",
    "gevent": "gevent's server has only this one: the whole service ends",
    "Hypercorn": "hypercorn ends when one of its workers dies",
    "TwistedWeb": "Twisted has only this one: the whole service ends",
    "granian": "granian starts a new worker only with --respawn-failed-workers",
}


def why_nothing_respawns(server_software: str | None) -> str | None:
    """Why a killed process is not replaced, for people; None where it is, or where nothing is known."""
    uwsgi = sys.modules.get("uwsgi")
    if uwsgi is not None:
        try:
            if not uwsgi.masterpid():
                return "uWSGI runs without --master, so nothing starts a new worker"
        except Exception:
            return None
        return None
    for start, reason in _NOTHING_RESPAWNS.items():
        if (server_software or "").lower().startswith(start.lower()):
            return reason
    return None
