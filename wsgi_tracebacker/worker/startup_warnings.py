"""What a worker warns of when it starts: servers and folders with which it cannot do what users expect of it.

Nothing is changed about the server or the folder.
"""

from __future__ import annotations

import os
import re
import sys
from typing import TYPE_CHECKING

from wsgi_tracebacker.linux import proc
from wsgi_tracebacker.worker.listening import slot
from wsgi_tracebacker.worker.options.settings import unknown_variables
from wsgi_tracebacker.worker.reporting import faults
from wsgi_tracebacker.worker.threads import interpreters

if TYPE_CHECKING:
    from collections.abc import Iterable

    from wsgi_tracebacker.worker.identity import Identity

#: Servers with one process, by the start of their ``SERVER_SOFTWARE``.
_ONE_PROCESS = {
    "waitress": "waitress",
    "Cheroot": "cheroot",
    "CherryPy": "CherryPy",
    "Werkzeug": "werkzeug's server",
    "WSGIServer": "wsgiref's server",
    "gevent": "gevent's server",
    "eventlet": "eventlet's server",
    "TwistedWeb": "Twisted",
}
#: The start of ``SERVER_SOFTWARE``, or our name for a server that has none, and why killing a process of that server
#: ends the service. Measured on each; there is no warning for other servers.
NOTHING_RESPAWNS = {
    **{start: f"{name} has only this one: the whole service ends" for start, name in _ONE_PROCESS.items()},
    "hypercorn": "hypercorn ends when one of its workers dies",
    "granian": "granian starts a new worker only with --respawn-failed-workers",
    "uvicorn": "uvicorn runs without --workers and has only this one: the whole service ends",
}
#: The module that is loaded where a server without a ``SERVER_SOFTWARE`` runs, and the name that it has above.
_UNNAMED = {"twisted.web.wsgi": "TwistedWeb", "hypercorn": "hypercorn", "eventlet.wsgi": "eventlet"}

#: Servers that have several interpreters in one process, each with a copy of this package.
_WITH_INTERPRETERS = {"mod_wsgi", "uwsgi"}
#: Cards of numbers below one's own that are read: far more than applications in one process.
_MAX_COPIES = 64

#: How systemd calls the folder that it mounts over ``/tmp`` and over ``/var/tmp`` (``PrivateTmp=true``).
_PRIVATE = "/systemd-private-"


def warn_of_unknown_variables() -> None:
    """Warn of each environment variable that begins as ours do and is none of them."""
    for name, meant in unknown_variables(os.environ):
        faults.warn_once(
            f"variable {name}",
            "%s is set, but there is no such variable, so it has no effect%s",
            name,
            f"; did you mean {meant}?" if meant is not None else "",
        )


def warn_if_without_threads() -> None:
    """Warn of uWSGI that was started so that no thread but its own runs."""
    # Without the option 2.0.21 has 0 here; 2.0.31 runs threads in any case, and has 1.
    if getattr(sys.modules.get("uwsgi"), "has_threads", None) == 0:
        faults.warn_once_here(
            "uwsgi threads",
            "uWSGI runs no thread but its own, so this worker answers only while it serves a request, and harakiri may"
            " be late: start uWSGI with --enable-threads or --threads",
        )


def warn_of_surroundings(identity: Identity, number: int, refused: Iterable[tuple[str, str, object]]) -> None:
    """Warn of other copies in this process, of a folder that others do not see, and of what the black box lacks.

    :param refused: see BlackBox.
    """
    copies = other_copies(identity, number)
    _warn("copies", copies)
    for key, message, reason in refused:
        # Where there is another copy, the signal is that one's, as the warning of it says.
        if key != "signal" or copies is None:
            faults.warn_once(key, message, reason)
    _warn("hidden", hidden(identity.base))


def warn_if_not_replaced(server_software: str | None, *, is_multiprocess: bool) -> None:
    """Warn that nothing starts a new worker where harakiri has killed one."""
    _warn("respawn", nothing_respawns(server_software, is_multiprocess=is_multiprocess))


def _warn(key: str, text: str | None) -> None:
    if text is not None:
        faults.warn_once(key, "%s", text)


def other_copies(identity: Identity, number: int) -> str | None:
    """What to say of other interpreters of this process; None if there are none that matter."""
    numbers = _numbers_of(identity, number) if _WITH_INTERPRETERS & sys.modules.keys() else []
    facts = []
    if numbers:
        facts.append(
            f"worker {number} is in the same process as worker {', '.join(map(str, numbers))}, in another interpreter:"
            " each shows the threads of both, and only the first can be asked when Python is stalled"
        )
    if interpreters.own_id_is_shared():
        facts.append(
            f"the threads that serve in this interpreter of uWSGI have one id, so worker {number} shows its requests"
            " without their stacks, and HarakiriTimeout is not raised into them"
        )
    return f"{'; '.join(facts)}. {_one_interpreter()}" if facts else None


def _one_interpreter() -> str:
    if "uwsgi" in sys.modules:
        return "Start uWSGI with --single-interpreter: then all applications are in one interpreter"
    return "Under mod_wsgi, WSGIApplicationGroup %{GLOBAL} has all applications in one interpreter"


def _numbers_of(identity: Identity, below: int) -> list[int]:
    found = []
    for number in range(max(1, below - _MAX_COPIES), below):
        card = slot.read_card(identity.base, number)
        if card is not None and (card.pid, card.start_ticks) == (identity.pid, identity.start_ticks):
            found.append(number)
    return found


def hidden(base: str) -> str | None:
    """What to say of a private ``/tmp``, whose files only the service itself sees, as in Debian's apache2.service."""
    point = private_mount(base, proc.read("/proc/self/mountinfo").decode("utf-8", "surrogateescape"))
    if point is None:
        return None
    return (
        f"{point} is one that systemd made for this service alone (PrivateTmp=true), so nobody else finds its sockets"
        f" at {base}<N>; put them elsewhere, for instance below /run"
    )


def private_mount(base: str, mountinfo: str) -> str | None:
    """The mount point of systemd's private folder in which a base is; None if it is in none."""
    if _PRIVATE not in mountinfo:
        return None
    folder = os.path.realpath(os.path.dirname(base)) + "/"
    found, longest = None, 0
    for line in mountinfo.splitlines():
        fields = line.split(" ")
        if len(fields) < 5:
            continue
        root, point = _unescaped(fields[3]), _unescaped(fields[4])
        # Of mounts at one place the last one counts, and a deeper one before any.
        if folder.startswith(point.rstrip("/") + "/") and len(point) >= longest:
            found, longest = (point if _PRIVATE in root else None), len(point)
    return found


def _unescaped(path: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), path)


def nothing_respawns(server_software: str | None, *, is_multiprocess: bool = False) -> str | None:
    """What to say of a server that starts no new process where harakiri has killed one; None of one that does.

    :param is_multiprocess: what the server says in ``wsgi.multiprocess``.
    """
    reason = _why_nothing_respawns(server_software, is_multiprocess=is_multiprocess)
    return None if reason is None else f"harakiri will kill this process, and {reason}"


def _why_nothing_respawns(server_software: str | None, *, is_multiprocess: bool) -> str | None:
    uwsgi = sys.modules.get("uwsgi")
    if uwsgi is not None:
        try:
            has_master = bool(uwsgi.masterpid())
        except Exception:
            return None
        return None if has_master else "uWSGI runs without --master, so nothing starts a new worker"
    name = (server_software or _unnamed_server() or "").lower()
    if "gunicorn/" in name:
        # Its gevent_pywsgi is "gevent/26.9.0 gunicorn/27.0.1".
        return None
    for start, reason in NOTHING_RESPAWNS.items():
        if name.startswith(start.lower()):
            return None if _is_replaced(start, is_multiprocess=is_multiprocess) else reason
    return None


def _unnamed_server() -> str | None:
    """Which of the servers without a name in the environ this is."""
    if "gunicorn" in sys.modules:
        # Its workers may be uvicorn's, and it starts new ones.
        return None
    for module, name in _UNNAMED.items():
        if module in sys.modules:
            return name
    # With --workers (and with --reload) uvicorn starts workers through multiprocessing.
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
