"""The options of one middleware: their defaults, their environment variables, and what is a mistake.

Knows names, types and bounds. Refuses to touch the file system: whether a folder exists is for the environment to
say later, and is never an error of the programmer's.

An option that is None is taken from its environment variable, and from its default where that is not set either.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from wsgi_tracebacker.errors import ConfigurationError
from wsgi_tracebacker.formats.card import MAX_NUMBER_DIGITS, MAX_SOCKET_PATH_BYTES

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT_SOCKET = "/tmp/tbsocket"  # noqa: S108  (the model's own default; the socket is 0600 and checks its peers)

#: The option, and the variable that it is taken from when the call does not give it.
ENVIRONMENT_VARIABLES = {
    "socket": "WSGI_TB_SOCKET",
    "group": "WSGI_TB_GROUP",
    "application": "WSGI_TB_APPLICATION",
    "name_threads": "WSGI_TB_NAME_THREADS",
    "show_query": "WSGI_TB_SHOW_QUERY",
    "remote_address_header": "WSGI_TB_REMOTE_ADDRESS_HEADER",
    "request_id_header": "WSGI_TB_REQUEST_ID_HEADER",
}

#: Set to 1: every application is served unwrapped.
DISABLE_VARIABLE = "WSGI_TB_DISABLE"

_TRUE = ("1", "true", "yes", "on")
_FALSE = ("0", "false", "no", "off", "")


@dataclass(frozen=True, slots=True)
class Settings:
    """Checked options."""

    #: The base path, absolute; ``<base><N>`` is the socket of worker N.
    base: str
    #: A group's name or number whose members may read the socket; None: the owner and root only.
    group: str | int | None
    #: What to call the application; None: after the callable.
    application: str | None
    name_threads: bool
    show_query: bool
    #: The environ key to take the remote address from.
    remote_address_key: str
    #: The environ key to take the request id from; None: do not look.
    request_id_key: str | None


def from_options(
    *,
    socket: str | os.PathLike[str] | None = None,
    group: str | int | None = None,
    application: str | None = None,
    name_threads: bool | None = None,
    show_query: bool | None = None,
    remote_address_header: str | None = None,
    request_id_header: str | None = None,
    environment: Mapping[str, str] | None = None,
    folder: str | None = None,
) -> Settings:
    """Check the options. Raises ConfigurationError with one line that says what is wrong and what to try."""
    variables = os.environ if environment is None else environment

    base = _text("socket", os.fspath(socket) if isinstance(socket, os.PathLike) else socket, variables)
    remote_address_header = _text("remote_address_header", remote_address_header, variables)
    request_id_header = _text("request_id_header", request_id_header, variables)
    return Settings(
        base=_checked_base(DEFAULT_SOCKET if base is None else base, folder),
        group=_checked_group(group, variables),
        application=_text("application", application, variables) or None,
        name_threads=_flag("name_threads", name_threads, variables, default=True),
        show_query=_flag("show_query", show_query, variables, default=False),
        remote_address_key=_environ_key(remote_address_header) or "REMOTE_ADDR",
        request_id_key=_environ_key("X-Request-ID" if request_id_header is None else request_id_header),
    )


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
    if word.strip().lower() in _TRUE:
        return True
    if word.strip().lower() in _FALSE:
        return False
    raise ConfigurationError(f"{variable} must be 1 or 0, not {word!r}")


def _checked_base(base: str, folder: str | None) -> str:
    if not base:
        raise ConfigurationError("socket must not be empty; give a path such as /tmp/tbsocket")
    if "\0" in base:
        raise ConfigurationError(f"socket must not hold a NUL character: {base!r}")
    # Not abspath(): it would cut the dot or slash that a base may end in.
    absolute = os.path.join(os.getcwd() if folder is None else folder, base)
    length = len(os.fsencode(absolute))
    limit = MAX_SOCKET_PATH_BYTES - MAX_NUMBER_DIGITS
    if length > limit:
        raise ConfigurationError(
            f"socket {absolute!r} is {length} bytes long, and a UNIX socket's path with a worker number fits only up"
            f" to {limit}; choose a shorter path"
        )
    return absolute


def _checked_group(group: object, variables: Mapping[str, str]) -> str | int | None:
    if group is None:
        group = variables.get(ENVIRONMENT_VARIABLES["group"]) or None
    if isinstance(group, str) and group.isdecimal():
        group = int(group)
    if isinstance(group, bool) or not isinstance(group, (str, int, type(None))):
        raise ConfigurationError(f"group must be the name or the number of a group, not {group!r}")
    if group == "" or (isinstance(group, int) and group < 0):
        raise ConfigurationError(f"group must be the name or the number of a group, not {group!r}")
    return group


def _environ_key(header: str | None) -> str | None:
    """``X-Real-IP`` -> ``HTTP_X_REAL_IP``, as PEP 3333 spells headers in the environ."""
    if not header:
        return None
    if not all(character.isalnum() or character in "-_" for character in header):
        raise ConfigurationError(f"{header!r} is not the name of a header")
    return "HTTP_" + header.upper().replace("-", "_")
