"""A filter for PasteDeploy, so that an INI file can wrap an application: ``use = egg:wsgi-tracebacker``.

::

    [pipeline:main]
    pipeline = tracebacker myapp

    [filter:tracebacker]
    use = egg:wsgi-tracebacker
    socket = /run/myservice/tb
    harakiri = 30

An unknown option is an error: a misspelt one would do nothing, and nobody would notice.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from wsgi_tracebacker.errors import ConfigurationError
from wsgi_tracebacker.middleware import TracebackerMiddleware
from wsgi_tracebacker.servers.application import find
from wsgi_tracebacker.worker.options.option_values import as_number
from wsgi_tracebacker.worker.options.settings import OPTIONS, suggestion

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from _typeshed.wsgi import WSGIApplication


def filter_app(app: WSGIApplication, global_conf: Mapping[str, str], /, **options: str) -> WSGIApplication:  # noqa: ARG001
    """Wrap ``app``. PasteDeploy calls this; ``global_conf`` is not used.

    :raises ConfigurationError: an option, or its value, is unknown.
    """
    return TracebackerMiddleware(app, **converted(options))


def converted(options: Mapping[str, str]) -> dict[str, Any]:
    """Convert options that are text into the middleware's keyword arguments."""
    values: dict[str, Any] = {}
    for name, text in options.items():
        option = OPTIONS.get(name)
        if option is None:
            raise ConfigurationError(f"there is no option {name!r}; {suggestion(name)}")
        word = text.strip()
        # An option without a value counts as not given, except where an empty text has a meaning.
        if word or name == "request_id_header":
            values[name] = _PARSED.get(name, option.parsed)(name, word)
    return values


def _limits(option: str, text: str) -> float | dict[str, float | None] | Callable[..., Any]:
    """Seconds; or lines as in ``/export = 300``; or a callable as in ``package.module:name``."""
    # A path starts with a slash, and the arguments of a factory may have an equals sign.
    if "=" in text and not re.match(r"[\w.\s]+:", text):
        limits: dict[str, float | None] = {}
        for line in filter(None, map(str.strip, text.splitlines())):
            prefix, equals, seconds = (part.strip() for part in line.rpartition("="))
            if not equals or not prefix:
                raise ConfigurationError(f"{option} must have a line such as /export = 300 for each path, not {line!r}")
            limits[prefix] = None if seconds.lower() in ("none", "off") else as_number(f"{option} of {prefix}", seconds)
        return limits
    if ":" in text:
        return _callable(option, text)
    return as_number(option, text)


def _callable(option: str, text: str) -> Callable[..., Any]:
    found = find(text, option)
    if not callable(found):
        raise ConfigurationError(f"{option} is {text!r}, and that cannot be called")
    called: Callable[..., Any] = found
    return called


#: By option: converts its text, which says more here than in a variable.
_PARSED: dict[str, Callable[[str, str], Any]] = {"harakiri": _limits, "on_harakiri": _callable}
