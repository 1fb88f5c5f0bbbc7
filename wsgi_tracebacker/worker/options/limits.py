"""Choose the limit of a request in seconds: the same for all, one for each path prefix, or a callable's result."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from wsgi_tracebacker.errors import ConfigurationError

#: Decides a request's limit where it is not the same for all: environ -> seconds, or None for no limit.
Decide = Callable[[dict[str, Any]], float | None]


class ServerLimit:
    """A limit before a server's own time-out, at which the server kills the worker."""

    def __init__(self, decide: Decide, source: str) -> None:
        """See HarakiriReport.limit_source. ``decide``: as for any callable that gives the limit."""
        self._decide = decide
        self.source = source

    def __call__(self, environ: dict[str, Any]) -> float | None:
        """The limit of one request in seconds; None: it has none."""
        return self._decide(environ)


def checked_seconds(option: str, value: object) -> float | None:
    """A limit in seconds, None for "off". Raises ConfigurationError."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < float("inf"):
        raise ConfigurationError(f"{option} must be a number of seconds, or None or 0 for none, not {value!r}")
    try:
        return float(value) or None
    except OverflowError:
        raise ConfigurationError(f"{option}: {value!r} seconds are more than a float can hold") from None


def by_prefix(prefixes: Mapping[str, float | None]) -> Decide:
    """Choose by path prefix, at segment borders: ``/api`` is for ``/api`` and ``/api/x``, not for ``/apix``.

    The longest prefix wins; ``/`` is for every path; None exempts. Raises ConfigurationError.
    """
    seconds_of: dict[str, float | None] = {}
    for prefix, seconds in prefixes.items():
        if type(prefix) is not str or (prefix and not prefix.startswith("/")):
            raise ConfigurationError(f"harakiri: a path prefix starts with a slash, {prefix!r} does not")
        # WSGI paths are bytes decoded as Latin-1 (PEP 3333), so the prefixes are spelled in the same way.
        spelled = prefix.rstrip("/").encode("utf-8", "surrogatepass").decode("latin-1")
        seconds_of[spelled] = checked_seconds(f"harakiri[{prefix!r}]", seconds)
    longest = max(map(len, seconds_of), default=0)

    def decide(environ: dict[str, Any]) -> float | None:
        path = (environ.get("SCRIPT_NAME") or "") + (environ.get("PATH_INFO") or "")
        # Cut one character after the longest prefix, to see a segment border there: a hostile path has 64 Ki segments.
        path = path.rstrip("/")[: longest + 1]
        while path not in seconds_of:
            if not path:
                return None
            path = path.rpartition("/")[0]
        return seconds_of[path]

    return decide
