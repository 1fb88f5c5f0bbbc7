"""What is expected of each server at each step: the cells of the table in ``docs/servers.md``.

Knows what was seen, and says it. A cell that is no longer right fails its test; it is changed here, and
``make server-table`` then writes the page anew.
"""

from __future__ import annotations

from typing import NamedTuple

from tests.servers.matrix.telling import STEPS


class Cell(NamedTuple):
    """What stands in the table, and what has to be seen for it: one of these, or just that."""

    text: str
    seen: tuple[str, ...] = ()

    def fits(self, told: str) -> bool:
        return told in (self.seen or (self.text,))


FIRST = Cell("at the first request")
LOGGED = Cell("in the server's log")
FLOWS = Cell("chunk by chunk")
LEAVES = Cell("ends the stream")
DRAINS = Cell("no: a2wsgi reads it to the end", ("streams on to the end",))

SENDFILE = Cell("sendfile")
READS = Cell("no: its file_wrapper reads", ("read and sent",))
NO_WRAPPER = Cell("no: has no file_wrapper", ("no file_wrapper",))

LENGTH = Cell("yes", ("Content-Length",))
NO_LENGTH = Cell("no: sets none", ("none",))

NOT_WARNED = Cell("no", ("not warned",))
WARNED = Cell("yes", ("warned",))
RESPAWNS = Cell("yes", ("the number is kept",))
SERVICE_ENDS = Cell("no: the service ends", ("the service ends",))

CLEAN = Cell("nothing is left")
FILES_STAY = Cell("files stay")
RELOADS = Cell("reloads", ("it reloads",))

ONE_CORE = Cell("`WSGIWorker1Core0`", ("WSGIWorker1Core0",))
TWO_WORKERS = Cell("`WSGIWorker1Core0`, `WSGIWorker2Core0`", ("WSGIWorker1–2Core0",))  # noqa: RUF001
THREE_WORKERS = Cell("`WSGIWorker1Core0` … `WSGIWorker3Core0`", ("WSGIWorker1–3Core0",))  # noqa: RUF001
THREE_CORES = Cell("`WSGIWorker1Core0` … `Core2`", ("WSGIWorker1Core0–2",))  # noqa: RUF001
#: Where threads or greenlets come and go, that of the request before may not have ended when these begin.
ANY_THREE_CORES = Cell("`WSGIWorker1Core0` … `Core2`", ("WSGIWorker1Core0–2", "WSGIWorker1Core1–3"))  # noqa: RUF001
#: One request, in whichever of two workers.
EITHER_WORKER = Cell(
    "`WSGIWorker1Core0` or `WSGIWorker2Core0`",
    ("WSGIWorker1Core0", "WSGIWorker2Core0", "WSGIWorker1Core1", "WSGIWorker2Core1"),
)


def software(name: str) -> Cell:
    return Cell(f"`{name}`", (name,))


NO_SOFTWARE = Cell("not set", ("nothing",))

_GUNICORN = {
    "software": software("gunicorn"),
    "seen": THREE_CORES,
    "sendfile": SENDFILE,
    "length": NO_LENGTH,
    "warned": NOT_WARNED,
    "killed": RESPAWNS,
    "SIGTERM": CLEAN,
    "SIGINT": CLEAN,
}
_GREENLETS = {**_GUNICORN, "seen": ANY_THREE_CORES, "sendfile": READS}
_UWSGI = {
    **_GUNICORN,
    "software": NO_SOFTWARE,
    "SIGTERM": RELOADS,
}
_APACHE = {**_GUNICORN, "software": software("Apache")}
_GRANIAN = {
    "software": software("Granian"),
    "seen": THREE_CORES,
    "sendfile": NO_WRAPPER,
    "length": LENGTH,
    "warned": WARNED,
    "killed": SERVICE_ENDS,
    "SIGTERM": CLEAN,
    "SIGINT": CLEAN,
}
_UVICORN = {
    "software": NO_SOFTWARE,
    "seen": THREE_CORES,
    "disconnect": DRAINS,
    "sendfile": NO_WRAPPER,
    "length": NO_LENGTH,
    "warned": WARNED,
    "killed": SERVICE_ENDS,
    "SIGTERM": FILES_STAY,
    "SIGINT": CLEAN,
}
_ONE_PROCESS = {
    "seen": THREE_CORES,
    "sendfile": READS,
    "length": LENGTH,
    "warned": WARNED,
    "killed": SERVICE_ENDS,
    "SIGTERM": FILES_STAY,
    "SIGINT": CLEAN,
}
_WAITRESS = {**_ONE_PROCESS, "software": software("waitress")}
_WERKZEUG = {**_ONE_PROCESS, "software": software("Werkzeug"), "sendfile": NO_WRAPPER, "length": NO_LENGTH}

#: What differs from the commonest, which follows.
_ROWS: dict[str, dict[str, Cell]] = {
    "gunicorn sync": {**_GUNICORN, "seen": TWO_WORKERS},
    "gunicorn gthread": _GUNICORN,
    "gunicorn gevent": _GREENLETS,
    "gunicorn 25 eventlet": _GREENLETS,
    "uWSGI --threads": _UWSGI,
    "uWSGI without threads": {**_UWSGI, "seen": TWO_WORKERS},
    "Apache mod_wsgi daemon": _APACHE,
    "Apache mod_wsgi daemon, %{GLOBAL}": _APACHE,
    "Apache mod_wsgi embedded, event": _APACHE,
    "Apache mod_wsgi embedded, prefork": {**_APACHE, "seen": ONE_CORE},
    "Apache mod_wsgi embedded, event, %{GLOBAL}": _APACHE,
    "Apache mod_wsgi embedded, prefork, %{GLOBAL}": {**_APACHE, "seen": ONE_CORE},
    "granian --respawn-failed-workers": {**_GRANIAN, "warned": NOT_WARNED, "killed": RESPAWNS},
    "granian": _GRANIAN,
    "uvicorn --workers, a2wsgi": {
        **_UVICORN,
        "seen": EITHER_WORKER,
        "warned": NOT_WARNED,
        "killed": RESPAWNS,
        "SIGINT": FILES_STAY,
    },
    "uvicorn, a2wsgi": _UVICORN,
    "waitress": _WAITRESS,
    "pserve": _WAITRESS,
    "cheroot": {**_ONE_PROCESS, "software": software("Cheroot"), "sendfile": NO_WRAPPER, "length": NO_LENGTH},
    "Twisted": {
        **_ONE_PROCESS,
        "software": NO_SOFTWARE,
        "seen": ANY_THREE_CORES,
        "sendfile": NO_WRAPPER,
        "length": NO_LENGTH,
        "SIGTERM": CLEAN,
    },
    "gevent.pywsgi": {
        **_ONE_PROCESS,
        "software": software("gevent"),
        "seen": ANY_THREE_CORES,
        "sendfile": NO_WRAPPER,
    },
    "werkzeug threaded": {**_WERKZEUG, "seen": ANY_THREE_CORES},
    "werkzeug processes": {
        **_WERKZEUG,
        "starts": Cell("at each request, which is a process; its files stay", ("at each request, and ends with it",)),
        "seen": THREE_WORKERS,
        "warned": NOT_WARNED,
        "killed": Cell("only the request ends, the next is worker 1 again", ("only the request ends",)),
        "SIGINT": FILES_STAY,
    },
    "wsgiref": {**_ONE_PROCESS, "software": software("WSGIServer"), "seen": ONE_CORE},
}
_COMMON = {"starts": FIRST, "harakiri": LOGGED, "stream": FLOWS, "disconnect": LEAVES}

#: By the name of the server, and by the step.
CELLS: dict[str, dict[str, Cell]] = {
    name: {step: row.get(step) or _COMMON[step] for step in STEPS} for name, row in _ROWS.items()
}


def expected(name: str) -> dict[str, Cell]:
    """The cells of a server; with ``--preload`` everything has to be as without."""
    return CELLS[name.removesuffix(" --preload")]
