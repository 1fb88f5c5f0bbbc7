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

import inspect
import re
from typing import TYPE_CHECKING, Any

from wsgi_tracebacker.errors import ConfigurationError
from wsgi_tracebacker.middleware import TracebackerMiddleware
from wsgi_tracebacker.servers.application import find
from wsgi_tracebacker.worker.settings import flag_of

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
    for option, text in options.items():
        if option not in _OPTIONS:
            raise ConfigurationError(f"there is no option {option!r}; {_meant(option)}")
        convert = _CONVERT.get(option)
        value = text.strip()
        # An option without a value counts as not given, except where an empty text has a meaning.
        if value or option == "request_id_header":
            values[option] = convert(option, value) if convert is not None else value
    return values


def _number(option: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ConfigurationError(f"{option} must be a number, not {text!r}") from None


def _flag(option: str, text: str) -> bool:
    flag = flag_of(text)
    if flag is None:
        raise ConfigurationError(f"{option} must be true or false, not {text!r}")
    return flag


def _limits(option: str, text: str) -> float | dict[str, float | None] | Callable[..., Any]:
    """Seconds; or lines as in ``/export = 300``; or a callable as in ``package.module:name``."""
    # A path starts with a slash, and the arguments of a factory may have an equals sign.
    if "=" in text and not re.match(r"[\w.\s]+:", text):
        limits: dict[str, float | None] = {}
        for line in filter(None, map(str.strip, text.splitlines())):
            prefix, equals, seconds = (part.strip() for part in line.rpartition("="))
            if not equals or not prefix:
                raise ConfigurationError(f"{option} must have a line such as /export = 300 for each path, not {line!r}")
            limits[prefix] = None if seconds.lower() in ("none", "off") else _number(f"{option} of {prefix}", seconds)
        return limits
    if ":" in text:
        return _callable(option, text)
    return _number(option, text)


def _callable(option: str, text: str) -> Callable[..., Any]:
    found = find(text, option)
    if not callable(found):
        raise ConfigurationError(f"{option} is {text!r}, and that cannot be called")
    called: Callable[..., Any] = found
    return called


def _meant(option: str) -> str:
    import difflib  # noqa: PLC0415  (for a mistake only)

    close = difflib.get_close_matches(option, _OPTIONS, 1)
    return f"did you mean {close[0]!r}?" if close else f"there are {', '.join(_OPTIONS)}"


#: Every option of the middleware.
_OPTIONS = tuple(
    name
    for name, parameter in inspect.signature(TracebackerMiddleware).parameters.items()
    if parameter.kind is parameter.KEYWORD_ONLY or name == "socket"
)

#: By option: converts its text. All others are text.
_CONVERT: dict[str, Callable[[str, str], Any]] = {
    "name_threads": _flag,
    "show_query": _flag,
    "show_statements": _flag,
    "harakiri": _limits,
    "slow": _number,
    "harakiri_grace": _number,
    "samples_per_second": _number,
    "harakiri_margin": _number,
    "hub_blocked": _number,
    "on_harakiri": _callable,
}
