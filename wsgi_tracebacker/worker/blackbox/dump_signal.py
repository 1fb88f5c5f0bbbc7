"""Registers the signal that faulthandler answers with all stacks, without the GIL.

The worker never sends it: a reader does, after it has proven that the worker is stalled (a dump of a running process
can crash it, python/cpython#116008).
"""

from __future__ import annotations

import faulthandler
from typing import TYPE_CHECKING

from wsgi_tracebacker.linux import proc

if TYPE_CHECKING:
    from wsgi_tracebacker.worker.blackbox.stacks_file import StacksFile


class DumpSignal:
    """A signal that is registered with faulthandler as long as the worker lives."""

    def __init__(self, number: int) -> None:
        """Nothing is registered yet."""
        self.number = number
        self._is_registered = False

    def register(self, stacks_file: StacksFile) -> bool:
        """Have faulthandler write all stacks to a file; False if the signal is in use, or there is no file."""
        if not self._is_registered and proc.is_caught(self.number) is not False:
            # The application or another sub-interpreter handles it: faulthandler would replace that handler.
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
        """Unregister, before the file is closed: its descriptor's number may be reused."""
        if self._is_registered:
            self._is_registered = False
            faulthandler.unregister(self.number)
