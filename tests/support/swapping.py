"""Somebody who named a path, and changes what it leads to while it is being read."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Any

from wsgi_tracebacker.linux import files

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest


class Swapper:
    """Swaps a folder for a link to elsewhere, and back, with every call that somebody makes meanwhile.

    No thread has to win a race, and every moment is tried.
    """

    def __init__(self, folder: str, elsewhere: str) -> None:
        """``folder`` is there; ``elsewhere`` is what the link leads to."""
        self._folder, self._link, self._aside = folder, f"{folder}.link", f"{folder}.aside"
        os.symlink(elsewhere, self._link)
        #: The kinds of what was opened, as in ``stat.S_IFMT``; to look at a thing is not to open it.
        self.opened: list[int] = []

    def swap(self) -> None:
        os.rename(self._folder, self._aside)
        os.rename(self._link, self._folder)
        os.rename(self._aside, self._link)

    def take_part(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def and_swap(call: Callable[..., Any]) -> Callable[..., Any]:
            def called(*arguments: Any, **keywords: Any) -> Any:
                try:
                    return call(*arguments, **keywords)
                finally:
                    self.swap()

            return called

        real_open, real_fstat = os.open, os.fstat
        device = os.stat(os.path.dirname(self._folder)).st_dev

        def noted_open(path: str, flags: int, *arguments: Any, **keywords: Any) -> int:
            descriptor = real_open(path, flags, *arguments, **keywords)
            status = real_fstat(descriptor)
            # The kernel's own files in /proc are nobody's to swap.
            if not flags & files.O_PATH and status.st_dev == device:
                self.opened.append(stat.S_IFMT(status.st_mode))
            return descriptor

        for name in ("stat", "lstat", "fstat", "readlink"):
            monkeypatch.setattr(os, name, and_swap(getattr(os, name)))
        monkeypatch.setattr(os, "open", and_swap(noted_open))
