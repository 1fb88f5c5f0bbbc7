"""The signal that faulthandler answers with all stacks, without the GIL.

Knows how to take a signal that nobody uses, and how to give it back. Refuses to send it: that is for a reader that
has proven that this worker is stalled (a dump of a running process can crash it, python/cpython#116008).
"""

from __future__ import annotations

import faulthandler
import signal
from typing import TYPE_CHECKING

from wsgi_tracebacker.errors import ConfigurationError
from wsgi_tracebacker.worker import kernel

if TYPE_CHECKING:
    from wsgi_tracebacker.worker.stacks_file import StacksFile

#: A real-time signal: gunicorn, uWSGI and mod_wsgi use the others.
DEFAULT = "SIGRTMIN+5"
_OFF = ("", "none", "off", "0")


def number_of(option: object) -> int | None:
    """The number of a signal given as a number, ``SIGRTMIN+5`` or ``SIGUSR2``; None for none.

    Raises ConfigurationError.
    """
    if option is None:
        return None
    if isinstance(option, str):
        word = option.strip()
        if word.lower() in _OFF:
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
    if isinstance(option, int) and not isinstance(option, bool) and _is_usable(option):
        return int(option)
    raise ConfigurationError(
        "dump_signal must be a signal that can be caught, as a number or a name such as SIGRTMIN+5, or None"
    )


def _is_usable(number: int) -> bool:
    if number in (signal.SIGKILL, signal.SIGSTOP, signal.SIGSEGV, signal.SIGFPE, signal.SIGABRT, signal.SIGBUS):
        return False
    return number in signal.valid_signals()


class DumpSignal:
    """Registered with faulthandler as long as the worker lives."""

    def __init__(self, number: int) -> None:
        """Nothing is registered yet."""
        self.number = number
        self._is_registered = False

    def register(self, stacks_file: StacksFile) -> bool:
        """Have the signal answered into a file; False if the signal is in use, or there is no file."""
        if not self._is_registered and kernel.is_caught(self.number) is not False:
            # Somebody's, an application's or another sub-interpreter's: faulthandler would take it over.
            return False
        descriptor = stacks_file.descriptor()
        if descriptor is None:
            return False
        try:
            faulthandler.register(self.number, file=descriptor, all_threads=True, chain=False)
        except (OSError, RuntimeError, ValueError):
            return False
        self._is_registered = True
        return True

    def unregister(self) -> None:
        """Give the signal back, before its file is closed: the descriptor's number may be reused."""
        if self._is_registered:
            self._is_registered = False
            faulthandler.unregister(self.number)
