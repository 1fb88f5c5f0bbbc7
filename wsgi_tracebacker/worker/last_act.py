"""Removes the files of a worker when its interpreter is taken down: after every function that ``atexit`` calls.

``atexit`` calls last what was registered first. So one that was registered before this package was imported, as
``logging.shutdown()`` is, or an agent's, runs after ours; if it hangs, the worker must still have its socket. Objects
of modules are freed after all of them, when threads have been stopped.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from wsgi_tracebacker.worker.threads import interpreters

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from wsgi_tracebacker.linux.files import Inode

#: Servers that end Python's interpreter in their own ways, or not at all.
_OWN_ENDS = ("uwsgi", "mod_wsgi")


class _LastAct:
    """Removes files when it is freed. Globals may be gone by then, so it has all that it calls."""

    __slots__ = ("_detach", "_files", "_pid")

    def __init__(self, files: Iterable[tuple[str, Inode]], detach: Iterable[Callable[[], object]]) -> None:
        self._pid = os.getpid()
        self._files = tuple(files)
        self._detach = tuple(detach)

    def __del__(
        self,
        getpid: Callable[[], int] = os.getpid,
        lstat: Callable[[str], os.stat_result] = os.lstat,
        unlink: Callable[[str], object] = os.unlink,
    ) -> None:
        # A child that is forked has a copy of it.
        if getpid() != self._pid:
            return
        for detach in self._detach:
            detach()
        for path, inode in self._files:
            try:
                status = lstat(path)
                if (status.st_dev, status.st_ino) == inode:
                    unlink(path)
            except OSError:
                pass


_last_act: _LastAct | None = None


def is_certain() -> bool:
    """Whether this interpreter will be taken down, and frees the objects of its modules then."""
    return (
        sys.implementation.name == "cpython"
        and interpreters.is_first()
        and not any(name in sys.modules for name in _OWN_ENDS)
    )


def remove_at_last(files: Iterable[tuple[str, Inode]], detach: Iterable[Callable[[], object]]) -> None:
    """Remove these files at the very end, each if it is still the one with this inode.

    :param detach: called before: what would warn when it is freed without having been closed.
    """
    global _last_act
    _last_act = _LastAct(files, detach)
