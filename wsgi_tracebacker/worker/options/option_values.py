"""Checks the value of one option, and converts a word of a variable or of a configuration file into a value.

Every function gets the name under which the value was given, of an option or of a variable, and names it if the value
is wrong: ConfigurationError.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NoReturn

from wsgi_tracebacker.errors import ConfigurationError
from wsgi_tracebacker.model.report import ACTIONS
from wsgi_tracebacker.wire.documents.card_json import MAX_NUMBER_DIGITS, MAX_SOCKET_PATH_BYTES
from wsgi_tracebacker.worker.options import limits

if TYPE_CHECKING:
    from wsgi_tracebacker.worker.options.limits import Decide

#: A timeline with a resolution of a tenth of a second; py-spy's default of 100 is for whole profiles.
DEFAULT_SAMPLES_PER_SECOND = 10.0
#: One sample in a hundred seconds is none; above a hundred a second, the load shows.
MIN_SAMPLES_PER_SECOND = 0.01
MAX_SAMPLES_PER_SECOND = 100.0

#: How long after the deadline the kernel's timers kill: the watchdog, whose report names the request and all others
#: in flight, should be first wherever it can run at all.
DEFAULT_MARGIN_SECONDS = 1.0

#: Shorter than the time that CPython leaves one thread the GIL, nothing can be seen.
MIN_HUB_BLOCKED_SECONDS = 0.05

#: How an environ names the address of the connection.
REMOTE_ADDRESS_KEY = "REMOTE_ADDR"

_NO_SIGNAL = ("", "none", "off", "0")
_TRUE = ("1", "true", "yes", "on")
_FALSE = ("0", "false", "no", "off", "")


def _refuse(name: str, what: str, value: object) -> NoReturn:
    raise ConfigurationError(f"{name} must be {what}, not {value!r}")


# --- words


def as_text(name: str, word: str) -> str:  # noqa: ARG001  (as the others)
    """The word itself."""
    return word


def as_flag(name: str, word: str) -> bool:
    """Yes or no."""
    lower = word.strip().lower()
    if lower in _TRUE:
        return True
    return False if lower in _FALSE else _refuse(name, "1 or 0 (or true or false, yes or no, on or off)", word)


def as_number(name: str, word: str) -> float:
    """A number, whole or with a fraction."""
    try:
        return float(word)
    except ValueError:
        _refuse(name, "a number", word)


# --- values


def base(name: str, value: object) -> str:
    """The base path of the sockets, relative perhaps: absolute() has the rest."""
    path = text(name, os.fspath(value) if isinstance(value, os.PathLike) else value)
    if not path:
        raise ConfigurationError(f"{name} must not be empty; give a path such as /tmp/tbsocket")
    if "\0" in path:
        raise ConfigurationError(f"{name} must not hold a NUL character: {path!r}")
    return path


def absolute(name: str, path: str, folder: str | None) -> str:
    """A checked base path as an absolute one; ``folder``: the working folder, None: that of this process."""
    # Not abspath(): it would cut the dot or slash that a base may end in.
    whole = path if os.path.isabs(path) else os.path.join(_current_folder() if folder is None else folder, path)
    try:
        length = len(os.fsencode(whole))
    except UnicodeEncodeError:
        raise ConfigurationError(f"{name} {path!r} cannot be the name of a file") from None
    limit = MAX_SOCKET_PATH_BYTES - MAX_NUMBER_DIGITS
    if length > limit:
        raise ConfigurationError(
            f"{name} {whole!r} is {length} bytes long, and a UNIX socket's path with a worker number fits only up to"
            f" {limit}; choose a shorter path"
        )
    return whole


def _current_folder() -> str:
    try:
        return os.getcwd()
    except OSError:
        # It was removed. The relative path will not work either; opening the socket will warn of that.
        return ""


def group(name: str, value: object) -> str | int:
    """The name or the number of a group."""
    if isinstance(value, str) and value.isdecimal():
        value = int(value)
    if isinstance(value, str) and value and "\0" not in value:
        return value
    # Linux has 32 bits for a number, and -1 means "leave it as it is".
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**32 - 1:
        return value
    _refuse(name, "the name or the number of a group", value)


def text(name: str, value: object) -> str:
    """A text."""
    return value if isinstance(value, str) else _refuse(name, "text", value)


def text_or_none(name: str, value: object) -> str | None:
    """A text; None if it is empty."""
    return text(name, value) or None


def flag(name: str, value: object) -> bool:
    """Yes or no."""
    return value if isinstance(value, bool) else _refuse(name, "True or False", value)


def environ_key(name: str, value: object) -> str | None:
    """``X-Real-IP`` -> ``HTTP_X_REAL_IP``, as PEP 3333 spells headers in the environ; None if it is empty."""
    header = text(name, value)
    if not all(character.isalnum() or character in "-_" for character in header):
        _refuse(name, "the name of a header", header)
    return "HTTP_" + header.upper().replace("-", "_") if header else None


def address_key(name: str, value: object) -> str:
    """The same; if it is empty, the address of the connection."""
    return environ_key(name, value) or REMOTE_ADDRESS_KEY


def limit(name: str, value: object) -> float | Decide | None:
    """The limit of all requests in seconds, or what decides each one's; None: there is none."""
    if isinstance(value, Mapping):
        return limits.by_prefix(value)
    if callable(value):
        decide: Decide = value
        return decide
    return limits.checked_seconds(name, value)


def action(name: str, value: object) -> str:
    """``log``, ``raise`` or ``kill``."""
    found = text(name, value) or "log"
    if found not in ACTIONS:
        _refuse(name, "log, raise or kill", found)
    if found == "raise" and sys.implementation.name != "cpython":
        raise ConfigurationError(f'{name}="raise" needs CPython: no other interpreter raises into a thread')
    return found


def rate(name: str, value: object) -> float:
    """Samples per second; 0 is the default."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if is_number and not value:
        return DEFAULT_SAMPLES_PER_SECOND
    if not is_number or not MIN_SAMPLES_PER_SECOND <= value <= MAX_SAMPLES_PER_SECOND:  # type: ignore[operator]
        _refuse(name, f"a number from {MIN_SAMPLES_PER_SECOND:g} to {MAX_SAMPLES_PER_SECOND:g}", value)
    return float(value)  # type: ignore[arg-type]


def margin(name: str, value: object) -> float:
    """Seconds; 0 is the default."""
    return limits.checked_seconds(name, value) or DEFAULT_MARGIN_SECONDS


def hub_blocked(name: str, value: object) -> float | None:
    """Seconds; None: never."""
    seconds = limits.checked_seconds(name, value)
    if seconds is not None and seconds < MIN_HUB_BLOCKED_SECONDS:
        _refuse(name, f"0 or at least {MIN_HUB_BLOCKED_SECONDS:g}", value)
    return seconds


def known_frames(name: str, value: object) -> tuple[str, ...]:
    """An application's own entries in the table of known functions."""
    if value in ("", (), []):
        return ()
    from wsgi_tracebacker.worker.options import frame_entries  # noqa: PLC0415  (few applications have any)

    return frame_entries.lines_of(name, value)


def function(name: str, value: object) -> Callable[..., Any]:
    """Something that can be called."""
    if not callable(value):
        raise ConfigurationError(f"{name} must be callable, not {value!r}")
    called: Callable[..., Any] = value
    return called


def signal_number(name: str, value: object) -> int | None:
    """The number of a signal given as a number, ``SIGRTMIN+5`` or ``SIGUSR2``; None for none."""
    number = value
    if isinstance(value, str):
        word = value.strip()
        if word.lower() in _NO_SIGNAL:
            return None
        number = int(word) if word.isdecimal() else _number_of(word)
    if isinstance(number, int) and not isinstance(number, bool) and _is_usable_signal(number):
        return int(number)
    _refuse(name, "a signal that can be caught, as a number or a name such as SIGRTMIN+5, or None", value)


def _number_of(word: str) -> int | None:
    name, plus, offset = word.upper().partition("+")
    number = getattr(signal, name, None) if name.startswith("SIG") and not name.startswith("SIG_") else None
    if not isinstance(number, int) or (plus and not offset.isdecimal()):
        return None
    return number + int(offset) if plus else number


def _is_usable_signal(number: int) -> bool:
    if number in (signal.SIGKILL, signal.SIGSTOP, signal.SIGSEGV, signal.SIGFPE, signal.SIGABRT, signal.SIGBUS):
        return False
    return number in signal.valid_signals()
