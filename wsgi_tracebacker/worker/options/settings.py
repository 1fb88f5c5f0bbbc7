"""The options of one middleware: one table of them, and the values that they have.

An option that is None is taken from its environment variable, and from its default where that is not set either.
Nothing here touches the file system: a folder that does not exist is no error of the programmer's.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from wsgi_tracebacker.errors import ConfigurationError
from wsgi_tracebacker.model.report import DEFAULT, GIVEN
from wsgi_tracebacker.worker.options import limits, option_values
from wsgi_tracebacker.worker.options.limits import ServerLimit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from wsgi_tracebacker.model.report import HarakiriReport
    from wsgi_tracebacker.worker.options.limits import Decide

DEFAULT_SOCKET = "/tmp/tbsocket"  # noqa: S108  (uWSGI's own example; the socket is 0600 and checks its peers)

#: Twice as long as gunicorn lets a request of a sync worker run: no healthy request is reported.
DEFAULT_HARAKIRI_SECONDS = 60.0

#: A greenlet that does not give way for a second holds up all others of its worker, which is never intended.
DEFAULT_HUB_BLOCKED_SECONDS = 1.0

#: A real-time signal: gunicorn, uWSGI and mod_wsgi use the others.
DEFAULT_DUMP_SIGNAL = "SIGRTMIN+5"

_PREFIX = "WSGI_TB_"
#: Set to 1: every application is served unwrapped.
DISABLE_VARIABLE = f"{_PREFIX}DISABLE"
#: The application that ``servers.auto`` wraps.
APPLICATION_VARIABLE = f"{_PREFIX}APP"


class Option(NamedTuple):
    """What is to be known of one option."""

    #: Called with the name of the option or the variable, and the value; returns it as Settings has it.
    checked: Callable[[str, Any], Any]
    #: As Settings has it.
    default: Any = None
    #: Converts a word of the variable, or of a configuration file.
    parsed: Callable[[str, str], Any] = option_values.as_text
    #: Whether an empty variable is a value; otherwise it is as good as none, since that is how scripts unset one.
    empty_is_value: bool = False


_SECONDS = Option(limits.checked_seconds, None, option_values.as_number)
_FLAG = Option(option_values.flag, False, option_values.as_flag, empty_is_value=True)

OPTIONS = {
    "socket": Option(option_values.base, DEFAULT_SOCKET),
    "group": Option(option_values.group),
    "application": Option(option_values.text_or_none),
    "name_threads": _FLAG._replace(default=True),
    "show_query": _FLAG,
    "show_statements": _FLAG._replace(default=True),
    "known_frames": Option(option_values.known_frames, ()),
    "remote_address_header": Option(option_values.address_key, option_values.REMOTE_ADDRESS_KEY),
    "request_id_header": Option(option_values.environ_key, "HTTP_X_REQUEST_ID", empty_is_value=True),
    "harakiri": _SECONDS._replace(checked=option_values.limit, default=DEFAULT_HARAKIRI_SECONDS),
    "slow": _SECONDS,
    "harakiri_action": Option(option_values.action, "log"),
    "harakiri_grace": _SECONDS,
    "samples_per_second": _SECONDS._replace(
        checked=option_values.rate, default=option_values.DEFAULT_SAMPLES_PER_SECOND
    ),
    "on_harakiri": Option(option_values.function),
    "harakiri_margin": _SECONDS._replace(checked=option_values.margin, default=option_values.DEFAULT_MARGIN_SECONDS),
    "dump_signal": Option(
        option_values.signal_number,
        option_values.signal_number("dump_signal", DEFAULT_DUMP_SIGNAL),
        empty_is_value=True,
    ),
    "hub_blocked": _SECONDS._replace(checked=option_values.hub_blocked, default=DEFAULT_HUB_BLOCKED_SECONDS),
    "client_gone": _SECONDS,
}

#: By option: the variable that it is taken from when the call does not give it.
ENVIRONMENT_VARIABLES = {option: _PREFIX + option.upper() for option in OPTIONS if option != "on_harakiri"}

#: What other packages call an option.
_SYNONYMS = {
    "timeout": "harakiri", "time_limit": "harakiri", "limit": "harakiri", "deadline": "harakiri",
    "action": "harakiri_action", "grace": "harakiri_grace", "margin": "harakiri_margin",
    "callback": "on_harakiri", "name": "application", "path": "socket", "base": "socket", "signal": "dump_signal",
    "interval": "samples_per_second", "frequency": "samples_per_second",
}  # fmt: skip


class _Referable:
    # dataclass() has weakref_slot only from 3.11 on.
    __slots__ = ("__weakref__",)


@dataclass(frozen=True, slots=True)
class Settings(_Referable):
    """Checked options."""

    #: The base path, absolute; ``<base><N>`` is the socket of worker N.
    base: str
    #: A group's name or number whose members may read the socket; None: the owner and root only.
    group: str | int | None
    #: What to call the application; None: after the callable.
    application: str | None
    name_threads: bool
    show_query: bool
    #: Show statements and URLs that known libraries wait for, masked.
    show_statements: bool
    #: The application's own entries in the table of known functions, see frame_entries.
    known_frames: tuple[str, ...]
    #: The environ key to take the remote address from.
    remote_address_key: str
    #: The environ key to take the request id from; None: there is none.
    request_id_key: str | None
    #: Seconds after which a request is overdue, the same for all; None: there is no limit, or ``decide`` gives it.
    harakiri: float | None
    #: See HarakiriReport. The default limit counts while the application's callable runs, and only logs.
    limit_source: str
    #: Gives the limit of each request, where it is not the same for all.
    decide: Decide | None
    #: Seconds after which a request's flight recorder starts; None: half of its limit.
    slow: float | None
    #: ``log``, ``raise`` or ``kill``.
    harakiri_action: str
    #: Seconds from a raise to a kill; None: never.
    harakiri_grace: float | None
    samples_per_second: float
    on_harakiri: Callable[[HarakiriReport], object] | None
    #: Seconds after a request's deadline at which a worker is killed in which Python cannot run.
    harakiri_margin: float
    #: The signal that faulthandler answers; None: none.
    dump_signal: int | None
    #: Seconds after which the hub of gevent or eventlet is reported as blocked; None: never.
    hub_blocked: float | None
    #: Seconds that a request has from the moment when its client is seen to have gone; None: as many as before.
    client_gone: float | None
    #: The options from which from_options() makes the same settings, with the same environment variables.
    options: Mapping[str, Any] = field(compare=False, repr=False)

    @property
    def needs_watchdog(self) -> bool:
        """Whether any request may need one."""
        # With action kill always: a request that gives itself a limit must not wait until the timers are made.
        return (
            self.harakiri is not None
            or self.slow is not None
            or self.decide is not None
            or self.client_gone is not None
            or self.harakiri_action == "kill"
        )


def from_options(*, environment: Mapping[str, str] | None = None, folder: str | None = None, **given: Any) -> Settings:
    """Check the options. Raises ConfigurationError with one line: what is wrong and what to try.

    :param given: an option that is missing here, or None, counts as not given.
    """
    variables = os.environ if environment is None else environment
    signal = given.get("dump_signal", DEFAULT_DUMP_SIGNAL)
    # None means no signal there, so it is the default that means "not given".
    said = {**given, "dump_signal": None if signal == DEFAULT_DUMP_SIGNAL else "off" if signal is None else signal}
    values = {name: option.default for name, option in OPTIONS.items()}
    #: By option that was given: its name, or that of its variable.
    names: dict[str, str] = {}
    for name, option in OPTIONS.items():
        value = said.get(name)
        found = (name, value) if value is not None else _from_variable(name, option, variables)
        if found is not None:
            names[name] = found[0]
            values[name] = option.checked(*found)
    if values["harakiri_grace"] is not None and values["harakiri_action"] != "raise":
        raise ConfigurationError(
            f'{names["harakiri_grace"]} is the time from a raise to a kill: it needs harakiri_action="raise"'
        )
    limit = values.pop("harakiri")
    base = option_values.absolute(names.get("socket", "socket"), values.pop("socket"), folder)
    return Settings(
        base=base,
        remote_address_key=values.pop("remote_address_header"),
        request_id_key=values.pop("request_id_header"),
        harakiri=None if callable(limit) else limit,
        limit_source=limit.source if isinstance(limit, ServerLimit) else GIVEN if "harakiri" in names else DEFAULT,
        decide=limit if callable(limit) else None,
        options={**given, "socket": base},
        **values,
    )


def _from_variable(name: str, option: Option, variables: Mapping[str, str]) -> tuple[str, Any] | None:
    variable = ENVIRONMENT_VARIABLES.get(name, "")
    word = variables.get(variable)
    if word is None or not (word.strip() or option.empty_is_value):
        return None
    return variable, option.parsed(variable, word)


def is_switched_off() -> bool:
    """Whether every application is served unwrapped. Raises ConfigurationError."""
    return option_values.as_flag(DISABLE_VARIABLE, os.environ.get(DISABLE_VARIABLE, ""))


def unknown_variables(variables: Iterable[str]) -> Iterator[tuple[str, str | None]]:
    """The variables that look like ours and are not, each with the one that may have been meant."""
    known = {*ENVIRONMENT_VARIABLES.values(), DISABLE_VARIABLE, APPLICATION_VARIABLE}
    for name in sorted(variables):
        if name.startswith(_PREFIX) and name not in known:
            # Without what all names have in common.
            word = name.removeprefix(_PREFIX)
            synonym = ENVIRONMENT_VARIABLES.get(_SYNONYMS.get(word.lower(), ""))
            similar = nearest(word, (each.removeprefix(_PREFIX) for each in known))
            yield name, synonym or (similar and _PREFIX + similar)


def suggestion(name: str) -> str:
    """What to try instead of a name that no option has."""
    found = _SYNONYMS.get(name) or nearest(name, OPTIONS)
    return f"did you mean {found!r}?" if found is not None else f"there are {', '.join(OPTIONS)}"


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The one of some names that is most like a given one; None if none is."""
    import difflib  # noqa: PLC0415  (for a mistake only)

    return next(iter(difflib.get_close_matches(name, list(names), 1)), None)
