"""What are my WSGI workers doing right now, and which request is each one stuck on?

>>> application = TracebackerMiddleware(application, socket="/tmp/tbsocket")  # doctest: +SKIP

Then, in a terminal: ``wsgi-tb read /tmp/tbsocket``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wsgi_tracebacker._version import __version__
    from wsgi_tracebacker.errors import (
        ConfigurationError,
        HarakiriTimeout,
        NotInRequest,
        RequestTimedOut,
        TracebackerError,
    )
    from wsgi_tracebacker.middleware import TracebackerMiddleware
    from wsgi_tracebacker.model.report import HarakiriReport
    from wsgi_tracebacker.worker.agent import note, set_harakiri, stop

__all__ = [
    "ConfigurationError",
    "HarakiriReport",
    "HarakiriTimeout",
    "NotInRequest",
    "RequestTimedOut",
    "TracebackerError",
    "TracebackerMiddleware",
    "__version__",
    "note",
    "set_harakiri",
    "stop",
]

#: The module of each name. It is imported when the name is first used: the command, which is in this package too, must
#: not load the serving side when it starts.
_HOMES = {
    "ConfigurationError": "wsgi_tracebacker.errors",
    "HarakiriReport": "wsgi_tracebacker.model.report",
    "HarakiriTimeout": "wsgi_tracebacker.errors",
    "NotInRequest": "wsgi_tracebacker.errors",
    "RequestTimedOut": "wsgi_tracebacker.errors",
    "TracebackerError": "wsgi_tracebacker.errors",
    "TracebackerMiddleware": "wsgi_tracebacker.middleware",
    "__version__": "wsgi_tracebacker._version",
    "note": "wsgi_tracebacker.worker.agent",
    "set_harakiri": "wsgi_tracebacker.worker.agent",
    "stop": "wsgi_tracebacker.worker.agent",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(home), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
