"""The options of one middleware: their types and bounds, their environment variables and their defaults.

An option that is None is taken from its environment variable, and from its default where that is not set either.
Nothing here touches the file system: a folder that does not exist is no error of the programmer's.
"""

from __future__ import annotations

import math
import os
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wsgi_tracebacker.errors import ConfigurationError
from wsgi_tracebacker.wire.card_json import MAX_NUMBER_DIGITS, MAX_SOCKET_PATH_BYTES
from wsgi_tracebacker.worker import limits

if TYPE_CHECKING:
    from wsgi_tracebacker.model.report import HarakiriReport
    from wsgi_tracebacker.worker.limits import Decide

DEFAULT_SOCKET = "/tmp/tbsocket"  # noqa: S108  (uWSGI's own example; the socket is 0600 and checks its peers)

#: By option: the variable that it is taken from when the call does not give it.
ENVIRONMENT_VARIABLES = {
    "socket": "WSGI_TB_SOCKET",
    "group": "WSGI_TB_GROUP",
    "application": "WSGI_TB_APPLICATION",
    "name_threads": "WSGI_TB_NAME_THREADS",
    "show_query": "WSGI_TB_SHOW_QUERY",
    "show_statements": "WSGI_TB_SHOW_STATEMENTS",
    "remote_address_header": "WSGI_TB_REMOTE_ADDRESS_HEADER",
    "request_id_header": "WSGI_TB_REQUEST_ID_HEADER",
    "harakiri": "WSGI_TB_HARAKIRI",
    "slow": "WSGI_TB_SLOW",
    "harakiri_action": "WSGI_TB_HARAKIRI_ACTION",
    "harakiri_grace": "WSGI_TB_HARAKIRI_GRACE",
    "samples_per_second": "WSGI_TB_SAMPLES_PER_SECOND",
    "harakiri_margin": "WSGI_TB_HARAKIRI_MARGIN",
    "dump_signal": "WSGI_TB_DUMP_SIGNAL",
    "hub_blocked": "WSGI_TB_HUB_BLOCKED",
}

ACTIONS = ("log", "raise", "kill")

#: A timeline with a resolution of a tenth of a second; py-spy's default of 100 is for whole profiles.
DEFAULT_SAMPLES_PER_SECOND = 10.0
#: One sample in a hundred seconds is none; above a hundred a second, the load shows.
MIN_SAMPLES_PER_SECOND = 0.01
MAX_SAMPLES_PER_SECOND = 100.0

#: How long after the deadline the kernel's timers kill: the watchdog, whose report names the request and all others
#: in flight, should be first wherever it can run at all.
DEFAULT_MARGIN_SECONDS = 1.0

#: A greenlet that does not give way for a second holds up all others of its worker, which is never intended.
DEFAULT_HUB_BLOCKED_SECONDS = 1.0
#: Shorter than the time that CPython leaves one thread the GIL, nothing can be seen.
MIN_HUB_BLOCKED_SECONDS = 0.05

#: A real-time signal: gunicorn, uWSGI and mod_wsgi use the others.
DEFAULT_DUMP_SIGNAL = "SIGRTMIN+5"
_NO_SIGNAL = ("", "none", "off", "0")

#: Set to 1: every application is served unwrapped.
DISABLE_VARIABLE = "WSGI_TB_DISABLE"

_TRUE = ("1", "true", "yes", "on")
_FALSE = ("0", "false", "no", "off", "")


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
    show_statements: bool
    #: The environ key to take the remote address from.
    remote_address_key: str
    #: The environ key to take the request id from; None: there is none.
    request_id_key: str | None
    #: Seconds after which a request is overdue, the same for all; None: there is no limit, or ``decide`` gives it.
    harakiri: float | None = None
    #: Gives the limit of each request, where it is not the same for all.
    decide: Decide | None = None
    #: Seconds after which a request's flight recorder starts; None: half of its limit.
    slow: float | None = None
    #: ``log``, ``raise`` or ``kill``.
    harakiri_action: str = "log"
    #: Seconds from a raise to a kill; None: never.
    harakiri_grace: float | None = None
    samples_per_second: float = DEFAULT_SAMPLES_PER_SECOND
    on_harakiri: Callable[[HarakiriReport], object] | None = None
    #: Seconds after a request's deadline at which a worker is killed in which Python cannot run.
    harakiri_margin: float = DEFAULT_MARGIN_SECONDS
    #: The signal that faulthandler answers; None: none.
    dump_signal: int | None = None
    #: Seconds after which the hub of gevent or eventlet is reported as blocked; None: never.
    hub_blocked: float | None = DEFAULT_HUB_BLOCKED_SECONDS

    @property
    def needs_watchdog(self) -> bool:
        """Whether any request may need one."""
        # With action kill always: a request that gives itself a limit must not wait until the timers are made.
        return (
            self.harakiri is not None
            or self.slow is not None
            or self.decide is not None
            or self.harakiri_action == "kill"
        )


def from_options(
    *,
    socket: str | os.PathLike[str] | None = None,
    group: str | int | None = None,
    application: str | None = None,
    name_threads: bool | None = None,
    show_query: bool | None = None,
    show_statements: bool | None = None,
    remote_address_header: str | None = None,
    request_id_header: str | None = None,
    harakiri: float | Mapping[str, float | None] | Callable[[dict[str, Any]], float | None] | None = None,
    slow: float | None = None,
    harakiri_action: str | None = None,
    harakiri_grace: float | None = None,
    samples_per_second: float | None = None,
    on_harakiri: Callable[[HarakiriReport], object] | None = None,
    harakiri_margin: float | None = None,
    dump_signal: int | str | None = DEFAULT_DUMP_SIGNAL,
    hub_blocked: float | None = None,
    environment: Mapping[str, str] | None = None,
    folder: str | None = None,
) -> Settings:
    """Check the options. Raises ConfigurationError with one line: what is wrong and what to try."""
    variables = os.environ if environment is None else environment

    base = _text("socket", os.fspath(socket) if isinstance(socket, os.PathLike) else socket, variables)
    if socket is None and not base:
        # An empty variable is as good as none: that is how scripts unset one.
        base = None
    remote_address_header = _text("remote_address_header", remote_address_header, variables)
    request_id_header = _text("request_id_header", request_id_header, variables)
    decide: Decide | None = None
    if isinstance(harakiri, Mapping):
        decide, harakiri = limits.by_prefix(harakiri), None
    elif callable(harakiri):
        decide, harakiri = harakiri, None
    else:
        harakiri = _seconds("harakiri", harakiri, variables)
    if on_harakiri is not None and not callable(on_harakiri):
        raise ConfigurationError(f"on_harakiri must be callable, not {on_harakiri!r}")
    action = _checked_action(harakiri_action, variables)
    grace = _seconds("harakiri_grace", harakiri_grace, variables)
    if grace is not None and action != "raise":
        raise ConfigurationError('harakiri_grace is the time from a raise to a kill: it needs harakiri_action="raise"')
    return Settings(
        base=_checked_base(DEFAULT_SOCKET if base is None else base, folder),
        group=_checked_group(group, variables),
        application=_text("application", application, variables) or None,
        name_threads=_flag("name_threads", name_threads, variables, default=True),
        show_query=_flag("show_query", show_query, variables, default=False),
        show_statements=_flag("show_statements", show_statements, variables, default=True),
        remote_address_key=_environ_key(remote_address_header) or "REMOTE_ADDR",
        request_id_key=_environ_key("X-Request-ID" if request_id_header is None else request_id_header),
        harakiri=harakiri,
        decide=decide,
        slow=_seconds("slow", slow, variables),
        harakiri_action=action,
        harakiri_grace=grace,
        samples_per_second=_checked_rate(samples_per_second, variables),
        on_harakiri=on_harakiri,
        harakiri_margin=_seconds("harakiri_margin", harakiri_margin, variables) or DEFAULT_MARGIN_SECONDS,
        dump_signal=_checked_signal(dump_signal, variables),
        hub_blocked=_checked_hub_blocked(hub_blocked, variables),
    )


def options_of(settings: Settings) -> dict[str, Any]:
    """The options from which from_options() makes the same settings, with the same environment variables."""
    return {
        "socket": settings.base,
        "group": settings.group,
        "application": settings.application or "",
        "name_threads": settings.name_threads,
        "show_query": settings.show_query,
        "show_statements": settings.show_statements,
        "remote_address_header": _header_of(settings.remote_address_key),
        "request_id_header": _header_of(settings.request_id_key),
        "harakiri": settings.decide or settings.harakiri or 0,
        "slow": settings.slow or 0,
        "harakiri_action": settings.harakiri_action,
        "harakiri_grace": settings.harakiri_grace or 0,
        "samples_per_second": settings.samples_per_second,
        "on_harakiri": settings.on_harakiri,
        "harakiri_margin": settings.harakiri_margin,
        "dump_signal": settings.dump_signal,
        "hub_blocked": settings.hub_blocked or 0,
    }


def _checked_hub_blocked(value: object, variables: Mapping[str, str]) -> float | None:
    if value is None and not variables.get(ENVIRONMENT_VARIABLES["hub_blocked"], "").strip():
        return DEFAULT_HUB_BLOCKED_SECONDS
    seconds = _seconds("hub_blocked", value, variables)
    if seconds is not None and seconds < MIN_HUB_BLOCKED_SECONDS:
        raise ConfigurationError(f"hub_blocked must be 0 or at least {MIN_HUB_BLOCKED_SECONDS:g}, not {seconds:g}")
    return seconds


def _checked_signal(value: object, variables: Mapping[str, str]) -> int | None:
    if value == DEFAULT_DUMP_SIGNAL:
        value = variables.get(ENVIRONMENT_VARIABLES["dump_signal"], value)
    return signal_number(value)


def signal_number(option: object) -> int | None:
    """The number of a signal given as a number, ``SIGRTMIN+5`` or ``SIGUSR2``; None for none.

    Raises ConfigurationError.
    """
    if option is None:
        return None
    if isinstance(option, str):
        word = option.strip()
        if word.lower() in _NO_SIGNAL:
            return None
        name, _, offset = word.upper().partition("+")
        number = getattr(signal, name, None) if name.startswith("SIG") and not name.startswith("SIG_") else None
        if word.isdecimal():
            number = int(word)
        elif isinstance(number, int) and offset.isdecimal():
            number += int(offset)
        elif offset:
            number = None
        option = number
    if isinstance(option, int) and not isinstance(option, bool) and _is_usable_signal(option):
        return int(option)
    raise ConfigurationError(
        "dump_signal must be a signal that can be caught, as a number or a name such as SIGRTMIN+5, or None"
    )


def _is_usable_signal(number: int) -> bool:
    if number in (signal.SIGKILL, signal.SIGSTOP, signal.SIGSEGV, signal.SIGFPE, signal.SIGABRT, signal.SIGBUS):
        return False
    return number in signal.valid_signals()


def _seconds(option: str, value: object, variables: Mapping[str, str]) -> float | None:
    if value is None:
        variable = ENVIRONMENT_VARIABLES[option]
        word = variables.get(variable, "").strip()
        if not word:
            return None
        option = variable
        try:
            value = float(word)
        except ValueError:
            raise ConfigurationError(f"{variable} must be a number of seconds, not {word!r}") from None
    return limits.checked_seconds(option, value)


def _checked_rate(value: object, variables: Mapping[str, str]) -> float:
    given = variables.get(ENVIRONMENT_VARIABLES["samples_per_second"]) if value is None else value
    try:
        rate = _seconds("samples_per_second", value, variables) or DEFAULT_SAMPLES_PER_SECOND
    except ConfigurationError:
        rate = math.nan
    if not MIN_SAMPLES_PER_SECOND <= rate <= MAX_SAMPLES_PER_SECOND:
        least, most = MIN_SAMPLES_PER_SECOND, MAX_SAMPLES_PER_SECOND
        raise ConfigurationError(f"samples_per_second must be a number from {least:g} to {most:g}, not {given!r}")
    return rate


def _checked_action(value: object, variables: Mapping[str, str]) -> str:
    action = _text("harakiri_action", value, variables) or "log"
    if action not in ACTIONS:
        raise ConfigurationError(f"harakiri_action must be log, raise or kill, not {action!r}")
    if action == "raise" and sys.implementation.name != "cpython":
        raise ConfigurationError('harakiri_action="raise" needs CPython: no other interpreter raises into a thread')
    return action


def _text(option: str, value: object, variables: Mapping[str, str]) -> str | None:
    if value is None:
        return variables.get(ENVIRONMENT_VARIABLES[option])
    if not isinstance(value, str):
        raise ConfigurationError(f"{option} must be text, not {value!r}")
    return value


def _flag(option: str, value: object, variables: Mapping[str, str], *, default: bool) -> bool:
    if isinstance(value, bool):
        return value
    if value is not None:
        raise ConfigurationError(f"{option} must be True or False, not {value!r}")
    variable = ENVIRONMENT_VARIABLES[option]
    word = variables.get(variable)
    if word is None:
        return default
    flag = flag_of(word)
    if flag is None:
        raise ConfigurationError(f"{variable} must be 1 or 0, not {word!r}")
    return flag


def flag_of(word: str) -> bool | None:
    """A word as yes or no; None if it is neither."""
    word = word.strip().lower()
    if word in _TRUE:
        return True
    return False if word in _FALSE else None


def _checked_base(base: str, folder: str | None) -> str:
    if not base:
        raise ConfigurationError("socket must not be empty; give a path such as /tmp/tbsocket")
    if "\0" in base:
        raise ConfigurationError(f"socket must not hold a NUL character: {base!r}")
    # Not abspath(): it would cut the dot or slash that a base may end in.
    absolute = base if os.path.isabs(base) else os.path.join(_current_folder() if folder is None else folder, base)
    try:
        length = len(os.fsencode(absolute))
    except UnicodeEncodeError:
        raise ConfigurationError(f"socket {base!r} cannot be the name of a file") from None
    limit = MAX_SOCKET_PATH_BYTES - MAX_NUMBER_DIGITS
    if length > limit:
        raise ConfigurationError(
            f"socket {absolute!r} is {length} bytes long, and a UNIX socket's path with a worker number fits only up"
            f" to {limit}; choose a shorter path"
        )
    return absolute


def _current_folder() -> str:
    try:
        return os.getcwd()
    except OSError:
        # It was removed. The relative path will not work either; opening the socket will warn of that.
        return ""


def _checked_group(group: object, variables: Mapping[str, str]) -> str | int | None:
    if group is None:
        group = variables.get(ENVIRONMENT_VARIABLES["group"]) or None
    if isinstance(group, str) and group.isdecimal():
        group = int(group)
    if isinstance(group, bool) or not isinstance(group, (str, int, type(None))):
        raise ConfigurationError(f"group must be the name or the number of a group, not {group!r}")
    if group == "" or (isinstance(group, str) and "\0" in group) or (isinstance(group, int) and not _is_id(group)):
        raise ConfigurationError(f"group must be the name or the number of a group, not {group!r}")
    return group


def _is_id(group: int) -> bool:
    # Linux has 32 bits for it, and -1 means "leave it as it is".
    return 0 <= group < 2**32 - 1


def _environ_key(header: str | None) -> str | None:
    """``X-Real-IP`` -> ``HTTP_X_REAL_IP``, as PEP 3333 spells headers in the environ."""
    if not header:
        return None
    if not all(character.isalnum() or character in "-_" for character in header):
        raise ConfigurationError(f"{header!r} is not the name of a header")
    return "HTTP_" + header.upper().replace("-", "_")


def _header_of(key: str | None) -> str:
    """The opposite; empty for None, and for a key that is no header's, such as the default."""
    return key.removeprefix("HTTP_").replace("_", "-") if key is not None and key.startswith("HTTP_") else ""
